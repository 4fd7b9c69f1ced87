"""A layer, a loss, a metric and a scorer as a user writes and registers them."""

from __future__ import annotations

from tfr_pipeline.compat import tf
from tfr_pipeline.model.scorers import UnivariateScorer

register = tf.keras.utils.register_keras_serializable(package="own")


@register
class Scale(tf.keras.layers.Layer):
    """Multiplies with a number that it learns."""

    def __init__(self, start=1.0, **kwargs):
        super().__init__(**kwargs)
        self.start = start

    def build(self, input_shape):
        initializer = tf.keras.initializers.Constant(self.start)
        self.factor = self.add_weight("factor", (), initializer=initializer)
        super().build(input_shape)

    def call(self, inputs):
        return inputs * self.factor

    def get_config(self):
        return {**super().get_config(), "start": self.start}


@register
class SquaredError(tf.keras.losses.Loss):
    """Mean squared error over the real documents of ragged lists."""

    def __init__(self, factor=1.0, name=None, reduction="auto"):
        super().__init__(reduction, name)
        self.factor = factor

    def call(self, y_true, y_pred):
        return self.factor * tf.square(y_true.values - y_pred.values)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@register
class MeanScore(tf.keras.metrics.Mean):
    """Mean of the scores."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(y_pred.values)


class ScaledScorer(UnivariateScorer):
    """A dense layer and a scale."""

    def _score_flattened(self, context_features, example_features):
        x = tf.concat(list(example_features.values()), 1)
        return Scale(2.0)(tf.keras.layers.Dense(1)(x))
