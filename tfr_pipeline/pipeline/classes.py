"""Examples of classes: whether data, loss, metrics and model are about the same."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError
from tfr_pipeline.losses import WeightedSumLoss
from tfr_pipeline.losses.keys import ClassLossKey
from tfr_pipeline.metrics.keys import ClassMetricKey

_LOSS = ClassLossKey.CATEGORICAL_CROSS_ENTROPY_LOSS
_METRIC = ClassMetricKey.ACCURACY


def of_data(dataset_builder: Any) -> tuple[str, ...]:
    """Returns the names of the classes that labels are numbers of; none for relevance.

    Args:
      dataset_builder: A dataset builder, ours or TF-Ranking's.
    """
    return tuple(getattr(dataset_builder, "classes", ()))


def of_classes(part: Any) -> bool:
    """Whether a loss or metric takes labels that are numbers of classes."""
    return bool(getattr(part, "of_classes", False))


def check_parts(classes: tuple[str, ...], loss: Any, metrics: Any) -> None:
    """Checks that losses and metrics are about what labels are.

    Those of the user's own and of other libraries are not looked at.

    Args:
      classes: Names of the classes; none for relevance.
      loss: A loss, or a dict of them by task.
      metrics: Metrics, in any structure.

    Raises:
      ConfigError: A ranking loss or metric is asked for on classes, or one of classes
        on relevance; or there are weights of other classes.
    """
    for kind, setting, parts, instead in (
        ("loss", "pipeline.loss", loss, _LOSS),
        ("metric", "pipeline.metrics", metrics, _METRIC),
    ):
        for part in _pieces(parts):
            ours = type(part).__module__.partition(".")[0] == __name__.partition(".")[0]
            if classes and ours and not of_classes(part):
                raise ConfigError(
                    f"{setting}: {_named(part)} ranks documents of a list, and the "
                    f"data has classes. Take a {kind} of classes: {instead!r}."
                )
            if not classes and of_classes(part):
                raise ConfigError(
                    f"{setting}: {_named(part)} takes classes, and the labels of the "
                    "data are relevance. Convert it with --classes, or tell the "
                    "dataset builder its classes, or take a ranking "
                    f"{kind}."
                )
    for part in _pieces(loss):
        weights = getattr(part, "class_weights", None)
        if of_classes(part) and weights and len(weights) != len(classes):
            raise ConfigError(
                f"class_weights: expected one for each of the {len(classes)} classes, "
                f"{', '.join(classes[:10])}, found {len(weights)}."
            )


def _pieces(parts: Any) -> list[Any]:
    """Returns losses or metrics, and instead of a weighted sum what it is made of."""
    found: list[Any] = []
    for part in tf.nest.flatten(parts):
        found += part.losses if isinstance(part, WeightedSumLoss) else [part]
    return found


def _named(part: Any) -> str:
    name = getattr(part, "name", None)
    return f"{type(part).__name__} ({name})" if name else type(part).__name__


def check_model(model: tf.keras.Model, classes: tuple[str, ...], scorer: Any) -> None:
    """Checks that a model gives a score for each class.

    Args:
      model: A model. What one that is not functional returns is known too late.
      classes: Names of the classes; none for relevance.
      scorer: Whom the error names.

    Raises:
      ConfigError: It gives another number; one score is enough for two classes.
    """
    output = getattr(model, "output", None)
    if not classes or output is None:
        return
    count = len(classes)
    wanted = f"output_units={count}{' or 1' if count == 2 else ''}"
    if isinstance(output, dict):
        raise ConfigError(
            f"{type(scorer).__name__}: expected one output with a score for each of "
            f"{count} classes, found outputs by task: {', '.join(output)}."
        )
    found = output.shape[2] if output.shape.rank == 3 else 1
    if found not in (None, count) and not (count == 2 and found == 1):
        raise ConfigError(
            f"{type(scorer).__name__}: expected a score for each of {count} classes, "
            f"found {found}, shape {output.shape}. Set {wanted}."
        )
