"""What is learnt of values in one pass: moments, quantiles and counts that merge.

Each sketch takes values piece by piece in bounded memory. Those of several workers
merge into one: what is merged describes the values of all of them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

import numpy as np

from tfr_pipeline.errors import DataError

# Numbers that are kept as they are before a sketch of them is begun: 256 MiB.
EXACT_VALUES = 1 << 26
# Distinct texts that are counted exactly: this part of 2^20.
EXACT_COUNTS = int(0.75 * (1 << 20))
_LOG_COUNTS = 20
# The rank of a quantile is wrong by less than 0.04% with it, in 99 of 100 cases.
_KLL_K = 8192


class Sketch(Protocol):
    """What a step learns from; see `Moments`, `Quantiles` and `Counts`."""

    def update(self, values: np.ndarray) -> None:
        """Takes `[rows, columns]`, or what else the kind is made for."""

    def merge(self, other: Any) -> None:
        """Takes all that another one of the same kind has taken."""

    def to_bytes(self) -> bytes:
        """Returns it as bytes, for another process."""

    @classmethod
    def from_bytes(cls, content: bytes) -> Any:
        """Reverse of `to_bytes`."""


def _check_finite(values: np.ndarray) -> None:
    if np.isinf(values).any():
        row, column = np.argwhere(np.isinf(values))[0]
        raise InfiniteError(int(column), float(values[row, column]))


class InfiniteError(DataError):
    """A column has an infinite value.

    Args:
      column: Its number.
      value: The value.
    """

    def __init__(self, column: int, value: float):
        super().__init__(f"column {column} has the value {value}")
        self.column = column


class NotTextError(DataError):
    """A text is not UTF-8; the message is what it is."""


class Moments:
    """Count, mean, deviation, least and greatest value of each column, without NaN.

    Everything is float64. Merged in another order it is the same but for rounding.

    Attributes:
      count: Values of each column that are numbers, `[columns]`.
      missing: Values that are NaN.
      mean: 0 where there is no value.
      squares: Sum of the squares of the differences from the mean.
      least: Infinite where there is no value, as `greatest`.
      greatest: See `least`.

    Example:
      >>> moments = Moments()
      >>> moments.update(np.array([[1.0], [3.0], [np.nan]]))
      >>> moments.mean, moments.deviation, moments.missing
      (array([2.]), array([1.]), array([1.]))
    """

    _NAMES: ClassVar = ("count", "missing", "mean", "squares", "least", "greatest")

    def __init__(self) -> None:
        self.count = self.missing = self.mean = self.squares = np.zeros(0)
        self.least = self.greatest = np.zeros(0)

    @property
    def deviation(self) -> np.ndarray:
        """Population standard deviation; 0 where all values are the same."""
        variance = self.squares / np.maximum(self.count, 1)
        return np.where(self.greatest > self.least, np.sqrt(variance), 0.0)

    def update(self, values: np.ndarray) -> None:
        """Takes float `[rows, columns]`.

        Raises:
          InfiniteError: A value is infinite.
        """
        values = values.astype(np.float64)
        _check_finite(values)
        there = ~np.isnan(values)
        part = Moments()
        part.count = there.sum(axis=0).astype(np.float64)
        part.missing = len(values) - part.count
        numbers = np.where(there, values, 0.0)
        part.mean = numbers.sum(axis=0) / np.maximum(part.count, 1)
        part.squares = np.square(np.where(there, values - part.mean, 0.0)).sum(axis=0)
        part.least = np.where(there, values, np.inf).min(axis=0, initial=np.inf)
        part.greatest = np.where(there, values, -np.inf).max(axis=0, initial=-np.inf)
        self.merge(part)

    def merge(self, other: Moments) -> None:
        """See `Sketch`. Chan et al., 1983: Algorithms for computing the variance."""
        if not len(other.count):
            return
        if not len(self.count):
            self.__dict__.update(other.__dict__)
            return
        total = self.count + other.count
        share = other.count / np.maximum(total, 1)
        apart = other.mean - self.mean
        self.squares = (
            self.squares + other.squares + np.square(apart) * self.count * share
        )
        self.mean = self.mean + apart * share
        self.least = np.minimum(self.least, other.least)
        self.greatest = np.maximum(self.greatest, other.greatest)
        self.count, self.missing = total, self.missing + other.missing

    def to_bytes(self) -> bytes:
        """See `Sketch`."""
        return pack({name: getattr(self, name) for name in self._NAMES})

    @classmethod
    def from_bytes(cls, content: bytes) -> Moments:
        """See `Sketch`."""
        result = cls()
        result.__dict__.update(unpack(content))
        return result


class Quantiles:
    """Quantiles of each column, without NaN.

    Up to `EXACT_VALUES` numbers over all columns they are exact. Beyond, each column
    has a KLL sketch (Karnin, Lang, Liberty, 2016) of Apache DataSketches: quantiles are
    values of the data, whose ranks are wrong by less than 0.04%. That sketch draws at
    random, without a seed.

    Attributes:
      rows: Number of rows that it has taken.
      missing: Values of each column that are NaN, `[columns]`.

    Example:
      >>> quantiles = Quantiles()
      >>> quantiles.update(np.array([[1.0], [2.0], [4.0], [np.nan]], np.float32))
      >>> quantiles.at(np.array([0.0, 0.25, 0.5, 1.0])).tolist()
      [[1.0, 1.5, 2.0, 4.0]]
    """

    def __init__(self) -> None:
        self.rows = 0
        self.missing: Any = 0
        self._most = EXACT_VALUES
        self._parts: list[np.ndarray] = []
        self._kept = 0
        self._sketches: list[Any] = []

    def keep(self, share: float) -> None:
        """Keeps that part of `EXACT_VALUES`, where there are several sketches."""
        self._most = int(EXACT_VALUES * share)

    def update(self, values: np.ndarray) -> None:
        """Takes float `[rows, columns]`, as float32.

        Raises:
          InfiniteError: A value is infinite.
        """
        _check_finite(values)
        self.rows += len(values)
        self.missing = self.missing + np.isnan(values).sum(axis=0)
        self._take(np.array(values, np.float32))

    def _take(self, values: np.ndarray) -> None:
        if self._sketches:
            self._sketch(values)
            return
        self._parts.append(values)
        self._kept += values.size
        if self._kept > self._most:
            self._begin()

    def _begin(self) -> None:
        from datasketches import kll_floats_sketch

        if not self._sketches and self._parts:
            columns = self._parts[0].shape[1]
            self._sketches = [kll_floats_sketch(_KLL_K) for _ in range(columns)]
        while self._parts:
            self._sketch(self._parts.pop(0))

    def _sketch(self, values: np.ndarray) -> None:
        for sketch, column in zip(self._sketches, values.T, strict=True):
            sketch.update(np.ascontiguousarray(column[~np.isnan(column)]))

    def merge(self, other: Quantiles) -> None:
        """See `Sketch`."""
        self.rows += other.rows
        self.missing = self.missing + other.missing
        if other._sketches and not self._sketches:
            self._begin()
        for part in other._parts:
            self._take(part)
        if not self._sketches:
            self._sketches = other._sketches
            return
        for mine, theirs in zip(self._sketches, other._sketches, strict=False):
            mine.merge(theirs)

    def at(self, ranks: np.ndarray) -> np.ndarray:
        """Returns quantiles as `np.quantile` does, with linear interpolation.

        Args:
          ranks: Rising, from 0 to 1, `[n]`.

        Returns:
          float64 `[columns, n]`; NaN for columns without a number.
        """
        if not self._sketches:
            columns = zip(*(part.T for part in self._parts), strict=True)
            return np.array([self._exactly(ranks, parts) for parts in columns])
        return np.array([self._of_sketch(ranks, one) for one in self._sketches])

    @staticmethod
    def _exactly(ranks: np.ndarray, parts: tuple[np.ndarray, ...]) -> np.ndarray:
        values = np.sort(np.concatenate(parts))  # NaN comes last
        count = int(np.searchsorted(values, np.nan))
        return _between(ranks, count, values[:count].astype(np.float64).__getitem__)

    @staticmethod
    def _of_sketch(ranks: np.ndarray, sketch: Any) -> np.ndarray:
        def value(index: np.ndarray) -> np.ndarray:
            found = np.array(sketch.get_quantiles((index + 0.5) / sketch.n))
            found = np.where(index == 0, sketch.get_min_value(), found)
            return np.where(index == sketch.n - 1, sketch.get_max_value(), found)

        return _between(ranks, sketch.n, value)

    def to_bytes(self) -> bytes:
        """See `Sketch`."""
        arrays = {f"part_{i}": part for i, part in enumerate(self._parts)}
        for i, sketch in enumerate(self._sketches):
            arrays[f"sketch_{i}"] = np.frombuffer(sketch.serialize(), np.uint8)
        arrays["numbers"] = np.array([self.rows, self._most])
        return pack({**arrays, "missing": np.array(self.missing)})

    @classmethod
    def from_bytes(cls, content: bytes) -> Quantiles:
        """See `Sketch`."""
        from datasketches import kll_floats_sketch

        arrays, result = unpack(content), cls()
        result.missing = arrays.pop("missing")
        result.rows, result._most = arrays.pop("numbers").tolist()
        for name, array in arrays.items():
            if name.startswith("part"):
                result._parts.append(array)
                result._kept += array.size
            else:
                sketch = kll_floats_sketch.deserialize(array.tobytes())
                result._sketches.append(sketch)
        return result


def _between(ranks: np.ndarray, count: int, value: Any) -> np.ndarray:
    """Interpolates between the values `value(index)` of `count` in order."""
    if not count:
        return np.full(len(ranks), np.nan)
    place = ranks * (count - 1)
    below = np.floor(place).astype(np.int64)
    low, high = value(below), value(np.minimum(below + 1, count - 1))
    return low + (high - low) * (place - below)


class Counts:
    """How often each text, or integer, occurs.

    Exact up to `EXACT_COUNTS` distinct ones. Beyond, those that occur most often are
    found by the frequent-items sketch of Apache DataSketches, with counts that may be
    too large by `error`.

    Attributes:
      rows: Documents, or queries, that were looked at.

    Example:
      >>> counts = Counts()
      >>> counts.update(np.array([b"b", b"a", b"b"], object))
      >>> counts.most_common()
      [('b', 2), ('a', 1)]
    """

    def __init__(self) -> None:
        from datasketches import frequent_strings_sketch

        self.rows = 0
        self._sketch = frequent_strings_sketch(_LOG_COUNTS)

    def update(self, values: np.ndarray, rows: int | None = None) -> None:
        """Takes texts (`bytes` or `str`) or integers, of any shape.

        Args:
          values: The values.
          rows: Of how many documents they are; of as many as there are by default.

        Raises:
          NotTextError: A text is not UTF-8.
        """
        self.rows += len(values) if rows is None else rows
        if values.dtype != object:
            found, counts = np.unique(values, return_counts=True)
            self._add(zip(found.tolist(), counts.tolist(), strict=True))
            return
        distinct: dict[Any, int] = {}
        for value in values.ravel().tolist():
            distinct[value] = distinct.get(value, 0) + 1
        self._add(sorted(distinct.items()))

    def _add(self, pairs: Iterable[tuple[Any, int]]) -> None:
        for value, count in pairs:
            if isinstance(value, bytes):
                try:
                    value = value.decode()
                except UnicodeDecodeError as error:
                    raise NotTextError(f"{value!r:.60}") from error
            self._sketch.update(str(value), count)

    def merge(self, other: Counts) -> None:
        """See `Sketch`."""
        self.rows += other.rows
        self._sketch.merge(other._sketch)

    @property
    def error(self) -> int:
        """By how much counts may be too large; 0 as long as they are exact."""
        found = self._found()
        return max((upper - lower for _, lower, upper in found), default=0)

    def _found(self) -> list[tuple[str, int, int]]:
        from datasketches import frequent_items_error_type

        kind = frequent_items_error_type.NO_FALSE_NEGATIVES
        found = self._sketch.get_frequent_items(kind, 0)
        return [(item, lower, upper) for item, _, lower, upper in found]

    def most_common(self, least: int = 1) -> list[tuple[str, int]]:
        """Returns what occurs, most often first, by value where counts are equal.

        Args:
          least: Leaves out what occurs less often.
        """
        pairs = [(item, upper) for item, _, upper in self._found() if upper >= least]
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))

    def to_bytes(self) -> bytes:
        """See `Sketch`."""
        raw = np.frombuffer(self._sketch.serialize(), np.uint8)
        return pack({"rows": np.array(self.rows), "sketch": raw})

    @classmethod
    def from_bytes(cls, content: bytes) -> Counts:
        """See `Sketch`."""
        from datasketches import frequent_strings_sketch

        arrays, result = unpack(content), cls()
        result.rows = int(arrays["rows"])
        raw = arrays["sketch"].tobytes()
        result._sketch = frequent_strings_sketch.deserialize(raw)
        return result


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """Returns arrays as bytes."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def unpack(content: bytes) -> dict[str, np.ndarray]:
    """Reverse of `pack`."""
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        return dict(found)
