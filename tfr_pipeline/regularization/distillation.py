"""`PipelineHparams.distill`, and what it adds to the loss of a training step.

A student learns of the labels and of the scores of a teacher at once. The softmax form
is that of Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), over
the documents of a list, as Qin et al. found it best for rankers ("Improving Neural
Ranking via Lossless Knowledge Distillation", 2021).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.regularization import settings

SOFTMAX, SQUARED = "softmax_loss", "mean_squared_loss"
LOSSES = (SOFTMAX, SQUARED)
# What a teacher begins with that is a column of the data.
COLUMN = "column:"


@dataclasses.dataclass(frozen=True)
class DistillSettings:
    """How a student learns of a teacher.

    The loss is `(1 - weight)` times that of the labels and `weight` times the distance
    to the teacher.

    Attributes:
      teacher: A run directory, ensemble or SavedModel of ours; a file of LightGBM,
        XGBoost or CatBoost; or `column:NAME`, a feature of the data with its scores.
      weight: Share of the teacher in the loss, in [0, 1]; 0 turns it off. The distance
        is about 0.1 a list; beside a loss that sums over documents, such as
        `gain_softmax_loss`, 0.99 is about half.
      temperature: Divides the scores of the teacher before the softmax: the higher, the
        more alike its documents are.
      loss: `softmax_loss`: the divergence of the student's softmax over the list from
        the teacher's. `mean_squared_loss`: squared differences, of the scores of a list
        less their mean, to those of the teacher with mean 0 and deviation 1.
      missing: Of files of trees: the value of features that they take for a missing
        one, beside NaN.
    """

    teacher: str = ""
    weight: float = 0.5
    temperature: float = 1.0
    loss: str = SOFTMAX
    missing: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.teacher, str) or not self.teacher.strip():
            raise ConfigError(
                "distill.teacher: expected the path of a run or of a model file, or "
                f"{COLUMN}NAME, found {self.teacher!r}."
            )
        if self.teacher.startswith(COLUMN) and not self.column:
            raise ConfigError(f"distill.teacher: expected a name behind {COLUMN!r}.")
        for key in ("weight", "temperature", "missing"):
            value = getattr(self, key)
            if value is None and key == "missing":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"distill.{key}: expected a number, found {value!r}.")
        if not 0.0 <= self.weight <= 1.0:
            raise ConfigError(
                f"distill.weight: expected a share in [0, 1], found {self.weight!r}."
            )
        if not 0.0 < self.temperature < math.inf:
            raise ConfigError(
                "distill.temperature: expected a positive number, found "
                f"{self.temperature!r}."
            )
        if self.loss not in LOSSES:
            raise ConfigError(
                unknown_name("value", str(self.loss), LOSSES, "distill.loss")
            )

    @property
    def ignores_temperature(self) -> bool:
        """Whether there is a temperature that changes nothing."""
        return self.loss == SQUARED and self.temperature != 1.0

    @property
    def column(self) -> str:
        """Name of the feature that holds the scores; empty for other teachers."""
        if not self.teacher.startswith(COLUMN):
            return ""
        return self.teacher.removeprefix(COLUMN).strip()

    @classmethod
    def of(cls, value: Mapping[str, Any] | None) -> DistillSettings | None:
        """Returns the settings that a dict is; None for None or an empty one.

        Raises:
          ConfigError: A key is unknown, or a value cannot be.
        """
        found = settings.given(cls, "distill", value)
        return cls(**found) if found else None


def distance(told: DistillSettings, scores: Any, teacher: Any) -> Any:
    """Returns how far the scores of a student are from those of a teacher.

    All documents count, those without a label among them, and each list as much as
    another.

    Args:
      told: Which distance.
      scores: Of the student, ragged `[batch, (list)]`, or padded `[batch, list_size]`
        with the documents first.
      teacher: float32, ragged `[batch, (list)]`.

    Returns:
      float32 `[batch]`.

    Raises:
      ConfigError: Documents have several scores.

    Example:
      >>> told = DistillSettings(teacher="a_run")
      >>> teacher = tf.ragged.constant([[1.0, 0.0, 0.0], [2.0]])
      >>> distance(told, teacher + 5.0, teacher).numpy().round(6).tolist()
      [0.0, 0.0]
    """
    lists, count = teacher.value_rowids(), teacher.nrows()
    student = _flat(scores, teacher)
    target = tf.stop_gradient(teacher.values)

    def mean(values: Any) -> Any:
        lengths = tf.cast(teacher.row_lengths(), values.dtype)
        return tf.math.divide_no_nan(total(values), lengths)

    def total(values: Any) -> Any:
        return tf.math.unsorted_segment_sum(values, lists, count)

    def log_softmax(values: Any) -> Any:
        largest = tf.math.unsorted_segment_max(values, lists, count)
        values -= tf.stop_gradient(tf.gather(largest, lists))
        return values - tf.gather(tf.math.log(total(tf.exp(values))), lists)

    def centred(values: Any) -> Any:
        return values - tf.gather(mean(values), lists)

    if told.loss == SOFTMAX:
        target = log_softmax(target / told.temperature)
        return total(tf.exp(target) * (target - log_softmax(student)))
    target = centred(target)
    deviation = tf.gather(tf.sqrt(mean(target**2)), lists)
    # A teacher that has no opinion wants equal scores.
    target = tf.math.divide_no_nan(target, deviation)
    return mean((centred(student) - target) ** 2)


def _flat(scores: Any, teacher: Any) -> Any:
    """Returns float32 `[documents]`, the scores of a student."""
    if isinstance(scores, Mapping):
        raise ConfigError(
            "pipeline.distill: expected a model of one task, found the tasks "
            f"{', '.join(scores)}. Train a student for each."
        )
    if isinstance(scores, tf.RaggedTensor):
        values = scores.values
    else:
        real = tf.sequence_mask(teacher.row_lengths(), tf.shape(scores)[1])
        values = tf.boolean_mask(scores, real)
    if values.shape.rank != 1 and values.shape[-1] != 1:
        raise ConfigError(
            "pipeline.distill: expected one score a document, found "
            f"{values.shape[-1]}."
        )
    return tf.cast(tf.reshape(values, [-1]), tf.float32)
