"""Scores in view of the list: the paper's formulas, and nothing of the padding."""

from __future__ import annotations

import numpy as np
import pytest

from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.attention_scorers import AttentionScorer, DASALCScorer
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.layers.lists import PADDING_SCORE

CONTEXT = {"q": tf.io.FixedLenFeature((1,), tf.float32, 0.0)}
EXAMPLE = {
    "x": tf.io.FixedLenFeature((2,), tf.float32, [0.0] * 2),
    "count": tf.io.FixedLenFeature((1,), tf.int64, 0),
}
# The last list is empty.
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
SMALL = {"hidden_layer_dims": [6, 5], "head_size": 3, "num_layers": 2}
SCORERS = {"attention": AttentionScorer, "dasalc": DASALCScorer}


def build(scorer):
    creator = FeatureSpecInputCreator(CONTEXT, EXAMPLE)
    builder = ModelBuilder(creator, {}, scorer, "mask")
    assert builder.layouts == ("padded",)
    model = builder.build()
    random = np.random.default_rng(1)
    for weight in model.weights:
        value = random.uniform(-0.3, 0.6, size=weight.shape)
        if "variance" in weight.name or "gamma" in weight.name:
            value = abs(value) + 0.5
        weight.assign(value.astype(weight.dtype.as_numpy_dtype))
    return model


def features(seed=0):
    random = np.random.default_rng(seed)
    return {
        "q": random.normal(size=[4, 1]).astype(np.float32),
        "x": random.normal(size=[4, 4, 2]).astype(np.float32),
        "count": random.integers(0, 5, size=[4, 4, 1]),
        "mask": MASK,
    }


def scores(model, values, training=False):
    values = {name: tf.constant(value) for name, value in values.items()}
    return model(values, training=training).numpy()


@pytest.mark.parametrize("name", SCORERS)
def test_documents_keep_their_scores_in_another_order(name):
    model, values = build(SCORERS[name](**SMALL)), features()
    order = [2, 0, 3, 1]
    turned = {
        key: value if key == "q" else value[:, order] for key, value in values.items()
    }
    np.testing.assert_allclose(
        scores(model, turned), scores(model, values)[:, order], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", SCORERS)
def test_a_document_counts_for_the_others_and_padding_does_not(name):
    model, values = build(SCORERS[name](**SMALL)), features()
    wanted = scores(model, values)
    values["x"][0, 3] += 10.0  # a document
    values["x"][1, 3] += 10.0  # padding
    found = scores(model, values)
    assert (found[0] != wanted[0]).sum() > 1
    np.testing.assert_array_equal(found[1:], wanted[1:])


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("training", [True, False])
def test_padding_and_empty_lists_get_the_score_of_padding(name, training):
    model, values = build(SCORERS[name](**SMALL)), features()
    values["x"][~MASK] = np.nan
    found = scores(model, values, training)
    np.testing.assert_allclose(found[~MASK], PADDING_SCORE, rtol=1e-6)
    assert np.isfinite(found).all()
    values["mask"] = np.zeros_like(MASK)
    values["x"][:] = 1.0
    found = scores(model, values, training)
    np.testing.assert_allclose(found, np.full([4, 4], PADDING_SCORE), rtol=1e-6)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_the_latent_cross_is_the_papers():
    scorer = DASALCScorer([6, 5], head_size=3)
    documents, attended = tf.keras.Input((4,)), tf.keras.Input((3,))
    cross = tf.keras.Model(
        [documents, attended], scorer._score_attended(documents, attended)
    )
    random = np.random.default_rng(2)
    for weight in cross.weights:
        value = random.uniform(0.1, 1.0, size=weight.shape)
        weight.assign(value.astype(weight.dtype.as_numpy_dtype))

    # Of each kind of layer and width, in the order of the network.
    layers = {}
    for layer in cross.layers:
        if layer.weights:
            layers.setdefault(type(layer).__name__, []).append(layer)

    def normalise(layer, x):
        gamma, beta, mean, variance = layer.get_weights()
        return (x - mean) / np.sqrt(variance + layer.epsilon) * gamma + beta

    def dense(layer, x):
        kernel, bias = layer.get_weights()
        return x @ kernel + bias

    def by_input(kind, tensor):
        (layer,) = [one for one in layers[kind] if one.input is tensor]
        return layer

    x, a = random.normal(size=[7, 4]), random.normal(size=[7, 3])
    norms, denses = layers["BatchNormalization"], layers["Dense"]
    for_a = by_input("BatchNormalization", attended)
    for_x = by_input("BatchNormalization", documents)
    dense_a = by_input("Dense", for_a.output)
    rest = [layer for layer in norms if layer not in (for_a, for_x)]
    first, second, own = [layer for layer in denses if layer is not dense_a][:3]
    hidden = normalise(rest[0], np.maximum(dense(first, normalise(for_x, x)), 0))
    hidden = normalise(rest[1], np.maximum(dense(second, hidden), 0))
    c = dense(own, hidden)
    a_ = dense(dense_a, normalise(for_a, a))
    wanted = dense(denses[-1], np.maximum(a_ * c + c, 0))
    found = cross([tf.constant(x, tf.float32), tf.constant(a, tf.float32)])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_defaults_of_dasalc_are_the_papers():
    scorer = DASALCScorer()
    assert scorer.hidden_layer_dims == [512, 512]
    assert (scorer.num_heads, scorer.head_size, scorer.num_layers) == (2, 100, 4)
    assert (scorer.dropout, scorer.input_noise_stddev) == (0.4, 1.5)
    assert scorer.batch_norm_moment == 0.9


@pytest.mark.parametrize(
    "scorer, arguments, words",
    [
        (AttentionScorer, {"head": 3}, "unknown argument 'head'.*'head_size'"),
        (DASALCScorer, {"droput": 0.1}, "DASALCScorer.*'dropout'"),
        (DASALCScorer, {"hidden_layer_dims": []}, "such as \\[512, 512\\]"),
    ],
)
def test_wrong_arguments_are_named(scorer, arguments, words):
    with pytest.raises(ConfigError, match=words):
        scorer(**arguments)
