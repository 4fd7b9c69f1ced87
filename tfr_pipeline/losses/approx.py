"""Losses that approximate a metric by smooth ranks."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.features import PADDING_LABEL
from tfr_pipeline.losses.base import TwoLayouts, register
from tfr_pipeline.losses.packed import pad, pad_weights
from tfr_pipeline.losses.pairwise import as_columns
from tfr_pipeline.losses.smooth_ranks import (
    mrr_coefficients,
    ndcg_coefficients,
    reciprocal,
    reciprocal_log,
    smooth_metric_losses,
)

_theirs: Any = tfr.keras.losses


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
        form = smooth_metric_losses(ndcg_coefficients, reciprocal_log, batch)
        return self.reduce_form(form, batch, sample_weight, lists=True)


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

    def call_packed(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        labels = pad(y_true, PADDING_LABEL)
        weights = as_columns(pad_weights(sample_weight, labels), labels)
        sampled = self._gumbel_sampler.sample(labels, pad(y_pred, 0.0), weights=weights)
        labels, logits, weights = sampled
        lengths = tf.repeat(y_true.row_lengths(), self._sample_size)
        labels, logits = (
            tf.RaggedTensor.from_tensor(dense, lengths) for dense in (labels, logits)
        )
        batch = self.pack(labels, logits)
        form = smooth_metric_losses(ndcg_coefficients, reciprocal_log, batch)
        return self.reduce_form(form, batch, weights, lists=True)


@register
class ApproxMRRLoss(TwoLayouts, _theirs.ApproxMRRLoss):
    """Minus the mean reciprocal smooth rank of the relevant documents.

    Qin et al., 2010, as for `ApproxNDCGLoss`.

    Example:
      >>> round(float(ApproxMRRLoss()([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      -0.5317
    """

    def call_packed(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        batch = self.pack(y_true, y_pred)
        form = smooth_metric_losses(mrr_coefficients, reciprocal, batch)
        return self.reduce_form(form, batch, sample_weight, lists=True)
