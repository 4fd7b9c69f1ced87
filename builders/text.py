"""A ranker of texts: each text is the mean of its tokens' vectors.

Named in a config as `model.builder = "builders.text:TextModelBuilder"`; see
`configs/text.py`. Texts are ragged string features, a list of tokens each. Those of
query and document share their vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tfr_pipeline as tfr  # first: it selects Keras 2

import tensorflow as tf  # isort: skip
from tfr_pipeline.features import DEFAULT_MASK, Features
from tfr_pipeline.model.layers.distinct import Steps
from tfr_pipeline.model.layers.ragged import RaggedMean
from tfr_pipeline.model.preprocess import signed_log1p


class TextPreprocessor(tfr.keras.model.PreprocessorWithSpec):
    """Turns tokens into vectors, and takes logarithms of numbers.

    Args:
      features: Description of the data.
      vocabulary: File with a token a line, or None to hash tokens.
      buckets: Number of hashes without a vocabulary.
      embedding_dim: Length of a vector.
    """

    def __init__(
        self,
        features: Features,
        vocabulary: str | None,
        buckets: int,
        embedding_dim: int,
    ):
        super().__init__()
        self._features = {**features.context, **features.example}
        self._vocabulary = vocabulary
        self._buckets = buckets
        self._embedding_dim = embedding_dim

    def functions(self) -> dict[str, Callable[[Any], Any]]:
        """See `PreprocessorWithSpec`."""
        if self._vocabulary:
            ids = tf.keras.layers.StringLookup(vocabulary=self._vocabulary)
            size = ids.vocabulary_size()
        else:
            ids, size = tf.keras.layers.Hashing(self._buckets), self._buckets
        vectors = tf.keras.layers.Embedding(size, self._embedding_dim)
        embed = Steps([ids, vectors, RaggedMean()])
        return {
            name: embed if feature.dtype == "string" else signed_log1p
            for name, feature in self._features.items()
        }


class TextModelBuilder(tfr.keras.model.ModelBuilder):
    """A feed-forward network on the vectors of texts.

    Args:
      features: Description of the data, from `features.json`.
      vocabulary: File with a token a line, or None to hash tokens.
      buckets: Number of hashes without a vocabulary.
      embedding_dim: Length of a vector.
      hidden_layer_dims: Units of the hidden layers.
      dropout: Rate of dropout after each.
    """

    def __init__(
        self,
        features: Features,
        vocabulary: str | None = None,
        buckets: int = 10_000,
        embedding_dim: int = 20,
        hidden_layer_dims: Sequence[int] = (20, 10),
        dropout: float = 0.3,
    ):
        super().__init__(
            input_creator=tfr.keras.model.FeatureSpecInputCreator(
                features.context_spec, features.example_spec
            ),
            preprocessor=TextPreprocessor(features, vocabulary, buckets, embedding_dim),
            scorer=tfr.keras.model.DNNScorer(
                hidden_layer_dims=list(hidden_layer_dims),
                activation="relu",
                batch_norm_moment=0.9,
                dropout=dropout,
            ),
            mask_feature_name=DEFAULT_MASK,
            name="text",
        )
