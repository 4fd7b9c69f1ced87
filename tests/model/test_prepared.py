"""Preprocessing ahead of training gives what preprocessing in each step gives."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from tfr_pipeline.compat import tf
from tfr_pipeline.data import store
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.store import no_ids
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.model import builders, inputs, preprocess, scorers
from tfr_pipeline.model.prepared import Preparation, is_prepared
from tfr_pipeline.model.steps import lists as steps

CONTEXT = {"query": tf.io.FixedLenFeature((1,), tf.float32, 0.0)}
FLOATS = {f"x{i}": tf.io.FixedLenFeature((1,), tf.float32, 0.0) for i in range(3)}
COUNT = {"count": tf.io.FixedLenFeature((2,), tf.int64, [0, 0])}
LENGTHS = np.array([3, 1, 0, 2])
to_float = functools.partial(tf.cast, dtype=tf.float32)
LOGS = dict.fromkeys(FLOATS, preprocess.signed_log1p)


def make_model(functions, example=FLOATS, context=None, scorer=None):
    return builders.ModelBuilder(
        inputs.FeatureSpecInputCreator(context or {}, example),
        functions,
        scorer or scorers.DNNScorer(hidden_layer_dims=[4], output_units=1),
        "mask",
    ).build_packed()


def make_batches(model, example=FLOATS, context=None):
    """Returns a raw batch and what preparation makes of it."""
    random = np.random.default_rng(0)
    documents = int(LENGTHS.sum())
    values = {}
    for dtype, slots in BlockLayout.from_spec(example).slots.items():
        matrix = random.normal(size=(documents, slots[-1].stop)) * 5
        values[dtype] = matrix.astype(dtype)
    query = tf.constant(random.normal(size=(4, 1)), tf.float32)

    def batch(values):
        ragged = {
            f"documents_{name}": tf.RaggedTensor.from_row_lengths(matrix, LENGTHS)
            for name, matrix in values.items()
        }
        return {**dict.fromkeys(context or {}, query), **ragged}

    return batch(values), batch(model.preparation(values))


def assert_same_scores(model, raw, prepared):
    assert is_prepared(prepared) and not is_prepared(raw)
    expected = model(raw, training=False)
    found = model.prepared_call(prepared, training=False)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found.row_splits, expected.row_splits)


def test_prepared_features_score_as_raw_ones():
    model = make_model(LOGS)
    raw, prepared = make_batches(model)
    assert list(prepared) == ["documents_prepared_0"]
    assert_same_scores(model, raw, prepared)


def test_steps_that_compare_documents_are_prepared_list_by_list():
    both = [steps.ListQuantileNormal(beside=True), steps.ListStandardize()]
    model = make_model(dict.fromkeys(FLOATS, both))
    assert model.preparation.needs_lists
    raw, _ = make_batches(make_model(LOGS))
    ragged = raw["documents_float32"]
    lists = Lists(
        values={"float32": ragged.values.numpy()},
        row_splits=ragged.row_splits.numpy(),
        labels=np.zeros(len(ragged.values), np.float32),
        query_ids=no_ids(4),
        document_ids=no_ids(len(ragged.values)),
    )
    # Pieces of about one document, and of all at once.
    for rows in (1, 100):
        made = store.map_values(lists, model.preparation, rows, with_splits=True)
        prepared = {
            f"documents_{name}": ragged.with_values(matrix)
            for name, matrix in made.values.items()
        }
        assert prepared["documents_prepared_0"].shape[-1] == 6
        assert_same_scores(model, raw, prepared)


def test_two_functions_make_two_matrices():
    model = make_model({**LOGS, "x1": tf.math.square})
    raw, prepared = make_batches(model)
    assert len(prepared) == 2
    assert_same_scores(model, raw, prepared)


def test_a_dtype_that_lacks_a_function_stays_raw_and_query_features_go_along():
    example = {**FLOATS, **COUNT}
    model = make_model(
        {**LOGS, "query": tf.math.tanh}, {**example}, CONTEXT, _SumsCounts([4])
    )
    raw, prepared = make_batches(model, example, CONTEXT)
    assert sorted(prepared) == ["documents_int64", "documents_prepared_0", "query"]
    assert_same_scores(model, raw, prepared)


class _SumsCounts(scorers.DNNScorer):
    def __init__(self, dims):
        super().__init__(hidden_layer_dims=dims, output_units=1)

    def _score_flattened(self, context_features, example_features):
        features = dict(example_features)
        features["count"] = tf.cast(features["count"], tf.float32)
        return super()._score_flattened(context_features, features)


def test_a_query_feature_that_no_score_depends_on_is_no_obstacle():
    class OneFeature(scorers.UnivariateScorer):
        def _score_flattened(self, context_features, example_features):
            return tf.keras.layers.Dense(1)(example_features["x0"])

    model = make_model(LOGS, FLOATS, CONTEXT, OneFeature())
    assert_same_scores(model, *make_batches(model, FLOATS, CONTEXT))


def test_the_view_shares_weights_and_adds_nothing_to_a_checkpoint():
    model, plain = make_model(LOGS), make_model({})
    assert plain.preparation is None
    names = [sorted(m._trackable_children()) for m in (model, plain)]
    assert set(names[0]) - set(names[1]) <= {f"layer-{i}" for i in range(20)}
    raw, prepared = make_batches(model)
    before = model.prepared_call(prepared, training=False).values
    model.set_weights([2.0 * weight + 0.1 for weight in model.get_weights()])
    after = model.prepared_call(prepared, training=False).values
    assert np.abs(after - before).max() > 0.1
    assert_same_scores(model, raw, prepared)


VARIABLE = tf.Variable(2.0)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + tf.random.normal(tf.shape(x)),
        lambda x: x * VARIABLE,
        lambda x: x + np.random.default_rng().normal(),
        tf.keras.layers.Dense(1),
        lambda x: tf.concat([x, x], axis=-1),
        lambda x: tf.cond(
            tf.reduce_sum(x) < 1e9, lambda: x + tf.random.uniform([]), lambda: x
        ),
    ],
    ids=["noise", "variable", "numpy noise", "layer", "wider", "noise in a branch"],
)
def test_what_may_differ_from_step_to_step_stays_in_the_step(function):
    functions = {**LOGS, "x2": function}
    assert not Preparation(BlockLayout.from_spec(FLOATS), functions).layout.slots


def test_a_dtype_with_one_feature_left_raw_is_left_to_the_step():
    functions = {name: LOGS[name] for name in ("x0", "x1")}
    assert not Preparation(BlockLayout.from_spec(FLOATS), functions).layout.slots
