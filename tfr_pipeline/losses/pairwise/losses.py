"""Losses of pairs of documents with different labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.declared import BOTH
from tfr_pipeline.losses.base import AUTO, TwoLayouts, register
from tfr_pipeline.losses.kernels.gumbel import GumbelSampler
from tfr_pipeline.losses.pairwise.block_form import has_block_form
from tfr_pipeline.losses.pairwise.lambda_weights import NDCGLoss2PPLambdaWeight
from tfr_pipeline.losses.pairwise.sums import (
    PairLoss,
    hinge,
    logistic,
    pair_losses,
    soft_zero_one,
    squared_pair_losses,
)

_theirs: Any = tfr.keras.losses


class PairwiseTwoLayouts(TwoLayouts):
    """`TwoLayouts` for pairwise losses.

    TF-Ranking 0.5.3 ignores the temperature of a pairwise loss; since 0.5.4 it
    divides the scores by it. Here it always does.

    A subclass whose losses are `sum_j w_ij [y_i > y_j] loss(s_j - s_i)` names that
    `pair_loss`: packed batches then go through blocks of pairs, in time that is linear
    in the number of pairs and memory that is linear in the number of documents. Lambda
    weights of a user's own formula are asked for `[batch, list, list]` weights instead.
    """

    layouts = BOTH
    tpu_ready = True
    pair_loss: PairLoss | None = None
    # Replaces TF-Ranking's loss of the worse minus the better score on padded batches.
    padded_loss: Callable[[Any], Any] | None = None
    _lambda_weight: Any

    def call_packed(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        if self.pair_loss is None or not self._known():
            return super().call_packed(y_true, y_pred, sample_weight)
        batch = self.pack(y_true, y_pred)
        form = pair_losses(self.pair_loss, self._lambda_weight, batch)
        return self.reduce_form(form, batch, sample_weight)

    def _known(self) -> bool:
        """Whether the lambda weight has a form for blocks."""
        return self._lambda_weight is None or has_block_form(self._lambda_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns losses summed over the worse documents, `[batch, list_size]`."""
        logits = self._loss.get_logits(y_pred)
        losses, weights = self._loss.compute_unreduced_loss(
            labels=y_true, logits=logits
        )
        if self.padded_loss is not None:
            losses = self.padded_loss(logits[:, tf.newaxis] - logits[:, :, tf.newaxis])
        return tf.reduce_sum(losses * weights, axis=2)


@register
class PairwiseLogisticLoss(PairwiseTwoLayouts, _theirs.PairwiseLogisticLoss):
    r"""RankNet's loss `sum_{y_i > y_j} log(1 + exp(s_j - s_i))`.

    Burges et al., "Learning to Rank using Gradient Descent", ICML 2005; with a
    lambda weight it is LambdaLoss (Wang et al., CIKM 2018). Ranks for the lambda
    weight break ties by document order on packed batches, by chance on padded ones. A
    pair with equal scores has the gradient 1/2; TF-Ranking's has none.

    `NDCGLambdaWeight(topn=10)` truncates as LightGBM's `lambdarank_truncation_level=10`
    does: pairs of two documents below rank 10 weigh nothing, and on packed batches they
    cost nothing.

    Example:
      >>> round(float(PairwiseLogisticLoss()([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      0.3991
    """

    pair_loss = staticmethod(logistic)
    padded_loss = staticmethod(tf.math.softplus)


@register
class LambdaLoss(PairwiseLogisticLoss):
    """NDCG-Loss2++ of the LambdaLoss framework: RankNet's loss, pairs weighted by NDCG.

    `PairwiseLogisticLoss` with an `NDCGLoss2PPLambdaWeight` (Wang et al., "The
    LambdaLoss Framework for Ranking Metric Optimization", CIKM 2018, section 4.4). The
    logarithm is the natural one; `1 / temperature` is the paper's `sigma`.

    Example:
      >>> round(float(LambdaLoss(mu=1.0)([[3.0, 0.0]], [[0.6, 0.8]])), 4)
      0.5891
    """

    def __init__(
        self,
        reduction: str = AUTO,
        name: str | None = None,
        temperature: float = 1.0,
        ragged: bool = False,
        topn: int | None = None,
        mu: float = 10.0,
    ):
        """Initializer.

        Args:
          reduction: Keras reduction.
          name: Name of the loss.
          temperature: Divides the scores.
          ragged: Kept for serialisation; the layout is read off the tensors.
          topn: The cut of NDCG; None for the whole list.
          mu: Weight of LambdaLoss's part beside LambdaRank's.
        """
        weight = NDCGLoss2PPLambdaWeight(topn=topn, mu=mu)
        super().__init__(reduction, name, weight, temperature, ragged)
        self._topn = topn
        self._mu = mu

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = super().get_config()
        del config["lambda_weight"]
        return {**config, "topn": self._topn, "mu": self._mu}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Makes a loss of `get_config`'s result."""
        return cls(**config)


@register
class PairwiseHingeLoss(PairwiseTwoLayouts, _theirs.PairwiseHingeLoss):
    """`sum_{y_i > y_j} max(0, 1 - (s_i - s_j))`.

    Joachims, "Optimizing Search Engines using Clickthrough Data", KDD 2002.

    Example:
      >>> round(float(PairwiseHingeLoss()([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      0.6
    """

    pair_loss = staticmethod(hinge)


@register
class PairwiseSoftZeroOneLoss(PairwiseTwoLayouts, _theirs.PairwiseSoftZeroOneLoss):
    """`sum_{y_i > y_j} sigmoid(s_j - s_i)`, a smooth count of wrong pairs.

    Example:
      >>> round(float(PairwiseSoftZeroOneLoss()([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      0.2749
    """

    pair_loss = staticmethod(soft_zero_one)


@register
class PairwiseMSELoss(PairwiseTwoLayouts, _theirs.PairwiseMSELoss):
    """`sum_{i != j} ((y_i - y_j) - (s_i - s_j))^2`, also over equal labels.

    Example:
      >>> round(float(PairwiseMSELoss()([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      1.44
    """

    def call_packed(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class; O(documents) without a lambda weight."""
        if not self._known():
            return super().call_packed(y_true, y_pred, sample_weight)
        batch = self.pack(y_true, y_pred)
        if self._lambda_weight is not None:
            form = squared_pair_losses(self._lambda_weight, batch)
            return self.reduce_form(form, batch, sample_weight)
        # With t = y - s and its mean m, sum_j (t_i - t_j)^2 is
        # n (t_i - m)^2 + sum_j (t_j - m)^2.
        valid = tf.cast(batch.mask, tf.float32)
        errors = tf.where(batch.mask, batch.labels - batch.logits, 0.0)
        counts = batch.sum(valid)
        mean = tf.math.divide_no_nan(batch.sum(errors), counts)
        squares = valid * tf.square(errors - batch.to_documents(mean))
        losses = squares * batch.to_documents(counts)
        losses += valid * batch.to_documents(batch.sum(squares))
        return self.reduce_documents(losses, batch, sample_weight)


@register
class YetiLogisticLoss(PairwiseTwoLayouts, _theirs.YetiLogisticLoss):
    """Logistic loss of neighbours in rankings sampled with Gumbel noise.

    Lyzhin et al., "Which Tricks Are Important for Learning to Rank?", ICML 2023. The
    default temperature is 1.0, as in TF-Ranking 0.5.5 (0.5.3: 0.1). Under AUTO the
    divisor counts every sampled list. The paper's weights are `YetiDCGLambdaWeight`;
    without a lambda weight all pairs of a sampled ranking count.

    Example:
      >>> loss = YetiLogisticLoss(sample_size=2, seed=1)
      >>> float(loss([[1.0, 0.0]], [[0.6, 0.8]])) > 0.0
      True
    """

    pair_loss = staticmethod(logistic)
    padded_loss = staticmethod(tf.math.softplus)

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

        self._gumbel_sampler = GumbelSampler(
            name, sample_size, gumbel_temperature, seed
        )

    def call_packed(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        if not self._known():
            # TF-Ranking samples in its `__call__`.
            return super().call_packed(y_true, y_pred, sample_weight)
        sampler = self._gumbel_sampler
        return super().call_packed(
            *sampler.sample_packed(y_true, y_pred, sample_weight)
        )
