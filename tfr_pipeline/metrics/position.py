"""Averages over positions: of positions by label, and of labels by position."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.compat import tf
from tfr_pipeline.metrics.base import OwnMetric, PlainMetric, register, theirs
from tfr_pipeline.metrics.batch import (
    Batch,
    discounts,
    mean_over_ties,
    sort_descending,
    tie_bounds,
)


@register
class ARPMetric(OwnMetric, theirs.ARPMetric):
    """Mean position, weighted by the labels; the lower the better.

    Lists weigh the sum of their labels, so those without relevance do not count.
    Zhu, "Recall, Precision and Average Precision", 2004. Ties count with their
    expectation over random orders.

    Example:
      >>> float(ARPMetric()([[0.0, 1.0]], [[0.5, 0.5]]))
      1.5
    """

    def compute(self, batch: Batch) -> tuple[Any, Any]:
        """See base class."""
        first, last = tie_bounds(sort_descending(batch.scores), batch.scores)
        position = tf.cast(first + last + 1, tf.float32) / 2.0
        labels = batch.labels * batch.weights
        total = tf.reduce_sum(labels, axis=1, keepdims=True)
        value = tf.reduce_sum(position * labels, axis=1, keepdims=True)
        return tf.math.divide_no_nan(value, total), total


@register
class PWAMetric(PlainMetric):
    """Position-weighted average of the labels of the first `topn` documents.

    `sum_r y_r / r` over `sum_r 1 / r`. Labels count as they are, graded or not. A list
    weighs its weight, or the mean weight of its documents; one without documents counts
    0. Ties count with their expectation over random orders. TF-Ranking has it for
    Estimators only.

    Example:
      >>> float(PWAMetric(topn=2)([[0.0, 3.0]], [[0.1, 0.5]]))
      2.0
    """

    def __init__(
        self,
        name: str | None = None,
        topn: int | None = 5,
        dtype: Any = None,
        ragged: bool = False,
        **kwargs: Any,
    ):
        """See base class; `topn` is 5 unless told otherwise, as in TF-Ranking."""
        super().__init__(name, topn, dtype, ragged, **kwargs)

    def compute(self, batch: Batch) -> tuple[Any, Any]:
        """See base class."""
        width = tf.shape(batch.labels)[1]
        discount = discounts(width, lambda position: 1.0 / position, self._topn)
        bounds = tie_bounds(sort_descending(batch.scores), batch.scores)
        total = batch.labels * mean_over_ties(discount, *bounds)
        positions = tf.range(1, width + 1, dtype=tf.float32)
        counted = tf.where(positions <= batch.lengths, discount, 0.0)
        value = tf.math.divide_no_nan(
            tf.reduce_sum(total, axis=1, keepdims=True),
            tf.reduce_sum(counted, axis=1, keepdims=True),
        )
        return value, self.counted(self._weights(batch), batch.labels)

    def _weights(self, batch: Batch) -> Any:
        """The mean weight of the documents, of masked ones if there are no others."""
        some = tf.reduce_any(batch.mask, axis=1, keepdims=True)
        counted = tf.cast(batch.mask | ~some, tf.float32)
        return tf.math.divide_no_nan(
            tf.reduce_sum(batch.weights * counted, axis=1, keepdims=True),
            tf.reduce_sum(counted, axis=1, keepdims=True),
        )
