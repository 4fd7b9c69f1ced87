"""`get`: a loss by its key, or a sum of losses."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.losses import (
    approx,
    circle,
    classes,
    listwise,
    neural_sort,
    pointwise,
    softmax,
)
from tfr_pipeline.losses.base import AUTO
from tfr_pipeline.losses.combined import WeightedSumLoss
from tfr_pipeline.losses.keys import ClassLossKey, RankingLossKey, parse_losses
from tfr_pipeline.losses.pairwise import losses

_CLASSES: dict[str, Any] = {
    RankingLossKey.PAIRWISE_HINGE_LOSS: losses.PairwiseHingeLoss,
    RankingLossKey.PAIRWISE_LOGISTIC_LOSS: losses.PairwiseLogisticLoss,
    RankingLossKey.PAIRWISE_SOFT_ZERO_ONE_LOSS: losses.PairwiseSoftZeroOneLoss,
    RankingLossKey.PAIRWISE_MSE_LOSS: losses.PairwiseMSELoss,
    RankingLossKey.YETI_LOGISTIC_LOSS: losses.YetiLogisticLoss,
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
    RankingLossKey.CIRCLE_LOSS: circle.CircleLoss,
    RankingLossKey.POLY_ONE_SOFTMAX_LOSS: softmax.PolyOneSoftmaxLoss,
    RankingLossKey.NEURAL_SORT_CROSS_ENTROPY_LOSS: (
        neural_sort.NeuralSortCrossEntropyLoss
    ),
    RankingLossKey.GUMBEL_NEURAL_SORT_CROSS_ENTROPY_LOSS: (
        neural_sort.GumbelNeuralSortCrossEntropyLoss
    ),
    RankingLossKey.NEURAL_SORT_NDCG_LOSS: neural_sort.NeuralSortNDCGLoss,
    RankingLossKey.GUMBEL_NEURAL_SORT_NDCG_LOSS: neural_sort.GumbelNeuralSortNDCGLoss,
    RankingLossKey.CLICK_EM_LOSS: pointwise.ClickEMLoss,
    RankingLossKey.MIXTURE_EM_LOSS: listwise.MixtureEMLoss,
    RankingLossKey.NEURAL_NDCG_LOSS: neural_sort.NeuralNDCGLoss,
    RankingLossKey.LAMBDA_LOSS: losses.LambdaLoss,
    RankingLossKey.GAIN_SOFTMAX_LOSS: functools.partial(
        softmax.SoftmaxLoss, gain_fn="pow_minus_1"
    ),
    ClassLossKey.CATEGORICAL_CROSS_ENTROPY_LOSS: classes.CategoricalCrossEntropyLoss,
}
# Their constructors take a lambda weight, as TF-Ranking's do, and nothing uses it.
_WITHOUT_LAMBDA_WEIGHT = (
    RankingLossKey.APPROX_NDCG_LOSS,
    RankingLossKey.APPROX_MRR_LOSS,
    RankingLossKey.GUMBEL_APPROX_NDCG_LOSS,
    RankingLossKey.MIXTURE_EM_LOSS,
    RankingLossKey.UNIQUE_SOFTMAX_LOSS,
    # Gains take its place.
    RankingLossKey.GAIN_SOFTMAX_LOSS,
)


# The lambda weights that a loss uses, if not all that weigh pairs.
_SOFTMAX = ("DCGLambdaWeight", "NDCGLambdaWeight")
_USED: dict[str, tuple[str, ...]] = {
    RankingLossKey.SOFTMAX_LOSS: _SOFTMAX,
    RankingLossKey.CALIBRATED_SOFTMAX_LOSS: _SOFTMAX,
    RankingLossKey.POLY_ONE_SOFTMAX_LOSS: _SOFTMAX,
    RankingLossKey.LIST_MLE_LOSS: ("ListMLELambdaWeight",),
}


def get(
    loss: str | Mapping[str, Any],
    reduction: str = AUTO,
    lambda_weight: Any = None,
    name: str | None = None,
    **kwargs: Any,
) -> Any:
    """Returns a ranking loss by its key, or a weighted sum of losses.

    Args:
      loss: A value of `RankingLossKey` or `ClassLossKey`; several with weights, such as
        `softmax_loss:0.9,sigmoid_cross_entropy_loss:0.1`; or a dict from keys to
        weights, or to dicts of `weight` and constructor arguments of that loss. A loss
        of your own has any name, and in its dict `loss`, a class or what else makes
        a Keras loss.
      reduction: `tf.keras.losses.Reduction`: AUTO or SUM_OVER_BATCH_SIZE, SUM, NONE.
      lambda_weight: A lambda weight object such as `NDCGLambdaWeight(topn=10)`, or
        what Keras has serialised it to.
      name: Name of the loss.
      **kwargs: More arguments of the loss's constructor, such as `temperature`. In a
        sum they go to each loss that takes them.

    Returns:
      A Keras loss that takes ragged and dense batches.

    Raises:
      ConfigError: A key is unknown, or no loss takes an argument.

    Example:
      >>> get("softmax_loss", temperature=0.5).get_config()["temperature"]
      0.5
      >>> get({"softmax_loss": 0.9, "mean_squared_loss": 0.1}).weights
      [0.9, 0.1]
    """
    if not isinstance(loss, str | Mapping):
        raise ConfigError(
            "`loss` should be the name of a loss, such as 'softmax_loss', or a dict of "
            f"names. Received: loss = {loss!r}."
        )
    if isinstance(lambda_weight, Mapping):
        lambda_weight = tf.keras.utils.deserialize_keras_object(dict(lambda_weight))
    parsed = parse_losses(loss)
    owns = [arguments.pop("loss", None) for arguments in parsed.values()]
    shared = {"reduction": reduction, "lambda_weight": lambda_weight, **kwargs}
    for argument in kwargs:
        known = set().union(*map(_parameters, parsed, owns))
        if argument not in known and not any(map(_takes_all, owns)):
            place = f"loss {', '.join(parsed)}"
            raise ConfigError(unknown_name("argument", argument, known, place))
    if lambda_weight is not None and not any(
        "lambda_weight" in _parameters(*pair) for pair in zip(parsed, owns, strict=True)
    ):
        warnings.warn(
            f"{', '.join(parsed)} does not use `lambda_weight`.", stacklevel=2
        )
    if isinstance(loss, str) and list(parsed) == [loss]:
        return _make(loss, {**shared, "name": name})
    weights = [arguments.pop("weight") for arguments in parsed.values()]
    parts = []
    for (key, arguments), own in zip(parsed.items(), owns, strict=True):
        for argument in arguments:
            known = _parameters(key, own)
            if argument not in known and not _takes_all(own):
                raise ConfigError(
                    unknown_name("argument", argument, known, f"loss {key}")
                )
        if own is None:
            parts.append(_make(key, {**shared, **arguments}))
        else:
            parts.append(_make_own(key, own, shared, arguments))
    return WeightedSumLoss(parts, weights, reduction, name)


def _parameters(key: str, own: Any = None) -> set[str]:
    """Arguments that the loss of a key, or of one's own, uses."""
    if own is not None:
        return set(inspect.signature(own).parameters)
    accepted = set(inspect.signature(_CLASSES[key]).parameters)
    return accepted - ({"lambda_weight"} if key in _WITHOUT_LAMBDA_WEIGHT else set())


def _takes_all(own: Any) -> bool:
    """Whether a loss of one's own takes arguments that it does not name."""
    parameters = inspect.signature(own).parameters.values() if own else ()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _make_own(
    key: str, own: Any, shared: dict[str, Any], arguments: dict[str, Any]
) -> Any:
    """Makes a part of a sum that has no key here."""
    names = _parameters(key, own)
    if _takes_all(own):
        names |= {"reduction"}
    known = {k: v for k, v in shared.items() if k in names and v is not None}
    loss = None
    if not {"y_true", "y_pred"} <= names:
        loss = own(**{**known, **arguments})
    if not isinstance(loss, tf.keras.losses.Loss):
        raise ConfigError(
            f"loss {key!r}: expected a class of Keras losses, or a function that "
            f"returns one, as part of a sum, found {own!r}. Make a class of it, a "
            "subclass of tf.keras.losses.Loss with `call(y_true, y_pred)`."
        )
    return loss


def _make(key: str, arguments: dict[str, Any]) -> Any:
    """Makes a loss of those arguments that it takes."""
    known = _parameters(key)
    weight = arguments.get("lambda_weight")
    if weight is not None and "lambda_weight" in known:
        _check_lambda_weight(key, weight)
    return _CLASSES[key](**{k: v for k, v in arguments.items() if k in known})


def _check_lambda_weight(key: str, weight: Any) -> None:
    """Warns of a lambda weight that a loss ignores; refuses one that it cannot use."""
    name = type(weight).__name__
    if key in _USED:
        # `losses_impl.DCGLambdaWeight` is a base of NDCGLambdaWeight too.
        if not isinstance(weight, getattr(tfr.losses_impl, _USED[key][0])):
            warnings.warn(
                f"{key} does not use a {name}, only {' or '.join(_USED[key])}.",
                stacklevel=4,
            )
    elif isinstance(weight, tfr.losses_impl.ListMLELambdaWeight):
        raise ConfigError(
            f"expected a lambda weight for pairs of documents in loss {key}. "
            f"Received: {name}, which weighs positions, for list_mle_loss."
        )
