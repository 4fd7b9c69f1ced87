"""SIGTERM at every moment of a run, and after it."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.pipeline.training_helpers import make_config, read_history, read_json
from tfr_pipeline.compat import tf
from tfr_pipeline.experiment.build import build_pipeline


class Terminate(tf.keras.callbacks.Callback):
    """Sends SIGTERM to this process at a moment of training."""

    def __init__(self, moment, step):
        super().__init__()
        self.moment, self.step = moment, step

    def _maybe(self, moment):
        if moment == self.moment and int(self.model.optimizer.iterations) == self.step:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_test_end(self, logs=None):
        self._maybe("validation")

    def on_train_end(self, logs=None):
        self._maybe("end")

    def on_train_batch_end(self, batch, logs=None):
        self._maybe("step")


def train(config, *callbacks):
    pipeline = build_pipeline(config)
    ours = pipeline.build_callbacks
    pipeline.build_callbacks = lambda: [*callbacks, *ours()]
    return pipeline.train_and_validate()


@pytest.mark.parametrize("step", [pytest.param(10, marks=pytest.mark.slow), 20])
def test_a_signal_in_validation_stops_the_run_before_it_goes_on(data, tmp_path, step):
    config = make_config(data, tmp_path / "run", num_epochs=2)
    with pytest.raises(SystemExit) as end:
        train(config, Terminate("validation", step))
    assert end.value.code == 143
    assert read_history(tmp_path / "run")[-1]["step"] == step
    assert not (tmp_path / "run" / "export").exists()
    train(config)
    assert read_json(tmp_path / "run" / "metrics.json")["step"] == 20


def test_a_run_that_goes_on_within_an_epoch_gives_the_signal_back(data, tmp_path):
    """Else a signal during the export would be lost."""
    config = make_config(data, tmp_path / "run", num_epochs=2)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        train(config, Terminate("step", 5))
    assert signal.getsignal(signal.SIGTERM) is before
    train(config)
    assert signal.getsignal(signal.SIGTERM) is before
    rows = read_history(tmp_path / "run")
    assert [(row["from_step"], row["step"]) for row in rows] == [(5, 10), (10, 20)]
    assert rows[0]["lists"] < rows[1]["lists"]


def test_a_signal_after_the_last_epoch_is_not_lost(data, tmp_path):
    config = make_config(data, tmp_path / "run", num_epochs=2)
    with pytest.raises(SystemExit) as end:
        train(config, Terminate("end", 20))
    assert end.value.code == 143
    assert not (tmp_path / "run" / "export").exists()
    train(config)
    assert read_json(tmp_path / "run" / "metrics.json")["step"] == 20


class Sleep(tf.keras.callbacks.Callback):
    """Takes a second for one step of training."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 10:
            time.sleep(1.0)


@pytest.mark.parametrize(
    ("seconds", "saved"),
    [
        (1.0, {"ckpt-10", "ckpt-20"}),
        pytest.param(0, {"ckpt-20"}, marks=pytest.mark.slow),
        pytest.param(None, {"ckpt-20"}, marks=pytest.mark.slow),
    ],
)
def test_a_run_is_saved_when_the_last_save_is_long_ago(data, tmp_path, seconds, saved):
    """Without the clock, only the end of the epoch, step 20, is saved."""
    config = make_config(
        data,
        tmp_path / "run",
        num_epochs=1,
        steps_per_epoch=20,
        checkpoint_every_seconds=seconds,
    )
    train(config, Sleep())
    found = {path.stem for path in (tmp_path / "run" / "checkpoints").glob("*.index")}
    # On a slow machine other steps may be a second apart as well.
    assert found >= saved if seconds else found == saved
