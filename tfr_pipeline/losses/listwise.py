"""Further losses of whole lists: Plackett-Luce models and mixtures."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.losses.base import TwoLayouts, register

_theirs: Any = tfr.keras.losses


@register
class ListMLELoss(TwoLayouts, _theirs.ListMLELoss):
    """Minus the Plackett-Luce log-likelihood of the order of the labels.

    Xia et al., "Listwise Approach to Learning to Rank: Theory and Algorithm", ICML
    2008. Equal labels are ordered by chance. On packed batches the sums are formed in
    the log domain, so that logits of any size stay finite.

    Example:
      >>> round(float(ListMLELoss()([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      0.7981
    """

    def call_packed(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        batch = self.pack(y_true, y_pred)
        labels, logits, mask = batch.block()
        # TF-Ranking's shuffle and seed, for the same order of equal labels.
        logits, mask = tfr.utils.sort_by_scores(
            tf.where(mask, labels, -1e-6), [logits, mask], shuffle_ties=True, seed=37
        )
        tails = tf.math.cumulative_logsumexp(
            tf.where(mask, logits, logits.dtype.min), axis=1, reverse=True
        )
        width = tf.shape(logits)[1]
        ranks = tf.zeros_like(logits, tf.int32) + tf.range(1, width + 1)
        # TF-Ranking orders the padding too, which adds a constant to the loss.
        constant = tf.math.log(tf.cast(width + 1 - ranks, tf.float32))
        losses = tf.where(mask, tails - logits, constant)
        if isinstance(self._lambda_weight, tfr.losses_impl.ListMLELambdaWeight):
            losses *= self._lambda_weight.individual_weights(labels, ranks)
        weights = batch.list_weights(sample_weight)
        return self.reduce(tf.reduce_sum(losses, axis=1, keepdims=True), weights)


@register
class MixtureEMLoss(TwoLayouts, _theirs.MixtureEMLoss):
    """Sigmoid cross-entropy under a mixture of models, one a score.

    Scores have the shape `[batch, list_size, models]` (Yan et al., "Revisiting
    Two-tower Models for Unbiased Learning to Rank", SIGIR 2022).

    Example:
      >>> loss = MixtureEMLoss()
      >>> round(float(loss([[1.0, 0.0]], [[[0.6, 0.9], [0.8, 0.2]]])), 4)
      1.3199
    """


@register
class CoupledRankDistilLoss(TwoLayouts, _theirs.CoupledRankDistilLoss):
    """Cross-entropy of the student's and the teacher's top-k Plackett-Luce model.

    Labels are the teacher's scores (Reddi et al., "RankDistil: Knowledge
    Distillation for Ranking", AISTATS 2021).

    Example:
      >>> loss = CoupledRankDistilLoss(sample_size=1, topk=2)
      >>> float(loss([[0.0, 2.0, 1.0]], [[0.0, 1.1, 0.7]])) > 0.0
      True
    """
