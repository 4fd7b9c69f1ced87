"""CSV, TSV and Parquet to `Lists`, through pyarrow."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tfr_pipeline.data import table_groups
from tfr_pipeline.data.chunks import open_binary
from tfr_pipeline.data.libsvm import Parsed
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.options import Options
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.features import Feature

if TYPE_CHECKING:
    import pyarrow as pa

# Columns added to every table: where a row stands.
FILE, LINE = "__file__", "__line__"
_BLOCK_BYTES = 4 << 20
_BLOCK_ELEMENTS = 1 << 22  # of the dense matrix of one Parquet batch


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which column plays which role; None where there is none."""

    label: str | None
    query: str
    document: str | None
    weight: str | None
    features: tuple[str, ...]
    context: dict[str, Feature]

    @property
    def used(self) -> list[str]:
        """All columns that are read."""
        optional = (self.label, self.document, self.weight)
        names = [self.query, *(name for name in optional if name)]
        return [*names, *self.context, *self.features]


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"CSV, TSV and Parquet need a working pyarrow ({error}). "
            "Install it with: pip install pyarrow"
        ) from error
    return pyarrow


def columns(path: str, input_format: str, options: Options) -> Columns:
    """Finds the columns of a file and their roles.

    Raises:
      ConfigError: A column that an option names is not in the file.
      DataError: The file has no header or no feature column.
    """
    pa = _arrow()
    with _readable(path):
        if input_format == "parquet":
            schema = pa.parquet.read_schema(path)
        else:
            schema = _csv_schema(path, input_format)
    known = schema.names

    def checked(name: str, flag: str) -> str:
        if name not in known:
            raise ConfigError(unknown_name("column", name, known, f"{path} ({flag})"))
        return name

    label: str | None = options.label_column
    if options.require_label or label in known:
        label = checked(options.label_column, "--label_column")
    else:
        label = None
    query = checked(options.qid_column, "--qid_column")
    document = options.docid_column or None
    weight = options.weight_column or None
    if document:
        checked(document, "--docid_column")
    if weight:
        checked(weight, "--weight_column")
    context = {
        checked(name, "--context_columns"): _context_feature(schema.field(name).type)
        for name in options.context_columns
    }
    taken = {label, query, document, weight, *context}
    features = tuple(
        checked(name, "--feature_columns") for name in options.feature_columns
    ) or tuple(
        field.name
        for field in schema
        if field.name not in taken and _is_numeric(field.type)
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
    return Columns(label, query, document, weight, features, context)


def _is_numeric(kind: pa.DataType) -> bool:
    types = _arrow().types
    return (
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_boolean(kind)
    )


def _context_feature(kind: pa.DataType) -> Feature:
    types = _arrow().types
    if types.is_integer(kind) or types.is_boolean(kind):
        return Feature("int64", (1,), 0)
    if types.is_floating(kind) or types.is_decimal(kind):
        return Feature("float32", (1,), 0.0)
    return Feature("string", (1,), "")


def read(paths: list[str], input_format: str, options: Options) -> Iterator[Parsed]:
    """Yields the lists of tables, several at a time.

    Raises:
      DataError: A file is malformed or has other columns than the first.
    """
    roles = columns(paths[0], input_format, options)
    for path in paths[1:]:
        if columns(path, input_format, options) != roles:
            other = columns(path, input_format, options)
            wrong = sorted(set(roles.used) ^ set(other.used)) or list(other.features)
            raise DataError(
                f"{path}: expected the columns of {paths[0]}, found others: "
                f"{', '.join(wrong[:10])}. Name the columns with --feature_columns."
            )

    def tables() -> Iterator[pa.Table]:
        for file, path in enumerate(paths):
            yield from _tables(path, file, input_format, roles)

    if options.group_by_query:
        size = 4 * len(roles.features) + 100
        whole = table_groups.grouped(tables, roles.query, size, options.work_dir)
    else:
        whole = table_groups.contiguous(tables(), roles.query)
    sizes = np.concatenate([[0], np.cumsum([os.path.getsize(p) for p in paths])])
    for table, splits in whole:
        if table.num_rows:
            parsed = _to_lists(table, splits, paths, roles, options)
            last = int(table[FILE][table.num_rows - 1].as_py())
            yield dataclasses.replace(parsed, bytes_read=int(sizes[last]))


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    """Turns errors of pyarrow into `DataError` with the file."""
    pa = _arrow()
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read: {reason}") from error


def _csv_options(input_format: str) -> dict[str, Any]:
    pa = _arrow()
    return {
        "read_options": pa.csv.ReadOptions(block_size=_BLOCK_BYTES),
        "parse_options": pa.csv.ParseOptions(
            delimiter="\t" if input_format == "tsv" else ","
        ),
    }


def _csv_schema(path: str, input_format: str) -> pa.Schema:
    pa = _arrow()
    with open_binary(path) as (content, _):
        # Whole lines of the first block are enough to infer the types.
        head = content.read(_BLOCK_BYTES)
        head = head[: head.rfind(b"\n") + 1] or head
    if not head.strip():
        raise DataError(f"{path}: expected a header line, found an empty file.")
    return pa.csv.read_csv(io.BytesIO(head), **_csv_options(input_format)).schema


def _tables(
    path: str, file: int, input_format: str, roles: Columns
) -> Iterator[pa.Table]:
    """Yields the used columns of a file in batches, with `FILE` and `LINE`."""
    pa = _arrow()
    is_parquet = input_format == "parquet"
    done = 1 if is_parquet else 2  # number of the first row; a CSV has a header line
    batches = _parquet_batches if is_parquet else _csv_batches
    for batch in batches(path, input_format, roles):
        table = pa.Table.from_batches([batch])
        rows = table.num_rows
        table = table.append_column(FILE, pa.array(np.full(rows, file, np.int32)))
        table = table.append_column(LINE, pa.array(np.arange(done, done + rows)))
        done += rows
        yield table


def _parquet_batches(path: str, _: str, roles: Columns) -> Iterator[pa.RecordBatch]:
    pa = _arrow()
    size = max(256, _BLOCK_ELEMENTS // len(roles.used))
    with _readable(path):
        with pa.parquet.ParquetFile(path) as content:
            for batch in content.iter_batches(batch_size=size, columns=roles.used):
                # Query ids of different files compare as text.
                position = batch.schema.get_field_index(roles.query)
                query = batch.column(position).cast(pa.string())
                yield batch.set_column(position, roles.query, query)


def _csv_batches(
    path: str, input_format: str, roles: Columns
) -> Iterator[pa.RecordBatch]:
    pa = _arrow()
    kinds = {"float32": pa.float32(), "int64": pa.int64(), "string": pa.string()}
    types = {name: pa.float32() for name in roles.used}
    types |= {roles.query: pa.string()}
    if roles.document:
        types[roles.document] = pa.string()
    types |= {name: kinds[feature.dtype] for name, feature in roles.context.items()}
    convert = pa.csv.ConvertOptions(column_types=types, include_columns=roles.used)
    reason = ""
    with open_binary(path) as (content, _):
        try:
            yield from pa.csv.open_csv(
                content, convert_options=convert, **_csv_options(input_format)
            )
        except pa.ArrowException as error:
            reason = " ".join(str(error).split())
    if reason:
        place = _find_bad_row(path, input_format, roles)
        raise DataError(f"{place or path}: {reason}")


def _find_bad_row(path: str, input_format: str, roles: Columns) -> str | None:
    """Returns where a CSV file has a wrong number of cells or a bad number."""
    numeric = [*roles.features, *filter(None, (roles.label, roles.weight))]
    with open_binary(path) as (content, _):
        text = io.TextIOWrapper(content, "utf-8", "replace", newline="")  # type: ignore[arg-type,type-var]
        reader = csv.reader(text, delimiter="\t" if input_format == "tsv" else ",")
        header = next(reader)
        positions = [(header.index(name), name) for name in numeric]
        for row in reader:
            if row and len(row) != len(header):
                return f"{path}:{reader.line_num}"
            for position, name in positions if row else ():
                try:
                    float(row[position] or "nan")
                except ValueError:
                    return f"{path}:{reader.line_num}: column {name!r}"
    return None


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """Returns a column as float32, NaN where it is null."""
    pa = _arrow()
    column = table[name].combine_chunks()
    if not pa.types.is_float32(column.type):
        column = column.cast(pa.float64())
    with np.errstate(over="ignore"):
        return column.to_numpy(zero_copy_only=False).astype(np.float32)


def _texts(table: pa.Table, name: str) -> np.ndarray:
    values = table[name].cast(_arrow().string()).to_pylist()
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

    def where(row: int) -> str:
        return f"{paths[files[row]]}:{lines[row]}"

    with _readable(paths[files[0]]):
        matrix = np.stack([_numbers(table, name) for name in roles.features], axis=1)
    finite = np.isfinite(matrix)
    if options.nan != "keep" and not finite.all():
        if options.nan == "error":
            row, column = np.argwhere(~finite)[0]
            raise DataError(
                f"{where(row)}: column {roles.features[column]!r}: expected a finite "
                f"float32, found {matrix[row, column]} or an empty cell. Use "
                "--nan=zero or --nan=keep to accept such values."
            )
        matrix[~finite] = 0
    labels = weights = None
    if roles.label:
        labels = _numbers(table, roles.label)
        if not options.require_label:
            labels = np.where(np.isnan(labels), np.float32(-1), labels)
        bad = ~(np.isfinite(labels) & (labels >= (0 if options.require_label else -1)))
        _refuse(bad, labels, roles.label, "a grade of 0 or more", where)
    if roles.weight:
        weights = _numbers(table, roles.weight)
        bad = ~(np.isfinite(weights) & (weights >= 0))
        _refuse(bad, weights, roles.weight, "a finite weight of 0 or more", where)
    firsts = splits[:-1]
    heads = table.take(firsts)
    queries = _texts(heads, roles.query)
    if (queries == "").any():
        row = int(firsts[np.flatnonzero(queries == "")[0]])
        raise DataError(
            f"{where(row)}: column {roles.query!r}: expected a query id, found an "
            "empty cell."
        )
    if roles.document:
        documents = _texts(table, roles.document)
    else:
        documents = np.array([str(line) for line in lines], object)
    lists = Lists(
        values={"float32": matrix},
        row_splits=splits,
        labels=labels,
        query_ids=queries,
        document_ids=documents,
        weights=weights,
        context={
            name: _context_values(heads, name, feature)
            for name, feature in roles.context.items()
        },
    )
    places = [(paths[files[row]], int(lines[row])) for row in firsts]
    return Parsed(lists, places)


def _context_values(table: pa.Table, name: str, feature: Feature) -> np.ndarray:
    """Returns `[lists, 1]` of the dtype of the feature."""
    if feature.dtype == "string":
        return _texts(table, name)[:, np.newaxis]
    if feature.dtype == "int64":
        column = table[name].cast(_arrow().int64()).combine_chunks().fill_null(0)
        return column.to_numpy(zero_copy_only=False)[:, np.newaxis]
    return np.nan_to_num(_numbers(table, name))[:, np.newaxis]


def _refuse(
    bad: np.ndarray, values: np.ndarray, column: str, expected: str, where: Any
) -> None:
    rows: Iterable[int] = np.flatnonzero(bad)
    for row in rows:
        raise DataError(
            f"{where(row)}: column {column!r}: expected {expected}, found "
            f"{values[row]}."
        )
