"""Losses of examples that belong to classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfr_pipeline import class_scores
from tfr_pipeline.compat import tf
from tfr_pipeline.declared import BOTH
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.global_batch import mean_of_counted
from tfr_pipeline.losses.base import AUTO, register

_Reduction = tf.keras.losses.Reduction


@register
class CategoricalCrossEntropyLoss(tf.keras.losses.Loss):
    """Cross-entropy of the class and the softmax of the scores, `-log p(class)`.

    One score an example instead of one a class is the log odds of the second of two
    classes; the loss then is the sigmoid cross-entropy.

    Examples without a class, whose label is negative, take no part: under AUTO and
    SUM_OVER_BATCH_SIZE the sum is divided by the number of the others (not by the sum
    of their weights, as in Keras), over all replicas.

    Attributes:
      layouts: See `declared`.
      outputs: Any number of scores.
      of_classes: Labels are numbers of classes.
      tpu_ready: See `declared`.

    Example:
      >>> loss = CategoricalCrossEntropyLoss()
      >>> scores = [[[0.0, 1.0, 0.0]], [[2.0, 0.0, 0.0]]]
      >>> round(float(loss([[1.0], [-1.0]], scores)), 4)
      0.5514
    """

    layouts = BOTH
    tpu_ready = True
    outputs: int | None = None
    of_classes = True

    def __init__(
        self,
        reduction: str = AUTO,
        name: str | None = None,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ):
        """Initializer.

        Args:
          reduction: Keras reduction.
          name: Name of the loss.
          class_weights: A weight for each class, which those of examples are multiplied
            with; None for equal ones.
          label_smoothing: Share of each label that all classes have in equal parts
            (Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016).

        Raises:
          ConfigError: A weight is negative or not finite, or there are less than two;
            or the share is not between 0 and 1.
        """
        super().__init__(reduction, name)
        self._class_weights = None if class_weights is None else list(class_weights)
        self._smoothing = label_smoothing
        if not 0.0 <= label_smoothing < 1.0:
            raise ConfigError(
                "`label_smoothing` should be a number from 0 to below 1. "
                f"Received: label_smoothing = {label_smoothing!r}."
            )
        weights = self._class_weights
        if weights is not None and (
            len(weights) < 2
            or not all(0 <= weight < float("inf") for weight in weights)
        ):
            raise ConfigError(
                "`class_weights` should be a number of 0 or more for each class. "
                f"Received: class_weights = {class_weights!r}."
            )

    @property
    def class_weights(self) -> list[float] | None:
        """The weight of each class, or None."""
        return self._class_weights

    @tf.autograph.experimental.do_not_convert
    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Computes the loss.

        Args:
          y_true: Numbers of classes, dense `[batch, list_size]` or ragged `[batch,
            (list)]`; negative for examples without one.
          y_pred: Scores in the same layout, with one more axis for a score a class.
          sample_weight: None, a scalar, `[batch]` or `[batch, 1]` (per list) or the
            shape of `y_true`.

        Returns:
          float32 scalar, 0 for a batch without labelled examples; with reduction `NONE`
          float32 of the shape of `y_true`, 0 for those without a class.
        """
        labels, logits = class_scores.flat(y_true, y_pred)
        labelled = labels >= 0
        safe = tf.where(labelled, labels, 0)
        # Where nothing counts, no score is so large that its gradient is NaN.
        logits = tf.where(labelled[:, tf.newaxis], logits, 0.0)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(safe, logits)
        if self._smoothing:
            even = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=1)
            losses += self._smoothing * (even - losses)
        weights = class_scores.flat_weights(sample_weight, y_true)
        if self._class_weights is not None:
            weights *= tf.gather(tf.constant(self._class_weights, tf.float32), safe)
        losses = tf.where(labelled, losses * weights, 0.0)
        reduction = self._get_reduction()
        if reduction == _Reduction.NONE:
            if isinstance(y_true, tf.RaggedTensor):
                return y_true.with_values(losses)
            return tf.reshape(losses, tf.shape(y_true))
        total = tf.reduce_sum(losses)
        if reduction == _Reduction.SUM:
            return total
        return mean_of_counted(total, tf.reduce_sum(tf.cast(labelled, tf.float32)))

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """See `__call__`; without weights."""
        return self(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "class_weights": self._class_weights,
            "label_smoothing": self._smoothing,
        }
