"""Parts of a model builder, ours or TF-Ranking's, which keeps them for itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def mask_feature_name(builder: Any) -> str | None:
    """Returns the name of the mask that models take; None if it is not known."""
    return getattr(builder, "_mask_feature_name", None)


def example_specs(builder: Any) -> dict[str, Any]:
    """Returns the `tf.io` specs of document features; of builders of packed models."""
    return builder._input_creator._example_feature_spec


def preprocessing(builder: Any) -> Mapping[str, Callable[[Any], Any]] | None:
    """Returns the functions of features by name; None where it is another kind."""
    preprocessor = getattr(builder, "_preprocessor", None)
    return getattr(preprocessor, "_preprocess_spec", None)


def scorer(builder: Any) -> Any:
    """Returns the scorer; the builder itself where that scores."""
    return getattr(builder, "_scorer", builder)
