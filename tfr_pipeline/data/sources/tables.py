"""CSV, TSV and Parquet to `Lists`, through pyarrow."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfr_pipeline.data import ids
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.sources import table_files, table_groups
from tfr_pipeline.data.sources.libsvm import Parsed
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.table_files import FILE, LINE, Columns
from tfr_pipeline.data.stored import refuse_stored
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.features import Feature

if TYPE_CHECKING:
    import pyarrow as pa

# Called with row and column; returns the place for a message.
Where = Callable[[int, str], str]

# Elements of the dense matrix yielded at once, unless one list has more.
_BLOCK_ELEMENTS = 1 << 22
# What pandas calls the index that it writes unasked, and a column without a name.
_INDEX = re.compile(r"(Unnamed: \d+(\.\d+)*|__index_level_\d+__)?")


def columns(path: str, input_format: str, options: Options) -> Columns:
    """Finds the columns of a file and their roles.

    Raises:
      ConfigError: A column that an option names is not in the file.
      DataError: The file has no header or no feature column.
    """
    pa = table_files.arrow()
    with table_files.readable(path):
        if input_format == "parquet":
            refuse_stored(path, "Parquet")
            schema = pa.parquet.read_schema(path)
        else:
            schema = table_files.csv_schema(path, input_format)
    known = schema.names

    def checked(name: str, flag: str) -> str:
        if name not in known:
            message = unknown_name("column", name, known, f"{path} ({flag})")
            if any("," in column for column in known):
                message += " Names with a comma stand in double quotes."
            raise ConfigError(message)
        if known.count(name) > 1:
            raise DataError(
                f"{path}: expected columns with different names, found "
                f"{known.count(name)} called {name!r}. Rename all but one."
            )
        return name

    labels = tuple(
        checked(name, "--label_columns")
        for name in dict.fromkeys(options.label_columns)
    )
    if not labels and (options.require_label or options.label_column in known):
        labels = (checked(options.label_column, "--label_column"),)
    query = checked(options.qid_column, "--qid_column")
    document = options.docid_column or None
    weight = options.weight_column or None
    if document:
        checked(document, "--docid_column")
    if weight:
        checked(weight, "--weight_column")
    types = dict(zip(known, schema.types, strict=True))
    context = {
        checked(name, "--context_columns"): options.context_types.get(name)
        or _context_feature(types[name])
        for name in options.context_columns
    }
    taken = {*labels, query, document, weight, *context}
    numeric = [name for name in known if name not in taken and _is_numeric(types[name])]
    index = tuple(name for name in numeric if _INDEX.fullmatch(name))
    features = tuple(
        checked(name, "--feature_columns")
        for name in options.feature_columns
        or [name for name in numeric if name not in index]
    )
    if not features:
        raise DataError(
            f"{path}: expected at least one numeric column beside "
            f"{', '.join(sorted(name for name in taken if name))}, found none among "
            f"{', '.join(known)}. Name the features with --feature_columns."
        )
    if options.num_features not in (None, len(features)):
        raise DataError(
            f"{path}: expected {options.num_features} feature columns, found "
            f"{len(features)}: {', '.join(features[:10])}. Name the features with "
            "--feature_columns."
        )
    if options.feature_columns:
        return Columns(labels, query, document, weight, features, context)
    ignored = tuple(
        name
        for name in known
        if name not in {"", *taken, *features, *index}  # "": a delimiter at the end
    )
    return Columns(labels, query, document, weight, features, context, ignored, index)


def _is_numeric(kind: pa.DataType) -> bool:
    types = table_files.arrow().types
    return (
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_boolean(kind)
    )


def _context_feature(kind: pa.DataType) -> Feature:
    types = table_files.arrow().types
    if types.is_integer(kind) or types.is_boolean(kind):
        return Feature("int64", (1,), 0)
    if types.is_floating(kind) or types.is_decimal(kind):
        return Feature("float32", (1,), 0.0)
    return Feature("string", (1,), "")


def read(
    paths: list[str],
    input_format: str,
    options: Options,
    like: tuple[str, Columns] | None = None,
) -> Iterator[Parsed]:
    """Yields the lists of tables, several at a time.

    Args:
      paths: The files.
      input_format: `csv`, `tsv` or `parquet`.
      options: How to read them.
      like: A file and its columns, which the others must have; by default the first.

    Raises:
      DataError: A file is malformed or has other columns than the first.
    """
    first, roles = like or (paths[0], columns(paths[0], input_format, options))
    for path in paths:
        if path == first:
            continue
        other = columns(path, input_format, options)
        if (other.used, other.context) != (roles.used, roles.context):
            wrong = sorted(set(roles.used) ^ set(other.used)) or other.used
            raise DataError(
                f"{path}: expected the columns of {first}, found others: "
                f"{', '.join(wrong[:10])}. Name the columns with --feature_columns."
            )

    def tables() -> Iterator[pa.Table]:
        for file, path in enumerate(paths):
            yield from table_files.batches(path, file, input_format, roles)

    if options.group_by_query:
        size = 4 * len(roles.features) + 100
        whole = table_groups.grouped(tables, roles.query, size, options.work_dir)
    else:
        whole = table_groups.contiguous(tables(), roles.query)
    sizes = np.concatenate([[0], np.cumsum([os.path.getsize(p) for p in paths])])
    limit = max(1, _BLOCK_ELEMENTS // len(roles.features))
    for table, splits in table_groups.pieces(whole, limit):
        if table.num_rows:
            parsed = _to_lists(table, splits, paths, roles, options)
            last = int(table[FILE][table.num_rows - 1].as_py())
            yield dataclasses.replace(parsed, bytes_read=int(sizes[last]))


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """Returns a column as float32, NaN where it is null; a copy."""
    return np.array(table[name].to_numpy(), np.float32)


def _texts(table: pa.Table, name: str) -> np.ndarray:
    values = table[name].to_pylist()
    result = np.empty(len(values), object)
    result[:] = ["" if value is None else value for value in values]
    return result


def _to_lists(
    table: pa.Table,
    splits: np.ndarray,
    paths: list[str],
    roles: Columns,
    options: Options,
) -> Parsed:
    files, lines = table[FILE].to_numpy(), table[LINE].to_numpy()

    def where(row: int, column: str) -> str:
        return f"{paths[files[row]]}:{lines[row]}: column {column!r}"

    matrix = np.stack([_numbers(table, name) for name in roles.features], axis=1)
    _settle(matrix, roles.features, options.nan, where)
    labels = weights = None
    if roles.labels:
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

    queries = _texts(heads, roles.query)
    ids.check(queries, "query", lambda row: head(row, roles.query))
    unnamed = 0
    numbered = np.array([str(line) for line in lines], object)
    if name := roles.document:
        documents = _texts(table, name)
        ids.check(documents, "document", lambda row: where(row, name))
        unnamed = int((documents == "").sum())
        documents = np.where(documents == "", numbered, documents)
    else:
        documents = numbered
    lists = Lists(
        values={"float32": matrix},
        row_splits=splits,
        labels=labels,
        query_ids=queries,
        document_ids=documents,
        weights=weights,
        context={
            name: _context_values(heads, name, feature, options.nan, head)
            for name, feature in roles.context.items()
        },
    )
    places = [(paths[files[row]], int(lines[row])) for row in firsts]
    return Parsed(lists, places, unnamed=unnamed)


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
            "Use --nan=zero to make such values 0."
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


def _context_values(
    table: pa.Table, name: str, feature: Feature, nan: str, where: Where
) -> np.ndarray:
    """Returns `[lists, 1]` of the dtype of the feature."""
    if feature.dtype == "string":
        return _texts(table, name)[:, np.newaxis]
    if feature.dtype == "float32":
        values = _numbers(table, name)[:, np.newaxis]
        _settle(values, [name], nan, where)
        return values
    column = table[name].combine_chunks()
    if column.null_count and nan != "zero":
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise DataError(
            f"{where(row, name)}: expected a whole number, found an empty cell. Use "
            "--nan=zero to make such values 0."
        )
    return column.fill_null(0).to_numpy(zero_copy_only=False)[:, np.newaxis]


def _refuse(
    bad: np.ndarray, values: np.ndarray, column: str, expected: str, where: Where
) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        found = "an empty cell or NaN" if np.isnan(values[row]) else values[row]
        raise DataError(f"{where(row, column)}: expected {expected}, found {found}.")
