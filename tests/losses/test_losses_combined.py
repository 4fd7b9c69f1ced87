"""Weighted sums of losses, by string and by dict."""

from __future__ import annotations

import contextlib
import json

import pytest

from tfr_pipeline import losses
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.errors import ConfigError

TEXT = "softmax_loss:0.9, sigmoid_cross_entropy_loss:0.1"
PARTS = {"softmax_loss": 0.9, "sigmoid_cross_entropy_loss": 0.1}


def value_and_gradient(loss, batch, weights=None, layout=lambda value, fill: value):
    logits = tf.constant(batch.logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        scores = layout(batch.scores(logits), 0.0)
        value = loss(layout(batch.labels, -1.0), scores, weights)
    return float(value), tf.convert_to_tensor(tape.gradient(value, logits)).numpy()


@pytest.mark.parametrize("reduction", ["auto", "sum"])
@pytest.mark.parametrize("loss", [TEXT, PARTS])
def test_a_sum_is_the_weighted_sum_of_its_parts(loss, reduction, batch_maker):
    batch = batch_maker(1, masked=True)
    weights = batch.weights["document"]
    value, gradient = value_and_gradient(
        losses.get(loss, reduction=reduction), batch, weights
    )
    parts = [
        (weight, value_and_gradient(losses.get(k, reduction=reduction), batch, weights))
        for k, weight in PARTS.items()
    ]
    assert value == pytest.approx(sum(w * part[0] for w, part in parts), rel=1e-6)
    assert gradient == pytest.approx(sum(w * part[1] for w, part in parts), rel=1e-5)


def test_a_sum_is_the_same_in_both_layouts(batch_maker):
    batch = batch_maker(2, masked=True)
    loss = losses.get(TEXT)
    value, gradient = value_and_gradient(loss, batch)
    dense = value_and_gradient(
        loss, batch, layout=lambda ragged, fill: ragged.to_tensor(fill)
    )
    assert dense[0] == pytest.approx(value, rel=1e-6)
    assert dense[1] == pytest.approx(gradient, rel=1e-5, abs=1e-7)


def test_a_sum_by_string_is_tf_rankings_of_estimators(batch_maker):
    batch = batch_maker(3)
    make = tfr.losses.make_loss_fn(TEXT, reduction="weighted_sum")
    labels = batch.labels.to_tensor(-1.0)
    scores = batch.scores(batch.logits).to_tensor(0.0)
    expected = float(make(labels, scores, {}))
    loss = losses.get(TEXT, reduction="sum")
    assert float(loss(labels, scores)) == pytest.approx(expected, rel=1e-5)


def test_arguments_go_to_the_loss_they_stand_at_or_to_all_that_take_them():
    weight = losses.NDCGLambdaWeight(topn=3)
    loss = losses.get(
        {
            "softmax_loss": {"weight": 2, "temperature": 0.5},
            "pairwise_hinge_loss": 1.0,
            "mean_squared_loss": {},
        },
        temperature=0.3,
        lambda_weight=weight,
        name="sum",
    )
    softmax, hinge, squared = loss.losses
    assert loss.name == "sum"
    assert loss.weights == [2.0, 1.0, 1.0]
    assert softmax.get_config()["temperature"] == 0.5
    assert hinge.get_config()["temperature"] == 0.3
    assert hinge._lambda_weight is weight
    assert "temperature" not in squared.get_config()


def test_a_sum_survives_serialisation(batch_maker):
    loss = losses.get(
        {"softmax_loss": {"weight": 0.5, "temperature": 0.5}, "lambda_loss": 2.0},
        reduction="sum",
        name="mine",
    )
    text = json.dumps(tf.keras.losses.serialize(loss))
    expected = value_and_gradient(loss, batch_maker(4))[0]
    for again in (
        tf.keras.losses.deserialize(json.loads(text)),
        type(loss).from_config(loss.get_config()),
    ):
        assert again.name == "mine"
        assert value_and_gradient(again, batch_maker(4))[0] == expected


@pytest.mark.parametrize("strategy", [None, "CPU:0"])
def test_keras_trains_and_reports_a_sum(strategy):
    features = tf.constant([[[1.0], [0.0]], [[0.0], [2.0]]])
    labels = tf.constant([[1.0, 0.0], [0.0, 1.0]])
    loss = losses.get(TEXT)
    scope = contextlib.nullcontext()
    if strategy:
        scope = tf.distribute.MirroredStrategy([strategy]).scope()
    with scope:
        layers = [tf.keras.layers.Dense(1, "linear", True, "ones")]
        layers.append(tf.keras.layers.Reshape([2]))
        model = tf.keras.Sequential(layers)
        model.compile(tf.keras.optimizers.SGD(0.1), loss=loss)
    history = model.fit(features, labels, epochs=2, verbose=0).history["loss"]
    scores = features[:, :, 0]
    assert history[0] == pytest.approx(
        float(losses.get(TEXT)(labels, scores)), rel=1e-6
    )
    assert history[1] < history[0]


@pytest.mark.parametrize(
    ("loss", "arguments", "message"),
    [
        ("softmax_loss:0.9,sigmod_cross_entropy_loss", {}, "did you mean 'sigmoid"),
        ("softmax_loss:high", {}, "finite number as the weight of loss 'softmax_loss'"),
        ("softmax_loss:nan", {}, "finite number"),
        ("softmax_loss:1,softmax_loss:2", {}, "comes twice"),
        ("softmax_loss,", {}, "unknown loss ''"),
        ({}, {}, "expected the name of a loss"),
        (3, {}, "should be the name of a loss"),
        ({"softmax_loss": {"temprature": 1.0}}, {}, "did you mean 'temperature'"),
        (TEXT, {"sample_size": 3}, "unknown argument 'sample_size'"),
        (TEXT, {"reduction": "none"}, "no reduction NONE"),
    ],
)
def test_what_is_no_sum_is_a_config_error(loss, arguments, message):
    with pytest.raises(ConfigError, match=message):
        losses.get(loss, **arguments)


def test_parts_must_have_the_reduction_of_the_sum():
    with pytest.raises(ConfigError, match="every part to have the reduction 'sum'"):
        losses.WeightedSumLoss([losses.SoftmaxLoss()], reduction="sum")
