"""Where one model ranks better than another: wins and losses by query."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfr_pipeline.errors import DataError
from tfr_pipeline.metrics.paired import Metrics, paired_differences, same_labels

# Differences below this are rounding.
_EQUAL = 1e-9


class NothingToCompareError(DataError):
    """No query counts."""


@dataclasses.dataclass(frozen=True)
class QueryComparison:
    """Two models on the same queries.

    Attributes:
      metric: Name of what they are compared by.
      query_ids: object `[queries]`, those that count, the largest win first and the
        largest loss last.
      of_model: float64 `[queries]`, the metric of the one.
      of_baseline: float64 `[queries]`, that of the other.
      documents: int64 `[queries]`, documents with a label.
      mean: Mean difference, positive where the model is better.
      interval: Its 95% interval over paired queries; None of one query alone.
    """

    metric: str
    query_ids: np.ndarray
    of_model: np.ndarray
    of_baseline: np.ndarray
    documents: np.ndarray
    mean: float
    interval: tuple[float, float] | None

    @property
    def differences(self) -> np.ndarray:
        """float64 `[queries]`, falling."""
        return self.of_model - self.of_baseline

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many queries were won, lost, and neither."""
        wins = int((self.differences > _EQUAL).sum())
        losses = int((self.differences < -_EQUAL).sum())
        return wins, losses, len(self.differences) - wins - losses


def compare_queries(
    model: Metrics,
    baseline: Metrics,
    query_ids: Any,
    baseline_ids: Any = None,
    metric: str = "ndcg@10",
) -> QueryComparison:
    """Compares what was measured of two models, query by query.

    Args:
      model: What was measured of the one.
      baseline: What was measured of the other.
      query_ids: `[lists]`.
      baseline_ids: `[lists]` of the other; by default the same.
      metric: Name of what is compared.

    Raises:
      DataError: They were not measured on the same queries.
      NothingToCompareError: No query counts.

    Example:
      >>> from tfr_pipeline.metrics.evaluation import QueryMetrics
      >>> good, bad = (
      ...     QueryMetrics.of([1.0, 0.0], scores, [0, 2])
      ...     for scores in ([2.0, 1.0], [1.0, 2.0]))
      >>> compare_queries(good, bad, ["q"]).counts
      (1, 0, 0)
    """
    ids = np.asarray(query_ids, object)
    others = ids if baseline_ids is None else np.asarray(baseline_ids, object)
    if ids.tolist() != others.tolist() or not same_labels(model, baseline):
        gone = len(set(ids) - set(others))
        raise DataError(
            "the two models were not measured on the same lists: expected the baseline "
            f"on {len(ids)} with {int(model.documents.sum())} labelled documents, "
            f"found {len(others)} with {int(baseline.documents.sum())}; {gone} queries "
            "are not among its, or their labels differ. Measure both on one file, by "
            "--data."
        )
    one, other = model.skip(metric), baseline.skip(metric)
    (counts,) = np.nonzero(~np.isnan(one - other))
    if not len(counts):
        raise NothingToCompareError(
            f"no query defines {metric}: none has a relevant document."
        )
    order = counts[np.argsort(-(one - other)[counts], kind="stable")]
    found = paired_differences(model, baseline)[metric]
    low, high = found["ci"]
    return QueryComparison(
        metric,
        ids[order],
        one[order],
        other[order],
        model.documents[order],
        found["difference"],
        None if low is None or high is None else (low, high),
    )
