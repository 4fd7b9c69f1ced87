"""Inputs of models, from feature specs or from type specs."""

from __future__ import annotations

import abc
from typing import Any

import tensorflow as tf

from tfr_pipeline.compat import tfr
from tfr_pipeline.errors import ConfigError, unknown_name


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
    """Makes inputs from `tf.TensorSpec`s, `tf.RaggedTensorSpec`s and sparse ones.

    Args:
      type_spec: Maps features to specs with the batch dimension, for example those of
        `dataset.element_spec[0]`; what is in neither list below is left out.
      context_feature_names: Which of them are query features.
      example_feature_names: Which of them are document features.

    Raises:
      ConfigError: A name has no spec, or is in both lists.

    Example:
      >>> from tfr_pipeline.compat import tf
      >>> spec = {"tokens": tf.RaggedTensorSpec([None, None, None], tf.string)}
      >>> _, example = TypeSpecInputCreator(spec, example_feature_names=["tokens"])()
      >>> example["tokens"].shape
      TensorShape([None, None, None])
    """

    def __init__(
        self,
        type_spec: dict[str, Any],
        context_feature_names: list[str] | None = None,
        example_feature_names: list[str] | None = None,
    ):
        self._type_spec = type_spec
        self._context_feature_names = context_feature_names or []
        self._example_feature_names = example_feature_names or []
        for name in [*self._context_feature_names, *self._example_feature_names]:
            if name not in type_spec:
                raise ConfigError(unknown_name("feature", name, type_spec, "type_spec"))
        both = {*self._context_feature_names} & {*self._example_feature_names}
        if both:
            raise ConfigError(
                f"feature {min(both)!r}: expected it to be of the query or of the "
                "document, found it in context_feature_names and in "
                "example_feature_names."
            )

    def __call__(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `InputCreator`."""

        def inputs(names: list[str]) -> dict[str, Any]:
            # In the order of the specs, as TF-Ranking has them.
            wanted = [name for name in self._type_spec if name in names]
            return {name: _input(name, self._type_spec[name]) for name in wanted}

        return inputs(self._context_feature_names), inputs(self._example_feature_names)


def _input(name: str, spec: Any) -> Any:
    return tf.keras.Input(
        shape=spec.shape[1:],
        name=name,
        dtype=spec.dtype,
        ragged=isinstance(spec, tf.RaggedTensorSpec),
        sparse=isinstance(spec, tf.SparseTensorSpec),
    )
