"""Arrow tables cut at queries: as they come, or grouped in bounded memory."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from tfr_pipeline.data.sources import grouping

if TYPE_CHECKING:
    import pyarrow as pa

# A table of whole lists and its row splits, int64 `[lists + 1]`.
Whole = tuple["pa.Table", np.ndarray]


def _starts(table: pa.Table, query: str) -> np.ndarray:
    """Returns the rows at which a query begins."""
    codes = table[query].combine_chunks().dictionary_encode("encode").indices
    codes = codes.to_numpy(zero_copy_only=False)
    return np.flatnonzero(np.diff(codes, prepend=-1))


def contiguous(tables: Iterable[pa.Table], query: str) -> Iterator[Whole]:
    """Cuts a stream of tables where a query ends.

    Args:
      tables: Tables with the same columns.
      query: Name of the text column with the query id.
    """
    import pyarrow as pa

    carried: list[pa.Table] = []
    for table in tables:
        if not table.num_rows:
            continue
        whole = pa.concat_tables([*carried, table]).combine_chunks()
        starts = _starts(whole, query)
        cut = int(starts[-1])
        if cut:
            yield whole.slice(0, cut), starts
        carried = [whole.slice(cut)]
    for table in carried:
        yield table, np.array([0, table.num_rows])


def each_row(tables: Iterable[pa.Table]) -> Iterator[Whole]:
    """Cuts a stream of tables after every row."""
    for table in tables:
        yield table, np.arange(table.num_rows + 1)


def pieces(tables: Iterable[Whole], limit: int) -> Iterator[Whole]:
    """Cuts tables of whole lists to about `limit` rows, or one list if it has more."""
    for table, splits in tables:
        start = 0
        while start < len(splits) - 1:
            last = int(np.searchsorted(splits, splits[start] + limit, "right")) - 1
            stop = max(start + 1, last)
            first, end = int(splits[start]), int(splits[stop])
            yield table.slice(first, end - first), splits[start : stop + 1] - first
            start = stop


def together(table: pa.Table, query: str) -> Whole:
    """Brings the rows of each query of one table together; see `grouping` for order."""
    codes = table[query].combine_chunks().dictionary_encode("encode").indices
    codes = codes.to_numpy(zero_copy_only=False)
    if (np.diff(codes) < 0).any():
        table = table.take(np.argsort(codes, kind="stable"))
    lengths = np.bincount(codes)
    return table, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def grouped(
    tables: Callable[[], Iterable[pa.Table]],
    query: str,
    folder: str | None = None,
) -> Iterator[Whole]:
    """Brings the rows of each query together; see `grouping` for order and memory.

    Args:
      tables: Starts the stream of tables; called twice.
      query: Name of the text column with the query id.
      folder: Where to put the bucket files; a temporary folder by default.
    """
    import pyarrow as pa

    sizes: dict[bytes, int] = {}
    for table in tables():
        row_bytes = table.nbytes // max(1, table.num_rows)
        for name in table[query].to_pylist():
            key = (name or "").encode()
            sizes[key] = sizes.get(key, 0) + row_bytes
    bucket_of = grouping.assign_buckets(sizes)
    order = {name: position for position, name in enumerate(sizes)}
    count = max(bucket_of.values(), default=-1) + 1
    with tempfile.TemporaryDirectory(prefix=".grouped.", dir=folder) as temporary:
        names = [os.path.join(temporary, str(bucket)) for bucket in range(count)]
        with contextlib.ExitStack() as stack:
            writers: dict[int, pa.RecordBatchFileWriter] = {}
            for table in tables():
                keys = [(name or "").encode() for name in table[query].to_pylist()]
                buckets = np.array([bucket_of[key] for key in keys], np.int64)
                for bucket in np.unique(buckets).tolist():
                    if bucket not in writers:
                        writers[bucket] = stack.enter_context(
                            pa.ipc.new_file(names[bucket], table.schema)
                        )
                    rows = np.flatnonzero(buckets == bucket)
                    writers[bucket].write_table(table.take(rows))
        for name in names:
            with pa.ipc.open_file(name) as reader:
                table = reader.read_all()
            positions = [order[(n or "").encode()] for n in table[query].to_pylist()]
            table = table.take(np.argsort(positions, kind="stable")).combine_chunks()
            yield table, np.append(_starts(table, query), table.num_rows)
            os.remove(name)
