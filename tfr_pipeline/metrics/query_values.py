"""`QueryValues`: tables of `QueryTable` read again, query beside query."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfr_pipeline.data.sources.table_files import arrow
from tfr_pipeline.errors import DataError
from tfr_pipeline.metrics.bootstrap import ratio

if TYPE_CHECKING:
    import pyarrow as pa

SKIP, ZERO, ONE = "skip", "zero", "one"
CONVENTIONS = (SKIP, ZERO, ONE)
# Columns that `metrics.query_table` and `tfr_pipeline.choosing` write beside metrics.
KEYS = ("split", "task", "fold", "seed", "query")
# What is known of a query whatever ranks its documents.
_COUNTS = ("documents", "relevant", "label_sum")
_CLASSES = ("class", "predicted")


def read(path: str) -> pa.Table:
    """Reads a table that `QueryTable` wrote as Parquet.

    Raises:
      DataError: It is none.
    """
    pa = arrow()
    try:
        table = pa.parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: expected a Parquet file, found: {reason}") from error
    missing = [
        name for name in ("split", "task", "query") if name not in table.column_names
    ]
    if missing:
        raise DataError(
            f"{path}: expected a table with a row a query, as per_query.parquet of a "
            f"run is, found none with the column {missing[0]!r}."
        )
    return table


@dataclasses.dataclass(frozen=True)
class QueryValues:
    """What was measured of the queries of one split, by one task.

    Attributes:
      queries: object `[queries]`, ids.
      known: What is the same for all who rank these documents, `[queries]` by name:
        `documents`, `relevant` and `label_sum`, or `class`.
      values: float64 `[queries]` by metric; NaN where the convention `skip` leaves the
        query out.
      fold: int64 `[queries]`, the fold that a query was held out with, or None.
    """

    queries: np.ndarray
    known: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    fold: np.ndarray | None = None

    @classmethod
    def of(cls, table: pa.Table) -> QueryValues:
        """Returns the rows of a table, sorted by query.

        The lists of a query that has several, or of all that have no id, keep their
        order.

        Raises:
          DataError: See `read`.
        """
        columns = {name: _array(table, name) for name in table.column_names}
        queries = np.array([text or "" for text in columns["query"]], object)
        order = np.argsort(queries, kind="stable")
        known = {
            name: columns[name][order]
            for name in (*_COUNTS, _CLASSES[0])
            if name in columns
        }
        others = {*KEYS, *_COUNTS, *_CLASSES}
        values = {
            name: column[order].astype(np.float64)
            for name, column in columns.items()
            if name not in others and column.dtype.kind == "f"
        }
        fold = columns["fold"][order] if "fold" in columns else None
        return cls(queries[order], known, values, fold)

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.queries)

    def conventions(self, metric: str) -> tuple[str, ...]:
        """Returns the conventions under which a metric has a mean."""
        if metric == "arp" or "class" in self.known:
            return (SKIP,)
        return CONVENTIONS if metric.startswith("ndcg") else (SKIP, ZERO)

    def terms(self, metric: str, convention: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns what a mean over queries is made of, see `QueryMetrics.means`.

        Args:
          metric: Name of the metric.
          convention: One of `conventions(metric)`.

        Returns:
          float64 `[queries]` each: values times weights, and weights.
        """
        value = self.values[metric]
        defined = ~np.isnan(value)
        weight = np.ones(len(value))
        if metric == "arp" and "label_sum" in self.known:
            weight = self.known["label_sum"].astype(np.float64)
        if convention == SKIP:
            weight = np.where(defined, weight, 0.0)
        other = 1.0 if convention == ONE else 0.0
        return np.where(defined, value, other) * weight, weight

    def mean(self, metric: str, convention: str = SKIP) -> float | None:
        """Returns the mean over queries; None where no query defines it."""
        total, weight = (np.sum(part) for part in self.terms(metric, convention))
        found = float(ratio(np.array([total]), np.array([weight]))[0])
        return None if np.isnan(found) else found

    def difference(self, other: QueryValues) -> str:
        """Says how other queries, or other labels, differ; empty if they do not."""
        if self.queries.tolist() != other.queries.tolist():
            return _of_ids(self.queries.tolist(), other.queries.tolist())
        if self.known.keys() != other.known.keys():
            return (
                f"the one has {', '.join(self.known) or 'no counts'} of its queries, "
                f"the other {', '.join(other.known) or 'no counts'}"
            )
        for name, one in self.known.items():
            two = other.known[name]
            where = np.flatnonzero(~_equal(one, two))
            if len(where):
                first = where[0]
                word = {
                    "documents": "labelled documents",
                    "relevant": "relevant documents",
                    "label_sum": "as the sum of its labels",
                    "class": "as its class",
                }[name]
                return (
                    f"{len(where)} of {len(one)} queries have other documents or "
                    f"labels; query {self.queries[first]} has {one[first]} and "
                    f"{two[first]} {word}"
                )
        return ""

    def undefined_differently(self, other: QueryValues) -> str:
        """Says where only one of two measures the same queries; empty for nowhere.

        Args:
          other: Values of the same queries.
        """
        for name, one in self.values.items():
            two = other.values.get(name)
            if two is None:
                continue
            where = np.flatnonzero(np.isnan(one) != np.isnan(two))
            if len(where):
                return (
                    f"{name} of {len(where)} queries, such as "
                    f"{self.queries[where[0]]}, is undefined in one and a number in "
                    "the other: they were measured by other conventions"
                )
        return ""

    @staticmethod
    def mean_of(parts: Sequence[QueryValues]) -> QueryValues:
        """Returns the mean of what several made of the same queries.

        Args:
          parts: At least one, of the same queries and metrics.
        """
        first = parts[0]
        if len(parts) == 1:
            return first
        names = [name for name in first.values if all(name in p.values for p in parts)]
        values = {
            name: np.mean([part.values[name] for part in parts], axis=0)
            for name in names
        }
        return dataclasses.replace(first, values=values)


def by_task(table: pa.Table, split: str) -> Iterator[tuple[str, pa.Table]]:
    """Yields the name of each task, and its rows of a split."""
    compute = arrow().compute
    rows = table.filter(compute.equal(table["split"], split))
    if "task" not in rows.column_names:
        yield "", rows
        return
    for task in rows["task"].unique().to_pylist():
        yield task or "", rows.filter(compute.equal(rows["task"], task))


def by_seed(rows: pa.Table) -> list[QueryValues]:
    """Returns what each seed has measured, of the same queries.

    Args:
      rows: Rows of one split and task; without a column `seed` they are of one seed.

    Raises:
      DataError: Seeds have measured other queries.
    """
    if "seed" not in rows.column_names:
        return [QueryValues.of(rows)]
    compute = arrow().compute
    seeds = sorted(rows["seed"].unique().to_pylist())
    found = [
        QueryValues.of(rows.filter(compute.equal(rows["seed"], seed))) for seed in seeds
    ]
    for seed, values in zip(seeds, found, strict=True):
        problem = found[0].difference(values)
        if problem:
            raise DataError(
                f"per_query.parquet: expected the same queries of seed {seeds[0]} and "
                f"seed {seed}, found that {problem}."
            )
    return found


def _array(table: pa.Table, name: str) -> np.ndarray:
    found: np.ndarray = table[name].to_numpy()
    return found


def _equal(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    if one.dtype.kind == "f" or two.dtype.kind == "f":
        close: np.ndarray = np.isclose(one, two, rtol=1e-6, atol=1e-9, equal_nan=True)
        return close
    return np.asarray(one == two)


def _of_ids(one: list[Any], two: list[Any]) -> str:
    only = [sorted({*a} - {*b}) for a, b in ((one, two), (two, one))]
    parts = [f"the one has {len(one)} queries, the other {len(two)}"]
    for names, which in zip(only, ("one", "other"), strict=True):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            parts.append(f"only the {which} has {str(names[0])[:60]}{more}")
    return "; ".join(parts)
