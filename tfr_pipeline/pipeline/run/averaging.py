"""Averaged weights in a run: in the model whenever no training step is under way."""

from __future__ import annotations

import contextlib
from typing import Any

import tensorflow as tf

from tfr_pipeline.optimizers.averaging import Averages
from tfr_pipeline.pipeline.distribute.parameter_server import Dispatcher
from tfr_pipeline.pipeline.run.progress import RunCallback


def of_model(model: Any) -> Averages | None:
    """Returns the averages of the weights of a model; None if it has none."""
    return getattr(model, "weight_averages", None)


def kept_in_place(model: Any) -> contextlib.AbstractContextManager[None]:
    """Returns a context in which a model has its averages, if it has some."""
    averages = of_model(model)
    return averages.kept_in_place() if averages else contextlib.nullcontext()


def callbacks(
    model: tf.keras.Model, dispatcher: Dispatcher | None
) -> list[tf.keras.callbacks.Callback]:
    """Returns what puts averages into a model for the time between training steps.

    It stands first of all: the others evaluate and save what is in the model.

    Args:
      model: The model.
      dispatcher: Hands out the steps, where others take them.
    """
    averages = of_model(model)
    return [_Exchange(averages, dispatcher)] if averages else []


class _Exchange(RunCallback):
    def __init__(self, averages: Averages, dispatcher: Dispatcher | None):
        super().__init__()
        self._averages, self._dispatcher = averages, dispatcher

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        self._averages.take_out()

    def on_test_begin(self, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`; validation ends the steps of an epoch."""
        self._averages.put_in()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        if self._dispatcher is not None:
            self._dispatcher.settle()
        self._averages.put_in()
