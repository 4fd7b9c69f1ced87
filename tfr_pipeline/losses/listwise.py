"""Further losses of whole lists: Plackett-Luce models and mixtures."""

from __future__ import annotations

import math
from typing import Any

from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.declared import BOTH
from tfr_pipeline.losses.base import OnTables, TwoLayouts, register
from tfr_pipeline.losses.kernels.batch import Packed, check_outputs, to_float
from tfr_pipeline.losses.kernels.closed_form import ClosedForm, unreduced, weighted_sum
from tfr_pipeline.losses.kernels.tables import LOWEST, list_weights

_theirs: Any = tfr.keras.losses
# Logits of one list that are at most this far apart are exponentiated as they are:
# exp(-60) is far above the smallest float32.
FLOAT_RANGE = 60.0
# The least chance that TF-Ranking gives a document in distillation.
_EPSILON = 1e-10
_LOG_EPSILON = math.log(_EPSILON)


def plackett_luce_losses(labels: Any, documents: Any, lambda_weight: Any) -> ClosedForm:
    """Returns `sum_p w_p log(sum_{q >= p} exp(s_q) / exp(s_p))` of each list.

    `p` and `q` are positions by falling label, `w` is 1 or a `ListMLELambdaWeight`'s.
    The gradient is `exp(s_q) sum_{p <= q} w_p / sum_{r >= p} exp(s_r) - w_q`.

    Args:
      labels: float32 `[batch, width]`.
      documents: int32 `[batch, width]`, where the logit of each document is, -1 for
        masked documents and padding.
      lambda_weight: A `ListMLELambdaWeight`; anything else stands for weight 1.

    Returns:
      Closed form of logits `[documents]` with losses and weights `[batch]`.
    """
    # TF-Ranking's shuffle and seed, for the same order of equal labels. Masked
    # documents have the lowest score of all: they come last.
    (documents,) = tfr.utils.sort_by_scores(
        tf.where(documents >= 0, labels, -1e-6),
        [documents],
        shuffle_ties=True,
        seed=37,
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
        near = tf.reduce_all(largest - lowest < FLOAT_RANGE)
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
    2008. Equal labels are ordered by chance. Sums are formed in the log domain if
    logits are far apart, so that they stay finite.

    Example:
      >>> round(float(ListMLELoss()([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      0.7981
    """

    layouts = BOTH
    tpu_ready = True

    def call_padded(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        mask = y_true >= 0.0
        cells = tf.reshape(tf.range(tf.size(y_true)), tf.shape(y_true))
        documents = tf.where(mask, cells, -1)
        form = plackett_luce_losses(y_true, documents, self._lambda_weight)
        logits = tf.reshape(y_pred / self._temperature, [-1])
        weights = list_weights(tf.where(mask, y_true, 0.0), sample_weight)
        if self._get_reduction() == tf.keras.losses.Reduction.NONE:
            return unreduced(form, logits)[:, tf.newaxis] * weights
        weights = None if sample_weight is None else weights[:, 0]
        return self._mean(weighted_sum(form, logits, weights), tf.shape(y_true)[0])

    def call_packed(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        batch = self.pack(y_true, y_pred)
        labels, _, mask = batch.block()
        documents = tf.where(batch.mask, tf.range(tf.size(batch.labels)), -1)
        documents = batch.ragged(documents).to_tensor(-1, shape=tf.shape(mask))
        form = plackett_luce_losses(labels, documents, self._lambda_weight)
        return self.reduce_form(form, batch, sample_weight, lists=True)


@register
class MixtureEMLoss(TwoLayouts, _theirs.MixtureEMLoss):
    """Sigmoid cross-entropy under a mixture of models, one a score.

    Scores have the shape `[batch, list_size, models]` (Yan et al., "Revisiting
    Two-tower Models for Unbiased Learning to Rank", SIGIR 2022). The models' shares are
    the expectation step's, `softmax(-alpha * loss of the list)`, without a gradient. A
    list without relevant documents weighs 0. The temperature divides the scores, which
    TF-Ranking's class forgets. Packed batches cost O(documents).

    Example:
      >>> loss = MixtureEMLoss()
      >>> round(float(loss([[1.0, 0.0]], [[[0.6, 0.9], [0.8, 0.2]]])), 4)
      1.3199
    """

    layouts = BOTH
    tpu_ready = True
    outputs = None

    def call_padded(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        check_outputs(type(self).__name__, y_pred, None)
        return super().call_padded(y_true, y_pred / self._temperature, sample_weight)

    def call_packed(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        check_outputs(type(self).__name__, y_pred, None)
        scores = to_float(y_pred)
        batch = Packed.of(y_true, scores.with_values(scores.values[:, 0]))
        labels = tf.broadcast_to(batch.labels[:, tf.newaxis], tf.shape(scores.values))
        logits = tf.where(batch.mask[:, tf.newaxis], scores.values, 0.0)
        losses = tf.nn.sigmoid_cross_entropy_with_logits(
            labels, logits / self._temperature
        )
        losses *= tf.cast(batch.mask, tf.float32)[:, tf.newaxis]
        losses = batch.sum(losses)
        shares = tf.stop_gradient(tf.nn.softmax(-self._alpha * losses, axis=1))
        total = tf.reduce_sum(losses * shares, axis=1)
        total *= tf.cast(batch.sum(batch.labels) > 0.0, tf.float32)
        return self.reduce(total[:, tf.newaxis], batch.list_weights(sample_weight))


@register
class CoupledRankDistilLoss(OnTables, _theirs.CoupledRankDistilLoss):
    """Cross-entropy of the student's and the teacher's top-k Plackett-Luce model.

    Labels are the teacher's scores (Reddi et al., "RankDistil: Knowledge
    Distillation for Ranking", AISTATS 2021); rankings are sampled from them. Without
    `topk`, padding is ranked too, as in TF-Ranking, which adds a constant. Memory is
    linear in the longest list, where TF-Ranking's is quadratic.

    Example:
      >>> loss = CoupledRankDistilLoss(sample_size=1, topk=2)
      >>> float(loss([[0.0, 2.0, 1.0]], [[0.0, 1.1, 0.7]])) > 0.0
      True
    """

    def list_losses(self, labels: Any, logits: Any, mask: Any) -> Any:
        """See base class."""
        lists, width = tf.unstack(tf.shape(labels))
        size = self._sample_size
        # TF-Ranking's seeds and bounds, for the same samples.
        teacher = tf.where(mask, labels, _LOG_EPSILON)[:, tf.newaxis, :]
        noise = tf.random.uniform([lists, size, width], seed=37) + 1e-20
        teacher -= tf.math.log(-tf.math.log(noise) + 1e-20)
        teacher = tf.reshape(teacher, [lists * size, width])
        teacher = tf.math.log(tf.nn.softmax(teacher) + _EPSILON)
        student = tf.where(mask, logits, _LOG_EPSILON)
        student, valid = tfr.utils.sort_by_scores(
            teacher,
            [tf.repeat(student, size, axis=0), tf.repeat(mask, size, axis=0)],
            shuffle_ties=True,
            seed=37,
        )
        tails = tf.math.cumulative_logsumexp(student, axis=1, reverse=True)
        # TF-Ranking lowers the documents before a position to padding instead of
        # leaving them out, which shows in the constant of padded positions.
        before = _LOG_EPSILON + tf.math.log(tf.range(width, dtype=tf.float32))
        padded_tails = tails + tf.math.softplus(tf.maximum(before, LOWEST) - tails)
        losses = tf.where(valid, tails, padded_tails) - student
        losses = tf.reduce_sum(losses[:, : self._topk], axis=1)
        losses = tf.reduce_mean(tf.reshape(losses, [lists, size]), axis=1)
        return tf.where(tf.reduce_sum(labels, axis=1) > 0.0, losses, 0.0)
