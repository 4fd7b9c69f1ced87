"""One network, one score a task.

Named in a config as `model.builder = "builders.multi_task:MultiTaskModelBuilder"`. All
tasks share the hidden layers and have a linear layer each on top ("shared bottom",
Caruana, "Multitask Learning", Machine Learning 1997): a task with few labels learns
from what the others know of the documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tfr_pipeline as tfr  # first: it selects Keras 2

import tensorflow as tf  # isort: skip
from tfr_pipeline.features import DEFAULT_MASK, Features
from tfr_pipeline.model.preprocess import signed_log1p


class SharedBottomScorer(tfr.keras.model.DNNScorer):
    """A feed-forward network whose last hidden layer every task reads.

    Args:
      tasks: Names of the tasks.
      hidden_layer_dims: Units of the hidden layers, all of them shared.
      **dnn_kwargs: More arguments of `DNNScorer`, such as `dropout`.
    """

    def __init__(
        self, tasks: Sequence[str], hidden_layer_dims: Sequence[int], **dnn_kwargs: Any
    ):
        # The network ends where the tasks part: its output is the last hidden layer.
        *dims, width = hidden_layer_dims
        super().__init__(hidden_layer_dims=dims, output_units=width, **dnn_kwargs)
        self._tasks = list(tasks)

    def _score_flattened(
        self,
        context_features: Mapping[str, Any],
        example_features: Mapping[str, Any],
    ) -> dict[str, tf.Tensor]:
        """See `UnivariateScorer`; the first task is the one that `rank` goes by."""
        hidden = super()._score_flattened(context_features, example_features)
        hidden = tf.keras.layers.Activation("relu")(hidden)
        return {
            task: tf.keras.layers.Dense(1, name=f"head_{task}")(hidden)
            for task in self._tasks
        }


class MultiTaskModelBuilder(tfr.keras.model.ModelBuilder):
    """Puts specs, preprocessing and scorer together.

    Args:
      features: Description of the data, from `features.json`; its labels are the tasks.
      hidden_layer_dims: Units of the shared hidden layers.
      dropout: Rate of dropout between them.
    """

    def __init__(
        self,
        features: Features,
        hidden_layer_dims: Sequence[int] = (64, 32),
        dropout: float = 0.3,
    ):
        super().__init__(
            input_creator=tfr.keras.model.FeatureSpecInputCreator(
                features.context_spec, features.example_spec
            ),
            preprocessor=dict.fromkeys(features.example, signed_log1p),
            scorer=SharedBottomScorer(
                tasks=list(features.labels),
                hidden_layer_dims=list(hidden_layer_dims),
                activation="relu",
                input_batch_norm=True,
                batch_norm_moment=0.9,
                dropout=dropout,
            ),
            mask_feature_name=DEFAULT_MASK,
            name="shared_bottom",
        )
