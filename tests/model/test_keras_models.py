"""A Keras model of a user's own scores documents or lists."""

from __future__ import annotations

import numpy as np
import pytest

from tests.model.test_models import (
    CONTEXT,
    EVEN,
    FUNCTIONS,
    LENGTHS,
    LONGEST,
    MASK,
    MIXED,
    assert_packed_scores_as_padded,
    batch,
    randomize,
)
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.keras_models import KerasModelBuilder


def sequential():
    return tf.keras.Sequential(
        [tf.keras.layers.Dense(4, "relu"), tf.keras.layers.Dense(1)]
    )


def one_input():
    inputs = tf.keras.Input((15,))
    return tf.keras.Model(inputs, tf.keras.layers.Dense(1)(inputs))


def named_inputs():
    inputs = {"x1": tf.keras.Input((1,)), "vector": tf.keras.Input((3,))}
    both = tf.keras.layers.Concatenate()([inputs["x1"], inputs["vector"]])
    return tf.keras.Model(inputs, tf.keras.layers.Dense(1)(both))


class Subclassed(tf.keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = tf.keras.layers.Dense(1)

    def call(self, features):
        return self.dense(tf.concat([features["q1"], features["vector"]], 1))


MODELS = {
    "sequential": sequential,
    "one input": one_input,
    "named inputs": named_inputs,
    "subclassed": Subclassed,
}


def builder(make_model, context=CONTEXT, example=MIXED, **kwargs):
    functions = {n: f for n, f in FUNCTIONS.items() if n in {**context, **example}}
    return KerasModelBuilder(
        make_model, context, example, MASK, preprocess=functions, **kwargs
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_documents_scores_packed_as_padded(name):
    assert_packed_scores_as_padded(builder(MODELS[name]), CONTEXT, MIXED)


def test_a_model_gets_all_columns_in_the_order_of_the_names():
    def make_model():
        inputs = tf.keras.Input((4,))
        return tf.keras.Model(inputs, tf.reduce_sum(inputs * [1.0, 2, 4, 8], 1))

    model = KerasModelBuilder(make_model, {}, EVEN, MASK).build_packed()
    packed, padded = batch({}, EVEN)
    columns = [padded[f"x{i}"][padded[MASK]][:, 0] for i in range(4)]
    wanted = sum(2.0**i * column for i, column in enumerate(columns))
    np.testing.assert_allclose(model(packed).values, wanted, rtol=1e-5)


def test_a_model_of_documents_may_have_several_outputs():
    def make_model():
        inputs = tf.keras.Input((4,))
        outputs = {"click": inputs[:, :1], "buy": inputs[:, 1:2]}
        return tf.keras.Model(inputs, outputs)

    made = KerasModelBuilder(make_model, {}, EVEN, MASK)
    packed, padded = batch({}, EVEN)
    found, wanted = made.build_packed()(packed), made.build()(padded)
    assert set(found) == set(wanted) == {"click", "buy"}
    for task, scores in wanted.items():
        np.testing.assert_allclose(found[task].values, scores[padded[MASK]], 1e-6)


def lists_model():
    inputs = {
        "x0": tf.keras.Input((None, 1)),
        "q1": tf.keras.Input((1,)),
        MASK: tf.keras.Input((None,), dtype=tf.bool),
    }
    counted = tf.where(inputs[MASK], inputs["x0"][..., 0], 0.0)
    mean = tf.reduce_mean(counted, 1, keepdims=True)
    return tf.keras.Model(inputs, counted - mean + inputs["q1"])


def test_a_model_of_lists_gets_padded_features_and_the_mask():
    made = KerasModelBuilder(
        lists_model, CONTEXT, EVEN, MASK, preprocess={}, scores="lists"
    )
    assert made.layouts == ("padded",)
    _, padded = batch(CONTEXT, EVEN)
    mask, x = padded[MASK].numpy(), padded["x0"].numpy()[..., 0]
    counted = np.where(mask, x, 0)
    wanted = counted - counted.mean(1, keepdims=True) + padded["q1"].numpy()
    np.testing.assert_allclose(made.build()(padded), wanted, rtol=1e-4, atol=1e-6)
    assert wanted.shape == (len(LENGTHS), LONGEST)


def test_a_model_of_documents_trains_all_its_weights():
    model = builder(sequential).build_packed()
    randomize(model)
    before = model.get_weights()
    packed, _ = batch(CONTEXT, MIXED)
    labels = tf.RaggedTensor.from_row_lengths(tf.ones([10]), LENGTHS)
    model.compile("sgd", lambda y, s: tf.reduce_mean(tf.square(s.values - y.values)))
    model.train_on_batch(packed, labels)
    assert len(before) == 4
    for old, new in zip(before, model.get_weights(), strict=True):
        assert (old != new).any()


@pytest.mark.parametrize("value", [sequential(), 3])
def test_what_is_not_a_function_is_refused(value):
    with pytest.raises(ConfigError, match="a function that returns a Keras model"):
        builder(value)


def test_a_function_that_returns_no_model_is_named():
    with pytest.raises(ConfigError, match="expected it to return"):
        builder(lambda: 3).build_packed()


def test_an_input_that_is_no_feature_is_named():
    def make_model():
        inputs = {"x9": tf.keras.Input((1,)), "x1": tf.keras.Input((1,))}
        return tf.keras.Model(inputs, inputs["x9"] + inputs["x1"])

    with pytest.raises(ConfigError, match="has an input 'x9'; expected names among"):
        builder(make_model).build()


def test_an_unknown_kind_of_scores_is_refused():
    with pytest.raises(ConfigError, match="'documents' or 'lists', found 'pairs'"):
        builder(sequential, scores="pairs")
