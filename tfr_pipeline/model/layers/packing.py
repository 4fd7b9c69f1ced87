"""Layers between ragged batches and documents one by one."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfr_pipeline.model.layers.members import repeated_splits
from tfr_pipeline.model.layers.ragged import Densify, is_dense


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

    Scores `[documents, k]` become `[batch, (list), k]` if `k` is not 1. Scores
    `[members, documents, k]`, which are those of the same lists once for each member,
    become as many times the lists: those of the first member, then of the next.
    """

    def call(self, inputs: tuple[Any, Any]) -> Any:
        """See the class."""
        scores, row_splits = inputs
        scores = tf.cast(scores, tf.float32)
        if scores.shape.rank == 3:
            row_splits = repeated_splits(row_splits, scores.shape[0])
            scores = tf.reshape(scores, [-1, scores.shape[2]])
        if scores.shape.rank != 2 or scores.shape[1] in (1, None):
            scores = tf.reshape(scores, [-1])
        return tf.RaggedTensor.from_row_splits(scores, row_splits, validate=False)


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class AsOneList(tf.keras.layers.Layer):
    """Makes of documents one list of all of them, as functions of TF-Ranking take it.

    Args:
      sparse: Whether a ragged feature becomes a sparse one.
    """

    def __init__(self, sparse: bool = False, **kwargs: Any):
        super().__init__(**{"autocast": False, **kwargs})
        self.sparse = sparse

    def call(self, inputs: Any) -> Any:
        """Returns `[1, documents, ...]`.

        Args:
          inputs: `[documents, ...]`, or ragged `[documents, (values)]`.
        """
        if not isinstance(inputs, tf.RaggedTensor):
            return inputs[tf.newaxis]
        if self.sparse:
            return tf.sparse.expand_dims(inputs.to_sparse(), 0)
        splits = tf.stack([tf.constant(0, tf.int64), inputs.nrows()])
        return tf.RaggedTensor.from_row_splits(inputs, splits, validate=False)

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "sparse": self.sparse}


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class OfOneList(Densify):
    """Makes documents, dense, of what a function made of `AsOneList`.

    Args:
      default_value: See `Densify`.
      feature: Name of the feature, for messages.
    """

    def __init__(self, default_value: Any = 0.0, feature: str = "", **kwargs: Any):
        super().__init__(default_value, **kwargs)
        self.feature = feature

    def call(self, inputs: Any) -> Any:
        """Returns `[documents, ...]`; `[documents, 1]` of a sparse feature.

        Args:
          inputs: `[1, documents, ...]`, dense, ragged or sparse.
        """
        if isinstance(inputs, tf.RaggedTensor):
            inputs = inputs.values
            return inputs if is_dense(inputs) else super().call(inputs)
        if not is_dense(inputs):
            one = tf.debugging.assert_less(
                inputs.indices[:, 2],
                tf.constant(1, tf.int64),
                f"feature {self.feature!r}: expected at most one value a document, for "
                "it is a tf.io.VarLenFeature; take a tf.io.RaggedFeature for more",
            )
            with tf.control_dependencies([] if one is None else [one]):
                shape = tf.stack([1, inputs.dense_shape[1], 1])
            inputs = tf.SparseTensor(inputs.indices, inputs.values, shape)
            inputs = super().call(inputs)
        return tf.squeeze(inputs, axis=0)

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "feature": self.feature}
