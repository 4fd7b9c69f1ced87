"""`MultiLabelDatasetBuilder`: one label a task, packed or padded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfr_pipeline import files
from tfr_pipeline.compat import tfr
from tfr_pipeline.data.batching.gather import pad
from tfr_pipeline.data.batching.plan import plain
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.reading import loading
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.records.formats import PACKED
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import DEFAULT_MASK, PADDING_LABEL, Feature, Features
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.pipeline.datasets.base import BaseDatasetBuilder, Specs
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import (
    SimpleDatasetBuilder,
    _convert_label,
    list_weight_transform,
    pop_weights,
)


class MultiLabelDatasetBuilder(
    BaseDatasetBuilder, tfr.keras.pipeline.MultiLabelDatasetBuilder
):
    """Datasets with one label for each task, and weights that all tasks share.

    A document with a negative label takes no part in that task, so one may be labelled
    for some tasks only: give the labels the default -1.

    Args:
      context_feature_spec: Maps query features to `tf.io` specs.
      example_feature_spec: Maps document features to `tf.io` specs.
      mask_feature_name: Name of the mask among the features of padded batches.
      label_spec: Maps each task to the name and the `tf.io.FixedLenFeature`, of shape
        (1,), of its label. Two tasks may have the same label.
      hparams: A `DatasetHparams`.
      sample_weight_spec: Name and spec of a weight for each document, or None.
      query_id: See `BaseDatasetBuilder`.
      document_id: See `SimpleDatasetBuilder`.
      list_weight_spec: See `SimpleDatasetBuilder`.

    Raises:
      ConfigError: `label_spec` is something else.

    Example:
      >>> from tfr_pipeline.compat import tf
      >>> feature = tf.io.FixedLenFeature((1,), tf.float32, 0.0)
      >>> label = tf.io.FixedLenFeature((1,), tf.float32, -1.0)
      >>> builder = MultiLabelDatasetBuilder(
      ...     {}, {"bm25": feature}, "mask",
      ...     {"relevance": ("grade", label), "click": ("clicked", label)},
      ...     DatasetHparams("train-*", "valid-*", 32, 32))
      >>> builder.tasks, builder.layouts
      (('relevance', 'click'), ('packed', 'padded'))
    """

    def __init__(
        self,
        context_feature_spec: Specs,
        example_feature_spec: Specs,
        mask_feature_name: str,
        label_spec: dict[str, tuple[str, Any]],
        hparams: DatasetHparams,
        sample_weight_spec: tuple[str, Any] | None = None,
        *,
        query_id: str | None = None,
        document_id: str | None = None,
        list_weight_spec: tuple[str, Any] | None = None,
    ):
        if (
            not isinstance(label_spec, Mapping)
            or not label_spec
            or not all(
                isinstance(pair, list | tuple) and len(pair) == 2
                for pair in label_spec.values()
            )
        ):
            raise ConfigError(
                "label_spec: expected a dict from each task to a pair (name, "
                f"tf.io.FixedLenFeature), found {label_spec!r}."
            )
        labels = [tuple(pair) for pair in label_spec.values()]
        super().__init__(
            context_feature_spec=context_feature_spec,
            example_feature_spec=example_feature_spec,
            training_only_example_spec=dict(
                labels + ([sample_weight_spec] if sample_weight_spec else [])
            ),
            mask_feature_name=mask_feature_name,
            hparams=hparams,
            training_only_context_spec=dict([list_weight_spec])
            if list_weight_spec
            else None,
            query_id=query_id,
        )
        self._label_spec = label_spec
        self._sample_weight_spec = sample_weight_spec
        self._list_weight_spec = list_weight_spec
        self._document_id = document_id
        self._features: Features | None = None

    @classmethod
    def from_features(
        cls,
        features: Features,
        hparams: DatasetHparams,
        mask_feature_name: str = DEFAULT_MASK,
    ) -> MultiLabelDatasetBuilder:
        """Makes a builder of what `features.json` says."""
        builder = cls(
            features.context_spec,
            features.example_spec,
            mask_feature_name,
            features.labels_spec,
            hparams,
            features.weight_spec,
            query_id=features.query_id,
            document_id=features.document_id,
            list_weight_spec=features.list_weight_spec,
        )
        builder._features = features
        return builder

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of the columns of `Lists.labels`."""
        return tuple(self._label_spec)

    @property
    def features(self) -> Features:
        """Description of the data, as `features.json` has it."""
        if self._features is not None:
            return self._features

        def described(specs: Specs) -> dict[str, Feature]:
            return {name: Feature.from_spec(spec) for name, spec in specs.items()}

        def pair(found: Any) -> tuple[str, Feature] | None:
            return found and (found[0], Feature.from_spec(found[1]))

        return Features(
            context=described(self._context_feature_spec),
            example=described(self._example_feature_spec),
            labels={
                task: (name, Feature.from_spec(spec))
                for task, (name, spec) in self._label_spec.items()
            },
            weight=pair(self._sample_weight_spec),
            list_weight=pair(self._list_weight_spec),
            query_id=self._query_id,
            document_id=self._document_id,
        )

    def _features_and_labels(self, features: dict[str, Any]) -> Any:
        """See `BaseDatasetBuilder`; labels are a dict by task."""
        features = dict(features)
        binary = self._hparams.convert_labels_to_binary
        labels = {
            task: _convert_label(features[name], binary)
            for task, (name, _) in self._label_spec.items()
        }
        for name in {name for name, _ in self._label_spec.values()}:
            del features[name]
        weights = pop_weights(
            features,
            self._sample_weight_spec,
            self._list_weight_spec,
            self._context_feature_spec,
        )
        return features, labels, *weights

    @property
    def _own_batches(self) -> bool:
        """Whether batches are made here; not if a subclass takes them apart itself."""
        mine = MultiLabelDatasetBuilder._features_and_labels
        own = type(self)._features_and_labels is not mine
        return self._packs and not own and bool(super().layouts)

    @property
    def layouts(self) -> tuple[str, ...]:
        """See `BaseDatasetBuilder`; packed comes first where it is possible."""
        return ("packed", "padded") if self._own_batches else super().layouts

    def lists(self, split: str, layout: str = "padded") -> Lists:
        """See `BaseDatasetBuilder`.

        Raises:
          DataError: As there, and when the training data has no label of a task.
        """
        if self._own_batches:
            layout = "packed"  # one copy serves both
        known = (split, layout) in self._memory
        lists = super().lists(split, layout)
        if not known and lists.labels is not None:
            self._check_labels(split, lists.labels)
        return lists

    @property
    def _padding_weight(self) -> float:
        """TF-Ranking's; it counts for nothing, because the labels are negative."""
        spec = self._sample_weight_spec
        default = 0.0 if spec is None else spec[1].default_value
        return float(np.ravel(0.0 if default is None else default)[0])

    def _check_labels(self, split: str, labels: np.ndarray) -> None:
        for task, column in zip(self.tasks, labels.T, strict=True):
            if (column >= 0).any():
                continue
            message = (
                f"{self._pattern(split)}: no document has a label of 0 or more for "
                f"the task {task!r}; expected them in "
                f"{self._label_spec[task][0]!r}."
            )
            if split == "train":
                raise DataError(f"{message} Correct label_spec, or leave the task out.")
            warnings.warn(f"{message} Its metrics mean nothing.", stacklevel=3)

    def _read(self, pattern: str, layout: str = "packed") -> Lists:
        """Reads files; labels stand apart, one column a task, unless padded."""
        if layout == "padded":
            return super()._read(pattern, layout)
        paths = files.expand(pattern, "data")
        data_format = self._format(paths)
        if data_format == PACKED:
            raise DataError(
                f"{paths[0]}: files in the packed format have one label; several tasks "
                "need ELWC."
            )
        parser = RecordParser(
            self._all_context_specs,
            self._example_feature_spec,
            self._training_only_example_spec,
            query_id=self._query_id,
            document_id=self._kept_document_id,
            data_format=data_format,
        )
        weight = self._sample_weight_spec
        lists = loading.load(
            paths,
            parser,
            tuple(name for name, _ in self._label_spec.values()),
            weight[0] if weight else None,
            self._reader,
            self._cache_folder,
            list_weight_transform(self._list_weight_spec, self._context_feature_spec),
        )
        if self._hparams.convert_labels_to_binary:
            assert lists.labels is not None
            lists.labels[lists.labels > 0] = 1.0
        return lists

    def _block_layout(self, layout: str) -> BlockLayout:
        """See base class; labels never stand among features in batches made here."""
        return super()._block_layout("packed" if self._own_batches else layout)

    def _assembler(
        self, gather: Callable[[Any], Any], layout: str, list_size: int | None
    ) -> Callable[[Any], Any]:
        if not self._own_batches:
            return super()._assembler(gather, layout, list_size)
        specs = self._example_feature_spec
        block_layout = self._block_layout(layout)
        defaults = {name: spec.default_value for name, spec in specs.items()}

        @plain
        def batch(index: Any) -> Any:
            features, labels, weights = gather(index)
            by_task = {
                task: labels.with_values(labels.values[:, column])
                for column, task in enumerate(self.tasks)
            }
            if layout == "padded":
                mask = self._mask_feature_name
                features = pad(features, block_layout, list_size, defaults, mask)
                shape = [None, list_size]
                by_task = {
                    task: label.to_tensor(PADDING_LABEL, shape=shape)
                    for task, label in by_task.items()
                }
                if weights is not None:
                    weights = weights.to_tensor(self._padding_weight, shape=shape)
            return (features, by_task, *([] if weights is None else [weights]))

        return batch


def builder_from_features(
    features: Features, hparams: DatasetHparams
) -> SimpleDatasetBuilder | MultiLabelDatasetBuilder:
    """Returns the dataset builder for data with one label, or with several."""
    if features.labels:
        return MultiLabelDatasetBuilder.from_features(features, hparams)
    return SimpleDatasetBuilder.from_features(features, hparams)
