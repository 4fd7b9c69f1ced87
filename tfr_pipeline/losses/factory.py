"""`get`: a loss by its key."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.losses import approx, listwise, pairwise, pointwise, softmax
from tfr_pipeline.losses.base import AUTO
from tfr_pipeline.losses.keys import RankingLossKey

_CLASSES: dict[str, Any] = {
    RankingLossKey.PAIRWISE_HINGE_LOSS: pairwise.PairwiseHingeLoss,
    RankingLossKey.PAIRWISE_LOGISTIC_LOSS: pairwise.PairwiseLogisticLoss,
    RankingLossKey.PAIRWISE_SOFT_ZERO_ONE_LOSS: pairwise.PairwiseSoftZeroOneLoss,
    RankingLossKey.PAIRWISE_MSE_LOSS: pairwise.PairwiseMSELoss,
    RankingLossKey.YETI_LOGISTIC_LOSS: pairwise.YetiLogisticLoss,
    RankingLossKey.SOFTMAX_LOSS: softmax.SoftmaxLoss,
    RankingLossKey.CALIBRATED_SOFTMAX_LOSS: softmax.CalibratedSoftmaxLoss,
    RankingLossKey.UNIQUE_SOFTMAX_LOSS: softmax.UniqueSoftmaxLoss,
    RankingLossKey.SIGMOID_CROSS_ENTROPY_LOSS: pointwise.SigmoidCrossEntropyLoss,
    RankingLossKey.MEAN_SQUARED_LOSS: pointwise.MeanSquaredLoss,
    RankingLossKey.ORDINAL_LOSS: pointwise.OrdinalLoss,
    RankingLossKey.LIST_MLE_LOSS: listwise.ListMLELoss,
    RankingLossKey.APPROX_NDCG_LOSS: approx.ApproxNDCGLoss,
    RankingLossKey.APPROX_MRR_LOSS: approx.ApproxMRRLoss,
    RankingLossKey.GUMBEL_APPROX_NDCG_LOSS: approx.GumbelApproxNDCGLoss,
    RankingLossKey.COUPLED_RANKDISTIL_LOSS: listwise.CoupledRankDistilLoss,
}
# TF-Ranking's factory withholds the lambda weight from these, although their
# constructors take one.
_WITHOUT_LAMBDA_WEIGHT = (
    RankingLossKey.APPROX_NDCG_LOSS,
    RankingLossKey.APPROX_MRR_LOSS,
    RankingLossKey.GUMBEL_APPROX_NDCG_LOSS,
)


def get(
    loss: str,
    reduction: str = AUTO,
    lambda_weight: Any = None,
    name: str | None = None,
    **kwargs: Any,
) -> Any:
    """Returns a ranking loss by its key.

    Args:
      loss: A value of `RankingLossKey`.
      reduction: `tf.keras.losses.Reduction`: AUTO or SUM_OVER_BATCH_SIZE, SUM, NONE.
      lambda_weight: A lambda weight object such as `NDCGLambdaWeight(topn=10)`.
      name: Name of the loss.
      **kwargs: More arguments of the loss's constructor, such as `temperature`.

    Returns:
      A Keras loss that takes ragged and dense batches.

    Raises:
      ConfigError: The key is unknown, or the loss does not take an argument.

    Example:
      >>> get("softmax_loss", temperature=0.5).get_config()["temperature"]
      0.5
    """
    if loss not in _CLASSES:
        raise ConfigError(unknown_name("loss", loss, _CLASSES))
    cls = _CLASSES[loss]
    accepted = set(inspect.signature(cls).parameters)
    arguments = {"reduction": reduction, "name": name, **kwargs}
    if "lambda_weight" in accepted and loss not in _WITHOUT_LAMBDA_WEIGHT:
        arguments["lambda_weight"] = lambda_weight
    elif lambda_weight is not None:
        warnings.warn(f"{loss} does not use `lambda_weight`.", stacklevel=2)
    for argument in arguments:
        if argument not in accepted:
            raise ConfigError(
                unknown_name("argument", argument, accepted - {"self"}, f"loss {loss}")
            )
    return cls(**arguments)
