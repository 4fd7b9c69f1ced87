"""Accuracy of examples that belong to classes."""

from __future__ import annotations

from typing import Any

from tfr_pipeline import class_scores, global_batch
from tfr_pipeline.compat import tf
from tfr_pipeline.declared import BOTH
from tfr_pipeline.errors import check_topn
from tfr_pipeline.metrics.base import register


@register
class AccuracyMetric(tf.keras.metrics.Mean):
    """Share of labelled examples whose class is among the `topn` likeliest.

    Of equal scores the first class counts as the likelier one, as in `argmax`. A NaN is
    never right. Examples without a class do not count.

    Attributes:
      layouts: See `declared`.
      of_classes: Labels are numbers of classes.

    Example:
      >>> metric = AccuracyMetric()
      >>> scores = [[[0.1, 0.5, 0.2]], [[0.9, 0.0, 0.8]], [[0.0, 0.0, 1.0]]]
      >>> float(metric([[1.0], [2.0], [-1.0]], scores))
      0.5
      >>> float(AccuracyMetric(topn=2)([[1.0], [2.0], [-1.0]], scores))
      1.0
    """

    layouts = BOTH
    of_classes = True

    def __init__(
        self,
        name: str | None = None,
        topn: int | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ):
        """Initializer.

        Args:
          name: Name of the metric.
          topn: Among how many of the likeliest the class has to be; None for 1.
          dtype: dtype of the metric's state.
          **kwargs: Further arguments of `tf.keras.metrics.Mean`.

        Raises:
          ConfigError: `topn` is no positive integer.
        """
        check_topn(topn)
        super().__init__(name=name or "accuracy", dtype=dtype, **kwargs)
        self._topn = topn

    @tf.autograph.experimental.do_not_convert
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Adds a batch.

        Args:
          y_true: Numbers of classes, dense `[batch, list_size]` or ragged `[batch,
            (list)]`.
          y_pred: Scores in the same layout, with one more axis for a score a class.
          sample_weight: See `CategoricalCrossEntropyLoss`.
        """
        labels, logits = class_scores.flat(y_true, y_pred)
        own = tf.gather(logits, tf.maximum(labels, 0), axis=1, batch_dims=1)
        own = own[:, tf.newaxis]
        before = tf.range(tf.shape(logits)[1]) < labels[:, tf.newaxis]
        ahead = (logits > own) | ((logits == own) & before)
        place = tf.math.count_nonzero(ahead, axis=1, dtype=tf.int32)
        # No comparison with NaN is true.
        right = (place < (self._topn or 1)) & ~tf.reduce_any(
            tf.math.is_nan(logits), axis=1
        )
        weights = class_scores.flat_weights(sample_weight, y_true)
        if not isinstance(y_true, tf.RaggedTensor):
            real = global_batch.count_real(tf.ones([tf.shape(y_true)[0], 1]))
            weights *= tf.reshape(tf.broadcast_to(real, tf.shape(y_true)), [-1])
        weights = tf.where(labels >= 0, weights, 0.0)
        return super().update_state(tf.cast(right, tf.float32), weights)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "topn": self._topn}
