"""`Bilinear`: how two vectors act together."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfr_pipeline.compat import tfr
from tfr_pipeline.errors import ConfigError


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Bilinear(tfr.keras.layers.Bilinear):
    """Returns `x A y + B x + C y + d` of two vectors, for each output.

    It joins the towers of relevance and position in unbiased learning to rank (Yan et
    al., "Revisiting Two-Tower Models for Unbiased Learning to Rank", SIGIR 2022).

    Args:
      embedding_dim: Length of both vectors.
      output_dim: Number of outputs.
      **kwargs: Arguments of `tf.keras.layers.Layer`.

    Raises:
      ConfigError: A length is not a positive number, or, when called, there are not
        two inputs `[batch, embedding_dim]`.

    Example:
      >>> Bilinear(2, 3)((tf.ones([5, 2]), tf.ones([5, 2]))).shape
      TensorShape([5, 3])
    """

    def __init__(self, embedding_dim: int, output_dim: int, **kwargs: Any):
        for name, value in (
            ("embedding_dim", embedding_dim),
            ("output_dim", output_dim),
        ):
            if value < 1:
                raise ConfigError(f"Bilinear: expected {name} >= 1, found {value!r}.")
        super().__init__(embedding_dim, output_dim, **kwargs)

    def build(self, input_shape: Any) -> None:
        """See `tf.keras.layers.Layer`."""
        shapes = [tf.TensorShape(shape) for shape in input_shape]
        if len(shapes) != 2 or not all(
            shape.is_compatible_with([None, self._embedding_dim]) for shape in shapes
        ):
            raise ConfigError(
                f"Bilinear: expected two inputs [batch, {self._embedding_dim}], found "
                f"{[str(shape) for shape in shapes]}."
            )
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Returns `[batch, output_dim]` of two inputs `[batch, embedding_dim]`."""
        x, y = inputs
        batch, size = tf.shape(x)[0], self._embedding_dim
        # Two matrix products; an einsum of three operands makes [batch, size, size].
        columns = tf.reshape(self._bilinear_weight, [size, -1])
        products = tf.reshape(tf.matmul(x, columns), [batch, size, self._output_dim])
        return (
            tf.linalg.matvec(products, y, transpose_a=True)
            + tf.matmul(x, self._linear_weight_1)
            + tf.matmul(y, self._linear_weight_2)
            + self._bias
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        """See `tf.keras.layers.Layer`."""
        return tf.TensorShape([input_shape[0][0], self._output_dim])
