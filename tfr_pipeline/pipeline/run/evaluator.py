"""The evaluator of a job: evaluates checkpoints beside the training, as they come."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import tensorflow as tf

from tfr_pipeline.cluster import heartbeat
from tfr_pipeline.errors import ConfigError, RunError
from tfr_pipeline.pipeline.run.checkpoint_files import latest
from tfr_pipeline.pipeline.run.checkpoints import Checkpoints
from tfr_pipeline.pipeline.run.state import RunState

_POLL_SECONDS = 1.0


def watch(pipeline: Any, told: dict[str, Any]) -> tf.keras.Model:
    """Evaluates each new checkpoint, until SIGTERM and then the newest one.

    Each gives a line of output, and scalars for TensorBoard.

    Args:
      pipeline: A `ModelFitPipeline`.
      told: What this task was told; the run has to be that.

    Returns:
      The model.

    Raises:
      ConfigError: There is no validation data, or the run is another one.
    """
    layout, feed, run = pipeline._layout(), pipeline._feed, pipeline._run
    dataset = feed.dataset("valid", layout)
    if dataset is None:
        raise ConfigError(
            "valid_input_pattern: expected files, found none, but the job has an "
            "evaluator. Start it without."
        )
    steps = feed.steps("valid", layout)
    stop = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    done = None
    try:
        while not pipeline._learning.can_load(run) and not stop.is_set():
            stop.wait(_POLL_SECONDS)
            run.refresh()
        pipeline._learning.load(run)
        model, bare = pipeline._compile(layout, 1), pipeline._build(layout)
        checkpoints = Checkpoints(model, run, RunState())
        writer = None
        while True:
            ends = stop.is_set()
            run.refresh()
            path = latest(run.checkpoints)
            if path and writer is None:
                run.compare(told)
                writer = tf.summary.create_file_writer(run.logs("evaluator"))
            if path and path != done and _restore(checkpoints, bare, path):
                found = model.evaluate(
                    dataset, steps=steps, return_dict=True, verbose=0
                )
                _report(writer, checkpoints.step, found)
                run.share_logs("evaluator")
                heartbeat.keeps(checkpoints.step)
                done = path
            elif ends:
                return model
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
