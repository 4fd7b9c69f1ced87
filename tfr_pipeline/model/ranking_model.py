"""`RankingModel`: the Keras model with a training step made for ranking."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

NON_FINITE_LOSS = "tfr_pipeline: the loss is not finite"


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class RankingModel(tf.keras.Model):
    """A functional Keras model whose training step stops before it does harm.

    The loss is checked before its gradient is applied, so that weights and step count
    stay those of the last good step. Ranking metrics sort every list many times over;
    training steps leave them to validation unless `training_metrics` is set.
    """

    training_metrics = False
    # XLA and TPU programs cannot stop in the middle.
    check_loss = True

    def train_step(self, data: Any) -> dict[str, Any]:
        """See `tf.keras.Model`."""
        x, y, sample_weight = tf.keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred, sample_weight)
            if self.check_loss:
                loss = tf.debugging.check_numerics(loss, NON_FINITE_LOSS)
        self._validate_target_and_loss(y, loss)
        # The step is not counted before its loss has been checked.
        with tf.control_dependencies([loss]):
            self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
        if self.training_metrics:
            return self.compute_metrics(x, y, y_pred, sample_weight)
        return {metric.name: metric.result() for metric in self._loss_metrics()}

    def _loss_metrics(self) -> list[Any]:
        return self.compiled_loss.metrics
