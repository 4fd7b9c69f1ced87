"""Parts of a model builder, ours or TF-Ranking's, which keeps them for itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tfr_pipeline.data.batching.loose import separate
from tfr_pipeline.layout import BlockLayout


def mask_feature_name(builder: Any) -> str | None:
    """Returns the name of the mask that models take; None if it is not known."""
    return getattr(builder, "_mask_feature_name", None)


def example_specs(builder: Any) -> dict[str, Any]:
    """Returns the `tf.io` specs of document features; of builders of packed models."""
    return builder._input_creator._example_feature_spec


def packed_layout(builder: Any, layout: str | None) -> BlockLayout | None:
    """Returns where document features stand in packed batches; None in others."""
    if layout != "packed":
        return None
    return BlockLayout.from_spec(separate(example_specs(builder))[0])


def preprocessing(builder: Any) -> Mapping[str, Callable[[Any], Any]] | None:
    """Returns the functions of features by name; None where it is another kind."""
    found = preprocessor(builder)
    if hasattr(found, "functions"):
        functions: Mapping[str, Callable[..., Any]] = found.functions()
        return functions
    return getattr(found, "_preprocess_spec", None)


def preprocessor(builder: Any) -> Any:
    """Returns the preprocessor, None if it is not known."""
    return getattr(builder, "_preprocessor", None)


def scorer(builder: Any) -> Any:
    """Returns the scorer; the builder itself where that scores."""
    return getattr(builder, "_scorer", builder)
