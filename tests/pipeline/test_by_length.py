"""Padded training batches of lists of about one length, wherever nobody minds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.pipeline.training_helpers import changed, make_config, make_data
from tfr_pipeline.compat import tf
from tfr_pipeline.data.batching import windowed
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.model.attention_scorers import AttentionScorer
from tfr_pipeline.pipeline.run.diagnosis import explain_non_finite

ATTENTION = {"hidden_layer_dims": [4], "head_size": 4, "dropout": 0.1}


class Wide(AttentionScorer):
    """A scorer of a user's: what it makes of padding, nobody knows."""

    def __call__(self, context_features, example_features, mask):
        return super().__call__(context_features, example_features, mask)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("by_length"))


@pytest.fixture
def config(data, tmp_path):
    found = make_config(data, tmp_path / "run")
    found["model"]["scorer"] = "attention"
    found["model"]["scorer_args"] = ATTENTION
    return found


def one_epoch(pipeline, layout="padded", start=0):
    """Returns the mask, or the row splits, of the batches of an epoch."""
    pipeline._layout()
    dataset = pipeline._feed.dataset("train", layout, start)
    steps = pipeline._feed.steps("train", layout)
    batches = [batch[1] for batch in dataset.take(steps)]
    if layout == "packed":
        return [labels.row_lengths().numpy() for labels in batches]
    return [labels.numpy() >= 0 for labels in batches]


def test_batches_are_as_long_as_their_longest_list_and_those_alike(config):
    masks = one_epoch(build_pipeline(changed(config, data__list_size=200)))
    assert sum(len(mask) for mask in masks) == 40
    real = sum(mask.sum() for mask in masks)
    for mask in masks:
        assert mask.any(axis=0).all()  # no column of padding alone
    assert real / sum(mask.size for mask in masks) > 0.8


def test_list_size_cuts_lists_that_are_longer(config):
    masks = one_epoch(build_pipeline(changed(config, data__list_size=10)))
    assert max(mask.shape[1] for mask in masks) == 10
    assert min(mask.shape[1] for mask in masks) < 10


@pytest.mark.parametrize("windows", [False, True])
def test_a_run_goes_on_with_the_batches_it_would_have_had(config, windows, monkeypatch):
    if windows:
        monkeypatch.setattr(windowed, "WINDOW", 4_000)
        monkeypatch.setattr(windowed, "BLOCK", 400)
    plan = build_pipeline(config)._feed.plan("train", "padded")
    assert isinstance(plan, windowed.WindowedPlan) == windows
    whole = [
        *one_epoch(build_pipeline(config)),
        *one_epoch(build_pipeline(config), start=10),
    ]
    late = one_epoch(build_pipeline(config), start=7)
    for found, wanted in zip(late, whole[7:], strict=False):
        np.testing.assert_array_equal(found, wanted)


class ByPlace(tf.keras.losses.Loss):
    """A loss of a user's, with a weight for each of twenty places."""

    def call(self, y_true, y_pred):
        return tf.reduce_mean(y_pred * tf.range(20.0), axis=1)


def centred(values):
    """Preprocessing of a user's that looks at the whole list, padding included."""
    return values - tf.reduce_mean(values, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("section", "key", "name"),
    [
        ("model", "scorer", "Wide"),
        ("pipeline", "loss", "ByPlace"),
        ("model", "preprocess", "centred"),
    ],
)
def test_what_says_nothing_of_list_sizes_keeps_them(config, section, key, name):
    config = changed(config, data__list_size=20)
    config[section][key] = f"{__name__}:{name}"
    pipeline = build_pipeline(config)
    assert {mask.shape[1] for mask in one_epoch(pipeline)} == {20}
    # Without one, each batch was ever as long as its longest list.
    without = build_pipeline(changed(config, data__list_size=None))
    without._layout()
    assert without._feed.by_length("train")


def test_a_model_builder_with_steps_of_its_own_keeps_the_list_size(config):
    pipeline = build_pipeline(changed(config, data__list_size=20))
    pipeline._layout()
    assert pipeline._feed.by_length("train")

    class Own(type(pipeline._model_builder)):
        def preprocess(self, context_inputs, example_inputs, mask):
            return super().preprocess(context_inputs, example_inputs, mask)

    pipeline._model_builder.__class__ = Own
    pipeline._layout()
    assert not pipeline._feed.by_length("train")


def test_whoever_calls_the_dataset_builder_gets_what_tf_ranking_makes(config):
    config = changed(config, data__list_size=20)
    builder = build_pipeline(config)._dataset_builder
    shapes = {
        tuple(labels.shape) for _, labels in builder.build_train_dataset().take(9)
    }
    assert shapes == {(4, 20)}


def test_packed_batches_are_what_they_were(data, tmp_path):
    pipeline = build_pipeline(make_config(data, tmp_path / "run"))
    builder = pipeline._dataset_builder
    plan = builder.plan("train", "packed")
    assert pipeline._feed.plan("train", "packed") is plan
    lengths = builder.lists("train", "packed").lengths
    wanted = [lengths[index.numpy()] for index in plan.dataset().take(10)]
    found = one_epoch(pipeline, "packed")
    assert all(itertools.starmap(np.array_equal, zip(found, wanted, strict=True)))
    # Whole lists of like numbers of documents, as ever.
    assert np.ptp([part.sum() for part in found]) <= 2


def test_a_bad_batch_is_found_again(config):
    pipeline = build_pipeline(changed(config, data__list_size=200))
    builder, step = pipeline._dataset_builder, 3
    lists = builder.lists("train", pipeline._layout())
    batch = pipeline._feed.plan("train", "padded").batch_of_step(step)
    message = explain_non_finite(
        pipeline._model_builder, builder, "padded", 1, step, by_length=True
    )
    names = ", ".join(str(query) for query in lists.query_ids[batch])
    assert f"has the queries {names};" in message
