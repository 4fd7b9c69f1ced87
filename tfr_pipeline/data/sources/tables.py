"""CSV, TSV and Parquet to `Lists`, through pyarrow."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from tfr_pipeline.data.sources import table_files, table_groups
from tfr_pipeline.data.sources.column_types import arrow
from tfr_pipeline.data.sources.libsvm import Parsed
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.table_columns import Columns, find_columns
from tfr_pipeline.data.sources.table_files import FILE
from tfr_pipeline.data.sources.table_lists import to_lists
from tfr_pipeline.data.stored import refuse_stored
from tfr_pipeline.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

# Elements of the dense matrix yielded at once, unless one list has more.
_BLOCK_ELEMENTS = 1 << 22


def columns(path: str, input_format: str, options: Options) -> Columns:
    """Finds the columns of a file and their roles; see `find_columns`."""
    with table_files.readable(path):
        if input_format == "parquet":
            refuse_stored(path, "Parquet")
            schema = arrow().parquet.read_schema(path)
        else:
            schema = table_files.csv_schema(path, input_format)
    sample = functools.partial(table_files.sample, path, input_format)
    typed = input_format == "parquet"
    return find_columns(schema, path, options, sample, typed=typed)


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
        other = columns(path, input_format, _as_before(options, roles))
        if list(other.used.items()) != list(roles.used.items()):
            wrong = sorted(set(roles.used) ^ set(other.used)) or list(other.used)
            raise DataError(
                f"{path}: expected the columns of {first}, found others: "
                f"{', '.join(wrong[:10])}. Name the columns with --feature_columns."
            )

    def tables() -> Iterator[pa.Table]:
        for file, path in enumerate(paths):
            yield from table_files.batches(path, file, input_format, roles)

    if roles.query is None:
        whole = table_groups.each_row(tables())
    elif options.group_by_query:
        whole = table_groups.grouped(tables, roles.query, options.work_dir)
    else:
        whole = table_groups.contiguous(tables(), roles.query)
    sizes = np.concatenate([[0], np.cumsum([os.path.getsize(p) for p in paths])])
    limit = max(1, _BLOCK_ELEMENTS // len(roles.used))
    for table, splits in table_groups.pieces(whole, limit):
        if table.num_rows:
            parsed = to_lists(table, splits, paths, roles, options)
            last = int(table[FILE][table.num_rows - 1].as_py())
            yield dataclasses.replace(parsed, bytes_read=int(sizes[last]))


def _as_before(options: Options, roles: Columns) -> Options:
    """Returns how to read a file that is to have the columns of another."""
    named = (*roles.features, *roles.others) if options.feature_columns else ()
    return dataclasses.replace(
        options, types={}, known=roles.used, feature_columns=named
    )


def labels(paths: list[str], input_format: str, roles: Columns) -> Iterator[str]:
    """Yields the cells of the column of the label, as text."""
    (name,) = roles.labels
    alone = Columns((name,), None, None, None, (), {}, classes=True)
    for file, path in enumerate(paths):
        for table in table_files.batches(path, file, input_format, alone):
            yield from table[name].fill_null("").to_pylist()
