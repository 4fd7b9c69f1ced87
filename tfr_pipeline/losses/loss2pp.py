"""NDCG-Loss2++: the lambda weight of the LambdaLoss paper that did best there."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.errors import ConfigError, check_topn
from tfr_pipeline.losses.base import register
from tfr_pipeline.losses.lambda_weights import (
    FUNCTIONS,
    Function,
    Serialisable,
)
from tfr_pipeline.serialization import names_of_functions

_theirs: Any = tfr.losses_impl
_functions: Any = tfr.keras.utils


@register
class NDCGLoss2PPLambdaWeight(Serialisable, _theirs.AbstractDCGLambdaWeight):
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
            gain_fn or _functions.pow_minus_1,
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
        relative = _theirs.DCGLambdaWeightV2._pair_rank_discount(self, ranks, topn)
        discounts = self._rank_discount_fn(tf.cast(ranks, tf.float32))
        discounts = tf.where(ranks > topn, 0.0, discounts)
        swap = discounts[:, :, tf.newaxis] - discounts[:, tf.newaxis, :]
        return tf.abs(swap) + self._mu * relative
