"""`rank` takes texts, ragged and sparse features as dense tensors, and checks them."""

from __future__ import annotations

import numpy as np
import pytest

from tests import text_data
from tests.ranking_data import MASK, elwc
from tfr_pipeline.compat import tf
from tfr_pipeline.serving.rank_inputs import input_names, splits_names
from tfr_pipeline.serving.signatures import PREDICT, RANK, Signatures

LISTS = text_data.lists(4, [3, 1, 0, 4])
FEATURES = text_data.FEATURES


def flat(rows, name, feature):
    """Values of a feature in a row, and where those of each document begin."""
    found = []
    for row in rows:
        value = np.ravel(row.get(name, []))
        if feature.kind == "fixed":
            value = np.ravel(row.get(name, feature.default))
        found.append(value)
    splits = np.cumsum([0, *map(len, found)])
    return [value for row in found for value in row], splits


def inputs(lists):
    """The inputs of `rank` for some lists."""
    documents = [document for ranked in lists for document in ranked.documents]
    result = {
        "row_splits": np.cumsum([0, *(len(ranked.documents) for ranked in lists)]),
        "ids": tf.constant([], tf.string),
    }
    for group, rows in (
        (FEATURES.context, [ranked.context for ranked in lists]),
        (FEATURES.example, documents),
    ):
        for name, feature in group.items():
            values, splits = flat(rows, name, feature)
            value = tf.constant(values, feature.dtype)
            if feature.kind == "fixed":
                result[name] = tf.reshape(value, [-1, *feature.shape])
            else:
                result[name] = value
                result[f"{name}_row_splits"] = tf.constant(splits, tf.int64)
    result["row_splits"] = tf.constant(result["row_splits"], tf.int64)
    return result


@pytest.fixture(scope="module", params=["packed", "padded"])
def signatures(request):
    model = text_data.both_models()[request.param == "padded"]
    specs = FEATURES.context_spec, FEATURES.example_spec
    return Signatures(model, *specs, MASK)()


@pytest.fixture(scope="module")
def rank(signatures):
    return signatures[RANK]


@pytest.mark.slow
def test_rank_scores_as_predict_does(signatures, rank):
    found = rank(**inputs(LISTS))
    records = tf.constant([elwc(ranked) for ranked in LISTS])
    (padded,) = signatures[PREDICT](records).values()
    real = [len(ranked.documents) for ranked in LISTS]
    wanted = tf.RaggedTensor.from_tensor(padded, real).values
    np.testing.assert_allclose(found["scores"], wanted, rtol=1e-5, atol=1e-5)
    assert np.ptp(wanted) > 0.1
    scores = np.split(found["scores"].numpy(), np.cumsum(real)[:-1])
    for row, ranks in zip(
        scores, np.split(found["ranks"], np.cumsum(real)[:-1]), strict=True
    ):
        np.testing.assert_array_equal(np.argsort(np.argsort(-row)) + 1, ranks)


def test_lists_without_documents_have_no_scores(rank):
    assert rank(**inputs([LISTS[2]]))["scores"].shape == (0,)


def test_inputs_are_dense(rank):
    assert all(isinstance(spec, tf.TensorSpec) for spec in rank.input_signature)


BAD = {
    "begins": ("tokens_row_splits", lambda x: x + 1, "tokens_row_splits: expected 0"),
    "falls": ("tokens_row_splits", lambda x: x[::-1] - x[-1], "never fall"),
    "short": (
        "history_row_splits",
        lambda x: x[:-1],
        "history_row_splits: expected one number more than there are documents",
    ),
    "queries": (
        "query_tokens_row_splits",
        lambda x: tf.concat([x, x[-1:]], 0),
        "query_tokens_row_splits: expected one number more than there are lists",
    ),
    "values": (
        "tokens",
        lambda x: x[:-1],
        "tokens: expected as many values as the last of tokens_row_splits says",
    ),
    "texts": ("title", lambda x: x[:-1], r"title: expected the shape \[documents, 1\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_inputs_that_do_not_fit_are_named(rank, case):
    name, change, words = BAD[case]
    given = inputs(LISTS)
    given[name] = change(given[name])
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        rank(**given)


def test_names_of_splits_differ_from_all_others():
    names = input_names(["tokens", "tokens_row_splits", "a.b"])
    assert splits_names(names, ["tokens", "a.b"]) == {
        "a.b": "a_b_row_splits",
        "tokens": "tokens_row_splits_",
    }
