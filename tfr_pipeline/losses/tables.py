"""Losses of whole lists that are computed on tables `[batch, list_size]`."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.losses.base import AUTO, TwoLayouts

# Stands for minus infinity: its sums and differences are finite, so are gradients.
LOWEST = -1e30


class OnTables(TwoLayouts):
    """`TwoLayouts` for losses of lists that work on tables in both layouts.

    Packed batches are padded to their longest list. A list weighs what `list_weights`
    says; the number of lists divides the sum under AUTO.
    """

    _temperature: float

    def list_losses(self, labels: Any, logits: Any, mask: Any) -> Any:
        """Returns the loss of each list, float32 `[batch]`.

        Args:
          labels: float32 `[batch, list_size]`, 0 for masked documents.
          logits: float32 `[batch, list_size]`, over the temperature; 0 for masked
            documents.
          mask: bool `[batch, list_size]`.
        """
        raise NotImplementedError

    def call_padded(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        mask = y_true >= 0.0
        labels = tf.where(mask, y_true, 0.0)
        logits = tf.where(mask, y_pred / self._temperature, 0.0)
        losses = self.list_losses(labels, logits, mask)
        return self.reduce(losses[:, tf.newaxis], list_weights(labels, sample_weight))


class ListLoss(OnTables, tf.keras.losses.Loss):
    """A loss of lists that TF-Ranking's Keras side lacks."""

    def __init__(
        self,
        reduction: str = AUTO,
        name: str | None = None,
        temperature: float = 1.0,
        ragged: bool = False,
    ):
        """Initializer.

        Args:
          reduction: Keras reduction.
          name: Name of the loss.
          temperature: Divides the scores.
          ragged: Kept for TF-Ranking's sake; the layout is read off the tensors.

        Raises:
          ConfigError: The temperature is not positive.
        """
        if temperature <= 0.0:
            raise ConfigError(
                "`temperature` should be positive. "
                f"Received: temperature = {temperature}."
            )
        super().__init__(reduction, name)
        self._temperature = temperature
        self._ragged = ragged

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "temperature": self._temperature,
            "ragged": self._ragged,
        }


def list_weights(labels: Any, sample_weight: Any) -> Any:
    """Returns mean weights by label, `[batch, 1]`, or 1.0 if there are none.

    The same as `Packed.list_weights`, on tables.

    Args:
      labels: float32 `[batch, list_size]`, not negative.
      sample_weight: None, a scalar, `[batch, 1]` or `[batch, list_size]`.
    """
    if sample_weight is None:
        return 1.0
    weighted = tf.reduce_sum(labels * sample_weight, axis=1, keepdims=True)
    return tf.math.divide_no_nan(weighted, tf.reduce_sum(labels, 1, keepdims=True))


def log_sum_exp_below(labels: Any, values: Any, mask: Any) -> Any:
    """Returns `log sum_{y_j < y_i} exp(v_j)` of each document, `LOWEST` for no `j`.

    One sort and one scan instead of all pairs.

    Args:
      labels: float32 `[batch, list_size]`, `y`.
      values: float32 `[batch, list_size]`, `v`.
      mask: bool `[batch, list_size]`; masked documents are nobody's `j`.
    """
    keys = tf.where(mask, labels, float("inf"))
    order = tf.argsort(keys, axis=1, stable=True)
    ordered = tf.gather(keys, order, batch_dims=1)
    values = tf.gather(tf.where(mask, values, LOWEST), order, batch_dims=1)
    sums = tf.math.cumulative_logsumexp(values, axis=1, exclusive=True)
    # The first document with the same label has summed all that are below.
    first = tf.searchsorted(ordered, keys, side="left")
    sums = tf.gather(sums, first, batch_dims=1)
    return tf.where(first > 0, tf.maximum(sums, LOWEST), LOWEST)
