"""CSV, TSV and Parquet files as Arrow tables whose rows know their place."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tfr_pipeline.data.sources.opening import open_binary
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Feature

if TYPE_CHECKING:
    import pyarrow as pa

# Columns added to every table: where a row stands.
FILE, LINE = "__file__", "__line__"
_BLOCK_BYTES = 4 << 20
_BLOCK_ELEMENTS = 1 << 22  # of the dense matrix of one Parquet batch


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which column plays which role; None where there is none.

    `ignored` are columns without a role that are not numeric.
    """

    labels: tuple[str, ...]
    query: str
    document: str | None
    weight: str | None
    features: tuple[str, ...]
    context: dict[str, Feature]
    ignored: tuple[str, ...] = ()

    @property
    def used(self) -> list[str]:
        """All columns that are read."""
        optional = (self.document, self.weight)
        names = [self.query, *self.labels, *(name for name in optional if name)]
        return [*names, *self.context, *self.features]


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


def _csv_options(input_format: str) -> dict[str, Any]:
    pa = arrow()
    return {
        "read_options": pa.csv.ReadOptions(block_size=_BLOCK_BYTES),
        "parse_options": pa.csv.ParseOptions(
            delimiter="\t" if input_format == "tsv" else ","
        ),
    }


def csv_schema(path: str, input_format: str) -> pa.Schema:
    """Returns the columns of a CSV or TSV file; types by its first block."""
    pa = arrow()
    with open_binary(path) as (content, _):
        # Whole lines of the first block are enough to infer the types.
        head = content.read(_BLOCK_BYTES)
        head = head[: head.rfind(b"\n") + 1] or head
    if not head.strip():
        raise DataError(f"{path}: expected a header line, found an empty file.")
    options = _csv_options(input_format)
    # Reading the rows reports the bad ones, with their lines.
    options["parse_options"].invalid_row_handler = lambda row: "skip"
    return pa.csv.read_csv(io.BytesIO(head), **options).schema


def batches(
    path: str, file: int, input_format: str, roles: Columns
) -> Iterator[pa.Table]:
    """Yields the used columns of a file in batches, with `FILE` and `LINE`."""
    pa = arrow()
    is_parquet = input_format == "parquet"
    done = 1 if is_parquet else 2  # number of the first row; a CSV has a header line
    read = _parquet_batches if is_parquet else _csv_batches
    for batch in read(path, input_format, roles):
        table = pa.Table.from_batches([batch])
        rows = table.num_rows
        table = table.append_column(FILE, pa.array(np.full(rows, file, np.int32)))
        table = table.append_column(LINE, pa.array(np.arange(done, done + rows)))
        done += rows
        yield table


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


def _parquet_batches(path: str, _: str, roles: Columns) -> Iterator[pa.RecordBatch]:
    pa = arrow()
    size = max(256, _BLOCK_ELEMENTS // len(roles.used))
    types = _types(roles)
    with readable(path):
        with pa.parquet.ParquetFile(path) as content:
            for batch in content.iter_batches(batch_size=size, columns=roles.used):
                arrays = [
                    _cast(path, name, batch.column(name), kind)
                    for name, kind in types.items()
                ]
                yield pa.RecordBatch.from_arrays(arrays, names=list(types))


def _cast(path: str, name: str, values: pa.Array, kind: pa.DataType) -> pa.Array:
    pa = arrow()
    try:
        if pa.types.is_decimal(values.type) and pa.types.is_floating(kind):
            values = values.cast(pa.float64())
        # Unsafe: the float32 nearest to a large whole number is what is wanted.
        return values.cast(kind, safe=not pa.types.is_floating(kind))
    except pa.ArrowException as error:
        raise DataError(
            f"{path}: column {name!r}: expected values that fit {kind}, found "
            f"{values.type} ({error})."
        ) from error


def _csv_batches(
    path: str, input_format: str, roles: Columns
) -> Iterator[pa.RecordBatch]:
    pa = arrow()
    convert = pa.csv.ConvertOptions(
        column_types=_types(roles), include_columns=roles.used
    )
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
    numeric = [*roles.features, *roles.labels, *filter(None, [roles.weight])]
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
