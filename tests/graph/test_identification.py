"""`graph identify`: ids that are stable under sharding, and unique."""

import json

import numpy as np
import pytest

from tests.graph import helpers
from tests.ranking_data import write, write_elwc
from tfr_pipeline.compat import tf
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.graph import nodes
from tfr_pipeline.graph.dataset import DataSet, Reading
from tfr_pipeline.graph.identification import identify


def lists_of(folder):
    parts = DataSet(f"{folder}/train-*", Reading()).parts()
    return Lists.concatenate([part.lists for part in parts])


def by_content(folder):
    """Returns the names of the nodes by their features, label included."""
    lists = lists_of(folder)
    rows = np.hstack([*lists.values.values(), lists.labels[:, np.newaxis]])
    names = nodes.of_lists(lists).tolist()
    pairs = [(row.tobytes(), name) for row, name in zip(rows, names, strict=True)]
    return sorted(pairs)


def test_ids_are_the_same_in_whatever_order_and_files(tmp_path):
    lists = helpers.ranked_lists(12)
    for one in lists[::2]:
        for document in one.documents:
            del document["docid"]
    for one in lists[::3]:
        del one.context["qid"]
    lists[1].documents *= 2  # once more, all equal
    lists[5].documents[0]["docid"] = lists[5].documents[-1]["docid"] = np.array(
        [b"same"], object
    )
    write_elwc(tmp_path / "one.tfrecord", lists)
    random = np.random.default_rng(0)
    shuffled = [lists[n] for n in random.permutation(len(lists))]
    write_elwc(tmp_path / "a-0.tfrecord", shuffled[:5])
    write_elwc(tmp_path / "a-1.tfrecord", shuffled[5:])
    found = identify(str(tmp_path / "one.tfrecord"), str(tmp_path / "whole"))
    again = identify(
        str(tmp_path / "a-*"),
        str(tmp_path / "cut"),
        num_shards=3,
        output_format="packed",
    )
    assert by_content(tmp_path / "whole") == by_content(tmp_path / "cut")
    found.shown, again.shown = sorted(found.shown), sorted(again.shown)
    assert found == again
    count = sum(len(one.documents) for one in lists)
    assert found.documents == count
    assert found.copies == len(lists[1].documents) // 2
    assert found.nodes == count - found.copies
    assert found.made == sum(len(one.documents) for one in lists[::2])
    assert len(set(nodes.of_lists(lists_of(tmp_path / "cut")))) == found.nodes
    stored = json.loads((tmp_path / "whole" / "train.ids.json").read_text())
    assert stored["nodes"] == found.nodes


def test_documents_of_one_id_and_other_content_are_told_apart_and_stay_so(tmp_path):
    lists = helpers.ranked_lists(6)
    one = next(one for one in lists if len(one.documents) > 2)
    for document in one.documents[:2]:
        document["docid"] = np.array([b"same"], object)
    data = write_elwc(tmp_path / "data.tfrecord", lists)
    told = []
    found = identify(data, str(tmp_path / "out"), report=told.append)
    assert (found.renamed, found.made, found.copies) == (2, 0, 0)
    assert "2 documents had the id of one of other content" in told[0]
    ids = lists_of(tmp_path / "out").document_ids
    renamed = [name for name in ids if name.startswith("same~")]
    assert len(set(renamed)) == 2
    assert found.shown == [
        nodes.document_node(one.context["qid"][0].decode(), name) for name in renamed
    ]
    found = identify(str(tmp_path / "out/train-*"), str(tmp_path / "again"))
    assert (found.renamed, found.made) == (0, 0)
    assert lists_of(tmp_path / "again").document_ids.tolist() == ids.tolist()


def test_examples_without_id_get_one_of_their_content_but_the_label(tmp_path):
    records = helpers.examples(6)
    messages = [tf.train.Example.FromString(record) for record in records]
    for message in messages[:3]:
        del message.features.feature["id"]
    twin = tf.train.Example()
    twin.CopyFrom(messages[0])
    twin.features.feature["label"].int64_list.value[:] = [7]
    mixed = [m.SerializeToString() for m in [*messages, twin]]
    write(tmp_path / "data.tfrecord", mixed)
    found = identify(str(tmp_path / "data.tfrecord"), str(tmp_path / "out.tfrecord"))
    assert (found.documents, found.nodes, found.made, found.copies) == (7, 6, 4, 1)
    written = helpers.read_examples(tmp_path / "out.tfrecord")
    ids = [m.features.feature["id"].bytes_list.value[0] for m in written]
    assert ids[0] == ids[6] and len(set(ids)) == 6
    assert [m.SerializeToString() for m in written[3:6]] == records[3:6]
    for message, before in zip(written[:3], messages[:3], strict=True):
        del message.features.feature["id"]
        assert message == before
    sharded = tmp_path / "folder"
    identify(str(tmp_path / "data.tfrecord"), str(sharded), num_shards=2)
    again = [
        message.features.feature["id"].bytes_list.value[0]
        for name in sorted(sharded.glob("train-*"))
        for message in helpers.read_examples(name)
    ]
    assert sorted(again) == sorted(ids)


def test_an_id_that_is_no_text_is_an_error(tmp_path):
    message = tf.train.Example.FromString(helpers.examples(1)[0])
    message.features.feature["id"].int64_list.value[:] = [3]
    path = write(tmp_path / "data.tfrecord", [message.SerializeToString()])
    with pytest.raises(DataError, match="feature 'id': expected one text"):
        identify(path, str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="which this command reads"):
        identify(path, path)
    with pytest.raises(ConfigError, match="expected a place of this machine"):
        identify(path, "s3://bucket/out")
