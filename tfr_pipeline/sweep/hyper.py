"""The words in which a config file describes a sweep: `get_sweep(hyper)`.

    def get_sweep(hyper):
        return hyper.product(
            hyper.interval("pipeline.learning_rate", 1e-4, 1e-1, log=True),
            hyper.categorical("pipeline.loss", ["softmax_loss", "approx_ndcg_loss"]),
            hyper.when(
                "pipeline.loss", "softmax_loss",
                hyper.sweep("pipeline.loss_args.temperature", [0.5, 1.0]),
            ),
        )

`get_sweep` may also return a dict from keys to lists of values or to
`{"low": ..., "high": ...}`, a list of points, or a `study` with settings. Where it
takes a second argument, that is the one behind the colon of `--config=FILE.py:arg`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from tfr_pipeline.errors import ConfigError
from tfr_pipeline.sweep.domains import Choices, Interval
from tfr_pipeline.sweep.settings import Settings
from tfr_pipeline.sweep.space import (
    Leaf,
    Product,
    Space,
    When,
    chained,
    of_plain,
    zipped,
)


def sweep(path: str, values: Any) -> Space:
    """Returns the space of some values of a key, in their order.

    Example:
      >>> list(sweep("seed", [1, 2]).points())
      [{'seed': 1}, {'seed': 2}]
    """
    return Leaf(_path(path), Choices.of(path, values))


def categorical(path: str, values: Any) -> Space:
    """Returns the space of some values without an order, such as names."""
    return sweep(path, values)


def discrete(path: str, values: Any) -> Space:
    """Returns the space of some numbers, which stand in rising order.

    Raises:
      ConfigError: They are not numbers.
    """
    choices = Choices.of(_path(path), values)
    for value in choices.values:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ConfigError(
                f"get_sweep: {path}: discrete: expected numbers, found {value!r}. For "
                "other values there is categorical."
            )
    return Leaf(path, Choices(tuple(sorted(choices.values))))


def interval(
    path: str, low: Any, high: Any, log: bool = False, step: Any = None
) -> Space:
    """Returns the space of all numbers between two, both included.

    They are whole where `low`, `high` and `step` are, unless the config has a number
    that is not whole for the key.

    Args:
      path: Key of the config.
      low: The lowest.
      high: The highest.
      log: Whether factors, not differences, are equally likely.
      step: Distance between neighbours, which makes the space finite.
    """
    return Leaf(_path(path), Interval.of(path, low, high, log, step))


def fixed(path: str, value: Any) -> Space:
    """Returns the space of one value: an override in all trials."""
    return Leaf(_path(path), Choices.of(path, [value]))


def product(*spaces: Any) -> Space:
    """Returns all combinations of the points of spaces; the last one varies first.

    Example:
      >>> list(product(sweep("a", [1, 2]), sweep("b", [3, 4])).points())
      [{'a': 1, 'b': 3}, {'a': 1, 'b': 4}, {'a': 2, 'b': 3}, {'a': 2, 'b': 4}]
    """
    if not spaces:
        raise ConfigError("get_sweep: product: expected spaces, found none.")
    return Product([of_plain(space) for space in spaces])


def zipit(*spaces: Any) -> Space:
    """Returns the points of finite spaces side by side: first with first, and so on.

    Example:
      >>> list(zipit(sweep("a", [1, 2]), sweep("b", [3, 4])).points())
      [{'a': 1, 'b': 3}, {'a': 2, 'b': 4}]
    """
    return zipped([of_plain(space) for space in spaces])


def chainit(*spaces: Any) -> Space:
    """Returns the points of finite spaces one after the other.

    Example:
      >>> list(chainit(sweep("a", [1, 2]), sweep("b", [3])).points())
      [{'a': 1}, {'a': 2}, {'b': 3}]
    """
    return chained([of_plain(space) for space in spaces])


def when(path: str, values: Any, *spaces: Any) -> Space:
    """Returns what counts only if a key that was set before has one of some values.

    Args:
      path: The key.
      values: A value, or a list of them.
      *spaces: Combined as by `product`.

    Example:
      >>> list(product(sweep("a", [1, 2]), when("a", 2, sweep("b", [3]))).points())
      [{'a': 1}, {'a': 2, 'b': 3}]
    """
    several = values if isinstance(values, list) else [values]
    return When(_path(path), Choices.of(path, several), product(*spaces))


@dataclasses.dataclass(frozen=True)
class Described:
    """What `study` returns.

    Attributes:
      space: The search space.
      settings: What was said of the study.
    """

    space: Space
    settings: dict[str, Any]


def study(space: Any, **settings: Any) -> Described:
    """Returns a space with settings of the study; flags of the command go before them.

    Args:
      space: A space, or a dict.
      **settings: Fields of `tfr_pipeline.sweep.settings.Settings`.

    Raises:
      ConfigError: A setting is unknown.
    """
    Settings.check_names(settings)
    return Described(of_plain(space), settings)


def _path(path: Any) -> str:
    if not isinstance(path, str) or not path or not all(path.split(".")):
        raise ConfigError(
            "get_sweep: expected a key of the config, such as "
            f"'pipeline.learning_rate', found {path!r}."
        )
    return path
