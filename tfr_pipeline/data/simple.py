"""`SimpleDatasetBuilder`: one label, packed or padded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline import files
from tfr_pipeline.compat import tfr
from tfr_pipeline.data import reader
from tfr_pipeline.data.batches import packed_gather, plain
from tfr_pipeline.data.builders import BaseDatasetBuilder, Specs
from tfr_pipeline.data.hparams import DatasetHparams
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.record_formats import PACKED
from tfr_pipeline.data.records import RecordParser
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.features import DEFAULT_MASK, Feature, Features
from tfr_pipeline.layout import BlockLayout


def _convert_label(label: Any, convert_labels_to_binary: bool = False) -> Any:
    """Returns float32 `[batch, list_size]` of a label `[batch, list_size, 1]`."""
    label = tf.cast(tf.squeeze(label, axis=2), tf.float32)
    if convert_labels_to_binary:
        label = tf.where(label > 0.0, tf.ones_like(label), label)
    return label


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
            query_id=query_id,
        )
        self._label_spec = label_spec
        self._sample_weight_spec = sample_weight_spec
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
        return Features(
            context=described(self._context_feature_spec),
            example=described(self._example_feature_spec),
            label=label,
            weight=weight[0] if weight else None,
            query_id=self._query_id,
            document_id=self._document_id,
        )

    def _features_and_labels(self, features: dict[str, Any]) -> Any:
        """See `BaseDatasetBuilder`."""
        features = dict(features)
        label = _convert_label(
            features.pop(self._label_spec[0]), self._hparams.convert_labels_to_binary
        )
        if self._sample_weight_spec is None:
            return features, label
        weight = tf.squeeze(features.pop(self._sample_weight_spec[0]), axis=2)
        return features, label, tf.cast(weight, tf.float32)

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
            self._context_feature_spec,
            self._example_feature_spec,
            self._training_only_example_spec,
            query_id=self._query_id,
            data_format=data_format,
        )
        weight = self._sample_weight_spec
        lists = reader.load(
            paths,
            parser,
            self._label_spec[0],
            weight[0] if weight else None,
            self._reader,
            self._cache_folder,
            self._with_labels_among_features if layout == "padded" else None,
        )
        if layout == "padded":
            return lists
        if self._hparams.convert_labels_to_binary and lists.labels is not None:
            lists.labels[lists.labels > 0] = 1.0
        return lists

    def _with_labels_among_features(self, lists: Lists) -> Lists:
        """Returns lists of packed files as `BaseDatasetBuilder` reads them."""
        columns = {
            slot.name: lists.values[dtype][:, slot.start : slot.stop]
            for dtype, slots in BlockLayout.from_spec(
                self._example_feature_spec
            ).slots.items()
            for slot in slots
        }
        names = list(self._training_only_example_spec)
        for name, column in zip(names, (lists.labels, lists.weights), strict=False):
            assert column is not None
            columns[name] = column[:, np.newaxis]
        values = {
            dtype: np.concatenate(
                [columns[slot.name].astype(dtype, copy=False) for slot in slots], axis=1
            )
            for dtype, slots in BlockLayout.from_spec(
                self._all_example_specs
            ).slots.items()
        }
        return dataclasses.replace(lists, values=values, labels=None, weights=None)

    def _assembler(
        self, lists: Lists, layout: str, list_size: int | None
    ) -> Callable[[Any], Any]:
        if layout == "padded":
            return super()._assembler(lists, layout, list_size)
        gather = packed_gather(lists, list_size)

        @plain
        def batch(index: Any) -> Any:
            features, labels, weights = gather(index)
            if weights is None:
                return features, labels
            return features, labels, weights

        return batch
