"""Steps that compare a document with the others of its list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.layers.lists import check_mask
from tfr_pipeline.model.steps.base import Step, floats, side_by_side

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

    def call(self, inputs: Any) -> Any:
        """See `Step`."""
        values, *lists = inputs
        values = floats(values)
        there = ~tf.math.is_nan(values)
        if len(lists) == 1:
            there &= check_mask(lists[0], "list_standardize")[..., tf.newaxis]
            mean = _of_padded
        else:
            mean = _of_segments(*lists)  # type: ignore[assignment]
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


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class ListQuantileNormal(Step):
    """Maps the values of a list to the normal distribution, by their ranks.

    What has rank `r` of `n` documents, from the least, becomes the normal quantile of
    `r / (n + 1)` (van der Waerden scores); equal values have the mean of their ranks.
    It says how a document stands beside those that it competes with, whatever the
    scale of the query: trees cannot compute it from raw values. Where all documents of
    a list have the same value, it is 0. NaN stays, and does not count.

    Args:
      beside: Puts the result beside the value, in a second column, instead of in its
        place.

    Example:
      >>> mask = tf.constant([[True, True, True, False]])
      >>> values = tf.constant([[[5.0], [1.0], [7.0], [9.0]]])
      >>> ListQuantileNormal()((values, mask))[0, :3, 0].numpy().round(4)
      array([ 0.    , -0.6745,  0.6745], dtype=float32)
    """

    needs_lists: ClassVar[bool] = True
    tpu_ready: ClassVar[bool] = False

    def __init__(self, beside: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        if not isinstance(beside, bool):
            raise ConfigError(
                f"list_quantile_normal: expected beside to be a bool, found {beside!r}."
            )
        self.beside = beside

    def call(self, inputs: Any) -> Any:
        """See `Step`."""
        values, *lists = inputs
        values = floats(values)
        columns = values.shape[-1]
        flat = tf.reshape(values, [-1, columns])
        there = ~tf.math.is_nan(flat)
        if len(lists) == 1:
            mask = check_mask(lists[0], "list_quantile_normal")
            there &= tf.reshape(mask, [-1, 1])
            size = tf.shape(values)[1]
            row_splits = tf.range(tf.shape(values)[0] + 1) * size
            row_ids = tf.range(tf.shape(flat)[0]) // tf.maximum(size, 1)
        else:
            row_ids, row_splits = (tf.cast(x, tf.int32) for x in lists)
        ranks, counts = _ranks(flat, there, row_ids, row_splits)
        normal = tf.math.ndtri(ranks / (counts + 1.0))
        normal = tf.where(there, normal, flat)
        result = tf.ensure_shape(tf.reshape(normal, tf.shape(values)), values.shape)
        if self.beside:
            return side_by_side(tf.stack([values, result], axis=-1))
        return result

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "beside": self.beside}


def _ranks(values: Any, there: Any, row_ids: Any, row_splits: Any) -> tuple[Any, Any]:
    """Returns the ranks of values in their lists, from 1, and how many count there.

    Args:
      values: float32 `[documents, columns]`.
      there: bool, which of them count; the ranks of others mean nothing.
      row_ids: int32 `[documents]`, rising.
      row_splits: int32 `[lists + 1]`.

    Returns:
      Two of float32 `[documents, columns]`.
    """
    # Columns in rows, as sorting wants them; what does not count comes last.
    numbers = tf.minimum(values, values.dtype.max)
    rows = tf.transpose(tf.where(there, numbers, tf.constant(np.inf)))
    columns, documents = tf.shape(rows)[0], tf.shape(rows)[1]
    # Bits of floats rise as integers do, but for the sign, and 0 has one form. With the
    # list in front of them, one sort puts lists in their order and values within.
    bits = tf.bitcast(rows + 0.0, tf.int32)
    below = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 31), 0x7FFFFFFF)
    bits = tf.cast(tf.bitwise.bitwise_xor(bits, below), tf.int64)
    order = tf.argsort(bits + tf.cast(row_ids, tf.int64) * (1 << 32), axis=1)
    ordered = tf.gather(rows, order, batch_dims=1)
    # Of equal values of a list, the places of the first and of the last.
    begins = ordered[:, 1:] != ordered[:, :-1]
    begins |= (row_ids[1:] != row_ids[:-1])[tf.newaxis]
    begins = tf.pad(begins, [[0, 0], [1, 0]], constant_values=True)
    begins = begins[:, :documents]  # none where there is no document
    groups = tf.cumsum(tf.reshape(tf.cast(begins, tf.int32), [-1])) - 1
    sizes = tf.math.bincount(groups, minlength=0, dtype=tf.int32)
    firsts = tf.boolean_mask(tf.tile(tf.range(documents), [columns]), _flat(begins))
    middle = (
        floats(tf.gather(firsts, groups)) + (floats(tf.gather(sizes, groups)) - 1) / 2
    )
    starts = floats(tf.gather(row_splits, row_ids))
    found = tf.reshape(middle, [columns, documents]) - starts + 1.0
    # Back to where the documents stand.
    place = order + (tf.range(columns) * documents)[:, tf.newaxis]
    found = tf.scatter_nd(
        tf.reshape(place, [-1, 1]), _flat(found), [columns * documents]
    )
    ranks = tf.transpose(tf.reshape(found, [columns, documents]))
    lists = tf.shape(row_splits)[0] - 1
    counts = tf.math.unsorted_segment_sum(floats(there), row_ids, lists)
    return ranks, tf.gather(counts, row_ids)


def _flat(x: Any) -> Any:
    return tf.reshape(x, [-1])


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
