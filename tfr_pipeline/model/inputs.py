"""Inputs of models, from feature specs or from type specs."""

from __future__ import annotations

import abc
from typing import Any

from tfr_pipeline.compat import tfr


class InputCreator(tfr.keras.model.InputCreator):
    """Interface: makes the Keras inputs of a model."""

    @abc.abstractmethod
    def __call__(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns `(context_inputs, example_inputs)`, `tf.keras.Input`s by name."""


class FeatureSpecInputCreator(InputCreator, tfr.keras.model.FeatureSpecInputCreator):
    """Makes inputs from `tf.io` specs.

    Args:
      context_feature_spec: Maps query features to specs; inputs `[batch, ...]`.
      example_feature_spec: Maps document features to specs; inputs
        `[batch, list_size, ...]`.

    Example:
      >>> from tfr_pipeline.compat import tf
      >>> spec = {"bm25": tf.io.FixedLenFeature((1,), tf.float32, 0.0)}
      >>> context, example = FeatureSpecInputCreator({}, spec)()
      >>> example["bm25"].shape
      TensorShape([None, None, 1])
    """

    def __init__(
        self,
        context_feature_spec: dict[str, Any],
        example_feature_spec: dict[str, Any],
    ):
        self._context_feature_spec = context_feature_spec
        self._example_feature_spec = example_feature_spec

    # TF-Ranking's own is what overriding code expects; only padded models use it.
    __call__ = tfr.keras.model.FeatureSpecInputCreator.__call__


class TypeSpecInputCreator(InputCreator, tfr.keras.model.TypeSpecInputCreator):
    """Makes inputs from `tf.TensorSpec`s and `tf.RaggedTensorSpec`s.

    Args:
      type_spec: Maps features to specs with the batch dimension.
      context_feature_names: Which of them are query features.
      example_feature_names: Which of them are document features.
    """

    def __init__(
        self,
        type_spec: dict[str, Any],
        context_feature_names: list[str] | None = None,
        example_feature_names: list[str] | None = None,
    ):
        tfr.keras.model.TypeSpecInputCreator.__init__(
            self, type_spec, context_feature_names, example_feature_names
        )

    __call__ = tfr.keras.model.TypeSpecInputCreator.__call__
