"""Trains a config and keeps the weights that it passes through, alone or in a job.

    python -m tests.pipeline.kept_weights CONFIG FOLDER STEP

As soon as STEP steps are done, the chief of a job removes what the run began with and
kills the second worker, once. With a STEP of 0 nobody is disturbed.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import shutil
import signal
import sys
from typing import Any

import numpy as np

from tfr_pipeline.compat import tf
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.pipeline.run import initial_weights

VICTIM = "worker-1"


class Keep(tf.keras.callbacks.Callback):
    """Keeps the weights before the first step and after each.

    Where steps have no order, with parameter servers, after each epoch.
    """

    def __init__(self, pipeline: Any, folder: pathlib.Path, disturb: Any):
        super().__init__()
        self._supports_tf_logs = True  # or parameter servers refuse it
        self._pipeline, self._folder, self._disturb = pipeline, folder, disturb

    def _keep(self) -> None:
        dispatcher, step = self._pipeline._dispatcher, self._pipeline._checkpoints.step
        model = dispatcher.twin if dispatcher else self.model
        weights = initial_weights._variables(model)
        values = {name: weight.numpy() for name, weight in weights.items()}
        np.savez(self._folder / f"{step}.npz", **values)

    def on_train_begin(self, logs=None):
        if not self._pipeline._checkpoints.step:
            self._keep()

    def on_train_batch_end(self, batch, logs=None):
        if not self._pipeline._dispatcher:
            self._keep()
        self._disturb(self._pipeline._checkpoints.step)

    def on_epoch_end(self, epoch, logs=None):
        if self._pipeline._dispatcher:
            self._keep()


def train(config: dict[str, Any], folder: pathlib.Path, disturb: Any = int) -> None:
    """Trains a config; `STEP.npz` in a folder are the weights after so many steps."""
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = build_pipeline(config)
    theirs = pipeline.build_callbacks
    pipeline.build_callbacks = lambda: [Keep(pipeline, folder, disturb), *theirs()]
    pipeline.train(verbose=2)


def kept(folder: pathlib.Path) -> dict[int, dict[str, np.ndarray]]:
    """Returns the weights that a folder has, by step and name."""
    found = {}
    for path in folder.glob("*.npz"):
        with np.load(path) as file:
            found[int(path.stem)] = dict(file)
    return dict(sorted(found.items()))


def _main(text: str, place: str, step: str) -> None:
    config, folder = json.loads(text), pathlib.Path(place)
    task = json.loads(os.environ["TF_CONFIG"])["task"]
    name = f"{task['type']}-{task['index']}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.pid").write_text(str(os.getpid()))
    # Variables of these small models are in parts, too.
    partitioners = tf.distribute.experimental.partitioners
    partitioners.MinSizePartitioner = functools.partial(
        partitioners.MinSizePartitioner, 64
    )

    def disturb(done: int) -> None:
        mark = folder / "disturbed"
        if name not in ("worker-0", "chief-0") or mark.exists():
            return
        if 0 < int(step) <= done:
            mark.touch()
            shutil.rmtree(config["pipeline"]["warm_start"]["from"])
            os.kill(int((folder / f"{VICTIM}.pid").read_text()), signal.SIGKILL)

    train(config, folder / name, disturb)


if __name__ == "__main__":
    _main(*sys.argv[1:])
