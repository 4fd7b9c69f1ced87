"""Documents and queries by number, and their features beside those of others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tfr_pipeline.data.lists import Lists, Ragged
from tfr_pipeline.data.reading import loading, place
from tfr_pipeline.data.reading.disk_lists import DiskLists
from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Feature, Features
from tfr_pipeline.graph import edges, names, nodes
from tfr_pipeline.graph.dataset import DataSet
from tfr_pipeline.graph.parts import widths

_BYTES = 1 << 25  # of lists that get their neighbours together
_ZEROS: dict[str, Any] = {"float32": 0.0, "int64": 0, "string": ""}


@dataclasses.dataclass
class Rows:
    """Features of some nodes.

    Attributes:
      values: Of documents: matrices by dtype. Of queries: arrays by name.
      loose: Features that stand in none of those.
    """

    values: dict[str, np.ndarray]
    loose: dict[str, Ragged]


class ListStore:
    """All nodes of lists, in memory or in the cache on disk.

    Args:
      sets: The files.
      kind: What nodes are.
      cache: Where lists are kept: `auto`, `memory`, `disk`, or a folder.

    Attributes:
      names: Names of the nodes, string `[nodes]`.
    """

    def __init__(self, sets: Sequence[DataSet], kind: str, cache: str) -> None:
        self._kind = kind
        self._lists: list[Lists] = []
        self._ends: list[int] = [0]
        found = []
        for data in sets:
            lists = _loaded(data, cache)
            some = edges.as_strings(nodes.of_lists(lists, kind))
            found.append(some)
            self._ends.append(self._ends[-1] + len(some))
            self._lists.append(lists)
        self.names: pa.Array = pa.concat_arrays(found)

    def read(self, numbers: np.ndarray) -> Rows:
        """Returns the features of nodes, whose numbers rise."""
        cuts = np.searchsorted(numbers, self._ends)
        parts = [
            rows_of(lists, numbers[start:stop] - first, self._kind)
            for lists, first, start, stop in zip(
                self._lists, self._ends[:-1], cuts[:-1], cuts[1:], strict=True
            )
        ]
        first = parts[0]
        if len(parts) == 1:
            return first
        return Rows(
            {n: np.concatenate([p.values[n] for p in parts]) for n in first.values},
            {n: Ragged.concatenate([p.loose[n] for p in parts]) for n in first.loose},
        )


def _loaded(data: DataSet, cache: str) -> Lists:
    parser, (label, weight) = data.parser, data.roles
    reader = RecordReader()
    size = place.SizeOf(data.paths, parser, label, weight, reader)
    folder = place.choose(cache, 1, size)
    lists = loading.load(data.paths, parser, label, weight, reader, folder)
    if not lists.num_documents:
        raise DataError(f"{', '.join(data.paths)}: expected lists, found none.")
    return lists


def rows_of(lists: Lists, rows: np.ndarray, kind: str) -> Rows:
    """Returns the features of some nodes of lists, by number."""
    if kind == nodes.QUERIES:
        return Rows(
            {name: value[rows] for name, value in lists.context.items()},
            {name: value.take(rows) for name, value in lists.loose_context.items()},
        )
    values = {}
    for dtype, matrix in lists.values.items():
        column = f"values/{dtype}"
        if isinstance(lists, DiskLists) and column in lists.columns:
            ones = np.ones(len(rows), np.int64)
            some = lists.columns[column].read(rows.astype(np.int64), ones)
        else:
            some = matrix[rows]
        values[dtype] = some.astype(dtype, copy=False)
    return Rows(values, {name: value.take(rows) for name, value in lists.loose.items()})


def cut(lists: Lists, bytes_each: int) -> Iterator[Lists]:
    """Yields lists some at a time, so that they are not large with neighbours."""
    most = max(1, _BYTES // max(1, bytes_each))
    start = 0
    while start < lists.num_lists:
        stop = int(
            np.searchsorted(lists.row_splits, lists.row_splits[start] + most, "right")
        )
        stop = min(max(start + 1, stop - 1), lists.num_lists)
        yield lists.slice(start, stop)
        start = stop


class Packing:
    """Puts the features of neighbours beside those of nodes.

    Args:
      features: Description of the lists.
      count: How many neighbours a node has at most.
      kind: What nodes are: `documents`, or `queries`.

    Attributes:
      features: Description of what comes out.

    Raises:
      ConfigError: The lists have neighbours already, or features of their names.
    """

    def __init__(self, features: Features, count: int, kind: str) -> None:
        self._kind, self._count = kind, count
        queries = kind == nodes.QUERIES
        self._own = dict(features.context if queries else features.example)
        if packed := [name for name in self._own if names.is_packed(name)]:
            raise ConfigError(
                f"--input: expected lists without neighbours, found {packed[0]!r}: "
                "they are packed already. Name what they were made of."
            )
        if not self._own:
            raise ConfigError(f"--input: expected features of {kind}, found none.")
        if "weight" in self._own and count:
            raise ConfigError(
                "feature 'weight': expected another name, for that of a neighbour "
                f"would be {names.weight(0)!r}, which is the weight of the edge."
            )
        made = dict(self._own)
        for number in range(count):
            made[names.weight(number)] = Feature("float32", (1,), 0.0)
            for name, feature in self._own.items():
                made[names.feature(number, name)] = _of_neighbour(number, feature)
        made = dict(sorted(made.items()))
        self.features = (
            dataclasses.replace(features, context=made)
            if queries
            else dataclasses.replace(features, example=made)
        )
        self._before = features

    @property
    def bytes_each(self) -> int:
        """About how large a document becomes."""
        floats = sum(int(np.prod(f.shape, dtype=int)) for f in self._own.values())
        return 8 * floats * (1 + self._count)

    def applied(
        self, lists: Lists, others: Rows, places: np.ndarray, weights: np.ndarray
    ) -> Lists:
        """Returns lists with neighbours.

        Args:
          lists: The lists.
          others: Features of their neighbours.
          places: `[nodes, N]`, which of those, -1 for none.
          weights: float32 `[nodes, N]`.
        """
        loose_of = {
            names.feature(number, name): _some(
                column, places[:, number], self._own[name]
            )
            for number in range(self._count)
            for name, column in others.loose.items()
        }
        if self._kind == nodes.QUERIES:
            context = dict(lists.context)
            for number in range(self._count):
                context[names.weight(number)] = weights[:, number, np.newaxis]
                for name, value in others.values.items():
                    some = _some_rows(value, places[:, number])
                    context[names.feature(number, name)] = some
            loose = {**lists.loose_context, **loose_of}
            return dataclasses.replace(lists, context=context, loose_context=loose)
        values = {
            dtype: self._matrix(dtype, lists, others, places, weights)
            for dtype in dict.fromkeys([*lists.values, "float32"])
        }
        loose = dict(sorted({**lists.loose, **loose_of}.items()))
        return dataclasses.replace(lists, values=values, loose=loose)

    def _matrix(
        self,
        dtype: str,
        lists: Lists,
        others: Rows,
        places: np.ndarray,
        weights: np.ndarray,
    ) -> np.ndarray:
        """Returns the matrix of a dtype with the columns that `features` has."""
        target = widths(self.features, dtype)
        starts = dict(
            zip(target, np.cumsum([0, *target.values()]).tolist(), strict=False)
        )
        result = np.zeros((lists.num_documents, sum(target.values())), dtype)

        def put(name: str, columns: np.ndarray) -> None:
            result[:, starts[name] : starts[name] + columns.shape[1]] = columns

        matrices: dict[int | None, Any] = {None: lists.values.get(dtype)}
        if dtype in others.values:
            matrices |= {
                number: _some_rows(others.values[dtype], places[:, number])
                for number in range(self._count)
            }
        position = 0
        for name, width in widths(self._before, dtype).items():
            for number, matrix in matrices.items():
                called = name if number is None else names.feature(number, name)
                put(called, matrix[:, position : position + width])
            position += width
        if dtype == "float32":
            for number in range(self._count):
                put(names.weight(number), weights[:, number, np.newaxis])
        return result


def _of_neighbour(number: int, feature: Feature) -> Feature:
    columns = tuple(names.feature(number, name) for name in feature.columns)
    default = _ZEROS[feature.dtype] if feature.kind == "fixed" else None
    return dataclasses.replace(feature, columns=columns, default=default)


def _some_rows(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns rows of an array, nothing where the place is -1."""
    result = np.zeros((len(places), *values.shape[1:]), values.dtype)
    if values.dtype == object:
        result[...] = b""
    there = places >= 0
    result[there] = values[places[there]]
    return result


def _some(column: Ragged, places: np.ndarray, feature: Feature) -> Ragged:
    """Returns rows of a column; where the place is -1, empty texts or no values."""
    there = places >= 0
    taken = column.take(places[there])
    fixed = feature.kind == "fixed"
    lengths = np.full(len(places), int(np.prod(feature.shape)) if fixed else 0)
    lengths[there] = taken.lengths
    splits = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    dtype = taken.plain_values.dtype
    values = np.full(splits[-1], b"" if dtype.kind == "O" else 0, dtype)
    values[np.repeat(there, lengths)] = taken.plain_values
    return Ragged(values, splits)
