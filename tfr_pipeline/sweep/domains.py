"""What values a key of the config may take in a sweep: several, or an interval."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tfr_pipeline.errors import ConfigError

if TYPE_CHECKING:
    import optuna

_PLAIN = (bool, int, float, str, type(None))


def as_text(value: Any) -> str:
    """Returns a value as one line of JSON, the same for a list and a tuple.

    Example:
      >>> as_text((64, 32)), as_text("adam")
      ('[64, 32]', '"adam"')
    """
    return json.dumps(value, sort_keys=True)


def check_value(path: str, value: Any) -> None:
    """Raises a ConfigError for what neither a config nor a study can hold."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"get_sweep: {path}: expected text, finite numbers, true, false, None, or "
            f"lists and dicts of them, found {value!r:.80}."
        ) from error


@dataclasses.dataclass(frozen=True)
class Choices:
    """Several values.

    Attributes:
      values: The values, each once.
    """

    values: tuple[Any, ...]

    @classmethod
    def of(cls, path: str, values: Any) -> Choices:
        """Makes one of what a config file gives.

        Raises:
          ConfigError: There are none, or they are no values of a config.
        """
        if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
            raise ConfigError(
                f"get_sweep: {path}: expected a list of values, found {values!r}."
            )
        found: dict[str, Any] = {}
        for value in values:
            value = value.item() if hasattr(value, "item") else value
            check_value(path, value)
            found.setdefault(as_text(value), value)
        if not found:
            raise ConfigError(f"get_sweep: {path}: expected values, found none.")
        return cls(tuple(found.values()))

    @property
    def single(self) -> bool:
        """Whether there is nothing to choose."""
        return len(self.values) == 1

    def points(self) -> Iterator[Any]:
        """Yields the values in their order."""
        yield from self.values

    @property
    def labels(self) -> tuple[Any, ...]:
        """What Optuna calls the values: themselves, or their JSON."""
        plain = all(isinstance(value, _PLAIN) for value in self.values)
        # To Python 1, 1.0 and True are the same.
        if plain and len(set(self.values)) == len(self.values):
            return self.values
        return tuple(as_text(value) for value in self.values)

    def distribution(self) -> Any:
        """Returns Optuna's name for it."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.labels)

    def suggest(self, trial: optuna.trial.Trial, name: str) -> Any:
        """Returns the value that a trial has for a parameter, or gets now."""
        label = trial.suggest_categorical(name, self.labels)
        return self.values[self.labels.index(label)]

    def label_of(self, value: Any) -> Any:
        """Returns what Optuna calls a value."""
        texts = [as_text(known) for known in self.values]
        return self.labels[texts.index(as_text(value))]

    def __str__(self) -> str:
        return ", ".join(as_text(value) for value in self.values)


@dataclasses.dataclass(frozen=True)
class Interval:
    """All numbers between two, both included.

    Attributes:
      low: The lowest.
      high: The highest.
      log: Whether every factor, not every difference, is equally likely.
      step: Distance between neighbours; None for all numbers.
      whole: Whether only whole numbers are meant.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    @classmethod
    def of(cls, path: str, low: Any, high: Any, log: Any, step: Any) -> Interval:
        """Makes one of what a config file gives; whole if all its numbers are.

        Raises:
          ConfigError: They are not finite numbers, the low one is above the high one,
            the step is not positive, or there is no logarithm.
        """
        given = {"low": low, "high": high, **({} if step is None else {"step": step})}
        for name, value in given.items():
            value = value.item() if hasattr(value, "item") else value
            given[name] = value
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value):
                raise ConfigError(
                    f"get_sweep: {path}: interval: expected a finite number for "
                    f"{name}, found {value!r}."
                )
        low, high, step = given["low"], given["high"], given.get("step")
        if low > high:
            raise ConfigError(
                f"get_sweep: {path}: interval: expected low <= high, found low={low} "
                f"and high={high}."
            )
        if step is not None and step <= 0:
            raise ConfigError(
                f"get_sweep: {path}: interval: expected a step above 0, found {step}."
            )
        if log and low <= 0:
            raise ConfigError(
                f"get_sweep: {path}: interval: log=True needs low > 0, found {low}."
            )
        if log and step is not None:
            raise ConfigError(
                f"get_sweep: {path}: interval: expected log or step, found both."
            )
        whole = all(isinstance(value, int) for value in given.values())
        return cls(low, high, bool(log), step, whole)

    def as_float(self) -> Interval:
        """Returns the interval of all numbers where it was of whole ones."""
        return dataclasses.replace(self, whole=False)

    @property
    def single(self) -> bool:
        """Whether there is nothing to choose."""
        return False

    @property
    def finite(self) -> bool:
        """Whether its numbers can be counted off, one like the other."""
        return (self.whole and not self.log) or self.step is not None

    def points(self) -> Iterator[Any]:
        """Yields the numbers of a finite one, rising."""
        step = self.step or 1
        if self.whole:
            yield from range(int(self.low), int(self.high) + 1, int(step))
            return
        # As they are written: 0.1 + 0.1 + 0.1 is to be 0.3.
        low, distance = Decimal(repr(self.low)), Decimal(repr(step))
        for i in range(int((Decimal(repr(self.high)) - low) / distance) + 1):
            yield float(low + i * distance)

    def distribution(self) -> Any:
        """Returns Optuna's name for it."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            low, step = int(self.low), int(self.step or 1)
            last = int(self.high) - (int(self.high) - low) % step
            return IntDistribution(low, last, log=self.log, step=step)
        # Optuna wants the last step to end at the end.
        high = self.high if self.step is None else [*self.points()][-1]
        return FloatDistribution(
            float(self.low), float(high), log=self.log, step=self.step
        )

    def suggest(self, trial: optuna.trial.Trial, name: str) -> Any:
        """Returns the value that a trial has for a parameter, or gets now."""
        of: Any = self.distribution()
        if self.whole:
            return trial.suggest_int(name, of.low, of.high, step=of.step, log=of.log)
        drawn = trial.suggest_float(name, of.low, of.high, step=of.step, log=of.log)
        # Optuna adds up steps.
        return float(f"{drawn:.15g}") if self.step else drawn

    def label_of(self, value: Any) -> Any:
        """Returns what Optuna calls a value."""
        return value

    def __str__(self) -> str:
        extra = ", log" if self.log else ""
        extra += f", step {self.step}" if self.step is not None else ""
        kind = "whole numbers " if self.whole else ""
        return f"{kind}{self.low} to {self.high}{extra}"


Domain = Choices | Interval


def union(domains: Sequence[Domain]) -> Domain:
    """Returns one domain with all that stands in finite ones.

    Raises:
      ConfigError: One of several different ones is not finite.
    """
    first = domains[0]
    if all(domain == first for domain in domains):
        return first
    if not all(isinstance(d, Choices) or d.finite for d in domains):
        raise ConfigError("get_sweep: expected finite domains to join.")
    values = [value for domain in domains for value in domain.points()]
    return Choices.of("", values)
