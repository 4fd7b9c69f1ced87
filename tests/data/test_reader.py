"""Files become lists, or one error that names the file, the record and the feature."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from tests.ranking_data import (
    CONTEXT_SPEC,
    EXAMPLE_SPEC,
    LABEL_SPEC,
    WEIGHT_SPEC,
    elwc,
    packed,
    random_lists,
    write,
    write_elwc,
)
from tfr_pipeline.compat import tf
from tfr_pipeline.data.reading.loading import iterate, load, sniff_format
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.errors import DataError
from tfr_pipeline.layout import BlockLayout

EXTRA_SPEC = dict([LABEL_SPEC, WEIGHT_SPEC])
NO_DEFAULT = {"bm25": tf.io.FixedLenFeature((1,), tf.float32)}


def parser(example_spec=EXAMPLE_SPEC, data_format="elwc", context_spec=CONTEXT_SPEC):
    return RecordParser(
        context_spec, example_spec, EXTRA_SPEC, "qid", "docid", data_format
    )


def read(paths, **kwargs):
    return load(paths, parser(**kwargs), "relevance", "weight")


def assert_same_lists(lists, wanted):
    """Compares `Lists` with ranked lists, one document after the other."""
    assert lists.query_ids.tolist() == [r.context["qid"][0] for r in wanted]
    lengths = [len(ranked.documents) for ranked in wanted]
    assert lists.lengths.tolist() == lengths
    documents = [d for ranked in wanted for d in ranked.documents]
    assert lists.document_ids.tolist() == [d["docid"][0] for d in documents]
    assert lists.labels.tolist() == [d["relevance"][0] for d in documents]
    assert lists.weights.tolist() == [d["weight"][0] for d in documents]
    for dtype, slots in BlockLayout.from_spec(EXAMPLE_SPEC).slots.items():
        for slot in slots:
            column = lists.values[dtype][:, slot.start : slot.stop]
            expected = np.array([d[slot.name].ravel() for d in documents])
            np.testing.assert_array_equal(column, expected)
    for name in CONTEXT_SPEC:
        expected = np.array([ranked.context[name] for ranked in wanted])
        np.testing.assert_array_equal(lists.context[name], expected)


@pytest.mark.parametrize("data_format", ["elwc", "packed"])
def test_files_are_read_whole_and_in_order(tmp_path, data_format):
    # More lists than one parse takes, and an empty file in the middle.
    lists = random_lists(0, [1 + i % 4 for i in range(70)])
    lists[3].documents.clear()
    make = elwc if data_format == "elwc" else lambda r: packed(r, EXAMPLE_SPEC)
    paths = [
        write(tmp_path / "0", [make(ranked) for ranked in lists[:50]]),
        write(tmp_path / "1", []),
        write(tmp_path / "2", [make(ranked) for ranked in lists[50:]]),
    ]
    assert sniff_format(paths[0], tf.data.TFRecordDataset) == data_format
    assert_same_lists(read(paths, data_format=data_format), lists)


def test_lists_without_ids_are_numbered(tmp_path):
    path = write_elwc(tmp_path / "f", random_lists(0, [1] * 40))
    plain = RecordParser({}, EXAMPLE_SPEC, EXTRA_SPEC)
    lists = load([path], plain, "relevance")
    assert lists.query_ids.tolist() == [str(i) for i in range(40)]
    assert lists.weights is None


def test_a_reader_of_compressed_files_is_used(tmp_path):
    wanted = random_lists(1, [2, 3])
    path = write(tmp_path / "f.gz", [elwc(ranked) for ranked in wanted], "GZIP")
    reader = functools.partial(tf.data.TFRecordDataset, compression_type="GZIP")
    lists = load([path], parser(), "relevance", "weight", reader)
    assert_same_lists(lists, wanted)


def good_and(tmp_path, lists):
    """Returns a good file and one of the given lists."""
    return [
        write_elwc(tmp_path / "good", random_lists(0, [2, 2])),
        write_elwc(tmp_path / "bad", lists),
    ]


def test_a_damaged_record_is_named_by_file_and_number(tmp_path):
    paths = good_and(tmp_path, random_lists(1, [2] * 40))
    records = (tmp_path / "bad").read_bytes()
    size = len(records) // 40
    damaged = bytearray(records)
    damaged[35 * size + size // 2] ^= 0xFF
    (tmp_path / "bad").write_bytes(bytes(damaged))
    with pytest.raises(DataError, match=r"bad: record 3\d is corrupt"):
        read(paths)


def test_a_file_that_was_cut_off_is_named(tmp_path):
    paths = good_and(tmp_path, random_lists(1, [2] * 3))
    content = (tmp_path / "bad").read_bytes()
    (tmp_path / "bad").write_bytes(content[:-7])
    with pytest.raises(DataError, match="bad: record 2 is corrupt"):
        read(paths)


def test_a_file_that_is_no_tfrecord_is_named(tmp_path):
    (tmp_path / "bad").write_text("1 qid:3 1:0.5\n" * 20)
    with pytest.raises(DataError, match="bad: record 0 is corrupt"):
        read([str(tmp_path / "bad")])


def test_a_record_that_is_no_elwc_is_named(tmp_path):
    good = elwc(random_lists(0, [1])[0])
    path = write(tmp_path / "bad", [good, b"\xff\xff\xff"])
    with pytest.raises(DataError, match=r"bad: record 1.*ExampleListWithContext"):
        read([path])


def test_a_record_of_another_kind_is_refused_in_packed_files(tmp_path):
    good = packed(random_lists(0, [1])[0], EXAMPLE_SPEC)
    path = write(tmp_path / "bad", [good, b"\xff\xff\xff"])
    with pytest.raises(DataError, match="bad: record 1"):
        read([path], data_format="packed")
    path = write(tmp_path / "bad", [good, elwc(random_lists(0, [1])[0])])
    with pytest.raises(DataError, match="bad: record 1"):
        read([path], data_format="packed")


def test_a_missing_feature_without_default_is_named(tmp_path):
    lists = random_lists(1, [2, 2])
    del lists[1].documents[1]["bm25"]
    with pytest.raises(DataError, match="bad: record 1: feature 'bm25' is missing"):
        read(good_and(tmp_path, lists), example_spec={**EXAMPLE_SPEC, **NO_DEFAULT})


def test_a_feature_of_another_length_is_named(tmp_path):
    lists = random_lists(1, [2, 2])
    lists[0].documents[1]["embedding"] = np.float32([1, 2])
    words = "bad: record 0: feature 'embedding': expected 3 values, found 2"
    with pytest.raises(DataError, match=words):
        read(good_and(tmp_path, lists))


def test_a_feature_of_another_kind_is_named(tmp_path):
    lists = random_lists(1, [2, 2])
    lists[1].documents[0]["clicks"] = np.float32([1.5])
    words = "bad: record 1: feature 'clicks': expected a int64_list, found a float_list"
    with pytest.raises(DataError, match=words):
        read(good_and(tmp_path, lists))


def test_a_label_of_another_kind_is_named(tmp_path):
    lists = random_lists(1, [1])
    lists[0].documents[0]["relevance"] = np.array([1])
    with pytest.raises(DataError, match="bad: record 0: feature 'relevance'"):
        read(good_and(tmp_path, lists))


def test_a_query_feature_that_does_not_match_is_named(tmp_path):
    lists = random_lists(1, [1])
    lists[0].context["query_vector"] = np.float32([1, 2, 3])
    words = "bad: record 0: feature 'query_vector': expected 2 values, found 3"
    with pytest.raises(DataError, match=words):
        read(good_and(tmp_path, lists))


def test_a_query_id_of_another_kind_is_named(tmp_path):
    lists = random_lists(1, [1])
    lists[0].context["qid"] = np.array([17])
    with pytest.raises(DataError, match="bad: record 0: feature 'qid'"):
        read(good_and(tmp_path, lists))


def test_packed_matrices_of_another_width_are_named(tmp_path):
    path = write(tmp_path / "f", [packed(random_lists(0, [3])[0], EXAMPLE_SPEC)])
    wider = {**EXAMPLE_SPEC, "new": tf.io.FixedLenFeature((1,), tf.float32, 0.0)}
    words = "f: record 0: features of dtype float32: expected 9 values.*found 8"
    with pytest.raises(DataError, match=words):
        read([path], example_spec=wider, data_format="packed")


def test_packed_matrices_whose_sizes_agree_by_chance_are_refused(tmp_path):
    # 2 documents of 8 columns are no 4 documents of 4.
    path = write(tmp_path / "f", [packed(random_lists(0, [2])[0], EXAMPLE_SPEC)])
    narrower = {n: s for n, s in EXAMPLE_SPEC.items() if n != "grid"}
    with pytest.raises(DataError, match=r"f: record 0.*expected 4 values.*found 8"):
        read([path], example_spec=narrower, data_format="packed")


def test_a_schema_of_other_data_is_refused(tmp_path):
    path = write_elwc(tmp_path / "f", random_lists(0, [2]))
    other = {f"x{i}": tf.io.FixedLenFeature((1,), tf.float32, 0.0) for i in range(9)}
    with pytest.raises(DataError, match=r"f: .*none of the expected.*x0.*found.*age"):
        read([path], example_spec=other)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_feature_that_is_no_number_is_named(tmp_path, value):
    lists = random_lists(1, [2, 0, 2])
    lists[2].documents[1]["embedding"][2] = value
    path = write_elwc(tmp_path / "f", lists)
    place = r"in query 'q2', document 'd2_1' \(1 such"
    words = rf"f: feature 'embedding' column 2 is {value} {place}"
    with pytest.raises(DataError, match=words):
        read([path])


@pytest.mark.parametrize("name", ["relevance", "weight"])
def test_a_label_or_weight_that_is_no_number_is_named(tmp_path, name):
    lists = random_lists(1, [2, 2])
    lists[1].documents[0][name] = np.float32([np.nan])
    what = "label" if name == "relevance" else name
    with pytest.raises(DataError, match=f"f: {what} nan in query 'q1'"):
        read([write_elwc(tmp_path / "f", lists)])


@pytest.mark.filterwarnings("ignore:overflow")
def test_large_but_finite_values_are_read(tmp_path):
    lists = random_lists(1, [2, 2])
    for ranked in lists:
        for document in ranked.documents:
            document["bm25"] = np.float32([3e38])
            document["weight"] = np.float32([3e38])
    assert_same_lists(read([write_elwc(tmp_path / "f", lists)]), lists)


@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_files_without_documents_are_refused(tmp_path, lengths):
    path = write_elwc(tmp_path / "f", random_lists(0, lengths))
    with pytest.raises(DataError, match="f: expected ranked lists, found no document"):
        read([path])


def test_lists_can_be_read_some_at_a_time(tmp_path):
    path = write_elwc(tmp_path / "f", random_lists(2, [1] * 50))
    parts = list(iterate([path], parser(), "relevance"))
    assert len(parts) > 1
    assert sum(part.num_lists for part in parts) == 50
