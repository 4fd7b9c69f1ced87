"""Weighted sums of losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfr_pipeline import declared
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.losses.base import AUTO, register

_Reduction = tf.keras.losses.Reduction


@register
class WeightedSumLoss(tf.keras.losses.Loss):
    """Sum of losses of the same labels and scores, each times its weight.

    `losses.get` makes it of a string or a dict; the parts may be any Keras losses.

    Example:
      >>> from tfr_pipeline import losses
      >>> parts = [losses.SoftmaxLoss(), losses.MeanSquaredLoss()]
      >>> loss = WeightedSumLoss(parts, [0.5, 2.0])
      >>> round(float(loss([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      1.1991
    """

    def __init__(
        self,
        losses: Sequence[Any],
        weights: Sequence[float] | None = None,
        reduction: str = AUTO,
        name: str | None = None,
    ):
        """Initializer.

        Args:
          losses: The parts, each with this `reduction` or AUTO for
            SUM_OVER_BATCH_SIZE.
          weights: One for each part; None stands for 1 each.
          reduction: Keras reduction, not NONE: losses of lists, documents and pairs
            have different shapes.
          name: Name of the loss.

        Raises:
          ConfigError: Numbers of parts and weights differ, or reductions do not fit.
        """
        weights = [1.0] * len(losses) if weights is None else list(weights)
        if not losses or len(weights) != len(losses):
            raise ConfigError(
                "expected as many weights as losses, and at least one. Received: "
                f"{len(losses)} losses, {len(weights)} weights."
            )
        if reduction == _Reduction.NONE:
            raise ConfigError(
                "a weighted sum of losses has no reduction NONE: its parts have "
                "different shapes. Use AUTO or SUM."
            )
        for loss in losses:
            if (loss.reduction == _Reduction.SUM) != (reduction == _Reduction.SUM) or (
                loss.reduction == _Reduction.NONE
            ):
                raise ConfigError(
                    f"expected every part to have the reduction {reduction!r}. "
                    f"Received: {type(loss).__name__} with {loss.reduction!r}."
                )
        super().__init__(reduction, name)
        self.losses = list(losses)
        self.weights = [float(weight) for weight in weights]

    @property
    def layouts(self) -> tuple[str, ...]:
        """The batch layouts that all parts take."""
        taken = [declared.layouts(loss) for loss in self.losses]
        return tuple(x for x in declared.BOTH if all(x in each for each in taken))

    @property
    def tpu_ready(self) -> bool:
        """Whether all parts are."""
        return all(declared.tpu_ready(loss) for loss in self.losses)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Computes the sum; arguments as the parts take them."""
        for loss in self.losses:
            # Under a strategy Keras lets compiled losses average, and only them.
            loss._allow_sum_over_batch_size = self._allow_sum_over_batch_size
        return tf.add_n(
            [
                weight * loss(y_true, y_pred, sample_weight)
                for weight, loss in zip(self.weights, self.losses, strict=True)
            ]
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "losses": [tf.keras.losses.serialize(loss) for loss in self.losses],
            "weights": self.weights,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WeightedSumLoss:
        """Makes a loss of `get_config`'s result."""
        # Keras may have made the parts already.
        losses = [
            tf.keras.losses.deserialize(loss) if isinstance(loss, dict) else loss
            for loss in config["losses"]
        ]
        return cls(**{**config, "losses": losses})
