"""Normalisation of a batch, fused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class CenteredDense(tf.keras.layers.Dense):
    """A dense layer in front of a normalisation, which takes its bias out again.

    What the normalisation subtracts includes the bias, so the loss does not depend on
    it. Its gradient is set to this 0, rather than summed up to rounding errors. A
    frozen normalisation subtracts what it has, and the bias is one like others.

    Attributes:
      is_centered: Tells whether the normalisation is one that trains; set by those who
        put it there.
    """

    is_centered: Callable[[], bool] = staticmethod(lambda: True)

    def call(self, inputs: Any) -> Any:
        """See `tf.keras.layers.Layer`."""
        if not self.use_bias or inputs.shape.rank != 2 or not self.is_centered():
            return super().call(inputs)
        bias = _without_gradient(tf.convert_to_tensor(self.bias))
        return self.activation(tf.nn.bias_add(tf.matmul(inputs, self.kernel), bias))


@tf.custom_gradient
def _without_gradient(value: Any) -> tuple[Any, Callable[[Any], Any]]:
    return tf.identity(value), tf.zeros_like


_keras_call = tf.autograph.experimental.do_not_convert(
    tf.keras.layers.BatchNormalization.call
)


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class BatchNormalization(tf.keras.layers.BatchNormalization):
    """Batch normalisation that trains on `[documents, units]` with one fused kernel.

    Keras uses that kernel for images only and takes some twenty passes over a matrix;
    here the matrix is an image of one pixel a document. The numbers are the same.
    """

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """See `tf.keras.layers.BatchNormalization`."""
        fused = inputs.shape.rank == 2 and mask is None and not self.renorm
        if training is not True or not self.trainable or not fused:
            return _keras_call(self, inputs, training=training, mask=mask)
        units = inputs.shape[1]
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            tf.reshape(inputs, [-1, 1, 1, units]),
            self.gamma if self.scale else tf.ones([units]),
            self.beta if self.center else tf.zeros([units]),
            epsilon=self.epsilon,
        )
        # The kernel returns the variance with Bessel's correction.
        count = tf.cast(tf.shape(inputs)[0], variance.dtype)
        self.update_moving(mean, variance * (count - 1.0) / count, count)
        return tf.reshape(outputs, tf.shape(inputs))

    def update_moving(self, mean: Any, variance: Any, count: Any) -> None:
        """Moves the moving statistics towards those of a batch of `count` rows."""
        rate = 1.0 - self.momentum
        for moving, value in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            # The mean of no rows is NaN.
            value = tf.where(count > 0, tf.cast(value, moving.dtype), moving)
            moving.assign_sub((tf.convert_to_tensor(moving) - value) * rate)
