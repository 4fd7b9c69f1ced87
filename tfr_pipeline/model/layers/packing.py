"""Layers between ragged batches and documents one by one."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Unpack(tf.keras.layers.Layer):
    """Takes a ragged `[batch, (list), columns]` apart.

    Returns `(values, row_ids, row_splits)`: `[documents, columns]`, int64
    `[documents]` and int64 `[batch + 1]`. Features keep their dtype, whatever the
    layers behind compute in: preprocessing has yet to tame large values.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{"autocast": False, **kwargs})

    def call(self, inputs: Any) -> tuple[Any, Any, Any]:
        """See the class."""
        return inputs.values, inputs.value_rowids(), inputs.row_splits


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Repack(tf.keras.layers.Layer):
    """Makes ragged float32 scores `[batch, (list)]` of `(scores, row_splits)`.

    Scores `[documents, k]` become `[batch, (list), k]` if `k` is not 1.
    """

    def call(self, inputs: tuple[Any, Any]) -> Any:
        """See the class."""
        scores, row_splits = inputs
        scores = tf.cast(scores, tf.float32)
        if scores.shape.rank != 2 or scores.shape[1] in (1, None):
            scores = tf.reshape(scores, [-1])
        return tf.RaggedTensor.from_row_splits(scores, row_splits, validate=False)
