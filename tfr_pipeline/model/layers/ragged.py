"""Layers on ragged features: tokens of a text, ids of a history."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class RaggedMean(tf.keras.layers.Layer):
    """Mean of the vectors of each document's, or query's, tokens.

    Without tokens it is 0; `tf.reduce_mean` gives NaN.

    Example:
      >>> tokens = tf.ragged.constant([[[1, 2], []]])
      >>> vectors = tf.keras.layers.Embedding(3, 4)(tokens)
      >>> RaggedMean()(vectors).to_tensor().shape
      TensorShape([1, 2, 4])
    """

    def call(self, inputs: Any) -> Any:
        """Returns `[..., columns]`, with one axis less.

        Args:
          inputs: Ragged `[..., (tokens), columns]`.

        Raises:
          ConfigError: The input is not ragged.
        """
        if not isinstance(inputs, tf.RaggedTensor):
            raise ConfigError(
                "RaggedMean: expected a RaggedTensor [..., (tokens), columns], found "
                f"{inputs.shape}; take tf.reduce_mean(..., axis=-2)."
            )
        if inputs.ragged_rank > 1:
            return inputs.with_values(self.call(inputs.values))
        count = tf.cast(inputs.row_lengths(), inputs.dtype)[:, tf.newaxis]
        return tf.math.divide_no_nan(tf.reduce_sum(inputs, axis=1), count)


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Densify(tf.keras.layers.Layer):
    """Makes a ragged or sparse feature dense.

    Args:
      default_value: Number, or string, where there is none.

    Example:
      >>> ragged = tf.ragged.constant([[1], [2, 3]])
      >>> Densify(7)(ragged).numpy().tolist()
      [[1, 7], [2, 3]]
      >>> Densify(7)((ragged, tf.ones([2, 3]))).numpy().tolist()
      [[1, 7, 7], [2, 3, 7]]
    """

    def __init__(self, default_value: Any = 0.0, **kwargs: Any):
        super().__init__(**{"autocast": False, **kwargs})
        self.default_value = default_value

    def call(self, inputs: Any) -> Any:
        """Returns a dense tensor, `[batch, ...]` or `[batch, list_size, ...]`.

        Args:
          inputs: A feature of the query; or a pair of a feature of the document and
            the mask `[batch, list_size]`, which says how long lists are to be.
        """
        feature, mask = inputs if isinstance(inputs, list | tuple) else (inputs, None)
        default: Any = self.default_value
        if feature.dtype == tf.string:
            default = default if isinstance(default, str | bytes) else ""
        default = tf.cast(default, feature.dtype)
        if isinstance(feature, tf.RaggedTensor):
            dense = feature.to_tensor(default)
        else:
            # Sizes that the model knows hold for batches with nothing in them, too.
            shape = tf.unstack(feature.dense_shape)
            shape = [s or n for s, n in zip(feature.shape, shape, strict=True)]
            feature = tf.SparseTensor(feature.indices, feature.values, shape)
            dense = tf.sparse.to_dense(feature, default)
        if mask is None:
            return dense
        size = tf.shape(mask)[1]
        dense = dense[:, :size]
        paddings = [[0, 0]] * dense.shape.rank
        paddings[1] = [0, size - tf.shape(dense)[1]]
        return tf.pad(dense, paddings, constant_values=default)

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "default_value": self.default_value}


def is_dense(feature: Any) -> bool:
    """Whether a tensor, or a symbolic one of Keras, is neither ragged nor sparse."""
    spec = getattr(feature, "type_spec", feature)
    ragged = isinstance(spec, tf.RaggedTensor | tf.RaggedTensorSpec)
    return not ragged and not is_sparse(feature)


def is_sparse(feature: Any) -> bool:
    """Whether a tensor, or a symbolic one of Keras, is sparse."""
    spec = getattr(feature, "type_spec", feature)
    return isinstance(spec, tf.SparseTensor | tf.SparseTensorSpec)
