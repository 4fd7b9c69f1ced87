"""The quality of a model on parts of the queries."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfr_pipeline.errors import DataError
from tfr_pipeline.metrics.bootstrap import intervals

# So many different values are slices of their own; of more, four with as many queries.
_VALUES = 6
_PARTS = 4
_SHOWN = 8  # of texts


@dataclasses.dataclass(frozen=True)
class Slice:
    """Some queries.

    Attributes:
      name: Which values they have.
      queries: How many of them count, which have a relevant document.
      mean: Mean of the metric; None where none count.
      interval: Its 95% bootstrap interval; None below two queries.
    """

    name: str
    queries: int
    mean: float | None
    interval: tuple[float, float] | None


def slices(
    metric: Any, by: Any, *, bootstrap: int = 1000, seed: int = 0
) -> list[Slice]:
    """Returns the mean of a metric for queries with like values of something.

    Up to six different numbers are slices of their own; more are cut where four slices
    have about as many queries. Texts are slices of their own, the most frequent eight,
    and the others together.

    Args:
      metric: `[queries]`, such as `QueryMetrics.skip("ndcg@10")`; NaN for queries that
        do not count.
      by: `[queries]`, numbers or texts: the lengths of lists, a query feature.
      bootstrap: Number of resamples of the queries.
      seed: Seed of the resampling.

    Raises:
      DataError: There are not as many of the one as of the other.

    Example:
      >>> found = slices([1.0, 0.5, 0.0], [10, 20, 20])
      >>> [(one.name, one.queries, one.mean) for one in found]
      [('10', 1, 1.0), ('20', 2, 0.25)]
    """
    metric, by = np.asarray(metric, np.float64), np.asarray(by)
    if metric.shape != by.shape or metric.ndim != 1:
        raise DataError(
            "slices: expected as many values as queries, found "
            f"{list(by.shape)} and {list(metric.shape)}."
        )
    names, members = _numbers(by) if by.dtype.kind in "iufb" else _texts(by)
    return [
        _slice(name, metric[some], bootstrap, seed)
        for name, some in zip(names, members, strict=True)
    ]


def _slice(name: str, metric: np.ndarray, bootstrap: int, seed: int) -> Slice:
    metric = metric[~np.isnan(metric)]
    if len(metric) < 2:
        mean = float(metric[0]) if len(metric) else None
        return Slice(name, len(metric), mean, None)
    ends = intervals(metric[:, np.newaxis], np.ones((len(metric), 1)), bootstrap, seed)
    low, high = (float(end[0]) for end in ends)
    return Slice(name, len(metric), float(metric.mean()), (low, high))


def _numbers(by: np.ndarray) -> tuple[Sequence[str], Sequence[np.ndarray]]:
    missing = np.isnan(by.astype(np.float64))
    values = np.unique(by[~missing])
    if len(values) <= _VALUES:
        names, members = [f"{value:g}" for value in values], [by == v for v in values]
    else:
        inner = np.quantile(by[~missing], np.arange(1, _PARTS) / _PARTS)
        # Cuts are values that occur: a slice has those above one, up to the next.
        cuts = np.unique(values[np.searchsorted(values, inner)])
        cuts = cuts[cuts < values[-1]]
        part = np.where(missing, -1, np.searchsorted(cuts, by))
        members = [part == i for i in range(len(cuts) + 1)]
        names = [_range(by[some].min(), by[some].max()) for some in members]
    if missing.any():
        names, members = [*names, "missing"], [*members, missing]
    return names, members


def _range(low: Any, high: Any) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _texts(by: np.ndarray) -> tuple[Sequence[str], Sequence[np.ndarray]]:
    plain = np.array(
        [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in by],
        object,
    )
    values, counts = np.unique(plain.astype(str), return_counts=True)
    often = values[np.argsort(-counts, kind="stable")][:_SHOWN]
    names, members = list(often), [plain == value for value in often]
    if len(values) > len(often):
        others = len(values) - len(often)
        names.append(f"{others} others")
        members.append(~np.isin(plain.astype(str), often))
    return names, members
