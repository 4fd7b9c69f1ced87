"""Steps that compare a document with the others of its list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import tensorflow as tf

from tfr_pipeline.model.layers.lists import check_mask
from tfr_pipeline.model.steps.base import Step, floats

# Maps values and weights to means over lists, of a shape that broadcasts.
Mean = Callable[[Any, Any], Any]


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class ListStandardize(Step):
    """Subtracts the mean of the list and divides by its deviation.

    Where all documents of a list have the same value, it is 0. NaN stays, and does not
    count.

    Example:
      >>> mask = tf.constant([[True, True, False]])
      >>> values = tf.constant([[[1.0], [3.0], [9.0]]])
      >>> ListStandardize()((values, mask))[0, :2, 0].numpy()
      array([-1.,  1.], dtype=float32)
    """

    needs_lists: ClassVar[bool] = True
    is_constant: ClassVar[bool] = False

    def call(self, inputs: Any) -> Any:
        """See `Step`."""
        values, *lists = inputs
        values = floats(values)
        there = ~tf.math.is_nan(values)
        if len(lists) == 1:
            there &= check_mask(lists[0], "list_standardize")[..., tf.newaxis]
            mean: Mean = _of_padded
        else:
            mean = _of_segments(*lists)
        weight = floats(there)
        numbers = tf.where(there, values, tf.zeros_like(values))
        centered = numbers - mean(numbers, weight)
        variance = mean(tf.square(centered), weight)
        # Of equal values the mean is rounded, and the deviation not quite 0.
        tiny = 1e-6 * mean(tf.abs(numbers), weight)
        deviation = tf.sqrt(variance)
        deviation = tf.where(deviation > tiny, deviation, tf.zeros_like(deviation))
        result = tf.math.divide_no_nan(centered, deviation)
        return tf.where(tf.math.is_nan(values), values, result)


def _of_padded(x: Any, weight: Any) -> Any:
    total = tf.reduce_sum(x * weight, axis=1, keepdims=True)
    return tf.math.divide_no_nan(total, tf.reduce_sum(weight, axis=1, keepdims=True))


def _of_segments(row_ids: Any, row_splits: Any) -> Mean:
    """Returns the mean over lists, for each document, of `[1, documents, columns]`."""
    count = tf.shape(row_splits, tf.int64)[0] - 1

    def mean(x: Any, weight: Any) -> Any:
        total = tf.math.unsorted_segment_sum((x * weight)[0], row_ids, count)
        number = tf.math.unsorted_segment_sum(weight[0], row_ids, count)
        means = tf.math.divide_no_nan(total, number)
        return tf.gather(means, row_ids)[tf.newaxis]

    return mean
