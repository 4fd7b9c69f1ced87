"""The batch layout that model, data, losses and metrics have in common."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfr_pipeline import declared
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.model import parts


def agreed(
    model_builder: Any, builder: Any, objects: list[Any], wanted: str | None, tpu: bool
) -> tuple[str, bool]:
    """Returns a batch layout that all take.

    Args:
      model_builder: The model builder.
      builder: The dataset builder, adapted; its batches have layouts.
      objects: Losses and metrics, which say what they take (see `declared`); those of
        TF-Ranking and Keras take padded batches only.
      wanted: The layout that was asked for; None for the first that the model takes.
      tpu: Whether a TPU trains, which takes padded batches only.

    Returns:
      The layout, and whether it could be `packed`.

    Raises:
      ConfigError: There is none, or model and data differ in their features or masks.
    """
    model = getattr(model_builder, "layouts", ("padded",))
    taken = {type(item).__name__: declared.layouts(item) for item in objects}
    possible = [
        layout
        for layout in model
        if layout in builder.layouts
        and all(layout in layouts for layouts in taken.values())
        and (layout == "padded" or not tpu)
    ]
    if not possible or (wanted and wanted not in possible):
        others = [
            f"{name}: {layouts}, "
            for name, layouts in taken.items()
            if layouts != declared.BOTH
        ]
        raise ConfigError(
            f"layout: {wanted!r} is not possible here; model builder: {model}, "
            f"dataset builder: {builder.layouts}, {''.join(others)}"
            f"possible: {possible}. A loss or metric of yours that takes packed "
            "batches says so with `layouts = ('packed', 'padded')` in its class."
        )
    layout = wanted or possible[0]
    if layout == "packed":
        _check_same_features(model_builder, builder)
    else:
        _check_same_mask(model_builder, builder)
    return layout, "packed" in possible


def takes_any_length(model_builder: Any, builder: Any, objects: list[Any]) -> bool:
    """Whether no code of the user's may count on lists of `list_size`.

    Args:
      model_builder: See `agreed`.
      builder: Likewise.
      objects: Likewise.
    """
    if getattr(builder.hparams, "list_size", None) is None:
        return True
    # A loss that takes packed batches knows of no list size.
    losses = [x for x in objects if not isinstance(x, tf.keras.metrics.Metric)]
    return (
        not builder.makes_own_features
        and all("packed" in declared.layouts(loss) for loss in losses)
        and getattr(model_builder, "any_list_size", False)
    )


def _check_same_mask(model_builder: Any, builder: Any) -> None:
    """Padded batches must have the mask that the model takes."""
    expected = parts.mask_feature_name(model_builder)
    found = builder.specs.mask_feature_name
    # A function of the user's own may make another.
    if expected is not None and expected != found and not builder.makes_own_features:
        raise ConfigError(
            f"mask_feature_name: the model builder expects {expected!r}, the "
            f"dataset builder makes {found!r}. Give both the same name."
        )


def _check_same_features(model_builder: Any, builder: Any) -> None:
    """The packed features of data and model must have the same form."""
    expected = parts.example_specs(model_builder)
    found = builder.specs.example
    for name in sorted({*expected, *found}):
        if name not in expected and not _in_matrix(found[name]):
            continue  # The model does not look at it.
        pair = [_form(name, specs.get(name)) for specs in (expected, found)]
        if pair[0] != pair[1]:
            raise ConfigError(
                f"feature {name!r}: the model builder expects {pair[0]}, the "
                f"dataset builder has {pair[1]}."
            )


def _in_matrix(spec: Any) -> bool:
    """Whether a feature of packed batches is some columns of a matrix."""
    return isinstance(spec, tf.io.FixedLenFeature) and spec.dtype != tf.string


def _form(name: str, spec: Any) -> Any:
    """Returns of a `tf.io` spec what must be the same in data and model."""
    if isinstance(spec, tf.io.FixedLenFeature):
        return BlockLayout.from_spec({name: spec}).slots
    if spec is None:
        return "nothing"
    return f"tf.io.{type(spec).__name__} of {tf.as_dtype(spec.dtype).name}"
