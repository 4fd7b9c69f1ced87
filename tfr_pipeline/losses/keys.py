"""Names under which losses can be had; plain Python, so checking a config is cheap."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from tfr_pipeline.errors import ConfigError, unknown_name


class RankingLossKey:
    """Keys of `tfr_pipeline.losses.get`, on every lane.

    First those of TF-Ranking 0.5.5's Keras side, then those that it has for Estimators
    only or without a key, then those that it lacks.

    Example:
      >>> RankingLossKey.SOFTMAX_LOSS
      'softmax_loss'
    """

    PAIRWISE_HINGE_LOSS = "pairwise_hinge_loss"
    PAIRWISE_LOGISTIC_LOSS = "pairwise_logistic_loss"
    PAIRWISE_SOFT_ZERO_ONE_LOSS = "pairwise_soft_zero_one_loss"
    PAIRWISE_MSE_LOSS = "pairwise_mse_loss"
    YETI_LOGISTIC_LOSS = "yeti_logistic_loss"
    SOFTMAX_LOSS = "softmax_loss"
    CALIBRATED_SOFTMAX_LOSS = "calibrated_softmax_loss"
    UNIQUE_SOFTMAX_LOSS = "unique_softmax_loss"
    SIGMOID_CROSS_ENTROPY_LOSS = "sigmoid_cross_entropy_loss"
    MEAN_SQUARED_LOSS = "mean_squared_loss"
    ORDINAL_LOSS = "ordinal_loss"
    LIST_MLE_LOSS = "list_mle_loss"
    APPROX_NDCG_LOSS = "approx_ndcg_loss"
    APPROX_MRR_LOSS = "approx_mrr_loss"
    GUMBEL_APPROX_NDCG_LOSS = "gumbel_approx_ndcg_loss"
    COUPLED_RANKDISTIL_LOSS = "coupled_rankdistil_loss"

    CIRCLE_LOSS = "circle_loss"
    POLY_ONE_SOFTMAX_LOSS = "poly_one_softmax_loss"
    NEURAL_SORT_CROSS_ENTROPY_LOSS = "neural_sort_cross_entropy_loss"
    GUMBEL_NEURAL_SORT_CROSS_ENTROPY_LOSS = "gumbel_neural_sort_cross_entropy_loss"
    NEURAL_SORT_NDCG_LOSS = "neural_sort_ndcg_loss"
    GUMBEL_NEURAL_SORT_NDCG_LOSS = "gumbel_neural_sort_ndcg_loss"
    CLICK_EM_LOSS = "click_em_loss"
    MIXTURE_EM_LOSS = "mixture_em_loss"

    NEURAL_NDCG_LOSS = "neural_ndcg_loss"
    LAMBDA_LOSS = "lambda_loss"
    GAIN_SOFTMAX_LOSS = "gain_softmax_loss"

    @classmethod
    def all_keys(cls) -> list[str]:
        """Returns every key."""
        return [value for name, value in vars(cls).items() if name.isupper()]


class ClassLossKey:
    """Keys of `tfr_pipeline.losses.get` for examples of classes.

    Example:
      >>> ClassLossKey.CATEGORICAL_CROSS_ENTROPY_LOSS
      'categorical_cross_entropy_loss'
    """

    CATEGORICAL_CROSS_ENTROPY_LOSS = "categorical_cross_entropy_loss"

    @classmethod
    def all_keys(cls) -> list[str]:
        """Returns every key."""
        return [value for name, value in vars(cls).items() if name.isupper()]


def parse_losses(
    loss: Any, where: str = "", is_own: Callable[[str], bool] = lambda key: False
) -> dict[str, dict[str, Any]]:
    """Reads what losses to add up, and with which weights and arguments.

    Args:
      loss: A key; keys with weights, `softmax_loss:0.9,sigmoid_cross_entropy_loss:0.1`
        (a key without a weight has the weight 1); or a dict from keys to weights, or to
        dicts of `weight` (1 if it is not there) and arguments of the constructor. Among
        those may be `loss`, what makes a loss that has no key here.
      where: Place to name in errors, such as a config key.
      is_own: Whether something is the name of such a loss.

    Returns:
      Dict from keys to dicts with a float `weight` and the other arguments.

    Raises:
      ConfigError: A key is unknown or comes twice, or a weight is no finite number.

    Example:
      >>> parse_losses("softmax_loss:0.9, mean_squared_loss")
      {'softmax_loss': {'weight': 0.9}, 'mean_squared_loss': {'weight': 1.0}}
      >>> parse_losses({"softmax_loss": {"weight": 2, "temperature": 0.5}})
      {'softmax_loss': {'weight': 2.0, 'temperature': 0.5}}
    """
    place = f" in {where}" if where else ""
    if isinstance(loss, str):
        pairs: list[tuple[str, Any]] = []
        for part in loss.split(","):
            key, colon, weight = part.strip().partition(":")
            before, _, last = part.strip().rpartition(":")
            if is_own(part.strip()):  # `module:callable`
                key, colon = part.strip(), ""
            elif is_own(before):
                key, weight = before, last
            pairs.append((key.strip(), weight.strip() if colon else 1.0))
    elif isinstance(loss, Mapping) and loss:
        pairs = list(loss.items())
    else:
        raise ConfigError(
            f"expected the name of a loss, names with weights such as "
            f"'softmax_loss:0.9,mean_squared_loss:0.1', or a dict of them{place}. "
            f"Received: {loss!r}."
        )
    parsed: dict[str, dict[str, Any]] = {}
    for key, value in pairs:
        own = is_own(key) or (isinstance(value, Mapping) and value.get("loss"))
        known = [*RankingLossKey.all_keys(), *ClassLossKey.all_keys()]
        if key not in known and not own:
            raise ConfigError(unknown_name("loss", key, known, where))
        if key in parsed:
            raise ConfigError(f"loss {key!r} comes twice{place}: add its weights up.")
        arguments = dict(value) if isinstance(value, Mapping) else {"weight": value}
        parsed[key] = {"weight": 1.0, **arguments}
        parsed[key]["weight"] = _number(parsed[key]["weight"], key, place)
    return parsed


def _number(weight: Any, key: str, place: str) -> float:
    try:
        number = float(weight)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(
            f"expected a finite number as the weight of loss {key!r}{place}. "
            f"Received: {weight!r}."
        )
    return number
