"""How fast a run goes, what it has seen, and how long it waited for its input."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.cluster import beat, heartbeat
from tfr_pipeline.pipeline.run.console import Console
from tfr_pipeline.pipeline.run.directory import RunDirectory

# Seconds between two lines within an epoch, and two changes of a terminal's line.
_LINE_SECONDS, _CHANGE_SECONDS = 10.0, 0.25
_BAR = 20


class RunCallback(tf.keras.callbacks.Callback):
    """A callback that never needs the numbers of a step, so never waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self._supports_tf_logs = True


def gathering(
    strategy: tf.distribute.Strategy | None,
) -> Callable[[float], list[float]]:
    """Returns a function that gives the values of all workers to each of them.

    Every worker has to call it as often as the others, for each waits for the last.

    Args:
      strategy: The strategy.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return lambda value: [value]

    def gather(value: float) -> list[float]:
        values = strategy.experimental_distribute_values_from_function(
            lambda _: tf.constant([value], tf.float32)
        )
        replicas = len(strategy.experimental_local_results(values))
        with heartbeat.doing(beat.WAIT):
            return strategy.gather(values, axis=0).numpy()[::replicas].tolist()

    return gather


@dataclasses.dataclass(frozen=True)
class _Mark:
    """Where an epoch stands.

    Attributes:
      seconds: What the clock says.
      waited: Seconds for which this process waited for batches; None if unknown.
      steps: Steps of the epoch.
      sizes: int64 `[workers, 2]`, lists and documents of these steps, or None.
    """

    seconds: float
    waited: float | None
    steps: int = 0
    sizes: Any = 0

    def since(self, other: _Mark) -> tuple[float, float | None, float | None]:
        """Returns seconds, the share of them spent waiting, and documents."""
        seconds = self.seconds - other.seconds
        wait = None
        if self.waited is not None and other.waited is not None:
            wait = (self.waited - other.waited) / seconds
        if self.sizes is None:
            return seconds, wait, None
        return seconds, wait, np.sum((self.sizes - other.sizes)[:, 1])


class Progress(RunCallback):
    """Measures training, and says so: a line an epoch, and a bar or lines within.

    `figures` describes the last epoch, as `history.csv` has it: `seconds` in training
    steps, without validation; `steps_per_second`; `lists` and `documents` of all
    workers, exactly as the plan of the batches says; `documents_per_second`; and
    `input_wait`, the share of the seconds in which a worker had no batch to work on, of
    the one that waited longest, with parameter servers of all at once. What cannot be
    known is not there: counts of datasets that are not ours; the wait where Keras
    drives the steps.

    The share of each worker, where there are several, stands in TensorBoard under
    `logs/worker-<i>`.

    Args:
      run: The run directory; the process that writes into it is the one that reports.
      take_sizes: Returns int64 `[workers, 2]`, lists and documents by worker of the
        next so many steps, or None.
      gather: Gives the values of all workers to each; see `gathering`.
      console: Where it says so; nowhere by default.
    """

    def __init__(
        self,
        run: RunDirectory,
        take_sizes: Callable[[int], np.ndarray | None],
        gather: Callable[[float], list[float]] = lambda value: [value],
        console: Console | None = None,
    ):
        super().__init__()
        self._console = console or Console(False)
        self._traced = False
        self.figures: dict[str, float] = {}
        self._run, self._take, self._gather = run, take_sizes, gather
        self._every = _CHANGE_SECONDS if self._console.terminal else _LINE_SECONDS
        self._epoch = self._steps = 0
        self._end: _Mark | None = None
        self._writers: list[Any] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        self._epoch, self._steps, self._end = epoch, 0, None
        self._begin = self._last = _Mark(time.perf_counter(), self._waited)
        if not self._traced:
            self._console.show("tracing the training step ...")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        self._steps = batch + 1
        spent = time.perf_counter() - self._last.seconds
        if not self._traced:
            self._traced = True
            self._console.say(f"training step traced in {spent:.1f} s")
        if spent < self._every or not self._console.speaks:
            return
        before, self._last = self._last, self._mark()
        # What a parameter server's worker has not computed yet is no dict.
        loss = logs.get("loss") if isinstance(logs, Mapping) else None
        text = "" if loss is None else f"loss {float(loss):.4g}, "
        text += _rates(before, self._last)
        steps = self.params["steps"]
        if self._console.terminal:
            bar = "#" * round(_BAR * self._steps / steps)
            self._console.show(f"{self._title} [{bar:{_BAR}}] {text}")
        else:
            self._console.say(f"{self._title}, step {self._steps}/{steps}: {text}")

    def on_test_begin(self, logs: Any = None) -> None:
        """Validation begins where the training of an epoch ends."""
        self._end = self._end or self._mark()
        self._console.show(f"{self._title}, validating ...")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        end = self._end or self._mark()
        seconds, wait, documents = end.since(self._begin)
        waits = None if wait is None else self._gather(wait)
        self.figures = {
            "seconds": round(seconds, 4),
            "steps_per_second": round(end.steps / seconds, 2),
        }
        if documents is not None:
            self.figures["lists"] = int(end.sizes[:, 0].sum())
            self.figures["documents"] = int(documents)
            self.figures["documents_per_second"] = round(documents / seconds, 1)
        if waits is not None:
            self.figures["input_wait"] = round(max(waits), 4)
        slowest = ""
        if waits is not None and len(waits) > 1:
            slowest = f" (worker {int(np.argmax(waits))})"
            wait = max(waits)
        self._console.say(
            f"{self._title}: {_values(logs or {})}"
            + _speed(end.steps, seconds, wait, documents)
            + slowest
        )
        if documents is not None and len(end.sizes) > 1:
            self._report_workers(end.sizes, seconds, waits)

    def on_train_end(self, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        for writer in self._writers:
            writer.close()
        self._writers = []

    @property
    def steps(self) -> int:
        """Steps of this epoch that were taken in this process, so far."""
        return self._steps

    @property
    def _title(self) -> str:
        return f"epoch {self._epoch + 1}/{self.params['epochs']}"

    @property
    def _waited(self) -> float | None:
        return getattr(self.model, "input_seconds", None)

    def _mark(self) -> _Mark:
        taken = self._take(self._steps - self._last.steps)
        sizes = None if taken is None else self._last.sizes + taken
        return _Mark(time.perf_counter(), self._waited, self._steps, sizes)

    def _report_workers(
        self, sizes: np.ndarray, seconds: float, waits: list[float] | None
    ) -> None:
        """Logs the share of each worker in an epoch."""
        if not self._run.is_ours:
            return
        for worker, (lists, documents) in enumerate(sizes.tolist()):
            found = {
                "epoch_lists": lists,
                "epoch_documents": documents,
                "epoch_documents_per_second": documents / seconds,
            }
            if waits is not None and len(waits) == len(sizes):
                found["epoch_input_wait"] = waits[worker]
            if worker == len(self._writers):
                path = self._run.join("logs", f"worker-{worker}")
                self._writers.append(tf.summary.create_file_writer(path))
            with self._writers[worker].as_default(step=self._epoch):
                for name, value in found.items():
                    tf.summary.scalar(name, value)
            self._writers[worker].flush()


def _values(logs: Mapping[str, Any]) -> str:
    """Returns losses and metrics of an epoch, those of validation after `val`."""
    parts = []
    for name, value in logs.items():
        short = name.replace("weighted_metric/", "weighted ").replace("metric/", "")
        if short.startswith("val_"):
            short = f"val {short.removeprefix('val_')}"
        form = ".4g" if name.endswith("loss") else ".4f"
        parts.append(f"{short} {float(value):{form}}, ")
    return "".join(parts)


def _rates(before: _Mark, now: _Mark) -> str:
    seconds, wait, documents = now.since(before)
    return _speed(now.steps - before.steps, seconds, wait, documents)


def _speed(
    steps: int, seconds: float, wait: float | None, documents: float | None
) -> str:
    if documents is None:
        text = f"{steps / seconds:,.1f} steps/s"
    else:
        text = f"{documents / seconds:,.0f} documents/s"
    if wait is not None:
        text += f", waited for input {wait:.1%} of the time"
    return text


class TensorBoard(tf.keras.callbacks.TensorBoard):
    """Keras's, with the run's progress and norms of gradients beside its metrics.

    Args:
      folder: Folder of the logs.
      progress: Has measured the epoch; stands before this one.
    """

    def __init__(self, folder: str, progress: Progress):
        super().__init__(folder, write_graph=False, profile_batch=0)
        self._progress = progress

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        super().on_epoch_begin(epoch, logs)
        if norms := self._norms:
            norms.reset()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        found = {**self._progress.figures, **(logs or {})}
        if norms := self._norms:
            found |= norms.values()
        super().on_epoch_end(epoch, found)

    @property
    def _norms(self) -> Any:
        """See `GradientNorms`; None where they are not wanted."""
        return getattr(self.model, "gradient_norms", None)
