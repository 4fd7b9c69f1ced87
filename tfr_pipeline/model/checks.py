"""Checks of what a model is called with, feature by feature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.errors import DataError
from tfr_pipeline.layout import are_packed

_KINDS = (
    ("ragged", tf.RaggedTensor | tf.RaggedTensorSpec),
    ("sparse", tf.SparseTensor | tf.SparseTensorSpec),
)


def check_features(
    model: tf.keras.Model, features: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Checks that a dict has a fitting feature for each input of a model.

    Args:
      model: A functional Keras model.
      features: Maps names to tensors, symbolic or not.

    Returns:
      The features; a dense one where the model takes a ragged one is ragged, each row
      as long as it was.

    Raises:
      DataError: A feature is missing, or has another kind, type or shape.
    """
    converted = {}
    # There padding would be documents, too.
    packed = are_packed(model.input_names)
    for expected in model.inputs:
        name = expected.name
        if name not in features:
            raise DataError(
                f"model {model.name!r}: expected the features "
                f"{', '.join(model.input_names)}, found none of the name {name!r} "
                f"among {', '.join(sorted(features))}. Model builder and dataset "
                "builder need the same specs and the same mask_feature_name."
            )
        found = features[name]
        if not packed and _may_become_ragged(expected, found):
            found = converted[name] = _to_ragged(expected, found)
        if hasattr(found, "shape") and not _fits(expected, found):
            raise DataError(
                f"model {model.name!r}: feature {name!r}: expected "
                f"{_described(expected)}, found {_described(found)}. Model builder and "
                "dataset builder need the same specs."
            )
    return {**features, **converted} if converted else features


def _may_become_ragged(expected: Any, found: Any) -> bool:
    """Whether a dense feature says the same as a ragged one would."""
    return (
        _kind(expected) == "ragged"
        and isinstance(found, tf.Tensor | np.ndarray)
        and len(found.shape) == expected.shape.rank
    )


def _to_ragged(expected: Any, found: Any) -> Any:
    open_axes = [axis for axis, size in enumerate(expected.shape) if size is None]
    return tf.RaggedTensor.from_tensor(found, ragged_rank=max(1, *open_axes))


def _fits(expected: Any, found: Any) -> bool:
    if _kind(expected) != _kind(found):
        return False
    if (expected.dtype == tf.string) != (tf.as_dtype(found.dtype) == tf.string):
        return False
    shapes = [tf.TensorShape(tensor.shape) for tensor in (expected, found)]
    if None in (shapes[0].rank, shapes[1].rank):
        return True
    # Keras adds or takes a last axis of size 1.
    rank = min(shape.rank for shape in shapes)
    if any(side not in (1, None) for shape in shapes for side in shape[rank:]):
        return False
    return shapes[0][:rank].is_compatible_with(shapes[1][:rank])


def _kind(tensor: Any) -> str:
    spec = getattr(tensor, "type_spec", tensor)  # symbolic tensors have a spec
    return next((name for name, types in _KINDS if isinstance(spec, types)), "dense")


def _described(tensor: Any) -> str:
    return f"{_kind(tensor)} {tf.as_dtype(tensor.dtype).name} {tensor.shape}"
