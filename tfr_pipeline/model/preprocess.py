"""Preprocessing of features by name, on padded and on packed batches."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfr_pipeline.compat import tfr
from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.model.feature_block import FeatureBlock
from tfr_pipeline.model.layers.ragged import Densify, is_dense


class Preprocessor(tfr.keras.model.Preprocessor):
    """Interface: turns inputs into features."""

    @abc.abstractmethod
    def __call__(
        self, context_inputs: dict[str, Any], example_inputs: dict[str, Any], mask: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns `(context_features, example_features)`.

        Args:
          context_inputs: Maps query features to `[batch, ...]`.
          example_inputs: Maps document features to `[batch, list_size, ...]`.
          mask: bool `[batch, list_size]`, True for real documents.
        """


class PreprocessorWithSpec(Preprocessor, tfr.keras.model.PreprocessorWithSpec):
    """Applies a function, or a Keras layer, to each feature that is named.

    What is ragged or sparse after that becomes dense.

    Args:
      preprocess_spec: Maps a feature to a function of its tensor,
        `[batch, list_size, ...]` for document features.
      default_value_spec: Maps a ragged or sparse feature to the value of its padding,
        0 or "" by default.

    Example:
      >>> preprocessor = PreprocessorWithSpec({"bm25": tf.math.log1p})
      >>> _, features = preprocessor({}, {"bm25": tf.zeros([1, 2, 1])}, tf.ones([1, 2]))
      >>> features["bm25"].shape
      TensorShape([1, 2, 1])
    """

    def __init__(
        self,
        preprocess_spec: dict[str, Callable[[Any], Any]] | None = None,
        default_value_spec: dict[str, float] | None = None,
    ):
        self._preprocess_spec = preprocess_spec or {}
        self._default_value_spec = default_value_spec or {}

    def __call__(
        self, context_inputs: dict[str, Any], example_inputs: dict[str, Any], mask: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `Preprocessor`."""

        def features(inputs: dict[str, Any], *lists: Any) -> dict[str, Any]:
            return {name: self._feature(name, x, *lists) for name, x in inputs.items()}

        return features(context_inputs), features(example_inputs, mask)

    def _feature(self, name: str, value: Any, *mask: Any) -> Any:
        if name in self._preprocess_spec:
            value = self._preprocess_spec[name](value)
        if is_dense(value):
            return value
        densify = Densify(self._default_value_spec.get(name, 0.0))
        return densify((value, *mask) if mask else value)


def preprocess_packed(
    preprocessor: tfr.keras.model.PreprocessorWithSpec,
    context_inputs: dict[str, Any],
    block: FeatureBlock,
) -> tuple[dict[str, Any], FeatureBlock]:
    """Does what a `PreprocessorWithSpec` does, to packed document features.

    Args:
      preprocessor: Ours or TF-Ranking's.
      context_inputs: Maps query features to `[batch, ...]`.
      block: Document features.

    Raises:
      ConfigError: A function is given for a feature that there is not.
    """
    functions = preprocessor._preprocess_spec
    for name in functions:
        if name not in block and name not in context_inputs:
            known = [*block, *context_inputs]
            raise ConfigError(unknown_name("feature", name, known, "preprocess_spec"))
    context = {
        name: functions[name](value) if name in functions else value
        for name, value in context_inputs.items()
    }
    return context, block.map(functions)


def signed_log1p(tensor: Any) -> Any:
    """Returns `sign(x) log(1 + |x|)`, for features with long tails on both sides.

    Example:
      >>> float(signed_log1p(tf.constant(0.0)))
      0.0
    """
    return tf.sign(tensor) * tf.math.log1p(tf.abs(tensor))
