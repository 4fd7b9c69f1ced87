"""The evaluator of a job: evaluates checkpoints beside the training, as they come."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import RunError
from tfr_pipeline.pipeline.run.checkpoints import Checkpoints, latest

_POLL_SECONDS = 1.0


def watch(
    model: tf.keras.Model,
    bare: tf.keras.Model,
    checkpoints: Checkpoints,
    folder: str,
    compare: Callable[[], None],
    dataset: Any,
    steps: int | None,
    log_dir: str,
) -> None:
    """Evaluates each new checkpoint, until SIGTERM and then the newest one.

    Each gives a line of output, and scalars for TensorBoard.

    Args:
      model: A compiled model.
      bare: The same, not compiled.
      checkpoints: Checkpoints of the run, for this model.
      folder: Where they appear.
      compare: Checks that they are of the run that this task was told of.
      dataset: Validation data.
      steps: Batches of it; None for all.
      log_dir: Folder of the events for TensorBoard.
    """
    stop = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    done = None
    try:
        writer = None
        while True:
            ends = stop.is_set()
            path = latest(folder)
            if path and writer is None:
                compare()
                writer = tf.summary.create_file_writer(log_dir)
            if path and path != done and _restore(checkpoints, bare, path):
                found = model.evaluate(
                    dataset, steps=steps, return_dict=True, verbose=0
                )
                _report(writer, checkpoints.step, found)
                done = path
            elif ends:
                return
            else:
                stop.wait(_POLL_SECONDS)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _restore(checkpoints: Checkpoints, bare: tf.keras.Model, path: str) -> bool:
    """Restores a checkpoint; returns whether it was still there."""
    try:
        return checkpoints.restore_weights(bare, bare.weights, path)
    except RunError:
        if os.path.exists(f"{path}.index"):
            raise
        return False  # A newer one has taken its place.


def _report(writer: Any, step: int, found: dict[str, float]) -> None:
    values = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
    print(f"step {step}: {values}", flush=True)
    with writer.as_default(step=step):
        for name, value in found.items():
            tf.summary.scalar(name, value)
    writer.flush()
