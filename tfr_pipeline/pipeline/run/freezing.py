"""Layers that do not train, for some epochs or for good.

A layer is frozen while training steps are traced, and not otherwise: Keras then leaves
its weights out of the gradient, and batch normalisation uses the statistics that it
has. What is saved or exported meanwhile is that of the same model, in the same order.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.model import layer_names
from tfr_pipeline.optimizers.late import Terms, set_terms
from tfr_pipeline.pipeline.distribute.parameter_server import Dispatcher
from tfr_pipeline.pipeline.run.progress import RunCallback
from tfr_pipeline.pipeline.warm_start import WarmStart


@dataclasses.dataclass(frozen=True)
class _Group:
    """Layers that begin to train together.

    Attributes:
      layers: The layers, by path.
      epoch: The epoch, from 0, in which they train for the first time; None for never.
      rate: Factor of their learning rate.
    """

    layers: dict[str, tf.keras.layers.Layer]
    epoch: int | None
    rate: float

    @property
    def variables(self) -> list[tf.Variable]:
        found = [v for layer in self.layers.values() for v in layer.trainable_variables]
        return list({id(variable): variable for variable in found}.values())


class Freezing:
    """Which layers of a model train when, and at which rate.

    Two can ask for it: `warm_start.frozen`, and a layer itself, by attributes
    `unfreeze_epoch` (an integer, or None for never) and `unfreeze_rate` (a factor of
    the learning rate, 1 if absent). The setting counts where both do.

    Args:
      model: A built model.
      warm_start: The setting.

    Raises:
      ConfigError: A glob names no layer with weights, or nothing would ever train.
    """

    def __init__(self, model: tf.keras.Model, warm_start: WarmStart):
        self._model = model
        layers = layer_names.layers(model)
        for glob in warm_start.frozen:
            if not any(layer_names.matches(path, [glob.strip("!")]) for path in layers):
                raise ConfigError(
                    unknown_name("layers", glob, layers, "warm_start.frozen")
                )
        told = {
            path: layer
            for path, layer in layers.items()
            if warm_start.frozen and layer_names.matches(path, warm_start.frozen)
        }
        self._groups = []
        if told:
            self._groups.append(
                _Group(told, warm_start.unfreeze_epoch, warm_start.unfreeze_rate)
            )
        for path, layer in layers.items():
            if hasattr(layer, "unfreeze_epoch") and path not in told:
                rate = getattr(layer, "unfreeze_rate", 1.0)
                self._groups.append(_Group({path: layer}, layer.unfreeze_epoch, rate))
        if self._groups and not self.trained:
            raise ConfigError(
                f"warm_start.frozen: {', '.join(told)} are all layers of the model; "
                "expected one that trains, or an unfreeze_epoch."
            )

    @property
    def trained(self) -> list[tf.Variable]:
        """The variables that are trained in some epoch."""
        never = {
            id(variable)
            for group in self._groups
            if group.epoch is None
            for variable in group.variables
        }
        return [v for v in self._model.trainable_variables if id(v) not in never]

    def set_terms(self, optimizer: Any, steps: int) -> None:
        """Tells an optimizer what it trains later, or at another rate.

        Args:
          optimizer: The optimizer.
          steps: Steps of an epoch.
        """
        late = [
            (Terms(group.rate, group.epoch * steps), group.variables)
            for group in self._groups
            if group.epoch is not None and (group.epoch or group.rate != 1.0)
        ]
        if late:
            set_terms(optimizer, late)

    @property
    def freezes(self) -> bool:
        """Whether some layer does not train in some epoch."""
        return any(group.epoch != 0 for group in self._groups)

    def held(self, epoch: int) -> list[tf.keras.layers.Layer]:
        """Returns the layers that do not train in an epoch."""
        return [
            layer
            for group in self._groups
            if group.epoch is None or epoch < group.epoch
            for layer in group.layers.values()
        ]

    def callbacks(
        self, dispatcher: Dispatcher | None
    ) -> list[tf.keras.callbacks.Callback]:
        """Returns what freezes the layers in each epoch; nothing where none is frozen.

        Args:
          dispatcher: Hands out the steps, where others take them.
        """
        return [_Freeze(self, dispatcher)] if self.freezes else []


class _Freeze(RunCallback):
    """Makes the training function anew where other layers train."""

    def __init__(self, freezing: Freezing, dispatcher: Dispatcher | None):
        super().__init__()
        self._freezing, self._dispatcher = freezing, dispatcher
        self._held: list[Any] | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        held = self._freezing.held(epoch)
        if held == self._held:
            return
        if self._held is not None and self._dispatcher is not None:
            self._dispatcher.retrace()
            self.model.train_function = self._dispatcher
        elif self._held is not None:
            self.model.make_train_function(force=True)
        self._held = held
        if held:
            self.model.train_function = _holding(held, self.model.train_function)


def _holding(
    layers: Sequence[tf.keras.layers.Layer], function: Callable[..., Any]
) -> Callable[..., Any]:
    def held(iterator: Any) -> Any:
        with _frozen(layers):
            return function(iterator)

    return held


@contextlib.contextmanager
def _frozen(layers: Sequence[tf.keras.layers.Layer]) -> Iterator[None]:
    """Freezes layers, and what is within them, while a function may be traced."""
    before = [
        (part, part.trainable)
        for layer in layers
        for part in (layer, *layer.submodules)
        if isinstance(part, tf.keras.layers.Layer)
    ]
    for layer in layers:
        layer.trainable = False
    try:
        yield
    finally:
        # What is within a layer comes after it, and may have been frozen on its own.
        for part, trainable in before:
            part.trainable = trainable
