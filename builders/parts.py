"""A part of one's own of each kind, as small as it can be.

`configs/own_parts.py` names all of them, as `builders.parts:NAME`; copy what you need.
"""

from __future__ import annotations

from typing import Any

import tfr_pipeline as tfr  # first: it selects Keras 2

import tensorflow as tf  # isort: skip
from tfr_pipeline.experiment import registry
from tfr_pipeline.features import DEFAULT_MASK, Features
from tfr_pipeline.pipeline.simple import make_metric


def clipped_log1p(values: tf.Tensor, limit: float = 10.0) -> tf.Tensor:
    """Preprocessing: the logarithm of a feature's size, signed and limited."""
    logarithm = tf.sign(values) * tf.math.log1p(tf.abs(values))
    return tf.clip_by_value(logarithm, -limit, limit)


class LinearModelBuilder(tfr.keras.model.ModelBuilder):
    """Model builder: one weight a feature.

    Args:
      features: Description of the data, from `features.json`.
      preprocess: Name of a preprocessing function.
    """

    def __init__(self, features: Features, preprocess: str = "log1p"):
        where = "config.model.builder_args.preprocess"
        function = registry.find("preprocessing", preprocess, where)
        super().__init__(
            input_creator=tfr.keras.model.FeatureSpecInputCreator(
                features.context_spec, features.example_spec
            ),
            preprocessor=dict.fromkeys(features.example, function),
            scorer=tfr.keras.model.DNNScorer(hidden_layer_dims=[]),
            mask_feature_name=DEFAULT_MASK,
            name="linear",
        )


class CappedGrades(tfr.keras.pipeline.SimpleDatasetBuilder):
    """Dataset builder: trains and validates on grades up to `top`."""

    top = 2.0

    @classmethod
    def from_features(cls, features: Features, hparams: Any, top: float = 2.0) -> Any:
        """Makes a builder; what it takes beside the first two is `builder_args`."""
        builder = super().from_features(features, hparams)
        builder.top = top
        return builder

    def _features_and_labels(self, features: dict[str, Any]) -> Any:
        features, labels, *weights = super()._features_and_labels(features)
        return features, tf.minimum(labels, self.top), *weights


class PipelineWithMRR(tfr.keras.pipeline.SimplePipeline):
    """Pipeline: measures MRR whatever else it is told to measure."""

    def build_metrics(self) -> list[Any]:
        """See `AbstractPipeline`."""
        return [*super().build_metrics(), make_metric("mrr", "metric/")]


class SharpSoftmaxLoss(tfr.keras.losses.SoftmaxLoss):
    """Loss: softmax of grades to some power; negative ones are padding."""

    def __init__(self, power: float = 2.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.power = power

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """See `tf.keras.losses.Loss`; padded batches, as nothing else is declared."""
        grades = tf.where(y_true >= 0, tf.maximum(y_true, 0) ** self.power, y_true)
        return super().call(grades, y_pred)


def score_spread(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    """Metric: how far the scores of each list lie apart; `[batch]`."""
    real = y_true >= 0
    highest = tf.reduce_max(tf.where(real, y_pred, y_pred.dtype.min), axis=1)
    lowest = tf.reduce_min(tf.where(real, y_pred, y_pred.dtype.max), axis=1)
    return tf.where(tf.reduce_any(real, axis=1), highest - lowest, 0.0)


class StopAt(tf.keras.callbacks.Callback):
    """Callback: ends training once a figure of an epoch is good enough."""

    def __init__(self, monitor: str, value: float):
        super().__init__()
        self.monitor, self.value = monitor, value

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        if (logs or {}).get(self.monitor, 0.0) >= self.value:
            self.model.stop_training = True
