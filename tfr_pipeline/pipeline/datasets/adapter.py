"""Dataset builders of other makes, as a pipeline asks them.

TF-Ranking's builders have three methods and keep the rest under private names, which
are known here and nowhere else.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.compat import tfr
from tfr_pipeline.data.folds import Fold
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.pipeline.datasets.protocol import (
    BatchRequest,
    DatasetBuilder,
    FeatureSpecs,
    Split,
)

SPLITS = ("train", "valid", "test")
_ASKED = [name for name in vars(DatasetBuilder) if not name.startswith("_")]


def splits_of(hparams: Any) -> dict[str, Split]:
    """Returns the splits that hyperparameters, ours or TF-Ranking's, have files for.

    With folds, training and validation share the training files, and so does the test
    if a fold is kept for it.
    """
    found = {}
    for name in SPLITS:
        pattern = getattr(hparams, f"{name}_input_pattern", None)
        if pattern:
            found[name] = Split(pattern)
    folds = getattr(hparams, "folds", None)
    if folds and "train" in found:
        pattern, test = found["train"].pattern, getattr(hparams, "test_fold", None)
        fold_of = functools.partial(
            Fold, folds, sessions=getattr(hparams, "sessions", False)
        )
        for name, keep in (
            ("train", fold_of(hparams.fold, False, test)),
            ("valid", fold_of(hparams.fold, True)),
        ):
            found[name] = Split(pattern, keep)
        if test is not None:
            found["test"] = Split(pattern, fold_of(test, True))
    return found


def check_folds(builder: Any, hparams: Any) -> None:
    """Checks that a dataset builder has the folds that were asked for.

    Args:
      builder: A dataset builder of any make.
      hparams: The `DatasetHparams` that ask, ours or TF-Ranking's, or None.

    Raises:
      ConfigError: It knows nothing of them, and would train on all lists.
    """
    if not getattr(hparams, "folds", None):
        return
    names = SPLITS if getattr(hparams, "test_fold", None) is not None else SPLITS[:2]
    asked, found = (
        [splits[name].keep for name in names if name in splits]
        for splits in (splits_of(hparams), adapt(builder).splits)
    )
    own = getattr(builder, "has_own_lists", False) or not adapt(builder).layouts
    if own or found != asked:
        raise ConfigError(
            f"data.folds: {type(builder).__name__} makes its lists or splits in a way "
            "of its own, or has features that are not kept, and so no folds: it would "
            "train on all lists. Give it the files of each fold, or let "
            "SimpleDatasetBuilder or MultiLabelDatasetBuilder read them, with the "
            "DatasetHparams that it is given."
        )


def is_ours(builder: Any) -> bool:
    """Whether a dataset builder is one that a pipeline can ask everything."""
    return all(hasattr(type(builder), name) for name in _ASKED)


def adapt(builder: Any) -> DatasetBuilder:
    """Returns a dataset builder that a pipeline can ask: itself, or one around it."""
    return builder if is_ours(builder) else _Foreign(builder)


def reads_files(builder: Any) -> bool:
    """Whether the patterns of a builder's splits are of files; else of given lists."""
    return getattr(getattr(builder, "kept", None), "is_of_files", True)


def some_lists(builder: Any, split: str, numbers: np.ndarray, layout: str) -> Lists:
    """Returns some lists of a split, by number; without the others, if a builder can.

    Args:
      builder: A dataset builder that a pipeline can ask.
      split: `train`, `valid` or `test`.
      numbers: int64 `[lists]`.
      layout: See `DatasetBuilder.lists`.
    """
    if hasattr(builder, "some_lists"):
        found: Lists = builder.some_lists(split, numbers, layout)
        return found
    whole: Lists = builder.lists(split, layout)
    return whole.take(numbers)


def known_lengths(builder: Any, split: str) -> np.ndarray | None:
    """Returns how many documents the lists of a split have, if that is known.

    Args:
      builder: A dataset builder that a pipeline can ask.
      split: `train`, `valid` or `test`.

    Returns:
      int64 `[lists]`; None where all lists had to be read first, as far as it says.
    """
    if not hasattr(builder, "known_lengths"):
        return None
    lengths: np.ndarray | None = builder.known_lengths(split)
    return lengths


class _Foreign:
    """A builder that makes its datasets in its own way."""

    layouts: tuple[str, ...] = ()
    features = None
    makes_own_features = True

    def __init__(self, builder: Any):
        self._builder = builder

    @property
    def hparams(self) -> Any:
        return getattr(self._builder, "_hparams", None)

    @property
    def splits(self) -> dict[str, Split]:
        return splits_of(self.hparams)

    @property
    def specs(self) -> FeatureSpecs:
        def found(name: str) -> dict[str, Any]:
            return getattr(self._builder, name, None) or {}

        return FeatureSpecs(
            found("_context_feature_spec"),
            found("_example_feature_spec"),
            found("_training_only_context_spec"),
            found("_training_only_example_spec"),
            getattr(self._builder, "_mask_feature_name", ""),
        )

    @property
    def tasks(self) -> tuple[str, ...]:
        builder = self._builder
        if isinstance(builder, tfr.keras.pipeline.MultiLabelDatasetBuilder):
            return tuple(builder._label_spec)
        if isinstance(builder, tfr.keras.pipeline.NullDatasetBuilder):
            specs = getattr(builder._train_dataset, "element_spec", ())
            labels = specs[1] if isinstance(specs, tuple) and len(specs) > 1 else None
            return tuple(labels) if isinstance(labels, dict) else ()
        return ()

    def _refuse(self) -> ConfigError:
        return ConfigError(
            f"{type(self._builder).__name__}: expected a dataset builder that has "
            "batch layouts, found one that makes its datasets in its own way."
        )

    def lists(self, split: str, layout: str = "padded") -> Any:
        raise self._refuse()

    def plan(
        self,
        split: str,
        layout: str = "padded",
        replicas: int = 1,
        by_length: bool = False,
    ) -> Any:
        raise self._refuse()

    def make_dataset(
        self, split: str | BatchRequest, layout: str = "padded", **settings: Any
    ) -> tf.data.Dataset:
        raise self._refuse()

    def build_train_dataset(self) -> tf.data.Dataset:
        return self._builder.build_train_dataset()

    def build_valid_dataset(self) -> tf.data.Dataset:
        return self._builder.build_valid_dataset()

    def build_signatures(self, model: tf.keras.Model) -> Any:
        return self._builder.build_signatures(model)
