"""Says in the beats of a task where its training stands, for the supervisor of its job.

A step or a batch of validation ends soon, and so do the callbacks between two steps.
All else may take as long as it likes: what is before the end of the first step, which
traces, and of the first batch of validation; the beginnings and ends of epochs;
exports.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from tfr_pipeline.cluster import beat, heartbeat
from tfr_pipeline.pipeline.run.checkpoints import Checkpoints
from tfr_pipeline.pipeline.run.progress import RunCallback


def around(
    callbacks: Iterable[tf.keras.callbacks.Callback], checkpoints: Checkpoints
) -> list[tf.keras.callbacks.Callback]:
    """Returns callbacks between those that say when a step ends and when one begins.

    So whatever the others do counts as being between two steps.

    Args:
      callbacks: All others.
      checkpoints: Know the step.
    """
    ends = _StepEnds(checkpoints)
    return [ends, *callbacks, _StepBegins(ends)]


class _StepEnds(RunCallback):
    def __init__(self, checkpoints: Checkpoints):
        super().__init__()
        self._checkpoints, self._before = checkpoints, 0
        self.trained = self.validated = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        self._before = self._checkpoints.step
        heartbeat.moves(beat.REST, self._before)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        self.trained = True
        heartbeat.moves(beat.BETWEEN, self._before + batch + 1)

    def on_test_begin(self, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        heartbeat.moves(beat.REST)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        self.validated = True
        heartbeat.moves(beat.REST)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        heartbeat.moves(beat.REST)


class _StepBegins(RunCallback):
    def __init__(self, ends: _StepEnds):
        super().__init__()
        self._ends = ends

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        if self._ends.trained:
            heartbeat.moves(beat.STEP)

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        if self._ends.validated:
            heartbeat.moves(beat.STEP)
