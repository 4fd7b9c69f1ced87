"""Discounted cumulative gain, plain and normalised."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.compat import tf
from tfr_pipeline.gains import for_ratios
from tfr_pipeline.metrics.base import OwnMetric, register, theirs
from tfr_pipeline.metrics.batch import (
    LARGEST,
    Batch,
    discounts,
    mean_over_ties,
    sort_descending,
    tie_bounds,
)


def _gains(batch: Batch, function: Any) -> Any:
    """Gains `[batch, width]` over the largest of their list, if sums might overflow.

    They are NaN in a list whose own gain function is infinite.
    """
    gains = tf.where(batch.mask, for_ratios(function)(batch.labels), 0.0)
    top = tf.reduce_max(gains, axis=1, keepdims=True)
    return tf.where(top > LARGEST, gains * (LARGEST / top), gains)


def _dcg(batch: Batch, gains: Any, discount: Any, ranked: Any) -> Any:
    """Expected DCG over random orders of ties, `[batch, 1]`."""
    bounds = batch.once("tie bounds", lambda: tie_bounds(ranked, batch.scores))
    expected = batch.weights * mean_over_ties(discount, *bounds)
    # Gains may be infinite, expected discounts 0.
    return tf.reduce_sum(
        tf.math.multiply_no_nan(gains, expected), axis=1, keepdims=True
    )


@register
class NDCGMetric(OwnMetric, theirs.NDCGMetric):
    """DCG divided by the DCG of the best order; 0 for lists without relevance.

    Järvelin and Kekäläinen, "Cumulated Gain-based Evaluation of IR Techniques", TOIS
    2002, with gain `2^y - 1` and discount `1 / log2(1 + rank)` unless told
    otherwise; grades may be of any size. Ties count with their expectation over random
    orders (McSherry and Najork, "Computing Information Retrieval Performance Measures
    Efficiently in the Presence of Tied Scores", ECIR 2008).

    Example:
      >>> metric = NDCGMetric(topn=1)
      >>> float(metric([[0.0, 1.0]], [[0.5, 0.5]]))
      0.5
    """

    def compute(self, batch: Batch) -> tuple[Any, Any]:
        """See base class."""
        gains, ranked, ideal = batch.once(
            ("gains", self._gain_fn), lambda: self._sorted(batch)
        )
        discount = discounts(
            tf.shape(batch.labels)[1], self._rank_discount_fn, self._topn
        )
        best = tf.reduce_sum(ideal * discount, axis=1, keepdims=True)
        dcg = _dcg(batch, gains, discount, ranked)
        return tf.math.divide_no_nan(dcg, best), self.list_weights(batch, gains)

    def _sorted(self, batch: Batch) -> tuple[Any, Any, Any]:
        """Returns gains, sorted scores and sorted gains."""
        gains = _gains(batch, self._gain_fn)
        # One sort call for both orders.
        weighted = tf.where(batch.mask, batch.weights * gains, float("-inf"))
        both = sort_descending(tf.stack([batch.scores, weighted]))
        return gains, both[0], tf.where(tf.math.is_inf(both[1]), 0.0, both[1])


@register
class DCGMetric(OwnMetric, theirs.DCGMetric):
    """Sum of gain times discount over the first `topn` positions.

    Ties count with their expectation over random orders. It is infinite where a gain
    leaves the range of float32, which `2^y - 1` does from grade 128 on.

    Example:
      >>> float(DCGMetric(topn=1)([[0.0, 1.0]], [[0.1, 0.5]]))
      1.0
    """

    def compute(self, batch: Batch) -> tuple[Any, Any]:
        """See base class."""
        gains = tf.where(batch.mask, self._gain_fn(batch.labels), 0.0)
        discount = discounts(
            tf.shape(batch.labels)[1], self._rank_discount_fn, self._topn
        )
        weights = self.list_weights(batch, _gains(batch, self._gain_fn))
        dcg = _dcg(batch, gains, discount, sort_descending(batch.scores))
        return tf.math.divide_no_nan(dcg, weights), weights
