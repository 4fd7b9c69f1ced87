"""CSV, TSV and Parquet files as Arrow tables whose rows know their place."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tfr_pipeline.data import ids
from tfr_pipeline.data.sources import csv_files
from tfr_pipeline.data.sources.csv_files import Block
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Feature

if TYPE_CHECKING:
    import pyarrow as pa

# Columns added to every table: where a row stands.
FILE, LINE = "__file__", "__line__"
_BLOCK_ELEMENTS = 1 << 22  # of the dense matrix of one Parquet batch


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which column plays which role; None where there is none.

    `ignored` are columns without a role that are not numeric, `index` numeric ones
    that are the row numbers of pandas.
    """

    labels: tuple[str, ...]
    query: str
    document: str | None
    weight: str | None
    features: tuple[str, ...]
    context: dict[str, Feature]
    ignored: tuple[str, ...] = ()
    index: tuple[str, ...] = ()

    @property
    def used(self) -> list[str]:
        """All columns that are read."""
        optional = (self.document, self.weight)
        names = [self.query, *self.labels, *(name for name in optional if name)]
        return [*names, *self.context, *self.features]

    def role(self, name: str) -> str:
        """Returns `query` or `document` for the column of its ids, else nothing."""
        return {self.query: "query", self.document: "document"}.get(name, "")


def arrow() -> Any:
    """Returns `pyarrow` with the modules used here.

    Raises:
      ConfigError: It is missing or does not work.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            f"CSV, TSV and Parquet need a working pyarrow ({error}). "
            "Install it with: pip install pyarrow"
        ) from error
    return pyarrow


@contextlib.contextmanager
def readable(path: str) -> Iterator[None]:
    """Turns errors of pyarrow into `DataError` with the file."""
    pa = arrow()
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read: {reason}") from error


def _parse(block: Block, convert: Any = None) -> pa.Table:
    pa = arrow()
    return pa.csv.read_csv(
        pa.BufferReader(block.text),
        pa.csv.ReadOptions(
            column_names=block.names, block_size=max(1 << 10, len(block.text))
        ),
        pa.csv.ParseOptions(delimiter=block.delimiter, newlines_in_values=True),
        convert,
    )


def csv_schema(path: str, input_format: str) -> pa.Schema:
    """Returns the columns of a CSV or TSV file; types by its first block."""
    pa = arrow()
    block = next(csv_files.blocks(path, input_format))
    with readable(path):
        try:
            return _schema(block)
        except pa.ArrowException:
            # Reading the rows reports those of another length, with their lines. A
            # handler of pyarrow's would get them as text, which they need not be.
            return _schema(dataclasses.replace(block, text=_whole_rows(block)))


def _schema(block: Block) -> pa.Schema:
    pa = arrow()
    if not block.text.strip():
        return pa.schema([(name, pa.null()) for name in block.names])
    return _parse(block).schema


def _whole_rows(block: Block) -> bytes:
    """Returns the rows that have as many cells as the header."""
    starts = block.starts()[0].tolist()
    rows = [
        block.text[start:end]
        for start, end in zip(starts, [*starts[1:], None], strict=True)
    ]
    size = len(block.names)
    return b"".join(r for r in rows if len(csv_files.split(r, block.delimiter)) == size)


def batches(
    path: str, file: int, input_format: str, roles: Columns
) -> Iterator[pa.Table]:
    """Yields the used columns of a file in batches, with `FILE` and `LINE`."""
    pa = arrow()
    read = _parquet_batches if input_format == "parquet" else _csv_batches
    for table, lines in read(path, input_format, roles):
        files = np.full(table.num_rows, file, np.int32)
        table = table.append_column(FILE, pa.array(files))
        yield table.append_column(LINE, pa.array(lines))


def _types(roles: Columns) -> dict[str, pa.DataType]:
    """Returns the type in which each column is delivered, whatever the file has."""
    pa = arrow()
    kinds = {"float32": pa.float32(), "int64": pa.int64(), "string": pa.string()}
    types = dict.fromkeys(roles.used, pa.float32())
    types |= {name: kinds[feature.dtype] for name, feature in roles.context.items()}
    types[roles.query] = pa.string()
    if roles.document:
        types[roles.document] = pa.string()
    return types


def _parquet_batches(
    path: str, _: str, roles: Columns
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    pa = arrow()
    size = max(256, _BLOCK_ELEMENTS // len(roles.used))
    types = _types(roles)
    done = 1  # number of the first row
    with readable(path):
        with pa.parquet.ParquetFile(path) as content:
            for batch in content.iter_batches(batch_size=size, columns=roles.used):
                arrays = [
                    _cast(path, done, roles.role(name), name, batch.column(name), kind)
                    for name, kind in types.items()
                ]
                table = pa.Table.from_arrays(arrays, names=list(types))
                yield table, np.arange(done, done + table.num_rows)
                done += table.num_rows


def _cast(
    path: str, first: int, role: str, name: str, values: pa.Array, kind: pa.DataType
) -> pa.Array:
    pa = arrow()
    is_float = pa.types.is_floating(values.type)
    try:
        if pa.types.is_decimal(values.type) and pa.types.is_floating(kind):
            values = values.cast(pa.float64())
        if is_float and pa.types.is_string(kind):
            # The id NaN is none: pandas writes missing ids so.
            values = pa.compute.if_else(pa.compute.is_nan(values), None, values)
        # Unsafe: the float32 nearest to a large whole number is what is wanted.
        cast = values.cast(kind, safe=not pa.types.is_floating(kind))
        cast.validate(full=True)  # text that is not UTF-8
    except pa.ArrowException as error:
        if pa.types.is_string(kind) and not pa.types.is_nested(values.type):
            for row, raw in enumerate(values.cast(pa.binary()).to_pylist(), first):
                place = functools.partial("{}:{}: column {!r}".format, path, row, name)
                ids.decode(raw or b"", role, place)
        raise DataError(
            f"{path}: column {name!r}: expected values that fit {kind}, found "
            f"{values.type} ({error})."
        ) from error
    return cast


def _csv_batches(
    path: str, input_format: str, roles: Columns
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    pa = arrow()
    wanted = _types(roles)
    schema = csv_schema(path, input_format)
    # pyarrow makes no number of true and false.
    stored = {
        name: pa.bool_()
        if pa.types.is_boolean(schema.field(name).type) and not pa.types.is_string(kind)
        else kind
        for name, kind in wanted.items()
    }
    for block in csv_files.blocks(path, input_format):
        if block.padded:
            stored[""] = pa.null()  # so that anything there is an error
        convert = pa.csv.ConvertOptions(
            column_types=stored, include_columns=list(stored)
        )
        if not block.text.strip():
            continue
        _, lines = block.starts()
        try:
            table = _parse(block, convert)
        except pa.ArrowException as error:
            raise _explained(block, stored, roles, error) from None
        if table.num_rows != len(lines):
            raise _explained(block, stored, roles, "a carriage return within a row")
        columns = [table[name].cast(kind) for name, kind in wanted.items()]
        yield pa.Table.from_arrays(columns, names=list(wanted)), lines


def _explained(
    block: Block, types: dict[str, pa.DataType], roles: Columns, reason: object
) -> DataError:
    """Returns the error that names line and column of the first bad cell."""
    pa = arrow()
    lines: list[int] = []
    cells: dict[str, list[bytes]] = {name: [] for name in types}
    positions = {name: block.names.index(name) for name in types if name}
    if "" in types:
        positions[""] = len(block.names) - 1
    for line, row in block.rows():
        if len(row) != len(block.names):
            return DataError(
                f"{block.path}:{line}: expected {len(block.names)} cells, as the "
                f"header has, found {len(row)}."
            )
        lines.append(line)
        for name, position in positions.items():
            cells[name].append(row[position])
    bad, column = len(lines), ""
    for name, kind in types.items():
        good, rows = 0, bad  # the first bad cell of this column, if before the others'
        if _fits(cells[name][:bad], kind):
            continue
        while rows - good > 1:
            middle = (good + rows) // 2
            if _fits(cells[name][:middle], kind):
                good = middle
            else:
                rows = middle
        bad, column = good, name
    if bad == len(lines):
        text = " ".join(str(reason).split())
        return DataError(
            f"{block.path}: lines {lines[0]} to {lines[-1]} cannot be read: {text}."
        )
    where, cell = f"{block.path}:{lines[bad]}: column {column!r}", cells[column][bad]
    kind = types[column]
    if pa.types.is_string(kind):
        return ids.not_utf8(cell, roles.role(column), where)
    expected = {"bool": "true or false", "int64": "a whole number", "null": "nothing"}
    return DataError(
        f"{where}: expected {expected.get(str(kind), 'a number')}, found "
        f"{cell[:60].decode('utf-8', 'replace')!r}."
    )


def _fits(cells: list[bytes], kind: pa.DataType) -> bool:
    """Whether pyarrow reads all cells as this type."""
    if not cells:  # which are no text to it, rather than a text without rows
        return True
    pa = arrow()
    text = b"\n".join([b'"' + cell.replace(b'"', b'""') + b'"' for cell in cells])
    block = Block(text, "", 1, ("cells",), ",")
    try:
        _parse(block, pa.csv.ConvertOptions(column_types={"cells": kind}))
    except pa.ArrowException:
        return False
    return True
