"""Names of layers and weights that stay the same from one process to the next.

Keras numbers the layers that nobody named in the order in which a process makes them:
the `dense_3` of one process is the `dense` of another. Here they are numbered anew,
within the layer that they are part of.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import tensorflow as tf

from tfr_pipeline import compat
from tfr_pipeline.model.layers.seeded import SeededLayer

_NUMBERED = re.compile(r"(.+?)(?:_(\d+))?")
# What TensorFlow adds to the name of a variable: its output, its part of several.
_ADDED = re.compile(r"(/part_\d+)?(:0)?$")

# A group of layers that nobody named: the names of those around it, and its own.
Group = tuple[tuple[str, ...], str]


def layers(model: tf.keras.Model) -> dict[str, tf.keras.layers.Layer]:
    """Returns the layers with weights by path, such as `tower/dense_1`, in order.

    Layers within others are there, too, after those. A layer that is in several
    places has the path of the first.

    Args:
      model: A built model.

    Example:
      >>> model = tf.keras.Sequential(
      ...     [tf.keras.layers.Dense(2, input_shape=(3,)) for _ in range(2)])
      >>> list(layers(model))
      ['dense', 'dense_1']
    """
    return dict(_below(model, "", set()))


def _below(layer: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    inner = [
        part
        for part in compat.sublayers(layer)
        if part.weights and id(part) not in seen and not isinstance(part, SeededLayer)
    ]
    seen.update(map(id, inner))
    numbers = collections.defaultdict(list)
    for part in inner:
        if base := unnamed(part):
            numbers[base].append(_number(part.name))
    for part in inner:
        base, name = unnamed(part), part.name
        if base:
            name = _numbered(base, sorted(numbers[base]).index(_number(name)))
        yield f"{prefix}{name}", part
        yield from _below(part, f"{prefix}{name}/", seen)


def unnamed(layer: tf.keras.layers.Layer) -> str | None:
    """Returns what Keras made the name of a layer of, None if somebody chose it."""
    base = re.sub(r"_\d+$", "", layer.name)
    kinds = {type(layer).__name__.replace("_", "").lower()}
    if isinstance(layer, tf.keras.Model):
        kinds.add("model")
    return base if base.replace("_", "").lower() in kinds else None


def _number(name: str) -> int:
    match = _NUMBERED.fullmatch(name)
    return int(match[2] or 0) if match else 0


def _numbered(base: str, number: int) -> str:
    return f"{base}_{number}" if number else base


def weights(model: tf.keras.Model) -> dict[str, list[tf.Variable]]:
    """Returns the weights of each of `layers` that no layer within it has.

    Counters of random numbers are none. Those that no layer has stand under an empty
    path.
    """
    found = layers(model)
    counters = {
        id(variable)
        for layer in model.submodules
        if isinstance(layer, SeededLayer)
        for variable in layer.variables
    }
    # The innermost come first: each weight is that of the last layer that has it.
    result: dict[str, list[tf.Variable]] = {path: [] for path in ("", *found)}
    taken = set(counters)
    for path, layer in [*reversed(found.items()), ("", model)]:
        own = [v for v in layer.weights if id(v) not in taken]
        taken.update(map(id, own))
        result[path] = own
    return {path: own for path, own in result.items() if own}


def full_name(variable: Any) -> str:
    """Returns the name of a variable as checkpoints have it."""
    return plain_name(variable.name)


def plain_name(name: str) -> str:
    """Returns a name of a variable without what says that it is in parts.

    Example:
      >>> plain_name("dense/kernel/part_0:0")
      'dense/kernel'
    """
    return _ADDED.sub("", name)


def matches(path: str, globs: Sequence[str]) -> bool:
    """Whether globs name a path, or something that it is part of.

    `*` stands for any text, slashes included. A `!` before a glob excludes; where all
    exclude, they do from everything.

    Example:
      >>> matches("encoder/dense/kernel", ["encoder"])
      True
      >>> [matches(path, ["!head*"]) for path in ("head_1/bias", "encoder/bias")]
      [False, True]
    """
    wanted = [glob for glob in globs if not glob.startswith("!")] or ["*"]
    unwanted = [glob[1:] for glob in globs if glob.startswith("!")]
    return _any(path, wanted) and not _any(path, unwanted)


def _any(path: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(path, g) or fnmatchcase(path, f"{g}/*") for g in globs)


def renumbered(
    names: Sequence[str], bases: Collection[str]
) -> tuple[list[str], dict[Group, int]]:
    """Numbers unnamed layers anew in names of variables.

    Args:
      names: Names of variables, such as `tower/dense_7/kernel`.
      bases: What the names of unnamed layers are made of; see `unnamed`.

    Returns:
      The new names, and how many layers there are in each group of unnamed ones.

    Example:
      >>> renumbered(["dense_3/kernel", "dense_5/kernel"], {"dense"})
      (['dense/kernel', 'dense_1/kernel'], {((), 'dense'): 2})
    """
    parts = [name.split("/") for name in names]
    groups: dict[Group, list[int]] = {}
    for depth in range(max(map(len, parts), default=0) - 1):
        here = [part for part in parts if depth < len(part) - 1]
        numbers = collections.defaultdict(set)
        found = [_NUMBERED.fullmatch(part[depth]) for part in here]
        for part, match in zip(here, found, strict=True):
            if match and match[1] in bases:
                numbers[tuple(part[:depth]), match[1]].add(int(match[2] or 0))
        ordered = {group: sorted(values) for group, values in numbers.items()}
        before = [tuple(part[:depth]) for part in here]
        for part, match, above in zip(here, found, before, strict=True):
            if match and match[1] in bases:
                number = ordered[above, match[1]].index(int(match[2] or 0))
                part[depth] = _numbered(match[1], number)
        groups.update(ordered)
    return ["/".join(part) for part in parts], {g: len(n) for g, n in groups.items()}
