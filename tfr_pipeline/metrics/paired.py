"""Two rankings of the same queries: how much one is better, and how sure that is."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from tfr_pipeline.metrics.bootstrap import intervals, ratio, warn_of_few
from tfr_pipeline.metrics.classification import ClassMetrics
from tfr_pipeline.metrics.evaluation import QueryMetrics

Metrics = TypeVar("Metrics", QueryMetrics, ClassMetrics)


def same_labels(
    one: QueryMetrics | ClassMetrics, other: QueryMetrics | ClassMetrics
) -> bool:
    """Whether two measured queries that have the same labels, as far as it is kept.

    Example:
      >>> one, two = (
      ...     QueryMetrics.of([2.0, 1.0], [0.0, 1.0], splits)
      ...     for splits in ([0, 2], [0, 1, 2]))
      >>> same_labels(one, one), same_labels(one, two)
      (True, False)
    """
    if isinstance(one, ClassMetrics) and isinstance(other, ClassMetrics):
        # Two models may number the same classes in another order; -1 is none.
        mine, theirs = [*one.classes, ""], [*other.classes, ""]
        return [mine[i] for i in one.label] == [theirs[i] for i in other.label]
    if isinstance(one, ClassMetrics) or isinstance(other, ClassMetrics):
        return False
    return (
        np.array_equal(one.documents, other.documents)
        and np.array_equal(one.relevant, other.relevant)
        and np.allclose(one.label_sum, other.label_sum, rtol=1e-6)
    )


def paired_differences(
    one: Metrics, other: Metrics, bootstrap: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Returns mean differences over queries, with 95% intervals, by metric.

    Queries are resampled as pairs, so what makes some harder for both cancels. Those
    without relevant documents are left out, as by the convention `skip`.

    Args:
      one: What was measured of each query.
      other: The same of another ranking of the same documents.
      bootstrap: Number of resamples.
      seed: Seed of the resampling.

    Returns:
      By metric `difference`, positive where `one` has more, and `ci`, its lower and
      upper bound; None where no query defines it, and the bounds where one does. Of
      fewer than ten queries it warns.

    Example:
      >>> good, bad = (
      ...     QueryMetrics.of([1.0, 0.0], scores, [0, 2])
      ...     for scores in ([2.0, 1.0], [1.0, 2.0]))
      >>> paired_differences(good, bad)["mrr"]
      {'difference': 0.5, 'ci': [None, None]}
    """
    gains, counts = [], []
    for name in one.values:
        gain = one.skip(name) - other.skip(name)
        weight = np.ones(len(gain))
        if name == "arp" and isinstance(one, QueryMetrics):
            weight = one.label_sum
        defined = ~np.isnan(gain)
        gains.append(np.where(defined, gain * weight, 0.0))
        counts.append(np.where(defined, weight, 0.0))
    gain, count = np.stack(gains, axis=1), np.stack(counts, axis=1)
    warn_of_few(int((count > 0).sum(axis=0).max(initial=0)))
    means = ratio(gain.sum(axis=0), count.sum(axis=0))
    bounds = np.stack(intervals(gain, count, bootstrap, seed), axis=1)
    return {
        name: {
            "difference": None if np.isnan(mean) else float(mean),
            "ci": [None if np.isnan(bound) else float(bound) for bound in ends],
        }
        for name, mean, ends in zip(one.values, means, bounds, strict=True)
    }
