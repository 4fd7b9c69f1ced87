"""Learning-rate range test: the loss of training steps at rates that rise.

Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017. Nothing of the
run directory is read for weights, or written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.ranking_model import NON_FINITE_LOSS
from tfr_pipeline.pipeline.run import beginning, seeds
from tfr_pipeline.pipeline.run.freezing import Freezing
from tfr_pipeline.pipeline.run.progress import RunCallback
from tfr_pipeline.pipeline.warm_start import WarmStart

# Rates of a small data set, whose pass would have too few.
_LEAST_STEPS = 100
# Share of the steps that the smoothed loss is mostly a mean of.
_WINDOW = 0.05
# How much below the rate of the least loss one trains.
_BELOW = 10.0


@dataclasses.dataclass(frozen=True)
class Row:
    """One step.

    Attributes:
      step: Its number, from 1.
      learning_rate: Its rate.
      loss: Loss of its batch, before the step.
      smoothed: Exponential mean of the losses up to here, without bias to the first.
    """

    step: int
    learning_rate: float
    loss: float
    smoothed: float


class _Record(RunCallback):
    """Notes the loss of each step; ends training when it has lost what was won."""

    def __init__(self, low: float, high: float, steps: int):
        super().__init__()
        self.rows: list[Row] = []
        self._low, self._growth, self._steps = low, high / low, steps
        self._keep = 1.0 - 1.0 / max(1.0, _WINDOW * steps)
        self._sum = self._weight = 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`; Keras reports means since a reset."""
        self.model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        loss = float((logs or {})["loss"])
        self._sum = self._keep * self._sum + loss
        self._weight = self._keep * self._weight + 1.0
        rate = self._low * self._growth ** (batch / (self._steps - 1))
        smoothed = self._sum / self._weight
        self.rows.append(Row(batch + 1, rate, loss, smoothed))
        found = [row.smoothed for row in self.rows]
        won = found[0] - min(found)
        started = len(found) > 2.0 * _WINDOW * self._steps
        if not math.isfinite(loss) or (started and smoothed - found[0] > won > 0.0):
            self.model.stop_training = True


def check(low: float, high: float) -> None:
    """Checks the ends of a range.

    Raises:
      ConfigError: They are no rates, or no range.
    """
    if not 0.0 < low < high < math.inf:
        raise ConfigError(
            f"lr_range: expected two rates, the lower one first, such as 1e-5,1; found "
            f"{low:g},{high:g}."
        )


def sweep(pipeline: Any, low: float, high: float) -> list[Row]:
    """Trains a new model over one pass of the data, at rates from `low` to `high`.

    Rates rise by the same factor each step; 100 steps at least. It ends when the loss
    is not finite, or as far above where it began as it had come below that.

    Args:
      pipeline: A `ModelFitPipeline` that has not trained; of no use afterwards.
      low: Rate of the first step.
      high: Rate of the last one.

    Returns:
      A row for each step with a finite loss.

    Raises:
      ConfigError: The rates cannot be, layers have rates of their own, or the strategy
        is one of several processes.
      PipelineError: What training would raise up to its first step.
    """
    check(low, high)
    feed, role, builder = pipeline._feed, pipeline._role, pipeline._dataset_builder
    if role.coordinates or role.shares_variables or role.evaluates:
        raise ConfigError(
            "lr_range: expected a strategy of one process, such as MirroredStrategy, "
            f"found {pipeline._hparams.strategy}."
        )
    for glob, told in (pipeline._hparams.optimizers or {}).items():
        for key in ("learning_rate", "schedule"):
            if told.get(key) is not None:
                raise ConfigError(
                    "lr_range: expected one rate for all layers, found "
                    f"pipeline.optimizers[{glob!r}] with a {key} of its own. Leave "
                    "that out for the test."
                )
    seed, _ = seeds.choose(pipeline._hparams.seed, pipeline._run, role.agree)
    seeds.plant(seed, builder)
    beginning.learn(pipeline)
    with role.scope():
        layout = pipeline._layout()
        steps = max(_LEAST_STEPS, feed.check(layout))
        pipeline._hparams = dataclasses.replace(
            pipeline._hparams,
            num_epochs=1,
            steps_per_execution=1,
            learning_rate=low,
            schedule={
                "name": "exponential",
                "decay_rate": high / low,
                "decay_steps": steps - 1,
            },
            weight_averaging=None,
        )
        model = pipeline._compile(layout, steps)
        warm_start = WarmStart.of(pipeline._hparams.warm_start)
        if warm_start.source:
            beginning.take_weights(pipeline, model)
        record = _Record(low, high, steps)
        callbacks = [*Freezing(model, warm_start).callbacks(None), record]
        data = feed.dataset("train", layout, model=model)
        with _ending_where_not_finite():
            model.fit(data, steps_per_epoch=steps, verbose=0, callbacks=callbacks)
    return [row for row in record.rows if math.isfinite(row.loss)]


@contextlib.contextmanager
def _ending_where_not_finite() -> Any:
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if NON_FINITE_LOSS not in str(error):
            raise


def suggested(rows: Sequence[Row]) -> float | None:
    """Returns a learning rate: a tenth of that at which the smoothed loss is least.

    Args:
      rows: What `sweep` returned.

    Returns:
      The rate, to two digits; None where the loss never fell.

    Example:
      >>> suggested([Row(1, 0.01, 3.0, 3.0), Row(2, 0.1, 2.0, 2.5), Row(3, 1, 9, 5)])
      0.01
    """
    if not rows:
        return None
    least = min(rows, key=lambda row: row.smoothed)
    if least is rows[0]:
        return None
    return float(f"{least.learning_rate / _BELOW:.1e}")


def as_csv(rows: Sequence[Row]) -> str:
    """Returns rows as the text of a CSV file, with a header.

    Example:
      >>> as_csv([Row(1, 1e-05, 3.0, 3.0)])
      'step,learning_rate,loss,smoothed\\n1,1e-05,3,3\\n'
    """
    names = [field.name for field in dataclasses.fields(Row)]
    lines = [",".join(names)]
    lines += [
        ",".join(f"{value:.9g}" for value in dataclasses.astuple(row)) for row in rows
    ]
    return "\n".join(lines) + "\n"
