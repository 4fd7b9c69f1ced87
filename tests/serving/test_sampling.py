"""Monte Carlo dropout: of exports, against a loop over the model itself."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from tests.ranking_data import random_lists
from tests.serving.serving_helpers import (
    as_lists,
    make_builder,
    make_signatures,
    randomize,
)
from tests.serving.test_predictor import FEATURES
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.features import FILE_NAME
from tfr_pipeline.model.attention_scorers import AttentionScorer
from tfr_pipeline.model.scorers import DNNScorer, GAMScorer, concat
from tfr_pipeline.serving.ensemble import export_ensemble
from tfr_pipeline.serving.export import export_saved_model
from tfr_pipeline.serving.predictor import Predictor

LISTS = random_lists(5, [3, 1, 0, 4])
DIMS = {"hidden_layer_dims": [6, 4], "activation": "tanh"}
GAM = {"example_hidden_layer_dims": [4], "context_hidden_layer_dims": [3]}


class WithKeras(DNNScorer):
    """A network with dropout and normalisation of Keras's own."""

    def _score_flattened(self, context_features, example_features):
        x = concat(context_features, example_features)
        x = tf.keras.layers.Dense(8, "tanh")(x)
        x = tf.keras.layers.Dropout(0.5)(tf.keras.layers.BatchNormalization()(x))
        return tf.keras.layers.Dense(1)(x)


def exported(scorer, folder):
    builder = make_builder(scorer=scorer)
    packed = "packed" in builder.layouts
    model = randomize(builder.build_packed() if packed else builder.build())
    signatures = make_signatures(model)
    text = json.dumps(FEATURES.to_json())
    path = export_saved_model(model, signatures(), str(folder), {FILE_NAME: text})
    return model, Predictor(path)


@pytest.mark.parametrize(
    "scorer",
    [
        DNNScorer(**DIMS, dropout=0.3),
        DNNScorer(hidden_layer_dims=[6], activation="selu", dropout=0.3),
        GAMScorer(**GAM, dropout=0.3),
        AttentionScorer([6], head_size=4, dropout=0.3),
        WithKeras(**DIMS),
    ],
)
def test_scores_differ_by_dropout_alone_and_by_another_mask_each_time(scorer, tmp_path):
    _, predictor = exported(scorer, tmp_path / "model")
    lists = as_lists(LISTS)
    moving = [w.numpy() for w in predictor._module.weights if w.dtype.is_floating]
    plain = predictor.score(lists)
    mean, deviation = predictor.sample(lists, 50)
    assert (deviation > 0).all()
    # No layer but dropout trains, and what does not sample scores as before.
    for weight, before in zip(
        [w for w in predictor._module.weights if w.dtype.is_floating],
        moving,
        strict=True,
    ):
        np.testing.assert_array_equal(weight.numpy(), before)
    np.testing.assert_array_equal(predictor.score(lists), plain)
    # Wherever a model is loaded, it draws the same masks, if they are ours.
    if not isinstance(scorer, WithKeras):
        again = Predictor(predictor.path).sample(lists, 50)
        np.testing.assert_array_equal(again, (mean, deviation))


def test_mean_and_deviation_are_those_of_the_samples(tmp_path):
    _, predictor = exported(DNNScorer(**DIMS, dropout=0.3), tmp_path / "model")
    lists = as_lists(LISTS)
    draw = SimpleNamespace(packed=predictor._module.sampled)
    scores = np.stack([predictor.score(lists, draw) for _ in range(5)])
    mean, deviation = Predictor(predictor.path).sample(lists, 5)
    np.testing.assert_allclose(mean, scores.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(deviation, scores.std(axis=0, ddof=1), rtol=1e-4)


def test_a_linear_model_has_the_deviation_that_can_be_computed(tmp_path):
    """Units stay with probability 1/2, at twice their size: each deviates by itself."""
    kwargs = {"hidden_layer_dims": [8], "use_batch_norm": False, "dropout": 0.5}
    model, predictor = exported(DNNScorer(**kwargs), tmp_path / "model")
    lists = as_lists(LISTS)
    mean, deviation = predictor.sample(lists, 400)
    plain = predictor.score(lists)
    *_, last, shift = model.trainable_weights
    kernel, units = last.numpy(), []
    packed = make_signatures(model).packed_tf_function()
    shift.assign(0.0 * shift)
    for number in range(8):  # what a unit alone adds
        last.assign(kernel * (np.arange(8)[:, np.newaxis] == number))
        units.append(predictor.score(lists, SimpleNamespace(packed=packed)))
    expected = np.sqrt(np.square(units).sum(axis=0))
    np.testing.assert_allclose(deviation, expected, rtol=0.15)
    assert (abs(mean - plain) < 4 * expected / np.sqrt(400)).all()


def test_what_has_no_dropout_cannot_be_sampled(tmp_path):
    _, predictor = exported(DNNScorer(**DIMS, dropout=0.0), tmp_path / "model")
    assert not hasattr(predictor._module, "sampled")
    with pytest.raises(ConfigError, match="differ by dropout; expected a model that"):
        predictor.sample(as_lists(LISTS), 5)


@pytest.mark.slow
def test_an_ensemble_sends_to_its_members(tmp_path):
    _, member = exported(DNNScorer(**DIMS, dropout=0.3), tmp_path / "model")
    path = export_ensemble([member, member], str(tmp_path / "ensemble"))
    with pytest.raises(ConfigError, match="an ensemble has no samples of its own"):
        Predictor(path).sample(as_lists(LISTS), 5)


def test_one_sample_has_no_deviation(tmp_path):
    _, predictor = exported(DNNScorer(**DIMS, dropout=0.3), tmp_path / "model")
    with pytest.raises(ConfigError, match="samples: expected at least 2, found 1"):
        predictor.sample(as_lists(LISTS), 1)
    empty = as_lists(LISTS).slice(0, 0)
    assert [array.shape for array in predictor.sample(empty, 3)] == [(0,), (0,)]
