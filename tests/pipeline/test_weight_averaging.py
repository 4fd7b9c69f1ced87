"""Runs that average their weights: what they evaluate, keep and export, and resume."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest

from tests.optimizers.test_averaging import expected
from tests.pipeline.test_resume import exported
from tests.pipeline.training_helpers import (
    changed,
    make_config,
    read_history,
    read_json,
)
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.pipeline.run import template

SWA = {"name": "swa", "start_epoch": 1}


def run_config(data, folder, averaging=SWA, **pipeline):
    return make_config(
        data,
        folder / "run",
        strategy=None,
        steps_per_execution=1,
        weight_averaging=averaging,
        export_best_model=True,
        best_exporter_metric="ndcg_10",
        best_exporter_metric_higher_better=True,
        **pipeline,
    )


class Stop(Exception):
    """Ends a run without a save, as a kill does."""


def train(config, look=lambda model, step: None, finish=True):
    pipeline = build_pipeline(config)
    ours = pipeline.build_callbacks

    class Look(tf.keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            look(self.model, int(self.model.optimizer.iterations))

    pipeline.build_callbacks = lambda: [*ours(), Look()]
    model = pipeline.train()
    if finish:
        pipeline.finish()
    return pipeline, model


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """A run, its model, and its raw weights after each step."""
    folder, raw = tmp_path_factory.mktemp("undisturbed"), []
    config = run_config(data, folder)
    pipeline, model = train(config, lambda model, step: raw.append(model.get_weights()))
    return folder, pipeline, model, raw


def test_the_model_has_the_averages_of_raw_weights_in_the_end(undisturbed):
    _, _, model, raw = undisturbed
    assert len(raw) == 30
    for weight, of_steps in zip(model.weights, zip(*raw, strict=True), strict=True):
        if weight.dtype.is_floating:
            mean = expected(of_steps, 1.0, start=10)
            np.testing.assert_allclose(weight.numpy(), mean, rtol=1e-3, atol=1e-5)
    assert not np.allclose(model.trainable_weights[0], raw[-1][0], rtol=1e-3)


def test_training_is_that_of_a_run_without_averages(data, tmp_path, undisturbed):
    raw = []
    config = changed(run_config(data, tmp_path, None), pipeline__num_epochs=2)
    train(config, lambda model, step: raw.append(model.get_weights()), finish=False)
    for one, other in zip(raw[-1], undisturbed[3][19], strict=True):
        np.testing.assert_array_equal(one, other)


def test_validation_and_exports_are_of_the_averages(undisturbed):
    folder, pipeline, model, _ = undisturbed
    last = read_history(folder / "run")[-1]
    layout = pipeline._layout()
    found = model.evaluate(
        pipeline._feed.dataset("valid", layout, model=model),
        steps=pipeline._feed.steps("valid", layout),
        return_dict=True,
        verbose=0,
    )
    assert found["loss"] == pytest.approx(last["val_loss"], rel=1e-5)
    arrays = exported(folder / "run")["latest_model", "30"]
    for array in arrays:
        assert any(
            array.shape == weight.shape and np.array_equal(array, weight.numpy())
            for weight in model.weights
        )
    metrics = read_json(folder / "run/metrics.json")
    assert metrics["valid"]["ndcg@10"]["skip"] == pytest.approx(
        last["val_metric/ndcg_10"], rel=1e-4
    )


def test_checkpoints_have_the_averages_for_whoever_reads_them(undisturbed, tmp_path):
    folder, _, model, _ = undisturbed
    path = template.export(str(folder / "run"), str(tmp_path / "bare"))
    reader = tf.train.load_checkpoint(f"{path}/variables/variables")
    for number, weight in enumerate(model.weights):
        name = f"weights/{number}/.ATTRIBUTES/VARIABLE_VALUE"
        np.testing.assert_array_equal(reader.get_tensor(name), weight.numpy())


@pytest.mark.parametrize(
    "stop", [14, 19]
)  # after a save at the end of an epoch, and within one
def test_an_interrupted_run_ends_with_the_same_weights(
    data, tmp_path, undisturbed, stop
):
    def look(model, step):
        if step == stop:
            raise Stop

    config = run_config(data, tmp_path, checkpoint_every_steps=7)
    with pytest.raises(Stop):
        train(config, look)
    names = os.listdir(tmp_path / "run/checkpoints")
    assert ("ckpt-17.index" in names) == (stop > 17)
    raw = []
    _, model = train(config, lambda model, step: raw.append(model.get_weights()))
    for one, other in zip(raw[-1], undisturbed[3][-1], strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(
        model.get_weights(), undisturbed[2].get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    found, wanted = exported(tmp_path / "run"), exported(undisturbed[0] / "run")
    assert found.keys() == wanted.keys()
    for key, arrays in found.items():
        for left, right in zip(arrays, wanted[key], strict=True):
            np.testing.assert_array_equal(left, right)


def test_a_run_that_has_ended_goes_on_from_its_raw_weights(data, tmp_path, undisturbed):
    train(changed(run_config(data, tmp_path), pipeline__num_epochs=2))
    _, model = train(run_config(data, tmp_path))
    for one, other in zip(
        model.get_weights(), undisturbed[2].get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_frozen_weights_stay_and_late_ones_are_averaged(data, tmp_path):
    frozen = {"frozen": ["*/centered_dense"], "unfreeze_epoch": 2}
    config = run_config(data, tmp_path, {"name": "ema", "momentum": 0.9})
    config["pipeline"]["warm_start"] = frozen
    kernels = []

    def look(model, step):
        kernels.append(model.trainable_weights[0].numpy())

    _, model = train(config, look, finish=False)
    np.testing.assert_array_equal(kernels[0], kernels[19])
    assert np.abs(kernels[29] - kernels[19]).max() > 1e-3
    mean = expected(kernels, 0.9, 0)
    np.testing.assert_allclose(model.trainable_weights[0], mean, rtol=1e-3, atol=1e-5)


def test_keras_averages_are_refused_with_what_to_write_instead(data, tmp_path):
    config = run_config(data, tmp_path, None, optimizer_args={"use_ema": True})
    with pytest.raises(ConfigError, match="expected weight_averaging="):
        build_pipeline(config).train()


def test_averages_that_never_begin_are_named(data, tmp_path):
    config = run_config(data, tmp_path, {"name": "swa", "start_epoch": 3})
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        build_pipeline(config).dry_run()
    assert any("weight_averaging={" in str(w.message) for w in found)
