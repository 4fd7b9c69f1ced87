"""Metrics of pairs of documents."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.compat import tf
from tfr_pipeline.metrics.base import OwnMetric, register, theirs
from tfr_pipeline.metrics.batch import Batch


@register
class OPAMetric(OwnMetric, theirs.OPAMetric):
    """Share of pairs with different labels that are ranked the right way round.

    A tie is a wrong pair. A pair weighs the weight of its better document, a list the
    sum over its pairs. Memory grows with the square of the longest list.

    Example:
      >>> float(OPAMetric()([[0.0, 1.0]], [[0.1, 0.5]]))
      1.0
    """

    def compute(self, batch: Batch) -> tuple[Any, Any]:
        """See base class."""
        labels, scores, mask = batch.labels, batch.scores, batch.mask
        pairs = labels[:, :, tf.newaxis] > labels[:, tf.newaxis, :]
        # The better document has a label above 0, so it is valid.
        pairs &= mask[:, tf.newaxis, :]
        right = pairs & (scores[:, :, tf.newaxis] > scores[:, tf.newaxis, :])
        weighted = [
            tf.math.count_nonzero(kind, axis=2, dtype=tf.float32) * batch.weights
            for kind in (right, pairs)
        ]
        correct, total = (tf.reduce_sum(x, axis=1, keepdims=True) for x in weighted)
        return tf.math.divide_no_nan(correct, total), total
