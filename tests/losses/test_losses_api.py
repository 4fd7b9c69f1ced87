"""Factory, classes, serialisation and bad input."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest

from tfr_pipeline import losses
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.errors import ConfigError

KEYS = losses.RankingLossKey.all_keys()
CLASSES = [name for name in losses.__all__ if name.endswith("Loss")]


def test_importing_the_package_does_not_import_tensorflow():
    code = (
        "import sys; from tfr_pipeline import losses, metrics\n"
        "import tfr_pipeline.metrics.evaluation\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_all_keys_of_tf_ranking_are_there():
    assert set(tfr.keras.losses.RankingLossKey.all_keys()) <= set(KEYS)
    assert len(KEYS) == 16


@pytest.mark.parametrize("key", KEYS)
def test_a_loss_is_an_instance_of_tf_rankings_class(key):
    loss = losses.get(key)
    name = "SoftmaxLoss" if key == "calibrated_softmax_loss" else type(loss).__name__
    assert isinstance(loss, getattr(tfr.keras.losses, name))


@pytest.mark.parametrize("name", [*CLASSES, "get"])
def test_signatures_begin_with_tf_rankings(name):
    if not hasattr(tfr.keras.losses, name):
        pytest.skip(f"this tensorflow-ranking has no {name}")
    ours = inspect.signature(getattr(losses, name)).parameters
    expected = inspect.signature(getattr(tfr.keras.losses, name)).parameters
    assert list(ours)[: len(expected)] == list(expected)
    for parameter in expected:
        if (name, parameter) != ("YetiLogisticLoss", "temperature"):
            assert ours[parameter].default == expected[parameter].default


@pytest.mark.parametrize("key", KEYS)
def test_serialisation_keeps_class_and_arguments(key):
    arguments = {"reduction": "sum", "name": "mine"}
    parameters = inspect.signature(type(losses.get(key))).parameters
    if "temperature" in parameters:
        arguments["temperature"] = 0.3
    if "ragged" in parameters:
        arguments["ragged"] = True
    if key == "ordinal_loss":
        arguments.update(ordinal_size=4, use_fraction_label=True)
    if key.startswith("calibrated"):
        arguments["virtual_label"] = 0.2
    loss = losses.get(key, **arguments)
    again = tf.keras.losses.deserialize(tf.keras.losses.serialize(loss))
    assert type(again) is type(loss)
    config = again.get_config()
    assert {name: config[name] for name in arguments} == arguments


@pytest.mark.parametrize(
    "weight",
    ["NDCGLambdaWeight", "DCGLambdaWeight", "PrecisionLambdaWeight"],
)
def test_serialisation_keeps_the_lambda_weight(weight, batch_maker):
    loss = losses.get(
        "pairwise_logistic_loss", lambda_weight=getattr(losses, weight)(topn=2)
    )
    again = tf.keras.losses.deserialize(tf.keras.losses.serialize(loss))
    batch = batch_maker(1)
    scores = batch.scores(batch.logits)
    plain = float(losses.get("pairwise_logistic_loss")(batch.labels, scores))
    value = float(again(batch.labels, scores))
    assert value == float(loss(batch.labels, scores)) != plain


def test_an_unknown_key_is_a_config_error_that_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'softmax_loss'"):
        losses.get("softmx_loss")


def test_an_unknown_argument_is_a_config_error_that_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'temperature'"):
        losses.get("softmax_loss", temprature=2.0)


def test_a_lambda_weight_without_effect_is_a_warning():
    with pytest.warns(UserWarning, match="does not use `lambda_weight`"):
        losses.get("mean_squared_loss", lambda_weight=losses.NDCGLambdaWeight())


def test_a_negative_virtual_label_is_a_config_error():
    with pytest.raises(ConfigError, match="virtual_label = -1"):
        losses.get("calibrated_softmax_loss", virtual_label=-1.0)


def test_mixed_layouts_are_an_error(batch_maker):
    batch = batch_maker(1)
    with pytest.raises(ValueError, match="the same layout"):
        losses.get("softmax_loss")(batch.labels, np.zeros((6, 7), np.float32))


def test_two_scores_a_document_are_an_error(batch_maker):
    batch = batch_maker(1, outputs=1)
    with pytest.raises(ValueError, match="one number a document"):
        losses.get("mean_squared_loss")(batch.labels, batch.scores(batch.logits))


def test_other_partitions_of_the_scores_are_an_error():
    labels = tf.ragged.constant([[1.0, 0.0], [1.0]])
    scores = tf.ragged.constant([[1.0], [0.0, 1.0]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="numbers of documents"):
        losses.get("softmax_loss")(labels, scores)


@pytest.mark.parametrize("key", ["softmax_loss", "mean_squared_loss", "list_mle_loss"])
def test_integer_labels_are_taken(key):
    whole = tf.ragged.constant([[1, 0], [2]])
    scores = tf.ragged.constant([[0.3, 0.1], [0.5]])
    expected = losses.get(key)(tf.cast(whole, tf.float32), scores)
    assert float(losses.get(key)(whole, scores)) == float(expected)


@pytest.mark.parametrize("key", ["softmax_loss", "pairwise_hinge_loss"])
def test_dense_document_weights_fit_ragged_labels(key, batch_maker):
    batch = batch_maker(2)
    scores, weights = batch.scores(batch.logits), batch.weights["document"]
    loss = losses.get(key)
    wide = tf.pad(weights.to_tensor(0.0), [[0, 0], [0, 4]])
    expected = float(loss(batch.labels, scores, weights))
    assert float(loss(batch.labels, scores, wide)) == pytest.approx(expected)
