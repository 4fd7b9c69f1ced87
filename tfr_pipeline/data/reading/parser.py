"""Parsing of serialized ranked lists into packed tensors, inside TensorFlow graphs.

One parser serves the reader, the datasets and the serving signatures, so that a model
sees in production exactly what it saw in training.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline.data.batching import loose
from tfr_pipeline.data.reading.elwc import split_elwc
from tfr_pipeline.data.records.formats import (
    ELWC,
    PACKED,
    PACKED_IDS,
    PACKED_LABELS,
    PACKED_WEIGHTS,
    packed_block,
)
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.layout import FEATURE_DTYPES, PACKED_DTYPES, BlockLayout, Slot

_ID_SPEC = tf.io.FixedLenFeature((), tf.string, "")


class RecordParser:
    """Turns serialized lists into packed tensors.

    Args:
      context_spec: Maps query features to `tf.io` specs.
      example_spec: Maps document features to `tf.io` specs. Those that
        `BlockLayout.can_pack` accepts stand in matrices, the others beside them.
      extra_spec: Further numeric document values to be returned one by one under
        their own names: label, weight.
      query_id: Name of the string context feature with the query id, or None.
      document_id: Name of the string example feature with the document id, or None.
      data_format: One of `RECORD_FORMATS`. The parser itself knows `elwc` and
        `packed`; see `batch_parser` for the others.
      feature_dtype: What packed records hold the float32 features as, one of
        `FEATURE_DTYPES`; the matrix comes out as that.
      keeps_nan: Whether a float32 feature may be NaN, which is a missing value.
    """

    def __init__(
        self,
        context_spec: Mapping[str, Any],
        example_spec: Mapping[str, Any],
        extra_spec: Mapping[str, Any] | None = None,
        query_id: str | None = None,
        document_id: str | None = None,
        data_format: str = ELWC,
        feature_dtype: str = FEATURE_DTYPES[0],
        keeps_nan: bool = False,
    ):
        self.context_spec = dict(context_spec)
        self.example_spec = dict(example_spec)
        self.extra_spec = dict(extra_spec or {})
        self.query_id = query_id
        self.document_id = document_id
        self.data_format = data_format
        self.feature_dtype = feature_dtype
        self.keeps_nan = keeps_nan
        documents = {**self.example_spec, **self.extra_spec}
        for name, specs in ((query_id, self.context_spec), (document_id, documents)):
            if name and not isinstance(
                specs.get(name, _ID_SPEC), tf.io.FixedLenFeature
            ):
                raise ConfigError(
                    f"feature {name!r}: an id needs a tf.io.FixedLenFeature, found "
                    f"{specs[name]!r}."
                )
        packed, self.loose_spec = loose.separate(example_spec)
        self.layout = BlockLayout.from_spec(packed)

    def __call__(self, serialized: Any) -> dict[str, Any]:
        """Parses string `[lists]`.

        Returns:
          A dict with `values` (dtype to `[documents, columns]`), `lengths` int64
          `[lists]`, `context` (name to `[lists, ...]`), `extra` (name to
          `[documents, ...]`), and, when named, `query_ids` string `[lists]` and
          `document_ids` string `[documents]`; `loose` and `loose_context` map features
          of documents and queries that stand in no matrix to what `loose.flatten`
          returns.
        """
        if self.data_format == PACKED:
            return self._packed(serialized)
        examples, lengths, contexts = split_elwc(serialized)
        return {**self.examples(examples), **self._lists(lengths, contexts)}

    def without_documents(self, serialized: Any) -> dict[str, Any]:
        """Parses ELWC records, string `[lists]`, but for their documents.

        Returns:
          `lengths`, `context` and `query_ids` of the dict that `__call__` returns.
        """
        _, lengths, contexts = split_elwc(serialized)
        return self._lists(lengths, contexts)

    def of_stored(self, feature_dtype: str) -> RecordParser:
        """Returns the same parser for packed records with another `feature_dtype`."""
        other = copy.copy(self)
        other.feature_dtype = feature_dtype
        return other

    def stored(self, dtype: str) -> str:
        """Returns what packed records hold the matrix of a dtype as."""
        return self.feature_dtype if dtype == FEATURE_DTYPES[0] else dtype

    @property
    def without_queries(self) -> RecordParser:
        """The same parser for ELWC without any feature or id of the query."""
        specs = self.example_spec, self.extra_spec
        return RecordParser({}, *specs, document_id=self.document_id)

    def contexts(self, serialized: Any) -> dict[str, Any]:
        """Returns the query features of serialized Examples, string `[n]`."""
        return self.queries(serialized)["context"]

    def queries(self, serialized: Any) -> dict[str, Any]:
        """Parses what belongs to queries out of serialized Examples, string `[n]`.

        Returns:
          `context`, `loose_context` and `query_ids` of the dict that `__call__`
          returns.
        """
        spec = self.context_with_id
        return self.of_queries(tf.io.parse_example(serialized, spec) if spec else {})

    def examples(self, serialized: Any) -> dict[str, Any]:
        """Parses serialized `tf.train.Example`s, string `[documents]`."""
        return self._of_documents(
            tf.io.parse_example(serialized, self.documents_with_id)
        )

    def _lists(self, lengths: Any, contexts: Any) -> dict[str, Any]:
        return {"lengths": lengths, **self.queries(contexts)}

    @property
    def documents_with_id(self) -> dict[str, Any]:
        """Specs of all that is parsed of a document."""
        spec = {**self.example_spec, **self.extra_spec}
        if self.document_id:
            # The id may also be a feature; then the feature's spec is as good.
            spec.setdefault(self.document_id, _ID_SPEC)
        return spec

    @property
    def context_with_id(self) -> dict[str, Any]:
        """Specs of all that is parsed of a query."""
        spec = dict(self.context_spec)
        if self.query_id:
            spec.setdefault(self.query_id, _ID_SPEC)
        return spec

    def _of_documents(self, parsed: Mapping[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = {
            "values": {
                dtype: tf.concat([_columns(parsed, slot) for slot in slots], axis=1)
                for dtype, slots in self.layout.slots.items()
            },
            "extra": {name: parsed[name] for name in self.extra_spec},
            "loose": {name: loose.flatten(parsed[name]) for name in self.loose_spec},
        }
        if self.document_id:
            result["document_ids"] = tf.reshape(parsed[self.document_id], [-1])
        return result

    def of_queries(self, parsed: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what `queries` returns, of parsed features."""
        context = {name: parsed[name] for name in self.context_spec}
        fixed = {
            name: value
            for name, value in context.items()
            if isinstance(self.context_spec[name], tf.io.FixedLenFeature)
        }
        result: dict[str, Any] = {
            "context": fixed,
            "loose_context": {
                name: loose.flatten(value)
                for name, value in context.items()
                if name not in fixed
            },
        }
        if self.query_id:
            result["query_ids"] = tf.reshape(parsed[self.query_id], [-1])
        return result

    def _packed(self, serialized: Any) -> dict[str, Any]:
        raw = tf.io.FixedLenFeature((), tf.string)
        stored = {dtype: self.stored(dtype) for dtype in self.layout.slots}
        spec = {packed_block(dtype): raw for dtype in stored.values()}
        keys = dict(zip(self.extra_spec, (PACKED_LABELS, PACKED_WEIGHTS), strict=False))
        spec.update(dict.fromkeys(keys.values(), raw))
        if self.document_id:
            spec[PACKED_IDS] = tf.io.RaggedFeature(tf.string)
        parsed = tf.io.parse_example(serialized, spec)
        # Records hold whole matrices: joined, one decode serves all lists.
        values = {
            dtype: tf.reshape(
                _decode(parsed[packed_block(kept)], kept),
                [-1, self.layout.width(dtype)],
            )
            for dtype, kept in stored.items()
        }
        row_bytes = {
            packed_block(kept): self.layout.width(dtype) * tf.dtypes.as_dtype(kept).size
            for dtype, kept in stored.items()
        }
        row_bytes.update(dict.fromkeys(keys.values(), 4))
        sizes = {key: tf.strings.length(parsed[key]) for key in row_bytes}
        first = next(iter(row_bytes))
        lengths = sizes[first] // row_bytes[first]
        checks = [
            tf.debugging.assert_equal(sizes[key], lengths * size)
            for key, size in row_bytes.items()
        ]
        with tf.control_dependencies(checks):
            lengths = tf.cast(lengths, tf.int64)
        result: dict[str, Any] = {
            **self.queries(serialized),
            "values": values,
            "lengths": lengths,
            "loose": {},
            "extra": {
                name: _decode(parsed[key], "float32")[:, tf.newaxis]
                for name, key in keys.items()
            },
        }
        if self.document_id:
            result["document_ids"] = parsed[PACKED_IDS].values
        return result


def _columns(parsed: Mapping[str, Any], slot: Slot) -> Any:
    # Many features make many operations to trace; vectors need no reshaping.
    value = parsed[slot.name]
    return value if len(slot.shape) == 1 else tf.reshape(value, [-1, slot.width])


def _decode(raw: Any, dtype: str) -> Any:
    assert dtype in (*PACKED_DTYPES, *FEATURE_DTYPES)
    return tf.io.decode_raw(tf.strings.reduce_join(raw), tf.dtypes.as_dtype(dtype))
