"""Lambda weights: what a pair or a document weighs in a loss.

They weight document pairs by what swapping the two would change in a metric (Wang et
al., "The LambdaLoss Framework for Ranking Metric Optimization", CIKM 2018). With `D(r)`
the discount of a rank and `G` the gains, a pair at the ranks `i` and `j` weighs
`|G_i - G_j|` times the longest list of the batch times

- `|D(|i - j|) - D(|i - j| + 1)|`, which bounds the metric (LambdaLoss, equation 12), or
- `|D(i) - D(j)|`, which is what the swap changes (LambdaRank).

All are subclasses of TF-Ranking's of the same name and give the same numbers. They
check their arguments, and survive serialisation with their functions, which have to be
registered (`tf.keras.utils.register_keras_serializable`) for that.

Example:
  >>> from tfr_pipeline import losses
  >>> weight = losses.NDCGLambdaWeight(topn=10)
  >>> loss = losses.get("pairwise_logistic_loss", lambda_weight=weight)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.errors import ConfigError, check_topn, unknown_name
from tfr_pipeline.gains import for_ratios
from tfr_pipeline.losses.base import register
from tfr_pipeline.serialization import functions_of_names, names_of_functions

_impl: Any = tfr.losses_impl

_theirs: Any = tfr.keras.losses
_functions: Any = tfr.keras.utils
FUNCTIONS = ("gain_fn", "rank_discount_fn", "positive_fn")
Function = Callable[[Any], Any]


def _check(weight: Any, topn: int | None, others: dict[str, Any]) -> None:
    """Checks `topn`, and that nothing was given that the constructor does not know."""
    check_topn(topn)
    known = set(inspect.signature(type(weight)).parameters) - {"kwargs"}
    for name in others:
        raise ConfigError(unknown_name("argument", name, known, type(weight).__name__))


class Serialisable:
    """Functions in configs by the names they are registered as."""

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, registered functions by their names."""
        return names_of_functions(super().get_config(), FUNCTIONS)  # type: ignore[misc]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Makes a lambda weight of `get_config`'s result."""
        return cls(**functions_of_names(config, FUNCTIONS))


@register
class LabelDiffLambdaWeight(Serialisable, _theirs.LabelDiffLambdaWeight):
    """A pair weighs the difference of its labels.

    Example:
      >>> weight = LabelDiffLambdaWeight()
      >>> weight.pair_weights([[3.0, 1.0]], None).numpy().tolist()
      [[[0.0, 2.0], [2.0, 0.0]]]
    """

    def __init__(self, **kwargs: Any):
        _check(self, None, kwargs)
        super().__init__()


@register
class DCGLambdaWeight(Serialisable, _theirs.DCGLambdaWeight):
    """A pair weighs what swapping it changes in DCG.

    Example:
      >>> weight = DCGLambdaWeight(topn=5)
      >>> weight.pair_weights([[3.0, 1.0]], [[1, 2]]).numpy().tolist()
      [[[0.0, 2.0], [2.0, 0.0]]]
    """

    def __init__(
        self,
        topn: int | None = None,
        gain_fn: Function | None = None,
        rank_discount_fn: Function | None = None,
        normalized: bool = False,
        smooth_fraction: float = 0.0,
        **kwargs: Any,
    ):
        """Initializer.

        Args:
          topn: Pairs of two documents below this rank weigh 0; None for no cut.
          gain_fn: Maps labels to gains; None stands for the label itself.
          rank_discount_fn: Maps ranks from 1 to discounts; None stands for `1 / rank`.
          normalized: Whether gains are divided by the list's best DCG.
          smooth_fraction: Share of LambdaRank's weight, between 0 and 1; the rest is
            LambdaLoss's.

        Raises:
          ConfigError: `topn` or `smooth_fraction` is out of range, or an argument is
            unknown.
        """
        _check(self, topn, kwargs)
        if not 0.0 <= smooth_fraction <= 1.0:
            raise ConfigError(
                "`smooth_fraction` should be between 0 and 1. "
                f"Received: smooth_fraction = {smooth_fraction}."
            )
        super().__init__(
            topn,
            for_ratios(gain_fn) if gain_fn and normalized else gain_fn,
            rank_discount_fn,
            normalized,
            smooth_fraction,
        )


@register
class NDCGLambdaWeight(Serialisable, _theirs.NDCGLambdaWeight):
    """A pair weighs what swapping it changes in NDCG.

    Example:
      >>> weight = NDCGLambdaWeight(topn=5)
      >>> round(float(weight.pair_weights([[3.0, 0.0]], [[1, 2]])[0, 0, 1]), 4)
      0.7381
    """

    def __init__(
        self,
        topn: int | None = None,
        gain_fn: Function | None = None,
        rank_discount_fn: Function | None = None,
        smooth_fraction: float = 0.0,
        **kwargs: Any,
    ):
        """As `DCGLambdaWeight`; gain `2^y - 1`, discount `1 / log2(1 + rank)`."""
        _check(self, topn, kwargs)
        gain_fn = for_ratios(gain_fn or _functions.pow_minus_1)
        super().__init__(topn, gain_fn, rank_discount_fn, smooth_fraction)

    def get_config(self) -> dict[str, Any]:
        """See base class."""
        config = super().get_config()
        del config["normalized"]
        return config


@register
class NDCGLambdaWeightV2(Serialisable, _theirs.NDCGLambdaWeightV2):
    """LambdaLoss's weight for NDCG@topn: pairs below `topn` count more, not 0.

    Jagerman et al., "On Optimizing Top-K Metrics for Neural Ranking Models", SIGIR
    2022: where the worse rank `r` of a pair lies below `topn`, the weight is divided by
    `1 - D(r)`.

    Example:
      >>> weight = NDCGLambdaWeightV2(topn=1)
      >>> round(float(weight.pair_weights([[3.0, 0.0]], [[1, 2]])[0, 0, 1]), 4)
      2.0
    """

    def __init__(
        self,
        topn: int | None = None,
        gain_fn: Function | None = None,
        rank_discount_fn: Function | None = None,
        **kwargs: Any,
    ):
        """As `NDCGLambdaWeight`."""
        _check(self, topn, kwargs)
        gain_fn = for_ratios(gain_fn or _functions.pow_minus_1)
        super().__init__(topn, gain_fn, rank_discount_fn)


@register
class YetiDCGLambdaWeight(Serialisable, _theirs.YetiDCGLambdaWeight):
    """`NDCGLambdaWeightV2` for neighbours in the ranking, 0 for all other pairs.

    Lyzhin et al., "Which Tricks Are Important for Learning to Rank?", ICML 2023; gains
    are not divided by the best DCG unless `normalized`.

    Example:
      >>> weight = YetiDCGLambdaWeight()
      >>> float(weight.pair_weights([[1.0, 0.0, 0.0]], [[1, 2, 3]])[0, 0, 2])
      0.0
    """

    def __init__(
        self,
        topn: int | None = None,
        gain_fn: Function | None = None,
        rank_discount_fn: Function | None = None,
        normalized: bool = False,
        **kwargs: Any,
    ):
        """As `DCGLambdaWeight`; gain `2^y - 1`, discount `1 / log2(1 + rank)`."""
        _check(self, topn, kwargs)
        if normalized:
            gain_fn = for_ratios(gain_fn or _functions.pow_minus_1)
        super().__init__(topn, gain_fn, rank_discount_fn, normalized)


@register
class PrecisionLambdaWeight(Serialisable, _theirs.PrecisionLambdaWeight):
    """A pair weighs 1 if swapping it changes the precision among the first `topn`.

    Example:
      >>> weight = PrecisionLambdaWeight(topn=1)
      >>> weight.pair_weights([[1.0, 0.0]], [[1, 2]]).numpy().tolist()
      [[[0.0, 1.0], [1.0, 0.0]]]
    """

    def __init__(
        self,
        topn: int | None = None,
        positive_fn: Function | None = None,
        **kwargs: Any,
    ):
        """Initializer.

        Args:
          topn: The cut of precision; None can be constructed, as in TF-Ranking, and
            not used.
          positive_fn: Maps labels to whether they are relevant; None stands for a label
            of 1 or more.

        Raises:
          ConfigError: `topn` is no positive integer, or an argument is unknown.
        """
        _check(self, topn, kwargs)
        super().__init__(topn, positive_fn)

    def pair_weights(self, labels: Any, ranks: Any) -> Any:
        """Returns the weights of pairs, float32 `[batch, list_size, list_size]`.

        Args:
          labels: float32 `[batch, list_size]`.
          ranks: int32 `[batch, list_size]`, from 1.

        Raises:
          ConfigError: There is no `topn`.
        """
        if self._topn is None:
            raise ConfigError(
                "PrecisionLambdaWeight needs `topn`: without a cut, swapping two "
                "documents never changes the precision."
            )
        return super().pair_weights(labels, ranks)


@register
class ListMLELambdaWeight(Serialisable, _theirs.ListMLELambdaWeight):
    """Weights of positions for `ListMLELoss`, which they make position-aware.

    Lan et al., "Position-Aware ListMLE: A Sequential Learning Process for Ranking", UAI
    2014.

    Example:
      >>> weight = ListMLELambdaWeight(rank_discount_fn=lambda rank: 1.0 / rank)
      >>> weight.individual_weights([[1.0, 0.0]], [[1, 2]]).numpy().tolist()
      [[1.0, 0.5]]
    """

    def __init__(self, rank_discount_fn: Function | None = None, **kwargs: Any):
        """Initializer.

        Args:
          rank_discount_fn: Maps ranks from 1 to weights; None stands for
            `1 / log2(1 + rank)`.

        Raises:
          ConfigError: An argument is unknown.
        """
        _check(self, None, kwargs)
        super().__init__(rank_discount_fn or _functions.log2_inverse)


@register
class NDCGLoss2PPLambdaWeight(Serialisable, _impl.AbstractDCGLambdaWeight):
    """NDCG-Loss2++: LambdaRank's weight plus `mu` times LambdaLoss's.

    Wang et al., "The LambdaLoss Framework for Ranking Metric Optimization", CIKM 2018,
    section 4.4. With `topn`, discounts beyond it are 0 in LambdaRank's part, and
    LambdaLoss's part is `NDCGLambdaWeightV2`'s.

    Example:
      >>> weight = NDCGLoss2PPLambdaWeight(mu=1.0)
      >>> round(float(weight.pair_weights([[3.0, 0.0]], [[1, 2]])[0, 0, 1]), 4)
      1.4763
    """

    def __init__(
        self,
        topn: int | None = None,
        gain_fn: Function | None = None,
        rank_discount_fn: Function | None = None,
        mu: float = 10.0,
    ):
        """Initializer.

        Args:
          topn: The cut of NDCG; None for no cut.
          gain_fn: Maps labels to gains; None stands for `2^y - 1`.
          rank_discount_fn: Maps ranks from 1 to discounts; None stands for
            `1 / log2(1 + rank)`.
          mu: Weight of LambdaLoss's part, not negative.

        Raises:
          ConfigError: `topn` or `mu` is out of range.
        """
        check_topn(topn)
        if mu < 0.0:
            raise ConfigError(f"`mu` should not be negative. Received: mu = {mu}.")
        super().__init__(
            topn,
            for_ratios(gain_fn or _functions.pow_minus_1),
            rank_discount_fn or _functions.log2_inverse,
            normalized=True,
        )
        self._mu = mu

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, registered functions by their names."""
        config = {
            "topn": self._topn,
            "gain_fn": self._gain_fn,
            "rank_discount_fn": self._rank_discount_fn,
            "mu": self._mu,
        }
        return names_of_functions(config, FUNCTIONS)

    def _pair_rank_discount(self, ranks: Any, topn: Any) -> Any:
        """Discounts `[batch, list, list]` of ranks `[batch, list]`."""
        relative = _impl.DCGLambdaWeightV2._pair_rank_discount(self, ranks, topn)
        discounts = self._rank_discount_fn(tf.cast(ranks, tf.float32))
        discounts = tf.where(ranks > topn, 0.0, discounts)
        swap = discounts[:, :, tf.newaxis] - discounts[:, tf.newaxis, :]
        return tf.abs(swap) + self._mu * relative
