"""`QueryTable`: what was measured of each query, as a file with a row a query.

Undefined metrics are null in Parquet and empty in TSV: those of queries that the
convention `skip` leaves out. So the mean of the values that are there is `skip`, and
with 0 or 1 in place of the others it is `zero` or `one`. The mean of `arp` is weighted
by `label_sum`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfr_pipeline import files
from tfr_pipeline.data.sources.table_files import arrow
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.metrics.classification import ClassMetrics
from tfr_pipeline.metrics.evaluation import QueryMetrics

if TYPE_CHECKING:
    import pyarrow as pa

AnyMetrics = QueryMetrics | ClassMetrics
# What a run directory has.
FILE_NAME = "per_query.parquet"
_SUFFIXES = (".parquet", ".tsv")
_ROWS = 1 << 16  # that are text at once
_BREAKS = re.compile(r"[\t\n\r]")


def check_suffix(path: str, what: str) -> None:
    """Raises a ConfigError unless a name says of which kind the file is to be.

    Args:
      path: Where a table will be written.
      what: How the message calls it, such as `--per_query`.
    """
    if os.path.splitext(path)[1] not in _SUFFIXES:
        raise ConfigError(
            f"{what}: expected a name that ends in {' or '.join(_SUFFIXES)}, found "
            f"{path!r}."
        )


class QueryTable:
    """Rows of queries, of any number of splits and tasks, in the order of the data.

    Columns: `split`, `task` (empty where there is but one), `query`, `documents`,
    `relevant`, `label_sum`, then the metrics; see `QueryMetrics`. Examples of classes
    have `class` and `predicted` instead of these three; see `ClassMetrics`.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[str, str, Sequence[str], AnyMetrics]] = []

    def __bool__(self) -> bool:
        """Whether it has rows."""
        return bool(self._parts)

    def add(
        self, split: str, task: str, query_ids: Sequence[str], metrics: AnyMetrics
    ) -> None:
        """Adds the queries of a split, as one task measures them.

        Args:
          split: Name of the split.
          task: Name of the task; empty for the only one.
          query_ids: `[lists]`.
          metrics: What was measured, of as many lists.
        """
        self._parts.append((split, task, query_ids, metrics))

    def write(self, path: str) -> None:
        """Writes a file, whole or not at all: Parquet or TSV, as its suffix says.

        Raises:
          ConfigError: It has another suffix.
          DataError: A query id would break a line of TSV.
        """
        check_suffix(path, "path")
        as_text = path.endswith(".tsv")
        with files.replacing(path) as temporary:
            (self._write_tsv if as_text else self._write_parquet)(temporary)

    def _tables(self) -> Iterator[pa.Table]:
        pa = arrow()
        for split, task, query_ids, metrics in self._parts:
            count = len(metrics.documents)
            kinds = {"i": pa.int64, "f": pa.float64, "O": pa.string}
            columns: dict[str, Any] = {
                "split": pa.repeat(pa.scalar(split, pa.string()), count),
                "task": pa.repeat(pa.scalar(task, pa.string()), count),
                "query": pa.array(np.asarray(query_ids, object), pa.string()),
            }
            for name, values in metrics.columns().items():
                columns[name] = pa.array(values, kinds[values.dtype.kind]())
            for name in metrics.values:
                # NaN becomes null.
                values = pa.array(metrics.skip(name), pa.float64(), from_pandas=True)
                columns[name] = values
            yield pa.table(columns)

    def _write_parquet(self, path: str) -> None:
        writer = None
        try:
            for table in self._tables():
                if writer is None:
                    writer = arrow().parquet.ParquetWriter(path, table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()

    def _write_tsv(self, path: str) -> None:
        header = False
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            for table in self._tables():
                if not header:
                    file.write("\t".join(table.column_names) + "\n")
                    header = True
                for start in range(0, table.num_rows, _ROWS):
                    part = table.slice(start, _ROWS).to_pydict()
                    _check_ids(part["query"])
                    texts = [[_text(v) for v in column] for column in part.values()]
                    for row in zip(*texts, strict=True):
                        file.write("\t".join(row) + "\n")


def _text(value: Any) -> str:
    """Returns a cell; the shortest text of a number that reads as the same number."""
    return "" if value is None else str(value)


def _check_ids(names: list[str]) -> None:
    bad = next((name for name in names if _BREAKS.search(name)), None)
    if bad is not None:
        raise DataError(
            f"query id {bad[:60]!r}: expected an id without tab and line end, which "
            "separate the fields of TSV. Write .parquet, or give it another id."
        )
