"""Optimizers on TensorFlow's fused kernels."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfr_pipeline import compat


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Adam(tf.keras.optimizers.Adam):
    """Keras's Adam with one kernel a variable in place of a dozen.

    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015. Arguments,
    state and numbers are those of `tf.keras.optimizers.Adam`; sparse gradients and
    `amsgrad` go its way.

    Example:
      >>> variable = tf.Variable(1.0)
      >>> optimizer = Adam(0.1)
      >>> optimizer.build([variable])
      >>> optimizer.apply_gradients([(tf.constant(2.0), variable)])
      <tf.Variable 'UnreadVariable' shape=() dtype=int64, numpy=1>
      >>> round(float(variable.numpy()), 4)
      0.9
    """

    def update_step(self, gradient: Any, variable: Any) -> None:
        """See `tf.keras.optimizers.Optimizer`."""
        if isinstance(gradient, tf.IndexedSlices) or self.amsgrad:
            super().update_step(gradient, variable)
            return
        dtype = variable.dtype
        step = tf.cast(self.iterations + 1, dtype)
        momentum, velocity = compat.adam_slots(self, variable)
        beta_1, beta_2 = (tf.cast(b, dtype) for b in (self.beta_1, self.beta_2))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=momentum.handle,
            v=velocity.handle,
            beta1_power=tf.pow(beta_1, step),
            beta2_power=tf.pow(beta_2, step),
            lr=tf.cast(self.learning_rate, dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.cast(self.epsilon, dtype),
            grad=gradient,
        )
