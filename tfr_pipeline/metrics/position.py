"""Average relevance position."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.compat import tf
from tfr_pipeline.metrics.base import OwnMetric, register, theirs
from tfr_pipeline.metrics.batch import Batch, sort_descending, tie_bounds


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
