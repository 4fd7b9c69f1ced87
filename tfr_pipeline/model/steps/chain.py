"""Steps one after the other, for one feature or for many at once."""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.layers.distinct import Steps
from tfr_pipeline.model.layers.hub import HubEncoder
from tfr_pipeline.model.probing import _acts_by_element, _identity
from tfr_pipeline.model.steps.base import Statistics, Step

# What steps have learnt: of each owner, a feature or those that share, by the place of
# the step. As JSON.
Learnt = Mapping[str, Mapping[str, Statistics]]


class Chain:
    """Steps of preprocessing, one after the other.

    Args:
      steps: Each a function of a tensor, a `Step`, or another Keras layer: a class of
        them, or a `functools.partial` of one, is made anew for each feature and model,
        an object is shared by all.

    Raises:
      ConfigError: A step is nothing of the kind.
    """

    def __init__(self, steps: Sequence[Any]):
        self.steps = tuple(_step(step) for step in steps)
        self._key = tuple(_key(step) for step in self.steps)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chain) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @functools.cached_property
    def by_column(self) -> bool:
        """Whether it does the same to each column of a matrix."""
        return all(
            step.by_column
            if isinstance(step, Step)
            else not is_new_layer(step) and _acts_by_element(step, tf.float32, (1,))
            for step in self.steps
        )

    @property
    def functions(self) -> list[Callable[[Any], Any]]:
        """Those of its steps that are functions, or layers that all models share."""
        return [
            step
            for step in self.steps
            if not isinstance(step, Step) and not is_new_layer(step)
        ]

    def describe(self) -> list[Any]:
        """Returns what it does, as JSON, as far as steps learn."""
        return [
            step.describe() if isinstance(step, Step) else _name(step)
            for step in self.steps
        ]


def _step(step: Any) -> Any:
    made = step.func if isinstance(step, functools.partial) else step
    if isinstance(made, type) and issubclass(made, Step):
        return step()
    if isinstance(step, tf.keras.layers.Layer) or is_new_layer(step) or callable(step):
        return functools.partial(step) if isinstance(step, type) else step
    raise ConfigError(
        f"preprocessing: expected a function, a Keras layer or a Step, found {step!r}."
    )


def is_new_layer(step: Any) -> bool:
    """Whether it is a class of Keras layers, with arguments or without."""
    made = step.func if isinstance(step, functools.partial) else step
    return isinstance(made, type) and issubclass(made, tf.keras.layers.Layer)


def _is_encoder(step: Any) -> bool:
    return is_new_layer(step) and issubclass(step.func, HubEncoder)


def _name(step: Any) -> str:
    step = step.func if isinstance(step, functools.partial) else step
    return str(getattr(step, "__qualname__", type(step).__name__))


def _key(step: Any) -> Any:
    if isinstance(step, Step):
        return type(step), json.dumps(step.describe(), sort_keys=True)
    if isinstance(step, functools.partial):
        return _key(step.func), repr(step.args), repr(sorted(step.keywords.items()))
    return _identity(step)


def place(step: Step, index: int, feature: str) -> tuple[str, str]:
    """Returns the owner and the key of what a step has learnt; see `Learnt`."""
    shared = getattr(step, "shared", None)
    name = type(step).__name__
    return (f"shared {shared}", name) if shared else (feature, f"{index} {name}")


class Bound:
    """A chain as it stands in one model: its layers, with what they have learnt.

    Args:
      chain: The chain.
      learnt: What its steps have learnt.
      shared: Layers by the name under which features share them, of this model; a
        module of TensorFlow Hub is shared by all features that it encodes.
      stop: Leaves out this step and those behind it.
    """

    def __init__(
        self,
        chain: Chain,
        learnt: Learnt,
        shared: dict[str, Any],
        stop: int | None = None,
    ):
        self._chain, self._learnt, self._shared = chain, learnt, shared
        self._stop = len(chain.steps) if stop is None else stop
        self._made: dict[tuple[str, ...], list[Any]] = {}
        self.by_column = chain.by_column

    @property
    def is_constant(self) -> bool:
        """Whether all of it may be done once, ahead of training."""
        return self.by_column and all(
            step.is_constant for step in self._chain.steps if isinstance(step, Step)
        )

    @property
    def needs_lists(self) -> bool:
        """Whether a step compares a document with the others of its list."""
        return any(isinstance(x, Step) and x.needs_lists for x in self._chain.steps)

    @property
    def functions(self) -> list[Callable[[Any], Any]]:
        """See `Chain`."""
        return self._chain.functions

    def __call__(
        self, names: Sequence[str], value: Any, lists: tuple[Any, ...] = ()
    ) -> Any:
        """Applies the steps.

        Args:
          names: The features whose columns these are, in order; one if the chain is
            not by column.
          value: `[..., columns]`; of a chain that is not by column as the feature is.
          lists: `(row_ids, row_splits)` for documents `[1, documents, ...]`, the mask
            as the only one for padded ones, nothing for features of queries.

        Returns:
          `[..., columns]`, with as many columns for each that came if `by_column`.

        Raises:
          ConfigError: A step does not take what comes to it.
        """
        for layer in self._layers(tuple(names)):
            needs = isinstance(layer, Step) and layer.needs_lists
            if needs and not lists:
                raise ConfigError(
                    f"feature {names[0]!r}: {type(layer).__name__} compares documents "
                    "of a list, found a feature of the query."
                )
            value = layer((value, *lists)) if needs else layer(value)
        return value

    def of(self, name: str) -> Any:
        """Returns what is done to one feature: itself, if others may be done with it.

        Else a function, in parts, of the values of this feature.
        """
        whole = self.by_column or self.needs_lists
        return self if whole else Steps(self._layers((name,)))

    def _layers(self, names: tuple[str, ...]) -> list[Any]:
        if names not in self._made:
            self._made[names] = [
                self._layer(i, step, names)
                for i, step in enumerate(self._chain.steps[: self._stop])
            ]
        return self._made[names]

    def _layer(self, index: int, step: Any, names: tuple[str, ...]) -> Any:
        if _is_encoder(step):
            if (key := _key(step)) not in self._shared:
                self._shared[key] = step()
            return self._shared[key]
        if not isinstance(step, Step):
            return step() if is_new_layer(step) else step
        shared = getattr(step, "shared", None)
        if shared in self._shared:
            made = self._shared[shared]
            if _key(made[0]) != _key(step):
                raise ConfigError(
                    f"preprocessing: features share {shared!r}, but not its arguments: "
                    f"{made[0].describe()} and {step.describe()}."
                )
            return made[1]
        statistics = None
        if step.learns:
            statistics = _joined(
                [
                    self._learnt.get(owner, {}).get(key)
                    for owner, key in (place(step, index, name) for name in names)
                ]
            )
        layer = step.with_statistics(statistics, _layer_name(step, index, names))
        layer.of_feature(names[0])
        if shared:
            self._shared[shared] = step, layer
        return layer


def _joined(parts: list[Statistics | None]) -> Statistics | None:
    """Returns the statistics of the columns of several features."""
    first = parts[0]
    if len(parts) == 1 or first is None or None in parts:
        return first
    return {
        key: [item for part in parts for item in part[key]]  # type: ignore[index]
        for key in first
    }


def _layer_name(step: Step, index: int, names: tuple[str, ...]) -> str:
    shared = getattr(step, "shared", None)
    text = f"{shared or names[0]}_{type(step).__name__}_{index}".lower()
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in text)
    # Else features whose names differ in other signs only would have one name.
    rest = "" if plain == text else f"_{zlib.crc32(text.encode()):08x}"
    return f"features_{plain}{rest}"
