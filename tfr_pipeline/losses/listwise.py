"""Further losses of whole lists: Plackett-Luce models and mixtures."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.losses.base import TwoLayouts, register
from tfr_pipeline.losses.closed_form import ClosedForm
from tfr_pipeline.losses.packed import Packed

_theirs: Any = tfr.keras.losses
# Logits of one list that are at most this far apart are exponentiated as they are:
# exp(-60) is far above the smallest float32.
_FLOAT_RANGE = 60.0


def plackett_luce_losses(batch: Packed, lambda_weight: Any) -> ClosedForm:
    """Returns `sum_p w_p log(sum_{q >= p} exp(s_q) / exp(s_p))` of each list.

    `p` and `q` are positions by falling label, `w` is 1 or a `ListMLELambdaWeight`'s.
    The gradient is `exp(s_q) sum_{p <= q} w_p / sum_{r >= p} exp(s_r) - w_q`.

    Args:
      batch: Labels and mask; the logits are the closed form's argument.
      lambda_weight: A `ListMLELambdaWeight`; anything else stands for weight 1.

    Returns:
      Closed form with losses and weights `[batch]`.
    """

    labels, _, mask = batch.block()
    # Where each document is in the packed batch, -1 for masked ones and padding.
    documents = tf.where(batch.mask, tf.range(tf.size(batch.labels)), -1)
    documents = batch.ragged(documents).to_tensor(-1, shape=tf.shape(mask))
    # TF-Ranking's shuffle and seed, for the same order of equal labels. Masked
    # documents have the lowest score of all: they come last.
    (documents,) = tfr.utils.sort_by_scores(
        tf.where(mask, labels, -1e-6), [documents], shuffle_ties=True, seed=37
    )
    mask = documents >= 0
    ranks = tf.broadcast_to(tf.range(1, tf.shape(mask)[1] + 1), tf.shape(mask))
    factors = tf.ones_like(labels)
    if isinstance(lambda_weight, tfr.losses_impl.ListMLELambdaWeight):
        factors = lambda_weight.individual_weights(labels, ranks)
    # TF-Ranking orders the padding too, which adds a constant to the loss.
    padding = tf.math.log(tf.cast(tf.shape(mask)[1] + 1 - ranks, tf.float32))
    constant = tf.reduce_sum(tf.where(mask, 0.0, factors * padding), axis=1)
    factors = tf.where(mask, factors, 0.0)

    def compute(logits: Any, weights: Any) -> tuple[Any, Any]:
        # Padding reads an element beyond the last document.
        padded = tf.concat([logits, [0.0]], axis=0)
        scores = tf.gather(padded, tf.where(mask, documents, tf.size(logits)))
        lowest = tf.reduce_min(tf.where(mask, scores, scores.dtype.max), axis=1)
        largest = tf.reduce_max(tf.where(mask, scores, scores.dtype.min), axis=1)
        near = tf.reduce_all(largest - lowest < _FLOAT_RANGE)
        losses, gradient = tf.cond(
            near,
            lambda: _by_sums(scores - largest[:, tf.newaxis], mask, factors),
            lambda: _by_logarithms(scores, mask, factors),
        )
        if weights is not None:
            gradient *= weights[:, tf.newaxis]
        gradient = tf.math.unsorted_segment_sum(gradient, documents, tf.size(logits))
        return losses + constant, gradient

    return compute


def _by_sums(scores: Any, mask: Any, factors: Any) -> tuple[Any, Any]:
    """Losses `[batch]` and gradient `[batch, longest]` of scores not above 0."""
    exponentials = tf.where(mask, tf.exp(scores), 0.0)
    tails = tf.cumsum(exponentials, axis=1, reverse=True)
    tails = tf.where(mask, tails, 1.0)
    scores = tf.where(mask, scores, 0.0)
    losses = tf.reduce_sum(factors * (tf.math.log(tails) - scores), axis=1)
    return losses, exponentials * tf.cumsum(factors / tails, axis=1) - factors


def _by_logarithms(scores: Any, mask: Any, factors: Any) -> tuple[Any, Any]:
    """As `_by_sums` for scores of any size."""
    with tf.GradientTape() as tape:
        tape.watch(scores)
        lowest = tf.where(mask, scores, scores.dtype.min)
        tails = tf.math.cumulative_logsumexp(lowest, axis=1, reverse=True)
        losses = tf.reduce_sum(tf.where(mask, factors * (tails - scores), 0.0), axis=1)
    return losses, tape.gradient(losses, scores)


@register
class ListMLELoss(TwoLayouts, _theirs.ListMLELoss):
    """Minus the Plackett-Luce log-likelihood of the order of the labels.

    Xia et al., "Listwise Approach to Learning to Rank: Theory and Algorithm", ICML
    2008. Equal labels are ordered by chance. On packed batches the sums are formed in
    the log domain if logits are far apart, so that they stay finite.

    Example:
      >>> round(float(ListMLELoss()([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      0.7981
    """

    def call_packed(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        batch = self.pack(y_true, y_pred)
        form = plackett_luce_losses(batch, self._lambda_weight)
        return self.reduce_form(form, batch, sample_weight, lists=True)


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
