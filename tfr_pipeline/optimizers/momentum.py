"""A momentum that changes with the step, as the learning rate does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError


def follow(optimizer: Any, momentum: Callable[[Any], Any]) -> None:
    """Lets an optimizer of Keras take its momentum from a function of the step.

    That is `beta_1` of Adam and its kin, and `momentum` of `SGD`. The bias correction
    of Adam takes the `beta_1` of the step, as in PyTorch's `OneCycleLR`.

    Args:
      optimizer: The optimizer.
      momentum: Takes the number of steps done; returns a float32 scalar.

    Raises:
      ConfigError: The optimizer has no momentum.

    Example:
      >>> variable = tf.Variable(0.0)
      >>> optimizer = tf.keras.optimizers.SGD(1.0, momentum=0.9)
      >>> follow(optimizer, lambda step: 0.5 * tf.cast(step, tf.float32))
      >>> optimizer.build([variable])
      >>> for _ in range(3):
      ...     _ = optimizer.apply_gradients([(tf.constant(-1.0), variable)])
      >>> float(variable.numpy())  # moves by 1, then 1 + 0.5 * 1, then 1 + 1 * 1.5
      5.0
    """
    key = "beta_1" if hasattr(optimizer, "beta_1") else "momentum"
    # Others ask whether theirs is 0 while a step is traced.
    knows = key == "beta_1" or isinstance(optimizer, tf.keras.optimizers.SGD)
    if not knows or not getattr(optimizer, key):
        raise ConfigError(
            "schedule '1cycle': momentum: expected an optimizer with beta_1, or SGD "
            f"with a momentum above 0, found {type(optimizer).__name__}. Set "
            "optimizer_args.momentum, or choose another optimizer."
        )
    kind = type(optimizer)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    # Saved as what it was before.
    optimizer.__class__ = type(kind.__name__, (_Following, kind), names)
    optimizer.__dict__.update(_momentum_key=key, _momentum_of=momentum)


class _Following:
    """Put before the class of an optimizer."""

    _momentum_key: str
    _momentum_of: Callable[[Any], Any]

    def update_step(self, gradient: Any, variable: Any) -> Any:
        """See `tf.keras.optimizers.Optimizer`."""
        key, steps = self._momentum_key, tf.keras.optimizers.Optimizer.iterations
        # All steps of training, also where a variable counts its own.
        before, now = getattr(self, key), self._momentum_of(steps.fget(self))
        self.__dict__[key] = now
        try:
            return super().update_step(gradient, variable)  # type: ignore[misc]
        finally:
            self.__dict__[key] = before
