"""Losses that approximate a metric by smooth ranks."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.losses.base import TwoLayouts, register
from tfr_pipeline.losses.pairs import approximate_ranks
from tfr_pipeline.losses.pairwise import as_columns

_theirs: Any = tfr.keras.losses


def _smooth_ndcg(labels: Any, ranks: Any, mask: Any) -> Any:
    """Returns NDCG at real-valued ranks, float32 `[batch]`; 0 without relevance.

    Gains are scaled by `2^-max(y)`, which cancels and keeps large labels finite.
    """
    labels = tf.where(mask, labels, 0.0)
    top = tf.reduce_max(labels, axis=1, keepdims=True)
    gains = tf.where(mask, tf.pow(2.0, labels - top) - tf.pow(2.0, -top), 0.0)
    ideal = tf.sort(gains, axis=1, direction="DESCENDING")
    positions = tf.range(1, tf.shape(labels)[1] + 1, dtype=tf.float32)
    dcg = tf.reduce_sum(gains / tf.math.log1p(ranks), axis=1)
    ideal_dcg = tf.reduce_sum(ideal / tf.math.log1p(positions), axis=1)
    return tf.math.divide_no_nan(dcg, ideal_dcg)


@register
class ApproxNDCGLoss(TwoLayouts, _theirs.ApproxNDCGLoss):
    """Minus NDCG with ranks smoothed by sigmoids of score differences.

    Qin et al., "A General Approximation Framework for Direct Optimization of
    Information Retrieval Measures", 2010; Bruch et al., "Revisiting Approximate
    Metric Optimization in the Age of Deep Neural Networks", SIGIR 2019.

    Example:
      >>> round(float(ApproxNDCGLoss()([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      -0.6551
    """

    def call_packed(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        batch = self.pack(y_true, y_pred)
        labels, logits, mask = batch.block()
        ndcg = _smooth_ndcg(labels, approximate_ranks(logits, mask), mask)
        return self.reduce(-ndcg[:, tf.newaxis], batch.list_weights(sample_weight))


@register
class GumbelApproxNDCGLoss(TwoLayouts, _theirs.GumbelApproxNDCGLoss):
    """`ApproxNDCGLoss` averaged over rankings sampled with Gumbel noise.

    Bruch et al., "A Stochastic Treatment of Learning to Rank Scoring Functions",
    WSDM 2020.

    Example:
      >>> loss = GumbelApproxNDCGLoss(seed=1)
      >>> -1.0 <= float(loss([[1.0, 0.0]], [[0.6, 0.8]])) <= 0.0
      True
    """

    def call_padded(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        weights = as_columns(sample_weight, y_true)
        return super().call_padded(y_true, y_pred, weights)


@register
class ApproxMRRLoss(TwoLayouts, _theirs.ApproxMRRLoss):
    """Minus the mean reciprocal smooth rank of the relevant documents.

    Qin et al., 2010, as for `ApproxNDCGLoss`.

    Example:
      >>> round(float(ApproxMRRLoss()([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      -0.5317
    """
