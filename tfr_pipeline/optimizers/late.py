"""Variables that an optimizer trains at a rate of their own, or not from the start."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf

from tfr_pipeline import compat
from tfr_pipeline.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Terms:
    """On which terms variables are trained.

    Attributes:
      rate: Their learning rate, as a factor of that of the optimizer.
      start: The step in which they train for the first time. What depends on the
        number of steps, such as the bias correction of Adam, counts from there.
    """

    rate: float = 1.0
    start: int = 0


def set_terms(
    optimizer: Any, terms: Iterable[tuple[Terms, Iterable[tf.Variable]]]
) -> None:
    """Trains variables of an optimizer on terms of their own.

    Every optimizer of Keras takes part: each asks itself for its learning rate and
    its number of steps when it updates a variable, and gets other answers for some.
    Weight decay is at the rate of the variable, as everywhere in Keras.

    Args:
      optimizer: The optimizer.
      terms: Terms, and the variables that they hold for.

    Raises:
      ConfigError: It is a legacy optimizer or another one of no such kind.

    Example:
      >>> one, other = tf.Variable(1.0), tf.Variable(1.0)
      >>> optimizer = tf.keras.optimizers.SGD(0.5)
      >>> set_terms(optimizer, [(Terms(rate=0.1), [other])])
      >>> optimizer.build([one, other])
      >>> _ = optimizer.apply_gradients([(1.0, one), (1.0, other)])
      >>> [round(float(variable.numpy()), 3) for variable in (one, other)]
      [0.5, 0.95]
    """
    if not isinstance(optimizer, tf.keras.optimizers.Optimizer):
        raise ConfigError(
            "unfreeze_epoch and unfreeze_rate: expected a tf.keras.optimizers.Optimizer"
            f", found {type(optimizer).__name__}, which has one rate for all."
        )
    kind = type(optimizer)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    # Saved as what it was before.
    optimizer.__class__ = type(kind.__name__, (_OnTerms, kind), names)
    optimizer.__dict__["_terms"] = {
        compat.variable_key(optimizer, variable): own
        for own, variables in terms
        for variable in variables
    }


def check_start(optimizer: Any) -> None:
    """Checks that an optimizer may begin with weights that it does not know.

    Raises:
      ConfigError: It would lose them.
    """
    if isinstance(optimizer, tf.keras.optimizers.Ftrl):
        raise ConfigError(
            "optimizer: 'ftrl' makes weights of sums of gradients alone, and forgets "
            "those that a warm start, or a layer that was frozen, begins with. Choose "
            "another one."
        )


class _OnTerms:
    """Put before the class of an optimizer."""

    _terms: dict[Any, Terms]
    _now: Terms | None = None

    @contextlib.contextmanager
    def _under(self, terms: Terms | None) -> Iterator[None]:
        # Not what was there before: replicas that take turns would leave theirs.
        self.__dict__["_now"] = terms
        try:
            yield
        finally:
            self.__dict__["_now"] = None

    def _terms_of(self, variable: Any) -> Terms | None:
        return self._terms.get(compat.variable_key(self, variable))

    @property
    def learning_rate(self) -> Any:
        """See `tf.keras.optimizers.Optimizer`."""
        rate = super().learning_rate  # type: ignore[misc]
        return rate if self._now is None else rate * self._now.rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        tf.keras.optimizers.Optimizer.learning_rate.fset(self, value)

    @property
    def iterations(self) -> Any:
        """See `tf.keras.optimizers.Optimizer`."""
        steps = super().iterations  # type: ignore[misc]
        return steps if self._now is None else steps - self._now.start

    @iterations.setter
    def iterations(self, value: Any) -> None:
        tf.keras.optimizers.Optimizer.iterations.fset(self, value)

    def update_step(self, gradient: Any, variable: Any) -> Any:
        """See `tf.keras.optimizers.Optimizer`."""
        with self._under(self._terms_of(variable)):
            return super().update_step(gradient, variable)  # type: ignore[misc]

    def _apply_weight_decay(self, variables: Iterable[Any]) -> None:
        groups: dict[Terms | None, list[Any]] = {}
        for variable in variables:
            groups.setdefault(self._terms_of(variable), []).append(variable)
        for terms, group in groups.items():
            with self._under(terms):
                super()._apply_weight_decay(group)  # type: ignore[misc]
