"""A model of one's own for LETOR-style data.

Named in a config as `model.builder = "builders.letor:LetorModelBuilder"`, with
`model.builder_args` for the arguments. The scorer is univariate, so that it trains on
packed batches; what it adds to a plain network is a linear path around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tfr_pipeline as tfr  # first: it selects Keras 2

import tensorflow as tf  # isort: skip
from tfr_pipeline.features import DEFAULT_MASK, Features
from tfr_pipeline.model.preprocess import signed_log1p


class WideAndDeepScorer(tfr.keras.model.DNNScorer):
    """A feed-forward network plus a linear model on the same features."""

    def _score_flattened(
        self,
        context_features: Mapping[str, Any],
        example_features: Mapping[str, Any],
    ) -> tf.Tensor:
        """See `UnivariateScorer`."""
        deep = super()._score_flattened(context_features, example_features)
        columns = [tf.keras.layers.Flatten()(x) for x in example_features.values()]
        return deep + tf.keras.layers.Dense(1, use_bias=False)(tf.concat(columns, 1))


class LetorModelBuilder(tfr.keras.model.ModelBuilder):
    """Puts specs, preprocessing and scorer together.

    Args:
      features: Description of the data, from `features.json`.
      hidden_layer_dims: Units of the hidden layers.
      dropout: Rate of dropout after each.
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
            scorer=WideAndDeepScorer(
                hidden_layer_dims=list(hidden_layer_dims),
                activation="relu",
                input_batch_norm=True,
                batch_norm_moment=0.9,
                dropout=dropout,
            ),
            mask_feature_name=DEFAULT_MASK,
            name="letor_wide_and_deep",
        )
