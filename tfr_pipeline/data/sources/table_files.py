"""CSV, TSV and Parquet files as Arrow tables whose rows know their place."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tfr_pipeline.data.sources import csv_files
from tfr_pipeline.data.sources.column_types import (
    SAMPLED,
    arrow,
    arrow_type,
    has_items,
    of_arrow,
)
from tfr_pipeline.data.sources.csv_files import Block
from tfr_pipeline.data.sources.table_columns import Columns
from tfr_pipeline.data.sources.table_values import (
    cast,
    expected_of,
    first_bad,
    not_utf8,
    remedy,
)
from tfr_pipeline.errors import DataError
from tfr_pipeline.features import Feature

if TYPE_CHECKING:
    import pyarrow as pa

# Columns added to every table: where a row stands.
FILE, LINE = "__file__", "__line__"
_BLOCK_ELEMENTS = 1 << 22  # of the dense matrix of one Parquet batch


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


def sample(path: str, input_format: str, name: str) -> Any:
    """Returns some of the first values of a column, of text as they are written."""
    pa = arrow()
    if input_format == "parquet":
        with readable(path), pa.parquet.ParquetFile(path) as content:
            batches = content.iter_batches(batch_size=SAMPLED, columns=[name])
            first = next(batches, None)
            if first is None:
                return pa.array([], content.schema_arrow.field(name).type)
            return first.column(name)
    block = next(csv_files.blocks(path, input_format))
    text = pa.csv.ConvertOptions(
        column_types={name: pa.string()}, include_columns=[name]
    )
    if not block.text.strip():
        return pa.array([], pa.string())
    with readable(path):
        try:
            found = _parse(block, text)[name]
        except pa.ArrowException:
            # As above: what is wrong with the others is said when they are read.
            whole = dataclasses.replace(block, text=_whole_rows(block))
            found = _parse(whole, text)[name]
    return found.slice(0, SAMPLED)


def _parquet_batches(
    path: str, _: str, roles: Columns
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    pa = arrow()
    used = roles.used
    size = max(256, _BLOCK_ELEMENTS // len(used))
    done = 1  # number of the first row
    with readable(path):
        with pa.parquet.ParquetFile(path) as content:
            for batch in content.iter_batches(batch_size=size, columns=list(used)):
                place = functools.partial("{}:{}: column {!r}".format, path)
                arrays = [
                    cast(
                        batch.column(name), name, feature, roles.role(name), done, place
                    )
                    for name, feature in used.items()
                ]
                table = pa.Table.from_arrays(arrays, names=list(used))
                yield table, np.arange(done, done + table.num_rows)
                done += table.num_rows


def _csv_batches(
    path: str, input_format: str, roles: Columns
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    pa = arrow()
    used = roles.used
    schema = csv_schema(path, input_format)
    stored = {
        name: _parsed_as(feature, schema.field(name).type)
        for name, feature in used.items()
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
        place = functools.partial(_place_of, path, lines)
        columns = [
            cast(table[name], name, feature, roles.role(name), 0, place)
            for name, feature in used.items()
        ]
        yield pa.Table.from_arrays(columns, names=list(used)), lines


def _place_of(path: str, lines: np.ndarray, row: int, column: str) -> str:
    return f"{path}:{lines[row]}: column {column!r}"


def _parsed_as(feature: Feature, found: pa.DataType) -> pa.DataType:
    """Returns what pyarrow takes the cells of a column for.

    Args:
      feature: What it becomes.
      found: What the first rows look like.
    """
    pa = arrow()
    if feature.types == ("date",):
        return found if of_arrow(found) == "date" else pa.timestamp("us")
    if has_items(feature):
        return pa.string()
    # pyarrow makes no number of true and false.
    boolean = pa.types.is_boolean(found) or feature.types == ("boolean",)
    return pa.bool_() if boolean and feature.dtype != "string" else arrow_type(feature)


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
        # The first bad cell of this column, if before the others'.
        if _fits(cells[name][:bad], kind):
            continue
        fits = functools.partial(_fits_first, cells[name], kind)
        bad, column = first_bad(fits, bad), name
    if bad == len(lines):
        text = " ".join(str(reason).split())
        return DataError(
            f"{block.path}: lines {lines[0]} to {lines[-1]} cannot be read: {text}."
        )
    where, cell = f"{block.path}:{lines[bad]}: column {column!r}", cells[column][bad]
    kind = types[column]
    if pa.types.is_string(kind):
        return not_utf8(cell, roles.role(column), where)
    shown = repr(cell[:60].decode("utf-8", "replace"))
    if column not in roles.used:
        return DataError(f"{where}: expected nothing, found {shown}.")
    feature = roles.used[column]
    expected = "true or false" if pa.types.is_boolean(kind) else expected_of(feature)
    return DataError(
        f"{where}: expected {expected}, found {shown}. "
        f"{remedy(column, feature, roles.role(column))}".rstrip()
    )


def _fits_first(cells: list[bytes], kind: pa.DataType, rows: int) -> bool:
    return _fits(cells[:rows], kind)


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
