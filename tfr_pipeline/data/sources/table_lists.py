"""Arrow tables of whole lists to `Lists`."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfr_pipeline.data import ids
from tfr_pipeline.data.lists import Lists, Ragged
from tfr_pipeline.data.oddities import Oddities
from tfr_pipeline.data.sources.class_names import ClassNumbers
from tfr_pipeline.data.sources.column_types import arrow, has_items
from tfr_pipeline.data.sources.libsvm import Parsed
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.table_columns import Columns
from tfr_pipeline.data.sources.table_files import FILE, LINE
from tfr_pipeline.errors import DataError
from tfr_pipeline.features import Feature

if TYPE_CHECKING:
    import pyarrow as pa

# Called with row and column; returns the place for a message.
Where = Callable[[int, str], str]
_ADVICE = "Use --nan=zero to make such values 0."


def to_lists(
    table: pa.Table,
    splits: np.ndarray,
    paths: list[str],
    roles: Columns,
    options: Options,
) -> Parsed:
    """Returns the lists of a table whose rows know their place.

    Args:
      table: The columns of `roles.used`, with `FILE` and `LINE`.
      splits: int64 `[lists + 1]`, where lists begin.
      paths: The files.
      roles: What the columns are.
      options: What becomes of missing values.

    Raises:
      DataError: A value cannot be; the message has file, line and column.
    """
    files, lines = table[FILE].to_numpy(), table[LINE].to_numpy()

    def where(row: int, column: str) -> str:
        return f"{paths[files[row]]}:{lines[row]}: column {column!r}"

    labels = weights = None
    if roles.classes and roles.labels:
        (column,) = roles.labels
        numbers = ClassNumbers(options.classes or (), options.require_label)
        texts = _texts(table, column).tolist()
        labels = numbers(texts, functools.partial(where, column=column))
    elif roles.labels:
        # A document may be labelled for some of several tasks only.
        required = options.require_label and not options.label_columns
        columns = [_labels(table, name, required, where) for name in roles.labels]
        labels = np.stack(columns, axis=1) if options.label_columns else columns[0]
    if roles.weight:
        weights = _numbers(table, roles.weight)
        bad = ~(np.isfinite(weights) & (weights >= 0))
        _refuse(bad, weights, roles.weight, "a finite weight of 0 or more", where)
    firsts = splits[:-1]
    heads = table.take(firsts)

    def head(row: int, column: str) -> str:
        return where(int(firsts[row]), column)

    oddities = Oddities(varying=_varying(table, splits, roles.context, where))
    numbered = _objects([str(line) for line in lines])
    if roles.query is None and len(paths) > 1:
        # The same line of another file is another example.
        short = [os.path.basename(path) for path in paths]
        pairs = zip(files, lines, strict=True)
        numbered = _objects([f"{short[file]}:{line}" for file, line in pairs])
    if name := roles.document:
        documents = _texts(table, name)
        ids.check(documents, "document", functools.partial(where, column=name))
        oddities.unnamed = int((documents == "").sum())
        documents = np.where(documents == "", numbered, documents)
    else:
        documents = numbered
    queries = documents
    if query := roles.query:
        queries = _texts(heads, query)
        ids.check(queries, "query", functools.partial(head, column=query))
    of_queries, loose_context = _features(heads, roles.context, options.nan, head)
    context: dict[str, np.ndarray] = {}
    for name, feature in roles.context.items():  # in this order
        if feature.dtype == "string" and feature.kind == "fixed":
            context[name] = _texts(heads, name)[:, np.newaxis]
        elif name in of_queries:
            context[name] = of_queries[name]
    loose_context = {n: v for n, v in loose_context.items() if n not in context}
    fixed, loose = _features(table, roles.others, options.nan, where)
    lists = Lists(
        values=_matrices(table, roles, fixed, options.nan, where),
        row_splits=splits,
        labels=labels,
        query_ids=queries,
        document_ids=documents,
        weights=weights,
        context=context,
        loose=loose,
        loose_context=loose_context,
    )
    places = [(paths[files[row]], int(lines[row])) for row in firsts]
    return Parsed(lists, places, oddities=oddities)


def _varying(
    table: pa.Table, splits: np.ndarray, names: Iterable[str], where: Where
) -> dict[str, tuple[int, str]]:
    """Returns in which lists columns of the query have several values.

    See `Oddities.varying`.
    """
    found = {}
    heads = np.repeat(splits[:-1], np.diff(splits))
    for name in names:
        values = table[name].combine_chunks()
        try:
            values = values.dictionary_encode("encode").indices
            codes = values.to_numpy(zero_copy_only=False)
        except arrow().ArrowNotImplementedError:  # lists
            numbers: dict[str, int] = {}
            texts = map(repr, values.to_pylist())
            codes = np.array([numbers.setdefault(t, len(numbers)) for t in texts])
        other = codes != codes[heads]
        if other.any():
            count = np.count_nonzero(np.logical_or.reduceat(other, splits[:-1]))
            row = int(np.argmax(other))
            shown, first = (table[name][i].as_py() for i in (row, int(heads[row])))
            text = f"{where(row, name)}: {shown!r:.60} after {first!r:.60}"
            found[name] = int(count), text
    return found


def in_order(
    lists: Lists, example: Mapping[str, Feature], names: Sequence[str] | None = None
) -> Lists:
    """Returns lists whose matrices have the features in another order.

    Args:
      lists: The lists.
      example: Features of documents, those of each dtype in the order that they have.
      names: The order that they shall have; by name, as models take them, by default.
    """
    slots: dict[str, dict[str, np.ndarray]] = {}
    for name, feature in example.items():
        if feature.kind == "fixed" and feature.dtype in lists.values:
            own = slots.setdefault(feature.dtype, {})
            start = sum(map(len, own.values()))
            own[name] = np.arange(start, start + math.prod(feature.shape))
    values = dict(lists.values)
    for dtype, own in slots.items():
        order = [name for name in names or sorted(own) if name in own]
        if order != list(own):
            columns = np.concatenate([own[name] for name in order])
            values[dtype] = values[dtype][:, columns]
    return dataclasses.replace(lists, values=values)


def _matrices(
    table: pa.Table,
    roles: Columns,
    fixed: dict[str, np.ndarray],
    nan: str,
    where: Where,
) -> dict[str, np.ndarray]:
    """Returns the matrices of documents: of numbers in one column, then of others."""
    matrix = np.empty((table.num_rows, len(roles.features)), np.float32)
    if roles.features:
        matrix = np.stack([_numbers(table, name) for name in roles.features], axis=1)
    _settle(matrix, roles.features, nan, where)
    blocks = {"float32": [matrix]}
    for name, values in fixed.items():
        rows = values.reshape(table.num_rows, -1)
        blocks.setdefault(roles.others[name].dtype, []).append(rows)
    return {
        dtype: found[0] if len(found) == 1 else np.concatenate(found, axis=1)
        for dtype, found in blocks.items()
    }


def _features(
    table: pa.Table, features: Mapping[str, Feature], nan: str, where: Where
) -> tuple[dict[str, np.ndarray], dict[str, Ragged]]:
    """Returns numbers of fixed length `[rows, ...]`, and whatever else there is.

    Texts of queries are among the former, as objects `[rows, 1]`.
    """
    fixed: dict[str, np.ndarray] = {}
    loose: dict[str, Ragged] = {}
    for name, feature in features.items():
        if has_items(feature):
            found = _items(table, name, feature, nan, where)
            if feature.kind != "fixed":
                loose[name] = found
            else:
                fixed[name] = found.values.reshape(-1, *feature.shape)
        elif feature.dtype == "string":
            texts = _bytes(table[name])
            loose[name] = Ragged(texts, np.arange(len(texts) + 1))
        elif feature.dtype == "float32":
            values = _numbers(table, name)[:, np.newaxis]
            _settle(values, [name], nan, where)
            fixed[name] = values
        else:
            fixed[name] = _integers(table[name], name, nan, where)[:, np.newaxis]
    return fixed, loose


def _items(
    table: pa.Table, name: str, feature: Feature, nan: str, where: Where
) -> Ragged:
    """Returns the items of lists; of a list that is missing, as many as must be."""
    column = table[name].combine_chunks()
    sizes = np.array(arrow().compute.list_value_length(column).fill_null(-1))
    size = math.prod(feature.shape)
    if feature.kind == "fixed":
        bad = (sizes != size) & (sizes >= 0)
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(
                f"{where(row, name)}: expected a list of {size} numbers, as the first "
                f"rows have, found {sizes[row]}. Say that the column is 'ragged' in "
                "the file of --types."
            )
    rows = np.repeat(np.arange(len(sizes)), sizes.clip(min=0))
    items = column.flatten()

    def place(item: int, column: str) -> str:
        return where(int(rows[item]), column)

    if feature.dtype == "string":
        values = _bytes(items)
    elif feature.dtype == "int64":
        values = _integers(items, name, nan, place)
    else:
        values = np.array(items.to_numpy(zero_copy_only=False), np.float32)
        _settle(values[:, np.newaxis], [name], nan, place)
    if feature.kind == "fixed" and (sizes < 0).any():
        return Ragged(_with_missing(values, sizes, size, name, nan, where), sizes)
    splits = np.concatenate([[0], np.cumsum(sizes.clip(min=0))]).astype(np.int64)
    return Ragged(values, splits)


def _with_missing(
    values: np.ndarray, sizes: np.ndarray, size: int, name: str, nan: str, where: Where
) -> np.ndarray:
    """Returns the numbers of lists with those of the lists that are missing."""
    if nan == "error" or (nan == "keep" and values.dtype != np.float32):
        row = int(np.argmax(sizes < 0))
        raise DataError(
            f"{where(row, name)}: expected a list of {size} numbers, found none. "
            f"{_ADVICE}"
        )
    fill = np.nan if nan == "keep" else 0
    result = np.full((len(sizes), size), fill, values.dtype)
    result[sizes >= 0] = values.reshape(-1, size)
    return result.reshape(-1)


def _settle(matrix: np.ndarray, names: Sequence[str], nan: str, where: Where) -> None:
    """Does with NaN and infinite values `[rows, columns]` what `--nan` says."""
    finite = np.isfinite(matrix)
    if nan == "keep" or finite.all():
        return
    if nan == "error":
        row, column = np.argwhere(~finite)[0]
        value = matrix[row, column]
        found = "an empty cell or NaN" if np.isnan(value) else value
        raise DataError(
            f"{where(row, names[column])}: expected a finite float32, found {found}. "
            f"{_ADVICE}"
        )
    matrix[~finite] = 0


def _labels(table: pa.Table, name: str, required: bool, where: Where) -> np.ndarray:
    """Returns float32 `[documents]`, -1 for empty cells unless there must be none."""
    labels = _numbers(table, name)
    if not required:
        labels = np.where(np.isnan(labels), np.float32(-1), labels)
    bad = ~(np.isfinite(labels) & (labels >= (0 if required else -1)))
    _refuse(bad, labels, name, "a grade of 0 or more", where)
    return labels


def _integers(column: Any, name: str, nan: str, where: Where) -> np.ndarray:
    """Returns int64 `[rows]`; whole numbers have no NaN."""
    if isinstance(column, arrow().ChunkedArray):
        column = column.combine_chunks()
    if column.null_count and nan != "zero":
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise DataError(
            f"{where(row, name)}: expected a whole number, found an empty cell. "
            f"{_ADVICE}"
        )
    return column.fill_null(0).to_numpy(zero_copy_only=False)


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """Returns a column as float32, NaN where it is null; a copy."""
    return np.array(table[name].to_numpy(), np.float32)


def _texts(table: pa.Table, name: str) -> np.ndarray:
    """Returns a column as an object array of `str`, empty where it is null."""
    return _objects(table[name].fill_null("").to_pylist())


def _bytes(column: Any) -> np.ndarray:
    """Returns texts as an object array of UTF-8 `bytes`, empty where they are null."""
    return _objects(column.fill_null("").cast(arrow().binary()).to_pylist())


def _objects(values: list[Any]) -> np.ndarray:
    result = np.empty(len(values), object)
    result[:] = values
    return result


def _refuse(
    bad: np.ndarray, values: np.ndarray, column: str, expected: str, where: Where
) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        found = "an empty cell or NaN" if np.isnan(values[row]) else values[row]
        raise DataError(f"{where(row, column)}: expected {expected}, found {found}.")
