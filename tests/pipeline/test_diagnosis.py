"""A loss of zero or NaN comes with its cause."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.pipeline.training_helpers import make_config
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import RunError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.pipeline.run.diagnosis import (
    explain_non_finite,
    non_finite_reasons,
    zero_loss_reasons,
)

SPEC = {name: tf.io.FixedLenFeature((1,), tf.float32) for name in ("age", "bm25")}
LAYOUT = BlockLayout.from_spec(SPEC)
LENGTHS = [2, 0, 3]


def packed(values):
    return tf.RaggedTensor.from_row_lengths(np.array(values, np.float32), LENGTHS)


def padded(values):
    return packed(values).to_tensor(-1.0)


@pytest.mark.parametrize("layout", [packed, padded])
@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([-1, -1, -1, -1, -1], "all labels are below zero"),
        ([0, 0, 0, 0, 0], "no label is above zero"),
        ([2, 2, 1, 1, 1], "within every list all labels are equal"),
        ([2, -1, 1, 1, -1], "within every list all labels are equal"),
        ([0, 1, 1, 1, 1], None),
    ],
)
def test_labels_that_make_a_loss_zero_are_named(layout, labels, reason):
    found = zero_loss_reasons([({}, layout(labels))])
    assert (len(found) == 0) if reason is None else (reason in found[0])
    assert len(found) <= 1


@pytest.mark.parametrize(
    "weights", [packed([0.0] * 5), tf.zeros([3]), tf.zeros([3, 1])]
)
def test_weights_that_are_all_zero_are_named(weights):
    labels = packed([0, 1, 0, 1, 2])
    assert zero_loss_reasons([({}, labels, weights)]) == ["all weights are zero"]
    one = tf.ones([3])
    assert not zero_loss_reasons([({}, labels, weights), ({}, labels, one)])


def test_the_task_is_named():
    labels = {"click": packed([0, 1, 0, 1, 2]), "buy": packed([0] * 5)}
    assert zero_loss_reasons([({}, labels)]) == ["no label of 'buy' is above zero"]


def batch(bm25=1.0, labels=(0, 1, 2, 3, 4), weights=None):
    matrix = np.ones((5, 2), np.float32)
    matrix[3, 1] = bm25  # columns are in the order of the names
    documents = tf.RaggedTensor.from_row_lengths(matrix, LENGTHS)
    return {"documents_float32": documents}, packed(labels), weights


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"bm25": np.inf}, "feature 'bm25' is infinite"),
        ({"bm25": np.nan}, "feature 'bm25' is NaN"),
        ({"bm25": -2.0}, "feature 'bm25' is NaN after preprocessing; its values go "),
        ({"bm25": -1.0}, "feature 'bm25' is infinite after preprocessing"),
        ({"labels": [0, 1, 2, 200, 0]}, "a label is 200, for which the gain"),
        ({"labels": [0, 1, 2, np.nan, 0]}, "a label is NaN"),
        ({"weights": tf.constant([1.0, np.inf, 1.0])}, "a weight is infinite"),
        ({"weights": tf.constant([1.0, -1.0, 1.0])}, "a weight is negative"),
        ({}, None),
    ],
)
def test_what_makes_a_loss_infinite_is_named(arguments, reason):
    functions = {"bm25": tf.math.log1p}
    found = non_finite_reasons(batch(**arguments), LAYOUT, functions)
    if reason is None:
        assert not found
    else:
        assert len(found) == 1 and found[0].startswith(reason)


def test_features_of_padded_batches_have_their_own_names():
    features = {"bm25": tf.constant([[[1.0], [np.inf]]]), "ids": tf.constant([["a"]])}
    found = non_finite_reasons((features, tf.constant([[1.0, 0.0]])), LAYOUT)
    assert found == ["feature 'bm25' is infinite"]


def test_a_run_says_which_feature_preprocessing_broke(data, tmp_path):
    config = make_config(data, tmp_path / "run")
    config["data"] |= {"keep_document_ids": True, "list_size": 5}
    config["data"] |= {"truncation": "sample", "shuffle_examples": True}
    pipeline = build_pipeline(config)
    functions = pipeline._model_builder._preprocessor._preprocess_spec
    functions["features"] = tf.math.log
    with pytest.raises(
        RunError, match=r"feature 'features' is \w+ after preprocessing"
    ) as raised:
        pipeline.train_and_validate()
    place = r"preprocessing; .*, in query '(.*?)', document '(.*?)'"
    query, document = re.search(place, str(raised.value)).groups()
    lists = pipeline._dataset_builder.lists("train", "packed")
    (row,) = np.flatnonzero(
        (lists.document_ids == document)
        & (np.repeat(lists.query_ids, lists.lengths) == query)
    )
    assert (lists.values["float32"][row] <= 0).any()


@pytest.mark.parametrize("keep", [True, False])
def test_the_largest_feature_of_a_step_is_that_of_a_document(data, tmp_path, keep):
    config = make_config(data, tmp_path / "run")
    config["data"]["keep_document_ids"] = keep
    pipeline = build_pipeline(config)
    builder, step = pipeline._dataset_builder, 3
    lists = builder.lists("train", "packed")
    query = builder.plan("train", "packed").batch_of_step(step)[-1]
    row = lists.row_splits[query + 1] - 1
    lists.values["float32"][row, 2] = -3e38
    message = explain_non_finite(pipeline._model_builder, builder, "packed", 1, step)
    place = f"3e+38, in query {lists.query_ids[query]!r}"
    if keep:
        assert lists.document_ids[row]
        place += f", document {lists.document_ids[row]!r}"
    assert f"; its largest feature is {place}." in message


def test_a_run_whose_loss_is_zero_warns_once_and_says_why(data, tmp_path):
    config = make_config(
        data, tmp_path / "run", loss="pairwise_logistic_loss", num_epochs=2
    )
    pipeline = build_pipeline(config)
    lists = pipeline._dataset_builder.lists("train", "packed")
    lists.labels[:] = 1.0
    with pytest.warns(UserWarning) as caught:
        pipeline.train_and_validate()
    messages = [str(w.message) for w in caught]
    messages = [text for text in messages if "loss of a whole epoch" in text]
    assert len(messages) == 1
    assert re.search("within every list all labels are equal", messages[0])
