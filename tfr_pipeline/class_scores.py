"""Scores of classes: a number for each class, or one for the second of two."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.compat import tf


def logits(scores: Any) -> Any:
    """Returns a logit for each class.

    Args:
      scores: float32 `[..., k]`, one for each class; or `[..., 1]`, the log odds of the
        second of two classes.

    Returns:
      float32 `[..., k]`, or `[..., 2]`.
    """
    if scores.shape[-1] != 1:
        return scores
    return tf.concat([tf.zeros_like(scores), scores], axis=-1)


def flat(y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    """Returns labels and logits of all examples of a batch, one after the other.

    Args:
      y_true: Numbers of classes, dense `[batch, list]` or ragged `[batch, (list)]`.
      y_pred: Scores in the same layout, with one more axis for one a class.

    Returns:
      int32 `[examples]`, -1 for those without a class, and float32 `[examples, k]`.
    """

    def values(value: Any) -> Any:
        if isinstance(value, tf.RaggedTensor):
            return value.values
        return tf.convert_to_tensor(value)

    ragged = isinstance(y_true, tf.RaggedTensor)
    if ragged != isinstance(y_pred, tf.RaggedTensor):
        raise ValueError(
            "expected labels and scores in the same layout, both dense or both ragged. "
            f"Received labels {type(y_true).__name__}, scores {type(y_pred).__name__}."
        )
    labels, scores = values(y_true), tf.cast(values(y_pred), tf.float32)
    if scores.shape.rank == labels.shape.rank:
        scores = scores[..., tf.newaxis]
    scores = logits(tf.reshape(scores, [-1, scores.shape[-1]]))
    labels = tf.cast(tf.reshape(labels, [-1]), tf.int32)
    return tf.where(labels >= 0, labels, -1), scores


def flat_weights(sample_weight: Any, y_true: Any) -> Any:
    """Returns the weight of each example, float32 `[examples]`; or a scalar.

    Args:
      sample_weight: None, a scalar, `[batch]` or `[batch, 1]` (per list), or the shape
        of the labels.
      y_true: See `flat`.
    """
    if sample_weight is None:
        return 1.0
    if isinstance(sample_weight, tf.RaggedTensor):
        return tf.cast(sample_weight.values, tf.float32)
    weights = tf.cast(tf.convert_to_tensor(sample_weight), tf.float32)
    if weights.shape.rank == 0:
        return weights
    if weights.shape.rank == 1:
        weights = weights[:, tf.newaxis]
    if isinstance(y_true, tf.RaggedTensor):
        if weights.shape[1] != 1:  # padded: those of real documents
            lengths = y_true.row_lengths()
            return tf.boolean_mask(
                weights, tf.sequence_mask(lengths, tf.shape(weights)[1])
            )
        return tf.gather(weights[:, 0], y_true.value_rowids())
    return tf.reshape(tf.broadcast_to(weights, tf.shape(y_true)), [-1])
