"""Search spaces: what `hyper.product` and its like make, as a tree.

A finite space is a sequence of points, each a dict from keys of the config to values.
Others are drawn from, one key after the other. See `tfr_pipeline.sweep.hyper` for the
words that config files use.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tfr_pipeline.errors import ConfigError
from tfr_pipeline.sweep.domains import Choices, Domain, Interval, as_text, union

Point = dict[str, Any]
# Takes the name of a parameter and its domain, returns a value.
Draw = Callable[[str, Domain], Any]


class Space(abc.ABC):
    """A search space."""

    @property
    @abc.abstractmethod
    def paths(self) -> tuple[str, ...]:
        """The keys that it sets, or may set, each once."""

    @property
    @abc.abstractmethod
    def finite(self) -> bool:
        """Whether it has a last point."""

    @abc.abstractmethod
    def given(self, chosen: Mapping[str, Any]) -> Iterator[Point]:
        """Yields the points of a finite space.

        Args:
          chosen: What was chosen around it, for `when`.
        """

    @abc.abstractmethod
    def draw(self, draw: Draw, chosen: Mapping[str, Any]) -> Point:
        """Draws a point.

        Args:
          draw: Draws a value; called with the same domain for a name each time.
          chosen: See `given`.
        """

    @abc.abstractmethod
    def leaves(self) -> Iterator[tuple[str, Domain]]:
        """Yields each key with each domain that it has somewhere."""

    @abc.abstractmethod
    def describe(self, indent: str = "") -> list[str]:
        """Returns lines that say all of it; two spaces are the same if theirs are."""

    @abc.abstractmethod
    def replaced(self, change: Callable[[str, Domain], Domain]) -> Space:
        """Returns the space with other domains, where it is not of written points."""

    def points(self) -> Iterator[Point]:
        """Yields the points of a finite space, each once, in their order."""
        seen = set()
        for point in self.given({}):
            text = as_text(point)
            if text not in seen:
                seen.add(text)
                yield point

    def count(self, limit: int = 1_000_000) -> int:
        """Returns how many points there are; at most `limit`, which it counts to."""
        return sum(1 for _ in itertools.islice(self.points(), limit))

    def domains(self) -> dict[str, Domain]:
        """Returns the domain of each key of a finite space, over all its branches."""
        found: dict[str, list[Domain]] = {}
        for path, domain in self.leaves():
            found.setdefault(path, []).append(domain)
        return {path: union(domains) for path, domains in found.items()}


class Leaf(Space):
    """Values of one key.

    Args:
      path: The key.
      domain: Its values.
      name: What the parameter is called, the key by default.
    """

    def __init__(self, path: str, domain: Domain, name: str = ""):
        self._path, self._domain, self._name = path, domain, name or path

    @property
    def paths(self) -> tuple[str, ...]:
        return (self._path,)

    @property
    def finite(self) -> bool:
        return isinstance(self._domain, Choices) or self._domain.finite

    def given(self, chosen: Mapping[str, Any]) -> Iterator[Point]:
        for value in self._domain.points():
            yield {self._path: value}

    def draw(self, draw: Draw, chosen: Mapping[str, Any]) -> Point:
        return {self._path: draw(self._name, self._domain)}

    def leaves(self) -> Iterator[tuple[str, Domain]]:
        yield self._path, self._domain

    def describe(self, indent: str = "") -> list[str]:
        single = isinstance(self._domain, Choices) and len(self._domain.values) == 1
        sign = " =" if single else ":"
        return [f"{indent}{self._path}{sign} {self._domain}"]

    def replaced(self, change: Callable[[str, Domain], Domain]) -> Space:
        return Leaf(self._path, change(self._path, self._domain), self._name)

    def named(self, name: str) -> Leaf:
        """Returns it with another name for its parameter."""
        return Leaf(self._path, self._domain, name)


class Points(Space):
    """Points that are written out.

    Args:
      points: The points.
      word: What made them, for `describe`.
    """

    def __init__(self, points: Sequence[Point], word: str):
        self._points, self._word = [dict(point) for point in points], word
        if not self._points:
            raise ConfigError(f"get_sweep: {word}: expected points, found none.")

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(path for point in self._points for path in point))

    @property
    def finite(self) -> bool:
        return True

    def given(self, chosen: Mapping[str, Any]) -> Iterator[Point]:
        yield from (dict(point) for point in self._points)

    def draw(self, draw: Draw, chosen: Mapping[str, Any]) -> Point:
        choices = Choices.of(self._word, self._points)
        return dict(draw(" + ".join(self.paths), choices))

    def replaced(self, change: Callable[[str, Domain], Domain]) -> Space:
        for path, domain in self.leaves():
            change(path, domain)  # What is written out stays as it is written.
        return self

    def leaves(self) -> Iterator[tuple[str, Domain]]:
        for path in self.paths:
            values = [point[path] for point in self._points if path in point]
            yield path, Choices.of(path, values)

    def describe(self, indent: str = "") -> list[str]:
        lines = [f"{indent}one of, {self._word}:"]
        for point in self._points:
            texts = [f"{path} = {as_text(value)}" for path, value in point.items()]
            lines.append(f"{indent}  {'; '.join(texts)}")
        return lines


class Product(Space):
    """Every point of each part with every point of the others; the last varies first.

    Raises:
      ConfigError: Two parts set the same key, or a condition is on a key that stands
        nowhere before it.
    """

    parts: list[Space]

    def __init__(self, parts: Sequence[Space]):
        flat: list[Space] = []
        for part in parts:
            flat += part.parts if isinstance(part, Product) else [part]
        self.parts = flat
        _check_paths(flat)

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(path for part in self.parts for path in part.paths))

    @property
    def finite(self) -> bool:
        return all(part.finite for part in self.parts)

    def given(self, chosen: Mapping[str, Any]) -> Iterator[Point]:
        def extend(parts: Sequence[Space], point: Point) -> Iterator[Point]:
            if not parts:
                yield point
                return
            for more in parts[0].given({**chosen, **point}):
                yield from extend(parts[1:], {**point, **more})

        yield from extend(self.parts, {})

    def draw(self, draw: Draw, chosen: Mapping[str, Any]) -> Point:
        point: Point = {}
        for part in self.parts:
            point.update(part.draw(draw, {**chosen, **point}))
        return point

    def leaves(self) -> Iterator[tuple[str, Domain]]:
        for part in self.parts:
            yield from part.leaves()

    def describe(self, indent: str = "") -> list[str]:
        return [line for part in self.parts for line in part.describe(indent)]

    def replaced(self, change: Callable[[str, Domain], Domain]) -> Space:
        return Product([part.replaced(change) for part in self.parts])


class When(Space):
    """A space that counts only if another key has one of some values.

    Args:
      path: The other key.
      values: The values.
      inner: The space.
    """

    def __init__(self, path: str, values: Choices, inner: Space):
        self.path, self.values = path, values
        self._texts = {as_text(value) for value in values.values}
        # A key may have other values under another condition.
        condition = f"{path} = {values}"
        self._inner = _with_names(inner, condition)

    def _holds(self, chosen: Mapping[str, Any]) -> bool:
        return self.path in chosen and as_text(chosen[self.path]) in self._texts

    def excludes(self, other: When) -> bool:
        """Whether never both conditions hold."""
        return self.path == other.path and not self._texts & other._texts

    @property
    def paths(self) -> tuple[str, ...]:
        return self._inner.paths

    @property
    def finite(self) -> bool:
        return self._inner.finite

    def given(self, chosen: Mapping[str, Any]) -> Iterator[Point]:
        yield from self._inner.given(chosen) if self._holds(chosen) else [{}]

    def draw(self, draw: Draw, chosen: Mapping[str, Any]) -> Point:
        return self._inner.draw(draw, chosen) if self._holds(chosen) else {}

    def leaves(self) -> Iterator[tuple[str, Domain]]:
        yield from self._inner.leaves()

    def describe(self, indent: str = "") -> list[str]:
        first = f"{indent}when {self.path} = {self.values}:"
        return [first, *self._inner.describe(indent + "  ")]

    def replaced(self, change: Callable[[str, Domain], Domain]) -> Space:
        return When(self.path, self.values, self._inner.replaced(change))


def _with_names(space: Space, condition: str) -> Space:
    if isinstance(space, Leaf):
        return space.named(f"{space.paths[0]} when {condition}")
    if isinstance(space, Product):
        return Product([_with_names(part, condition) for part in space.parts])
    return space


def _check_paths(parts: Sequence[Space]) -> None:
    known: dict[str, list[Space]] = {}
    for part in parts:
        if isinstance(part, When) and part.path not in known:
            raise ConfigError(
                f"get_sweep: when({part.path!r}, ...): expected a key that the product "
                f"sets before it, found {', '.join(known) or 'none'}."
            )
        for path in part.paths:
            for other in known.get(path, ()):
                apart = isinstance(part, When) and isinstance(other, When)
                if not (apart and part.excludes(other)):  # type: ignore[attr-defined,arg-type]
                    raise ConfigError(
                        f"get_sweep: product: expected each key once, found {path} "
                        "in two parts."
                    )
            known.setdefault(path, []).append(part)


def zipped(spaces: Sequence[Space]) -> Space:
    """Returns the space whose first point is made of the first points, and so on.

    Raises:
      ConfigError: They have different numbers of points, or the same keys.
    """
    columns = [list(space.points()) for space in _finite(spaces, "zipit")]
    sizes = sorted({len(column) for column in columns})
    if len(sizes) > 1:
        raise ConfigError(
            "get_sweep: zipit: expected spaces of one size, found sizes of "
            f"{', '.join(map(str, sizes))}."
        )
    points = []
    for row in zip(*columns, strict=True):
        point: Point = {}
        for part in row:
            for path in part:
                if path in point:
                    raise ConfigError(
                        f"get_sweep: zipit: expected each key once, found {path} twice."
                    )
            point.update(part)
        points.append(point)
    return Points(points, "zipit")


def chained(spaces: Sequence[Space]) -> Space:
    """Returns the space of all points of the first one, then of the next, and so on."""
    finite = _finite(spaces, "chainit")
    return Points([point for space in finite for point in space.points()], "chainit")


def _finite(spaces: Sequence[Space], word: str) -> Sequence[Space]:
    if not spaces:
        raise ConfigError(f"get_sweep: {word}: expected spaces, found none.")
    for space in spaces:
        if not space.finite:
            raise ConfigError(
                f"get_sweep: {word}: expected finite spaces, found an interval without "
                f"step in {', '.join(space.paths)}. Give it a step, or use product and "
                "when."
            )
    return spaces


def of_plain(found: Any) -> Space:
    """Returns the space that a config file describes by dicts and lists.

    Args:
      found: A space; a dict from keys to lists of values, to
        `{"low": ..., "high": ...}` with `log` or `step`, or to single values; or a list
        of points.

    Raises:
      ConfigError: It is something else, or empty.
    """
    if isinstance(found, Space):
        return found
    if isinstance(found, list | tuple) and all(isinstance(p, Mapping) for p in found):
        return Points([dict(point) for point in found], "a list of points")
    if not isinstance(found, Mapping):
        raise ConfigError(
            "get_sweep: expected a space, such as hyper.product(...), or a dict from "
            f"config keys to values, found {found!r:.80}."
        )
    if not found:
        raise ConfigError(
            "get_sweep: the space is empty: expected at least one key of the config "
            "with its values."
        )
    return Product([_of_entry(path, entry) for path, entry in found.items()])


def _of_entry(path: str, entry: Any) -> Space:
    if isinstance(entry, Mapping):
        rest = set(entry) - {"low", "high", "log", "step"}
        if rest or not {"low", "high"} <= set(entry):
            raise ConfigError(
                f"get_sweep: {path}: expected a list of values, one value, or a dict "
                f"of low, high and log or step, found {dict(entry)!r:.80}."
            )
        args = entry["low"], entry["high"], entry.get("log"), entry.get("step")
        return Leaf(path, Interval.of(path, *args))
    if isinstance(entry, list | tuple):
        return Leaf(path, Choices.of(path, entry))
    return Leaf(path, Choices.of(path, [entry]))
