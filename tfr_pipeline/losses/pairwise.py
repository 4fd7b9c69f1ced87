"""Losses of pairs of documents with different labels."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.losses.base import AUTO, TwoLayouts, register
from tfr_pipeline.losses.packed import pad
from tfr_pipeline.losses.pairs import pair_losses

_theirs: Any = tfr.keras.losses


class PairwiseTwoLayouts(TwoLayouts):
    """`TwoLayouts` for pairwise losses.

    TF-Ranking 0.5.3 ignores the temperature of a pairwise loss; since 0.5.4 it
    divides the scores by it. Here it always does.
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns losses summed over the worse documents, `[batch, list_size]`."""
        losses, weights = self._loss.compute_unreduced_loss(
            labels=y_true, logits=self._loss.get_logits(y_pred)
        )
        return tf.reduce_sum(losses * weights, axis=2)


@register
class PairwiseLogisticLoss(PairwiseTwoLayouts, _theirs.PairwiseLogisticLoss):
    r"""RankNet's loss `sum_{y_i > y_j} log(1 + exp(s_j - s_i))`.

    Burges et al., "Learning to Rank using Gradient Descent", ICML 2005; with a
    lambda weight it is LambdaLoss (Wang et al., CIKM 2018). Ranks for the lambda
    weight break ties by document order on packed batches, by chance on padded ones.

    Example:
      >>> round(float(PairwiseLogisticLoss()([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      0.3991
    """

    def call_packed(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        batch = self.pack(y_true, y_pred)
        losses = pair_losses(
            lambda difference: tf.nn.softplus(-difference),
            self._lambda_weight,
            *batch.block(),
        )
        weights = pad(batch.ragged(batch.weights(sample_weight)), 0.0)
        return self.reduce(losses, weights)


@register
class PairwiseHingeLoss(PairwiseTwoLayouts, _theirs.PairwiseHingeLoss):
    """`sum_{y_i > y_j} max(0, 1 - (s_i - s_j))`.

    Joachims, "Optimizing Search Engines using Clickthrough Data", KDD 2002.

    Example:
      >>> round(float(PairwiseHingeLoss()([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      0.6
    """


@register
class PairwiseSoftZeroOneLoss(PairwiseTwoLayouts, _theirs.PairwiseSoftZeroOneLoss):
    """`sum_{y_i > y_j} sigmoid(s_j - s_i)`, a smooth count of wrong pairs.

    Example:
      >>> round(float(PairwiseSoftZeroOneLoss()([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      0.2749
    """


@register
class PairwiseMSELoss(PairwiseTwoLayouts, _theirs.PairwiseMSELoss):
    """`sum_{i != j} ((y_i - y_j) - (s_i - s_j))^2`, also over equal labels.

    Example:
      >>> round(float(PairwiseMSELoss()([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      1.44
    """


@register
class YetiLogisticLoss(PairwiseTwoLayouts, _theirs.YetiLogisticLoss):
    """Logistic loss of neighbours in rankings sampled with Gumbel noise.

    Lyzhin et al., "Which Tricks Are Important for Learning to Rank?", ICML 2023. The
    default temperature is 1.0, as in TF-Ranking 0.5.5 (0.5.3: 0.1). Under AUTO the
    divisor counts every sampled list.

    Example:
      >>> loss = YetiLogisticLoss(sample_size=2, seed=1)
      >>> float(loss([[1.0, 0.0]], [[0.6, 0.8]])) > 0.0
      True
    """

    def __init__(
        self,
        reduction: str = AUTO,
        name: str | None = None,
        lambda_weight: Any = None,
        temperature: float = 1.0,
        sample_size: int = 8,
        gumbel_temperature: float = 1.0,
        seed: int | None = None,
        ragged: bool = False,
    ):
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

    def call_padded(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        weights = as_columns(sample_weight, y_true)
        return super().call_padded(y_true, y_pred, weights)


def as_columns(sample_weight: Any, labels: Any) -> Any:
    """Gives a scalar weight the shape `[batch, 1]`, which the Gumbel sampler needs."""
    if sample_weight is None:
        return None
    weights = tf.convert_to_tensor(sample_weight)
    if weights.shape.rank == 0:
        return tf.fill([tf.shape(labels)[0], 1], weights)
    return weights
