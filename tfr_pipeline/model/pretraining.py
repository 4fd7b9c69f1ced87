"""`PipelineHparams.pretrain`: a model that learns of features, without labels.

The model of pretraining has the parts of the one that will rank, with their names, up
to the last layer of the network, and a head of its own in the place of that. So its
outputs are no scores: they are what pretraining makes small, one number a document.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline.declared import BOTH
from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.feature_block import FeatureBlock
from tfr_pipeline.model.interactions import InteractionScorer
from tfr_pipeline.model.layers.lists import FlattenList, RestoreList
from tfr_pipeline.model.layers.pretraining import (
    PREFIX,
    Contrast,
    Corruption,
    Denoising,
)
from tfr_pipeline.model.scorers import UnivariateScorer, concat

# What stands in the place of padding; losses are not negative.
PADDING = -1.0
DENOISE, CONTRASTIVE = "denoise", "contrastive"
_WHERE = "pretrain"
_OF_TASK = {
    "mask_weight": DENOISE,
    "temperature": CONTRASTIVE,
    "projection": CONTRASTIVE,
    "group_size": CONTRASTIVE,
}


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """The setting, checked; see `docs/pretraining.md`.

    Attributes:
      task: `denoise`: say what replaced values were; `contrastive`: tell the two views
        of a document from those of others.
      rate: Probability that a value is replaced, in each view of its own; 0.3 is that
        of VIME. Of two views half of the values then differ, near the 0.6 of SCARF,
        which corrupts one of them.
      mask_weight: See `Denoising`.
      temperature: See `Contrast`.
      projection: Likewise.
      group_size: Likewise.
    """

    task: str
    rate: float = 0.3
    mask_weight: float = 0.0
    temperature: float = 0.1
    projection: int = 64
    group_size: int = 1024

    @classmethod
    def of(cls, value: Mapping[str, Any] | None) -> Pretrain | None:
        """Returns the setting that a dict is, None for no pretraining.

        Keys that are None are not set; where all are, nothing is pretrained.

        Raises:
          ConfigError: A key is unknown or missing, a value cannot be, or has no effect.

        Example:
          >>> Pretrain.of({"task": "denoise"}).rate, Pretrain.of({"task": None})
          (0.3, None)
        """
        if value is not None and not isinstance(value, Mapping):
            raise ConfigError(f"{_WHERE}: expected a dict, found {value!r:.80}.")
        given = {k: item for k, item in (value or {}).items() if item is not None}
        fields = [field.name for field in dataclasses.fields(cls)]
        for key in given:
            if key not in fields:
                raise ConfigError(unknown_name("key", key, fields, _WHERE))
        if not given or ("task" in (value or {}) and "task" not in given):
            return None
        task = given.get("task")
        if task not in (DENOISE, CONTRASTIVE):
            tasks = (DENOISE, CONTRASTIVE)
            raise ConfigError(unknown_name("task", str(task), tasks, f"{_WHERE}.task"))
        for key, of in _OF_TASK.items():
            if key in given and of != task:
                raise ConfigError(
                    f"{_WHERE}.{key}: it has no effect without {_WHERE}.task={of!r}."
                )
        _check_numbers(given)
        return cls(**given)


def _check_numbers(given: Mapping[str, Any]) -> None:
    kinds: dict[str, tuple[Any, Any, str]] = {
        "rate": (int | float, lambda x: 0 < x < 1, "a number between 0 and 1"),
        "mask_weight": (
            int | float,
            lambda x: 0 <= x < math.inf,
            "a number of at least 0",
        ),
        "temperature": (int | float, lambda x: 0 < x < math.inf, "a positive number"),
        "projection": (int, lambda x: x >= 1, "a number of units"),
        "group_size": (int, lambda x: x >= 2, "at least 2 documents"),
    }
    for key, (kind, fits, expected) in kinds.items():
        value = given.get(key)
        if value is None:
            continue
        if not isinstance(value, kind) or isinstance(value, bool) or not fits(value):
            raise ConfigError(
                f"{_WHERE}.{key}: expected {expected}, found {value!r:.80}."
            )


class PretrainingScorer(UnivariateScorer):
    """Gives each document a loss of pretraining in the place of a score.

    Args:
      scorer: A scorer with a method `hidden`, see `DNNScorer`.
      pretrain: What it is to learn.
      numbers: Columns of each feature that is of numbers, as they are in the data. What
        preprocessing makes of one of these columns is a unit that is corrupted as a
        whole; other features, such as vectors of texts, are one unit each.
    """

    layouts = BOTH
    tpu_ready = False

    def __init__(self, scorer: Any, pretrain: Pretrain, numbers: Mapping[str, int]):
        self._scorer, self._pretrain = scorer, pretrain
        self._numbers = dict(numbers)

    def _score_flattened(
        self,
        context_features: Mapping[str, Any],
        example_features: Mapping[str, Any],
    ) -> Any:
        """See `UnivariateScorer`."""
        told = self._pretrain
        columns = tf.cast(concat(context_features, example_features), tf.float32)
        units = self._units(context_features) + self._units(example_features)
        if len(units) < 2:
            raise ConfigError(
                "pretrain: expected two features or more, for each is learnt from the "
                f"others; found {len(units)}, {[*context_features, *example_features]}."
            )

        def corrupted(number: int) -> Any:
            name = f"{PREFIX}corruption_{number}"
            return Corruption(told.rate, units, name=name)(columns)

        if told.task == CONTRASTIVE:
            views = tf.concat([corrupted(number)[0] for number in (1, 2)], axis=0)
            return Contrast(
                told.temperature,
                told.projection,
                told.group_size,
                name=f"{PREFIX}contrast",
            )(self._scorer.hidden(views))
        noisy, replaced = corrupted(1)
        return Denoising(units, told.rate, told.mask_weight, name=f"{PREFIX}denoising")(
            (self._scorer.hidden(noisy), noisy, columns, replaced)
        )

    def _units(self, features: Mapping[str, Any]) -> list[int]:
        """Returns the columns of each unit, in the order of `concat`."""
        if isinstance(features, FeatureBlock):
            widths = {slot.name: slot.width for slot in features.slots()}
        else:
            widths = {n: math.prod(value.shape[1:]) for n, value in features.items()}
        found: list[int] = []
        for name in sorted(widths):
            width, numbers = widths[name], self._numbers.get(name, 0)
            by_number = numbers and width % numbers == 0
            found += [width // numbers] * numbers if by_number else [width]
        return found

    def __call__(
        self,
        context_features: dict[str, Any],
        example_features: dict[str, Any],
        mask: Any,
    ) -> Any:
        """See `Scorer`; padding gets `PADDING`."""
        features = (context_features, example_features, mask)
        losses = self._score_flattened(*FlattenList(real_only=True)(features))
        lists = RestoreList(real_only=True)((tf.nn.relu(losses), mask))
        return tf.where(mask, lists, PADDING)


def for_pretraining(builder: Any, pretrain: Pretrain) -> ModelBuilder:
    """Returns a model builder of the same parts for pretraining.

    Args:
      builder: A `ModelBuilder` that scores with a `DNNScorer`, or another scorer that
        has a method `hidden`; interactions may come before that.
      pretrain: What is to be learnt.

    Raises:
      ConfigError: It is of another kind.
    """
    scorer: Any = getattr(builder, "_scorer", None)
    inner = scorer._scorer if isinstance(scorer, InteractionScorer) else scorer
    own = any(
        getattr(type(builder), name, None) is not getattr(ModelBuilder, name)
        for name in ("score", "build", "build_packed")
    )
    if own or not _has_hidden(inner):
        found = type(builder if own or inner is None else inner).__name__
        raise ConfigError(
            "pretrain: expected a ModelBuilder with the scorer 'dnn', whose network "
            "can learn without labels up to its last layer, or a scorer of yours with "
            f"a method `hidden` beside `_score_flattened`; found {found}. "
            "docs/pretraining.md says which models can be pretrained."
        )
    creator = builder._input_creator
    numbers = {
        name: math.prod(tf.TensorShape(spec.shape).as_list())
        for specs in ("_context_feature_spec", "_example_feature_spec")
        for name, spec in getattr(creator, specs, {}).items()
        if isinstance(spec, tf.io.FixedLenFeature) and spec.dtype != tf.string
    }
    learner: Any = PretrainingScorer(inner, pretrain, numbers)
    if inner is not scorer:
        whole = copy.copy(scorer)
        whole._scorer, whole.layouts, whole.tpu_ready = learner, BOTH, False
        learner = whole
    result = copy.copy(builder)
    result._scorer = learner
    return result


def _has_hidden(scorer: Any) -> bool:
    """Whether a scorer has a method `hidden` that goes with how it scores."""

    def owner(name: str) -> Any:
        return next((c for c in type(scorer).__mro__ if name in vars(c)), None)

    return owner("hidden") is not None and owner("hidden") is owner("_score_flattened")
