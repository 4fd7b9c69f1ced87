"""Callbacks of a run. Their memory is the `RunState`, so that it survives a restart."""

from __future__ import annotations

import math
import signal
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfr_pipeline.cluster import beat, heartbeat
from tfr_pipeline.errors import ConfigError, RunError, unknown_name
from tfr_pipeline.pipeline.run.checkpoints import Checkpoints
from tfr_pipeline.pipeline.run.directory import RunDirectory
from tfr_pipeline.pipeline.run.progress import Progress, RunCallback
from tfr_pipeline.pipeline.run.state import RunState


class Record(RunCallback):
    """Keeps the history.

    Stands first of those that save: a validation loss that is not finite ends the run
    before anything broken is saved.

    Args:
      run: The run directory.
      state: Gets one row an epoch.
      progress: Has measured the epoch; stands before this one.
    """

    def __init__(self, run: RunDirectory, state: RunState, progress: Progress):
        super().__init__()
        self._run, self._state, self._progress = run, state, progress

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        step = int(self.model.optimizer.iterations.numpy())
        loss = float((logs or {}).get("val_loss", 0.0))
        if not math.isfinite(loss):
            raise RunError(
                f"the validation loss is {loss} after step {step}, although the "
                "training loss was finite. Look for features so large that batch "
                "statistics overflow; preprocess them (log1p) or leave them out."
            )
        # Of an epoch within which the run was interrupted, the row has the rest.
        begin = step - self._progress.steps
        row = {
            **{"epoch": epoch, "from_step": begin, "step": step},
            **self._progress.figures,
        }
        row.update({key: float(value) for key, value in (logs or {}).items()})
        self._state.history.append(row)
        self._run.write_history(self._state)


class SelectBest(RunCallback):
    """Keeps the best epoch, and stops when none was better for long.

    Args:
      checkpoints: Where to save.
      monitor: Key of the logs, such as `val_metric/ndcg_10`.
      higher_better: Whether more is better.
      save: Saves the weights of the best epoch.
      patience: Epochs without improvement after which to stop; 0 for never.
      min_delta: Least change that counts for `patience`.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        monitor: str,
        higher_better: bool,
        save: bool,
        patience: int = 0,
        min_delta: float = 0.0,
    ):
        super().__init__()
        self._checkpoints, self._monitor = checkpoints, monitor
        self._sign = 1.0 if higher_better else -1.0
        self._save, self._patience, self._min_delta = save, patience, min_delta

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        state = self._checkpoints.state
        if self._monitor not in (logs or {}):
            raise ConfigError(unknown_name("metric", self._monitor, logs or {}))
        value = float((logs or {})[self._monitor])
        if self._gain(value, state.best_value) > 0:
            state.best_value, state.best_step = value, self._checkpoints.step
            if self._save:
                self._checkpoints.save_best()
        if self._gain(value, state.stall_value) > self._min_delta:
            state.stall_value, state.stall_epoch = value, epoch
        elif self._patience and epoch - state.stall_epoch >= self._patience:
            state.stopped = (
                f"no better {self._monitor} in {self._patience} epochs than "
                f"{state.stall_value:.6g} in epoch {state.stall_epoch + 1}"
            )
            self.model.stop_training = True

    def _gain(self, value: float, than: float | None) -> float:
        """How much better a value is; NaN, and so never more, for NaN."""
        if than is None:
            return float("nan") if math.isnan(value) else float("inf")
        return self._sign * (value - than)


class ReduceOnPlateau(RunCallback):
    """Multiplies the learning rate when the validation loss stalls.

    Args:
      state: Remembers the best loss.
      factor: Factor of a reduction.
      patience: Epochs without improvement before one.
      min_delta: Least change that counts.
      min_rate: Lowest learning rate.
    """

    def __init__(
        self,
        state: RunState,
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 1e-4,
        min_rate: float = 0.0,
    ):
        super().__init__()
        self._state, self._factor, self._patience = state, factor, patience
        self._min_delta, self._min_rate = min_delta, min_rate

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        value, state = float((logs or {})["val_loss"]), self._state
        if state.plateau_value is None or value < state.plateau_value - self._min_delta:
            state.plateau_value, state.plateau_epoch = value, epoch
        elif epoch - state.plateau_epoch >= self._patience:
            rate = self.model.optimizer.learning_rate
            rate.assign(max(float(rate.numpy()) * self._factor, self._min_rate))
            state.plateau_epoch = epoch


# What a worker wants at a step boundary: the largest wish of all is granted, so that
# one exchange settles both.
_SAVE, _STOP = 1, 2


class Backup(RunCallback):
    """Saves the run after each epoch, every so often, and when told to stop.

    SIGTERM ends training at the next step boundary, or at the end of the validation
    under way, after a save. Stands last in the list of callbacks, so that it saves what
    the others decided.

    Args:
      checkpoints: Where to save.
      every_steps: Also saves so often within epochs.
      agree: Gives the largest of the workers' values to all of them: when one is told
        to stop, all do, at the same step.
      every_seconds: Also saves within epochs when the last save is so long ago, by the
        clock of the worker that owns the run directory: its wish goes to the others
        with whether somebody is told to stop, in the one exchange that there is anyway.
        None or 0 for never.
      after_first_save: Called once, after the first save; the workers then wait for
        each other.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        every_steps: int | None = None,
        agree: Callable[[int], int] = int,
        every_seconds: float | None = None,
        after_first_save: Callable[[], None] | None = None,
    ):
        super().__init__()
        self._agree, self._after_first_save = agree, after_first_save
        self._checkpoints, self._every = checkpoints, every_steps
        self._seconds = every_seconds if checkpoints.decides else None
        self._saved, self._saved_at = 0, 0.0
        self._previous: Any = None
        self._terminated = False

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts to listen to SIGTERM."""
        self._saved, self._saved_at = self._checkpoints.step, time.monotonic()
        # A run that goes on within an epoch begins to train twice.
        listens = self._previous is not None
        if not listens and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, *_: Any) -> None:
        self._terminated = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`.

        Raises:
          SystemExit: SIGTERM came; the code is 143, the state is saved.
        """
        if batch + 1 >= self.params["steps"]:
            return  # A save here would skip the validation of this epoch.
        wish = self._agree(_STOP if self._terminated else self._is_time())
        by_steps = self._every and self._checkpoints.step - self._saved >= self._every
        if wish or by_steps:
            self._save()
        if wish == _STOP:
            raise SystemExit(143)

    def _is_time(self) -> int:
        if not self._seconds:
            return 0
        return _SAVE if time.monotonic() - self._saved_at >= self._seconds else 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """See `on_train_batch_end`."""
        self._save()
        self.stop_if_told()

    def stop_if_told(self) -> None:
        """Ends training if SIGTERM came, to any of the workers.

        Raises:
          SystemExit: It did; the code is 143.
        """
        if self._agree(_STOP if self._terminated else 0) == _STOP:
            raise SystemExit(143)

    def release(self) -> None:
        """Stops to listen to SIGTERM, however training ended."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None

    def _save(self) -> None:
        self._checkpoints.save()
        if self._after_first_save is not None:
            with heartbeat.doing(beat.REST):
                self._after_first_save()
            self._after_first_save = None
            # A worker that is told to stop would leave the one that is at work.
            self._agree(0)
        self._saved, self._saved_at = self._checkpoints.step, time.monotonic()


class StopOnNaN(RunCallback):
    """Stops a model that has no check of its own loss; see `RankingModel`."""

    def __init__(self) -> None:
        super().__init__()
        self._supports_tf_logs = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        loss = (logs or {}).get("loss")
        if loss is not None and not tf.math.is_finite(loss):
            step = int(self.model.optimizer.iterations.numpy())
            raise RunError(
                f"the loss became {loss} at or before step {step}. Look for infinite "
                "features, labels out of range, or a learning rate that is too high."
            )


class ExplainZeroLoss(RunCallback):
    """Warns once when the loss of a whole epoch is exactly zero.

    Args:
      explain: Returns the warning.
    """

    def __init__(self, explain: Callable[[], str]):
        super().__init__()
        self._explain: Callable[[], str] | None = explain

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        if self._explain and (logs or {}).get("loss") == 0.0:
            warnings.warn(self._explain(), stacklevel=2)
            self._explain = None
