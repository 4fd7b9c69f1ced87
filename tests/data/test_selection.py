"""Long lists are cut by chance, by a score, or at their end; in training only."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ranking_data import (
    CONTEXT_SPEC,
    EXAMPLE_SPEC,
    LABEL_SPEC,
    MASK,
    WEIGHT_SPEC,
    random_lists,
    write_elwc,
)
from tfr_pipeline.compat import tf
from tfr_pipeline.data.batching.gather import tensors_of
from tfr_pipeline.data.batching.selection import Selection
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.features import Feature, Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.multi_label import MultiLabelDatasetBuilder
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder

LENGTHS = [3, 9, 1, 6, 4, 12]
LAYOUTS = ("packed", "padded")
SAMPLED = {"truncation": "sample"}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_elwc(
        tmp_path_factory.mktemp("data") / "elwc", random_lists(0, LENGTHS)
    )


def builder(path, shuffle=False, **kwargs):
    hparams = DatasetHparams(path, path, 6, 6, shuffle=shuffle, **kwargs)
    return SimpleDatasetBuilder(
        CONTEXT_SPEC, EXAMPLE_SPEC, MASK, LABEL_SPEC, hparams, WEIGHT_SPEC
    )


def documents(batch):
    """Returns the weights of each list, which tell its documents apart."""
    features, _, weights = batch
    if isinstance(weights, tf.RaggedTensor):
        return weights.to_list()
    return tf.ragged.boolean_mask(weights, features[MASK]).to_list()


def epochs(made, layout, count=2, **kwargs):
    dataset = made.make_dataset("train", layout, **kwargs)
    return [documents(batch) for batch in dataset.take(count)]


def whole_lists(made):
    return documents(next(iter(made.make_dataset("valid", "packed"))))


def is_subsequence(part, whole):
    places = [whole.index(value) for value in part]
    return places == sorted(places)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sampled_lists_have_other_documents_in_each_epoch(path, layout):
    made = builder(path, list_size=4, truncation="sample")
    whole = whole_lists(made)
    found = epochs(made, layout, 3)
    for lists in found:
        assert [len(r) for r in lists] == [min(n, 4) for n in LENGTHS]
        for part, full in zip(lists, whole, strict=True):
            assert len(set(part)) == len(part)
            assert is_subsequence(part, full)
    assert found[0] != found[1] != found[2]


def test_both_layouts_sample_the_same_documents(path):
    made = builder(path, list_size=4, truncation="sample", shuffle_examples=True)
    assert epochs(made, "packed") == epochs(made, "padded")


def test_each_document_is_sampled_equally_often(tmp_path):
    lists = builder(write_elwc(tmp_path / "f", random_lists(0, [8]))).lists("train")
    select, counts = Selection(3), np.zeros(8)
    tensors = tensors_of(lists)
    index = tf.zeros([200], tf.int64)
    for number in range(20):
        _, rows = select(tensors, index, tf.constant(number, tf.int64))
        assert rows.row_lengths().numpy().tolist() == [3] * 200
        counts += np.bincount(rows.values.numpy(), minlength=8)
    # 4,000 draws of 3 of 8: 1,500 each, with a standard deviation of 31.
    np.testing.assert_allclose(counts, 1500, atol=5 * 31)


@pytest.mark.parametrize("kwargs", [SAMPLED, {"shuffle_examples": True}])
def test_a_resumed_run_sees_the_documents_it_would_have_seen(path, kwargs):
    layout = "packed"
    kwargs = {"shuffle": True, "list_size": 3, **kwargs}
    made, again = builder(path, **kwargs), builder(path, **kwargs)
    full = epochs(made, layout, 12, replicas=2)
    assert epochs(again, layout, 12, replicas=2) == full
    assert epochs(made, layout, 6, replicas=2, start_step=3) == full[6:]
    other = builder(path, seed=1, **kwargs)
    assert epochs(other, layout, 12, replicas=2) != full


def test_workers_share_the_batches_of_one(path):
    made = builder(path, shuffle=True, list_size=3, truncation="sample")
    full = epochs(made, "packed", 8, replicas=4, start_step=1)
    part = {"replicas": 4, "start_step": 1}
    shares = [epochs(made, "packed", 4, shard=(i, 2), **part) for i in (0, 1)]
    assert full == [batch for i in (0, 2) for s in shares for batch in s[i : i + 2]]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["bm25", "clicks", "age[1]"])
def test_the_highest_scores_are_kept_in_the_order_of_the_list(path, layout, name):
    made = builder(path, list_size=4, truncation=name)
    lists = random_lists(0, LENGTHS)
    feature, _, element = name.rstrip("]").partition("[")
    wanted = []
    for ranked in lists:
        scores = [d[feature][int(element or 0)] for d in ranked.documents]
        best = sorted(np.argsort(-np.array(scores), kind="stable")[:4])
        wanted.append([float(ranked.documents[i]["weight"][0]) for i in best])
    assert epochs(made, layout) == [wanted, wanted]


def test_columns_of_a_vector_can_be_named(path):
    columns = ("title", "body", "url")
    features = Features(
        context={n: Feature.from_spec(s) for n, s in CONTEXT_SPEC.items()},
        example={"embedding": Feature("float32", (3,), 0.0, columns=columns)},
        label=("relevance", Feature("float32", (1,), -1.0)),
        weight=("weight", Feature("float32", (1,), 1.0)),
    )
    hparams = DatasetHparams(path, path, 6, 6, 4, shuffle=False, truncation="body")
    made = SimpleDatasetBuilder.from_features(features, hparams)
    wanted = builder(path, list_size=4, truncation="embedding[1]")
    assert epochs(made, "packed") == epochs(wanted, "packed")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["sample", "clicks"])
def test_lists_with_several_labels_are_cut_as_those_with_one(path, layout, name):
    made = MultiLabelDatasetBuilder(
        CONTEXT_SPEC,
        EXAMPLE_SPEC,
        MASK,
        {"grade": LABEL_SPEC, "same": LABEL_SPEC},
        DatasetHparams(path, path, 6, 6, 4, shuffle=False, truncation=name),
        WEIGHT_SPEC,
    )
    wanted = builder(path, list_size=4, truncation=name)
    assert epochs(made, layout) == epochs(wanted, layout)


@pytest.mark.parametrize("name", ["first", "bm25"])
def test_shuffled_documents_are_those_of_the_list_in_another_order(path, name):
    layout = "padded"
    kept = epochs(builder(path, list_size=4, truncation=name), layout)[0]
    size = 4 if name == "bm25" else 20
    made = builder(path, list_size=size, truncation=name, shuffle_examples=True)
    found = epochs(made, layout)
    wanted = kept if name == "bm25" else whole_lists(made)
    for lists in found:
        assert [sorted(r) for r in lists] == [sorted(r) for r in wanted]
    assert wanted != found[0] != found[1]


def test_shuffled_lists_are_cut_after_shuffling_as_in_tf_ranking(path):
    made = builder(path, list_size=2, shuffle_examples=True)
    whole = whole_lists(made)
    seen = [set() for _ in LENGTHS]
    for lists in epochs(made, "packed", 40):
        assert [len(r) for r in lists] == [min(n, 2) for n in LENGTHS]
        for documents_seen, part in zip(seen, lists, strict=True):
            documents_seen.update(part)
    assert [len(s) for s in seen] == [len(r) for r in whole]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "kwargs", [SAMPLED, {"truncation": "bm25"}, {"shuffle_examples": True}]
)
def test_validation_sees_whole_lists_in_order(path, layout, kwargs):
    made = builder(path, list_size=2, **kwargs)
    batch = next(iter(made.make_dataset("valid", layout)))
    lists = random_lists(0, LENGTHS)
    wanted = [[float(d["weight"][0]) for d in r.documents] for r in lists]
    assert documents(batch) == wanted


def test_lists_that_are_short_enough_are_not_touched(path):
    made = builder(path, list_size=12, truncation="sample")
    assert epochs(made, "packed")[0] == whole_lists(made)


@pytest.mark.parametrize("name", ["bm52", "embedding", "relevance", "embedding[3]"])
def test_a_score_that_is_not_there_is_named(path, name):
    made = builder(path, list_size=2, truncation=name)
    with pytest.raises(
        ConfigError, match=r"unknown truncation.*bm25.*numeric document"
    ):
        made.make_dataset("train", "padded")


@pytest.mark.parametrize("value", ["", None, 3])
def test_a_truncation_that_is_no_name_is_refused(path, value):
    with pytest.raises(ConfigError, match=r"DatasetHparams.truncation: expected"):
        builder(path, list_size=2, truncation=value)


def test_a_truncation_without_list_size_warns(path):
    with pytest.warns(UserWarning, match="truncation='sample' has no effect without"):
        builder(path, truncation="sample")
