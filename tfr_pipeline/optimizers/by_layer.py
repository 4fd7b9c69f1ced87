"""One optimizer for some weights, another one for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError


def share(optimizer: Any, others: Iterable[tuple[Any, Iterable[tf.Variable]]]) -> None:
    """Lets other optimizers train some of the variables that an optimizer is given.

    As wide and deep parts of a model are trained by FTRL and AdaGrad (Cheng et al.,
    "Wide & Deep Learning for Recommender Systems", 2016). Each has its learning rate,
    its decay and its clipping, of its own variables, and its count of steps; whoever
    saves the first one saves all.

    Args:
      optimizer: The optimizer, not built.
      others: Other ones, and the variables that they train.

    Raises:
      ConfigError: It is a legacy optimizer or another one of no such kind.

    Example:
      >>> wide, deep = tf.Variable(1.0), tf.Variable(1.0)
      >>> optimizer = tf.keras.optimizers.SGD(0.5)
      >>> share(optimizer, [(tf.keras.optimizers.SGD(0.25), [wide])])
      >>> optimizer.build([wide, deep])
      >>> _ = optimizer.apply_gradients([(1.0, wide), (1.0, deep)])
      >>> float(wide.numpy()), float(deep.numpy())
      (0.75, 0.5)
    """
    pairs = [(other, list(variables)) for other, variables in others]
    for one in (optimizer, *(other for other, _ in pairs)):
        if not isinstance(one, tf.keras.optimizers.Optimizer):
            raise ConfigError(
                "optimizers: expected optimizers of tf.keras.optimizers, found "
                f"{type(one).__name__}."
            )
    kind = type(optimizer)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    # Saved as what it was before.
    optimizer.__class__ = type(kind.__name__, (_Sharing, kind), names)
    optimizer.__dict__["_owners"] = {
        id(variable): number
        for number, (_, variables) in enumerate(pairs)
        for variable in variables
    }
    # Tracked: part of each checkpoint.
    optimizer.others = [other for other, _ in pairs]


def all_of(optimizer: Any) -> list[Any]:
    """Returns an optimizer and those that it shares variables with."""
    return [optimizer, *getattr(optimizer, "others", [])]


class _Sharing:
    """Put before the class of an optimizer."""

    _owners: dict[int, int]
    others: Sequence[Any]

    def _split(self, items: Iterable[Any], variable: Any) -> list[list[Any]]:
        """Returns the items of this optimizer, then those of each other one."""
        parts: list[list[Any]] = [[] for _ in range(1 + len(self.others))]
        for item in items:
            parts[1 + self._owners.get(id(variable(item)), -1)].append(item)
        return parts

    def build(self, var_list: Any) -> None:
        """See `tf.keras.optimizers.Optimizer`."""
        own, *others = self._split(var_list, lambda variable: variable)
        super().build(own)  # type: ignore[misc]
        for other, variables in zip(self.others, others, strict=True):
            other.build(variables)

    def apply_gradients(self, grads_and_vars: Any, *args: Any, **kwargs: Any) -> Any:
        """See `tf.keras.optimizers.Optimizer`."""
        own, *others = self._split(grads_and_vars, lambda pair: pair[1])
        for other, pairs in zip(self.others, others, strict=True):
            if pairs:
                other.apply_gradients(pairs, *args, **kwargs)
            else:  # frozen as yet; schedules and late starts count all steps
                other.iterations.assign_add(1)
        if own:
            return super().apply_gradients(own, *args, **kwargs)  # type: ignore[misc]
        # The steps of training are counted here, whoever takes them.
        return self.iterations.assign_add(1)  # type: ignore[attr-defined]
