"""What dataset builders with one label and with several have in common."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.batching.loose import packed, separate
from tfr_pipeline.data.batching.plan import plain
from tfr_pipeline.data.lists import Lists, weigh_lists
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.features import DEFAULT_MASK, PADDING_LABEL, Feature, Features
from tfr_pipeline.graph import names
from tfr_pipeline.graph.names import without_neighbours
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.pipeline.datasets import class_labels
from tfr_pipeline.pipeline.datasets.base import BaseDatasetBuilder
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.kept_lists import Reading
from tfr_pipeline.pipeline.datasets.protocol import Specs

Pair = tuple[str, Any]
Builder = TypeVar("Builder", bound="LabelledDatasetBuilder")


class LabelledDatasetBuilder(BaseDatasetBuilder):
    """Datasets with labels and optional weights; see the two subclasses.

    Labels and weights stand apart in lists, in one copy that serves both layouts.
    """

    _several: ClassVar[bool]

    def __init__(
        self,
        context_feature_spec: Specs,
        example_feature_spec: Specs,
        mask_feature_name: str,
        label_spec: Any,
        hparams: DatasetHparams,
        sample_weight_spec: Pair | None = None,
        *,
        query_id: str | None = None,
        document_id: str | None = None,
        list_weight_spec: Pair | None = None,
        classes: int | Sequence[str] = (),
    ):
        self._classes = class_labels.names_of(classes)
        if self._classes:
            class_labels.check_settings(hparams, self._several)
        self._label_spec = label_spec
        self._check_label_spec()
        weight = [sample_weight_spec] if sample_weight_spec else []
        super().__init__(
            context_feature_spec=context_feature_spec,
            example_feature_spec=example_feature_spec,
            training_only_example_spec=dict([*self._labels.values(), *weight]),
            mask_feature_name=mask_feature_name,
            hparams=hparams,
            training_only_context_spec=dict([list_weight_spec])
            if list_weight_spec
            else None,
            query_id=query_id,
        )
        self._sample_weight_spec = sample_weight_spec
        self._list_weight_spec = list_weight_spec
        self._document_id = document_id
        self._features: Features | None = None
        self._files: Features | None = None

    def _check_label_spec(self) -> None:
        spec, several = self._label_spec, self._several
        fits = isinstance(spec, Mapping) and bool(spec) if several else True
        if not fits or not all(
            isinstance(pair, list | tuple) and len(pair) == 2
            for pair in self._labels.values()
        ):
            expected = "a dict from each task to a pair" if several else "a pair"
            raise ConfigError(
                f"label_spec: expected {expected} (name, tf.io.FixedLenFeature), found "
                f"{spec!r}."
            )

    @classmethod
    def from_features(
        cls: type[Builder],
        features: Features,
        hparams: DatasetHparams,
        mask_feature_name: str = DEFAULT_MASK,
    ) -> Builder:
        """Makes a builder of what `features.json` says.

        Features of neighbours, of `graph pack`, are not among those of the model; see
        `PipelineHparams.graph`.
        """
        files, features = features, without_neighbours(features)
        of_classes: Any = {"classes": features.classes} if features.classes else {}
        builder = cls(
            features.context_spec,
            features.example_spec,
            mask_feature_name,
            features.labels_spec if cls._several else features.label_spec,
            hparams,
            features.weight_spec,
            query_id=features.query_id,
            document_id=features.document_id,
            list_weight_spec=features.list_weight_spec,
            **of_classes,
        )
        builder._features, builder._files = features, files
        packed = {n: s for n, s in files.example_spec.items() if names.is_packed(n)}
        builder._neighbours_in_files = separate(packed)[0]
        return builder

    def read_teacher(self, name: str, feature: Feature) -> None:
        """Reads the scores of a teacher beside the features, from now on.

        Args:
          name: Name of the document feature, which is none of the model's.
          feature: Its description, a number.
        """
        files = self._described
        self._teacher_in_files = {name: feature.to_spec()}
        example = {**files.example, name: feature}
        self._files = dataclasses.replace(files, example=example)

    @property
    def _described(self) -> Features:
        """See `SplitLists`."""
        return self.features if self._files is None else self._files

    @property
    def _labels(self) -> dict[str, Pair]:
        """Name and spec of each label by task, in the order of `Lists.labels`."""
        return self._label_spec if self._several else {"": self._label_spec}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of `Lists.labels`; none for one label."""
        return tuple(self._label_spec) if self._several else ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that labels are numbers of; none for relevance."""
        return self._classes

    @property
    def features(self) -> Features:
        """Description of the data, as `features.json` has it."""
        if self._features is not None:
            return self._features

        def described(specs: Specs) -> dict[str, Feature]:
            return {name: Feature.from_spec(spec) for name, spec in specs.items()}

        def pair(found: Pair | None) -> Any:
            return found and (found[0], Feature.from_spec(found[1]))

        labels = {task: pair(found) for task, found in self._labels.items()}
        kind: Any = {"labels": labels} if self._several else {"label": labels[""]}
        return Features(
            context=described(self._context_feature_spec),
            example=described(self._example_feature_spec),
            **kind,
            weight=pair(self._sample_weight_spec),
            list_weight=pair(self._list_weight_spec),
            query_id=self._query_id,
            document_id=self._document_id,
            classes=self._classes,
        )

    def _features_and_labels(self, features: dict[str, Any]) -> Any:
        """See `BaseDatasetBuilder`; labels of several tasks are a dict."""
        features = dict(features)
        labels = {
            task: _convert_label(features[name], self._hparams.convert_labels_to_binary)
            for task, (name, _) in self._labels.items()
        }
        for name in {name for name, _ in self._labels.values()}:
            del features[name]
        weights = _pop_weights(
            features,
            self._sample_weight_spec,
            self._list_weight_spec,
            self._context_feature_spec,
        )
        return features, labels if self._several else labels[""], *weights

    def build_signatures(self, model: tf.keras.Model) -> Any:
        """See `BaseDatasetBuilder`; of classes, see `ClassSignatures`."""
        if not self._classes:
            return super().build_signatures(model)
        from tfr_pipeline.serving.class_signatures import ClassSignatures

        return ClassSignatures(
            model,
            self._context_feature_spec,
            self._example_feature_spec,
            self._mask_feature_name,
            self._classes,
        )()

    @property
    def makes_own_features(self) -> bool:
        """See `BaseDatasetBuilder`."""
        ours = LabelledDatasetBuilder._features_and_labels
        return type(self)._features_and_labels is not ours

    @property
    def layouts(self) -> tuple[str, ...]:
        """See `BaseDatasetBuilder`; packed comes first where it is possible."""
        found = super().layouts
        if self.makes_own_features or not self.specs.can_pack:
            return found
        return ("packed", "padded") if found else ()

    @property
    def _apart(self) -> bool:
        """Whether labels and weights are one number a document."""
        specs = self._training_only_example_spec
        return BlockLayout.can_pack(specs) and all(
            slot.width == 1
            for slots in BlockLayout.from_spec(specs).slots.values()
            for slot in slots
        )

    def _reading(self) -> Reading:
        reading = super()._reading()
        if not self._apart:
            return reading
        names = tuple(name for name, _ in self._labels.values())
        return dataclasses.replace(
            reading,
            label=names if self._several else names[0],
            weight=self._sample_weight_spec and self._sample_weight_spec[0],
        )

    def lists(self, split: str, layout: str = "padded") -> Lists:
        """See `BaseDatasetBuilder`.

        Lists for packed batches have the labels and weights that training takes; those
        for padded ones have them as they are in the files.
        """
        lists = self._as_trained(split, layout, super().lists(split, layout))
        labels = lists.labels
        if self._classes and split == "train" and labels is not None:
            pattern, classes = self._split(split).pattern, self._classes
            self._once(
                ("classes", split),
                (lists.row_splits,),
                lambda: class_labels.check_several(labels, classes, pattern),
            )
        return lists

    def _as_trained(self, split: str, layout: str, lists: Any) -> Any:
        if self._classes:
            pattern = self._split(split).pattern if split else ""
            check = functools.partial(class_labels.checked, self._classes, pattern)
            lists = self._once(
                ("checked", split), (lists,), lambda: lists.changed(check)
            )
        if layout == "padded" or not self._apart:
            return lists
        binary = self._hparams.convert_labels_to_binary
        return self._once(
            ("packed", split),
            (lists, binary),
            lambda: lists.changed(functools.partial(self._converted, binary)),
        )

    def _converted(self, binary: bool, lists: Lists) -> Lists:
        if binary:
            assert lists.labels is not None
            labels = np.where(lists.labels > 0, np.float32(1), lists.labels)
            lists = dataclasses.replace(lists, labels=labels)
        if self._list_weight_spec:
            name = self._list_weight_spec[0]
            lists = weigh_lists(lists, name, name in self._context_feature_spec)
        return lists

    def _padded_labels(
        self, labels: Any, weights: Any, list_size: int | None
    ) -> dict[str, Any]:
        if labels is None:
            return {}

        def padded(values: Any, spec: Any, padding: float | None = None) -> Any:
            if padding is None:
                default = spec.default_value
                padding = float(np.ravel(0.0 if default is None else default)[0])
            dense = values.to_tensor(padding, shape=[None, list_size])
            for _ in spec.shape:
                dense = dense[..., tf.newaxis]
            return tf.cast(dense, spec.dtype)

        result = {}
        # Of several labels many are missing, whatever default stands for that.
        padding = (
            PADDING_LABEL if self._several and not self.makes_own_features else None
        )
        for column, (name, spec) in enumerate(self._labels.values()):
            values = labels
            if self._several:
                values = labels.with_values(labels.values[:, column])
            result[name] = padded(values, spec, padding)
        if self._sample_weight_spec is not None:
            name, spec = self._sample_weight_spec
            result[name] = padded(weights, spec)
        return result

    def _assembler(
        self, gather: Callable[[Any], Any], layout: str, list_size: int | None
    ) -> Callable[[Any], Any]:
        if layout == "padded":
            return super()._assembler(gather, layout, list_size)
        beside = self._reading().beside

        @plain
        def batch(index: Any) -> Any:
            features, labels, weights = gather(index)
            features = packed(features, beside)
            if self._several:
                labels = {
                    task: labels.with_values(labels.values[:, column])
                    for column, task in enumerate(self.tasks)
                }
            return (features, labels, *([] if weights is None else [weights]))

        return batch


def _convert_label(label: Any, convert_labels_to_binary: bool = False) -> Any:
    """Returns float32 `[batch, list_size]` of a label `[batch, list_size, 1]`."""
    label = tf.cast(tf.squeeze(label, axis=2), tf.float32)
    if convert_labels_to_binary:
        label = tf.where(label > 0.0, tf.ones_like(label), label)
    return label


def _pop_weights(
    features: dict[str, Any],
    sample_weight_spec: Pair | None,
    list_weight_spec: Pair | None,
    context_spec: Specs,
) -> list[Any]:
    """Takes the weights out of padded features; a list weight may be a feature too.

    Returns:
      No or one tensor: float32 `[batch, list_size]`, or `[batch, 1]` if there is only
      a list weight.
    """
    weights = []
    if sample_weight_spec is not None:
        weights.append(tf.squeeze(features.pop(sample_weight_spec[0]), axis=2))
    if list_weight_spec is not None:
        name = list_weight_spec[0]
        weight = features[name] if name in context_spec else features.pop(name)
        weights.append(tf.reshape(weight, [-1, 1]))
    weights = [tf.cast(weight, tf.float32) for weight in weights]
    return [weights[0] * weights[1]] if len(weights) == 2 else weights
