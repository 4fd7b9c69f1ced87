"""Losses on the soft permutation matrix of NeuralSort.

Grover et al., "Stochastic Optimization of Sorting Networks via Continuous Relaxations",
ICLR 2019: row `r` of the matrix is the softmax of
`(n + 1 - 2 r) s_k - sum_j |s_k - s_j|` over the documents `k`, which is largest for the
document at rank `r`. Time and memory grow with the square of the longest list of the
batch.
"""

from __future__ import annotations

from typing import Any

from tfr_pipeline.compat import tf
from tfr_pipeline.declared import BOTH
from tfr_pipeline.errors import ConfigError, check_topn
from tfr_pipeline.losses.base import AUTO, ListLoss, register
from tfr_pipeline.losses.kernels.gumbel import GumbelSampler
from tfr_pipeline.losses.kernels.smooth_ranks import ndcg_coefficients

# Below this a probability is as good as 0 in a logarithm: TF-Ranking's bound.
_TINY = 1e-20


def neural_sort(logits: Any, mask: Any) -> tuple[Any, Any]:
    """Returns soft permutation matrices and which of their rows are ranks.

    Args:
      logits: float32 `[batch, list_size]`, 0 for masked documents.
      mask: bool `[batch, list_size]`.

    Returns:
      float32 `[batch, ranks, list_size]`, rows that sum to 1, and bool
      `[batch, ranks]`, true for as many ranks as there are valid documents.
    """
    valid = tf.cast(mask, tf.float32)
    count = tf.reduce_sum(valid, axis=1, keepdims=True)
    apart = tf.abs(logits[:, :, tf.newaxis] - logits[:, tf.newaxis, :])
    apart = tf.reduce_sum(apart * valid[:, :, tf.newaxis], axis=1)
    ranks = tf.range(1, tf.shape(logits)[1] + 1, dtype=tf.float32)[tf.newaxis, :]
    scale = count + 1.0 - 2.0 * ranks
    scores = scale[:, :, tf.newaxis] * logits[:, tf.newaxis, :] - apart[:, tf.newaxis]
    scores = tf.where(mask[:, tf.newaxis, :], scores, scores.dtype.min)
    return tf.nn.softmax(scores, axis=2), ranks <= count


def sinkhorn(
    matrices: Any, rows: Any, mask: Any, iterations: int, tolerance: float
) -> Any:
    """Scales matrices until rows and columns sum to 1, or `iterations` are done.

    Args:
      matrices: float32 `[batch, ranks, list_size]`, not negative.
      rows: bool `[batch, ranks]`; other rows become 0.
      mask: bool `[batch, list_size]`; other columns become 0.
      iterations: How often to scale columns and rows at most.
      tolerance: How far a sum may be from 1.
    """
    inside = rows[:, :, tf.newaxis] & mask[:, tf.newaxis, :]
    matrices = tf.where(inside, matrices, 0.0)
    columns = tf.cast(mask, tf.float32)[:, tf.newaxis, :]

    def far(matrices: Any) -> Any:
        sums = tf.reduce_sum(matrices, axis=1, keepdims=True)
        # Rows have just been scaled.
        return tf.reduce_max(tf.abs(sums - columns)) > tolerance

    def scale(matrices: Any) -> tuple[Any]:
        for axis in (1, 2):
            sums = tf.reduce_sum(matrices, axis=axis, keepdims=True)
            matrices = tf.math.divide_no_nan(matrices, sums)
        return (matrices,)

    (matrices,) = tf.while_loop(far, scale, (matrices,), maximum_iterations=iterations)
    return matrices


def _has_relevance(labels: Any) -> Any:
    return tf.reduce_sum(labels, axis=1) > 0.0


@register
class NeuralSortCrossEntropyLoss(ListLoss):
    """Cross-entropy between the soft permutations of the labels and of the scores.

    The mean over the ranks of a list; 0 for a list without relevant documents.
    TF-Ranking has it for Estimators only.

    Example:
      >>> loss = NeuralSortCrossEntropyLoss()
      >>> round(float(loss([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      0.7444
    """

    def list_losses(self, labels: Any, logits: Any, mask: Any) -> Any:
        """See base class."""
        truth, rows = neural_sort(labels, mask)
        found, _ = neural_sort(logits, mask)
        losses = -tf.reduce_sum(truth * tf.math.log(_TINY + found), axis=2)
        counted = rows & _has_relevance(labels)[:, tf.newaxis]
        total = tf.reduce_sum(tf.where(counted, losses, 0.0), axis=1)
        return tf.math.divide_no_nan(total, tf.reduce_sum(tf.cast(rows, tf.float32), 1))


@register
class NeuralSortNDCGLoss(ListLoss):
    """Minus NDCG of the soft permutation of the scores (PiRank).

    Swezey et al., "PiRank: Scalable Learning To Rank via Differentiable Sorting",
    NeurIPS 2021. 0 for a list without relevant documents. TF-Ranking has it for
    Estimators only.

    Example:
      >>> round(float(NeuralSortNDCGLoss()([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      -0.7971
    """

    _topn: int | None = None

    def list_losses(self, labels: Any, logits: Any, mask: Any) -> Any:
        """See base class."""
        gains = ndcg_coefficients(labels, self._topn)
        sorted_gains = tf.linalg.matvec(self._permutation(logits, mask), gains)
        ranks = tf.range(1, tf.shape(labels)[1] + 1, dtype=tf.float32)
        discounts = 1.0 / tf.math.log1p(ranks)
        if self._topn is not None:
            discounts = tf.where(ranks > float(self._topn), 0.0, discounts)
        return -tf.reduce_sum(sorted_gains * discounts, axis=1)

    def _permutation(self, logits: Any, mask: Any) -> Any:
        matrices, rows = neural_sort(logits, mask)
        return tf.where(rows[:, :, tf.newaxis], matrices, 0.0)


@register
class NeuralNDCGLoss(NeuralSortNDCGLoss):
    """NeuralNDCG: minus NDCG of the soft permutation, scaled to be doubly stochastic.

    Pobrotyn and Bialobrzeski, "NeuralNDCG: Direct Optimisation of a Ranking Metric via
    Differentiable Relaxation of Sorting", SIGIR eCom 2021. Sinkhorn scaling makes every
    document count once over all ranks, which NeuralSort alone does not.

    Example:
      >>> round(float(NeuralNDCGLoss()([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      -0.7971
    """

    def __init__(
        self,
        reduction: str = AUTO,
        name: str | None = None,
        temperature: float = 1.0,
        ragged: bool = False,
        topn: int | None = None,
        iterations: int = 50,
        tolerance: float = 1e-6,
    ):
        """Initializer.

        Args:
          reduction: Keras reduction.
          name: Name of the loss.
          temperature: Divides the scores; the smaller, the harder the permutation.
          ragged: Kept for TF-Ranking's sake; the layout is read off the tensors.
          topn: The cut of NDCG; None for the whole list.
          iterations: Sinkhorn scalings at most.
          tolerance: Scaling stops when no sum is further from 1.

        Raises:
          ConfigError: An argument is out of range.
        """
        check_topn(topn)
        if iterations < 0:
            raise ConfigError(
                "`iterations` should not be negative. "
                f"Received: iterations = {iterations}."
            )
        super().__init__(reduction, name, temperature, ragged)
        self._topn = topn
        self._iterations = iterations
        self._tolerance = tolerance

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "topn": self._topn,
            "iterations": self._iterations,
            "tolerance": self._tolerance,
        }

    def _permutation(self, logits: Any, mask: Any) -> Any:
        matrices, rows = neural_sort(logits, mask)
        return sinkhorn(matrices, rows, mask, self._iterations, self._tolerance)


class _Sampled(ListLoss):
    """`ListLoss` on rankings sampled with Gumbel noise."""

    layouts = BOTH
    tpu_ready = True

    def __init__(
        self,
        reduction: str = AUTO,
        name: str | None = None,
        temperature: float = 1.0,
        sample_size: int = 8,
        gumbel_temperature: float = 1.0,
        seed: int | None = None,
        ragged: bool = False,
    ):
        """Initializer.

        Args:
          reduction: Keras reduction; each sampled list counts as one.
          name: Name of the loss.
          temperature: Divides the sampled scores.
          sample_size: Samples of a list.
          gumbel_temperature: Divides the scores and the noise in sampling.
          seed: Seed of the noise.
          ragged: Kept for TF-Ranking's sake; the layout is read off the tensors.
        """
        super().__init__(reduction, name, temperature, ragged)
        self._gumbel = {
            "sample_size": sample_size,
            "gumbel_temperature": gumbel_temperature,
            "seed": seed,
        }
        self._sampler = GumbelSampler(name, sample_size, gumbel_temperature, seed)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), **self._gumbel}

    def call_padded(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        return super().call_padded(*self._sampler.sample(y_true, y_pred, sample_weight))


@register
class GumbelNeuralSortCrossEntropyLoss(_Sampled, NeuralSortCrossEntropyLoss):
    """`NeuralSortCrossEntropyLoss` averaged over rankings sampled with Gumbel noise.

    Example:
      >>> loss = GumbelNeuralSortCrossEntropyLoss(seed=1)
      >>> float(loss([[1.0, 0.0]], [[0.6, 0.8]])) > 0.0
      True
    """


@register
class GumbelNeuralSortNDCGLoss(_Sampled, NeuralSortNDCGLoss):
    """`NeuralSortNDCGLoss` averaged over rankings sampled with Gumbel noise.

    Example:
      >>> loss = GumbelNeuralSortNDCGLoss(seed=1)
      >>> -1.0 <= float(loss([[1.0, 0.0]], [[0.6, 0.8]])) <= 0.0
      True
    """
