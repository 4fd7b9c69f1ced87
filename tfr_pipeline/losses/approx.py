"""Losses that approximate a metric by smooth ranks."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.compat import tfr
from tfr_pipeline.losses.base import AUTO, TwoLayouts, register
from tfr_pipeline.losses.kernels.gumbel import GumbelSampler
from tfr_pipeline.losses.kernels.smooth_ranks import (
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

    def __init__(
        self,
        reduction: str = AUTO,
        name: str | None = None,
        lambda_weight: Any = None,
        temperature: float = 0.1,
        sample_size: int = 8,
        gumbel_temperature: float = 1.0,
        seed: int | None = None,
        ragged: bool = False,
    ):
        """Initializer.

        Args:
          reduction: Keras reduction; each sampled list counts as one.
          name: Name of the loss.
          lambda_weight: Not used.
          temperature: Divides the sampled scores.
          sample_size: Samples of a list.
          gumbel_temperature: Divides the scores and the noise in sampling.
          seed: Seed of the noise.
          ragged: Kept for TF-Ranking's sake; the layout is read off the tensors.
        """
        super().__init__(
            reduction,
            name,
            lambda_weight,
            temperature,
            sample_size,
            gumbel_temperature,
            seed,
            ragged,
        )
        self._gumbel_sampler = GumbelSampler(
            name, sample_size, gumbel_temperature, seed
        )

    def call_packed(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        sampler = self._gumbel_sampler
        labels, logits, weights = sampler.sample_packed(y_true, y_pred, sample_weight)
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
