"""`SimpleDatasetBuilder`: one label, packed or padded."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline import files
from tfr_pipeline.compat import tfr
from tfr_pipeline.data.batching.loose import separate
from tfr_pipeline.data.batching.plan import plain
from tfr_pipeline.data.lists import Lists, weigh_lists
from tfr_pipeline.data.reading import loading
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.records.formats import PACKED
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.features import DEFAULT_MASK, Feature, Features
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.pipeline.datasets.base import BaseDatasetBuilder, Specs
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams


def _convert_label(label: Any, convert_labels_to_binary: bool = False) -> Any:
    """Returns float32 `[batch, list_size]` of a label `[batch, list_size, 1]`."""
    label = tf.cast(tf.squeeze(label, axis=2), tf.float32)
    if convert_labels_to_binary:
        label = tf.where(label > 0.0, tf.ones_like(label), label)
    return label


def pop_weights(
    features: dict[str, Any],
    sample_weight_spec: tuple[str, Any] | None,
    list_weight_spec: tuple[str, Any] | None,
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


def list_weight_transform(
    list_weight_spec: tuple[str, Any] | None, context_spec: Specs
) -> Callable[[Lists], Lists] | None:
    """Returns what the reader applies to lists that have a list weight."""
    if list_weight_spec is None:
        return None
    name = list_weight_spec[0]
    return functools.partial(weigh_lists, name=name, is_feature=name in context_spec)


def _columns(lists: Lists, specs: Specs) -> dict[str, np.ndarray]:
    """Returns the columns of features that stand in matrices, by name."""
    return {
        slot.name: lists.values[dtype][:, slot.start : slot.stop]
        for dtype, slots in BlockLayout.from_spec(specs).slots.items()
        for slot in slots
    }


def _matrices(columns: dict[str, np.ndarray], specs: Specs) -> dict[str, np.ndarray]:
    """Undoes `_columns` for features of these specs."""
    return {
        dtype: np.concatenate(
            [columns[slot.name].astype(dtype, copy=False) for slot in slots], axis=1
        )
        for dtype, slots in BlockLayout.from_spec(specs).slots.items()
    }


class SimpleDatasetBuilder(BaseDatasetBuilder, tfr.keras.pipeline.SimpleDatasetBuilder):
    """Datasets with one label and optional document weights.

    Args:
      context_feature_spec: Maps query features to `tf.io` specs.
      example_feature_spec: Maps document features to `tf.io` specs.
      mask_feature_name: Name of the mask among the features of padded batches.
      label_spec: Name and `tf.io.FixedLenFeature` of the label, shape (1,).
      hparams: A `DatasetHparams`.
      sample_weight_spec: Name and spec of a weight for each document, or None.
      query_id: See `BaseDatasetBuilder`.
      document_id: Name of the string document feature with the document id, if any;
        part of the description of the data, which prediction reads it by.
      list_weight_spec: Name and spec of a weight for each list, a query feature, or
        None. A document weighs its own weight times that of its list.

    Example:
      >>> feature = tf.io.FixedLenFeature((1,), tf.float32, 0.0)
      >>> label = ("label", tf.io.FixedLenFeature((1,), tf.float32, -1.0))
      >>> builder = SimpleDatasetBuilder(
      ...     {}, {"bm25": feature}, "mask", label,
      ...     DatasetHparams("train-*", "valid-*", 32, 32))
      >>> builder.layouts
      ('packed', 'padded')
    """

    def __init__(
        self,
        context_feature_spec: Specs,
        example_feature_spec: Specs,
        mask_feature_name: str,
        label_spec: tuple[str, Any],
        hparams: DatasetHparams,
        sample_weight_spec: tuple[str, Any] | None = None,
        *,
        query_id: str | None = None,
        document_id: str | None = None,
        list_weight_spec: tuple[str, Any] | None = None,
    ):
        if not isinstance(label_spec, list | tuple) or len(label_spec) != 2:
            raise ConfigError(
                "label_spec: expected a pair (name, tf.io.FixedLenFeature), found "
                f"{label_spec!r}."
            )
        pairs = [label_spec] + ([sample_weight_spec] if sample_weight_spec else [])
        super().__init__(
            context_feature_spec=context_feature_spec,
            example_feature_spec=example_feature_spec,
            training_only_example_spec=dict(pairs),
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
    ) -> SimpleDatasetBuilder:
        """Makes a builder of what `features.json` says."""
        builder = cls(
            features.context_spec,
            features.example_spec,
            mask_feature_name,
            features.label_spec,
            hparams,
            features.weight_spec,
            query_id=features.query_id,
            document_id=features.document_id,
            list_weight_spec=features.list_weight_spec,
        )
        builder._features = features
        return builder

    @property
    def features(self) -> Features:
        """Description of the data, as `features.json` has it."""
        if self._features is not None:
            return self._features

        def described(specs: Specs) -> dict[str, Feature]:
            return {name: Feature.from_spec(spec) for name, spec in specs.items()}

        label, *weight = described(self._training_only_example_spec).items()
        list_weight = list(described(self._training_only_context_spec).items())
        return Features(
            context=described(self._context_feature_spec),
            example=described(self._example_feature_spec),
            label=label,
            weight=weight[0] if weight else None,
            list_weight=list_weight[0] if list_weight else None,
            query_id=self._query_id,
            document_id=self._document_id,
        )

    def _features_and_labels(self, features: dict[str, Any]) -> Any:
        """See `BaseDatasetBuilder`."""
        features = dict(features)
        label = _convert_label(
            features.pop(self._label_spec[0]), self._hparams.convert_labels_to_binary
        )
        weights = pop_weights(
            features,
            self._sample_weight_spec,
            self._list_weight_spec,
            self._context_feature_spec,
        )
        return features, label, *weights

    @property
    def layouts(self) -> tuple[str, ...]:
        """See `BaseDatasetBuilder`; packed comes first where it is possible."""
        base, mine = type(self)._features_and_labels, SimpleDatasetBuilder
        own = base is not mine._features_and_labels
        if own or not self._packs or not super().layouts:
            return super().layouts
        return ("packed", "padded")

    def _read(self, pattern: str, layout: str = "packed") -> Lists:
        """Reads files for packed batches: labels and weights stand apart."""
        paths = files.expand(pattern, "data")
        data_format = self._format(paths)
        if layout == "padded" and data_format != PACKED:
            return super()._read(pattern, layout)
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
            self._label_spec[0],
            weight[0] if weight else None,
            self._reader,
            self._cache_folder,
            self._with_labels_among_features
            if layout == "padded"
            else list_weight_transform(
                self._list_weight_spec, self._context_feature_spec
            ),
        )
        return lists if layout == "padded" else self._binary(lists)

    def _binary(self, lists: Lists) -> Lists:
        if self._hparams.convert_labels_to_binary and lists.labels is not None:
            lists.labels[lists.labels > 0] = 1.0
        return lists

    def _repacked(self, lists: Lists) -> Lists | None:
        """See `KeepsLists`."""
        if not BlockLayout.can_pack(self._training_only_example_spec):
            return None
        columns = _columns(lists, separate(self._all_example_specs)[0])
        weight = self._sample_weight_spec

        def number(name: str) -> np.ndarray:
            return columns[name].reshape(-1).astype(np.float32)

        packed = dataclasses.replace(
            lists,
            values=_matrices(columns, separate(self._example_feature_spec)[0]),
            labels=number(self._label_spec[0]),
            weights=number(weight[0]) if weight else None,
        )
        weigh = list_weight_transform(
            self._list_weight_spec, self._context_feature_spec
        )
        return self._binary(weigh(packed) if weigh else packed)

    def _with_labels_among_features(self, lists: Lists) -> Lists:
        """Returns lists of packed files as `BaseDatasetBuilder` reads them."""
        columns = _columns(lists, self._example_feature_spec)
        names = list(self._training_only_example_spec)
        for name, column in zip(names, (lists.labels, lists.weights), strict=False):
            assert column is not None
            columns[name] = column[:, np.newaxis]
        values = _matrices(columns, self._all_example_specs)
        return dataclasses.replace(lists, values=values, labels=None, weights=None)

    def _assembler(
        self, gather: Callable[[Any], Any], layout: str, list_size: int | None
    ) -> Callable[[Any], Any]:
        if layout == "padded":
            return super()._assembler(gather, layout, list_size)

        @plain
        def batch(index: Any) -> Any:
            features, labels, weights = gather(index)
            if weights is None:
                return features, labels
            return features, labels, weights

        return batch
