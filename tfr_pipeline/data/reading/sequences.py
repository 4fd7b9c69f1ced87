"""Parsing of `tf.train.SequenceExample`s, in which features stand list by list.

As TF-Ranking reads them: each document feature is a `feature_list` with an entry for
each document, and the end of a list that is shorter than the others of its record is
made of the feature's default. TensorFlow parses; what follows is done by NumPy, since
graphs with several operations for each of many features take long to build.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.batching import loose
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.records.formats import NotAListError, check_sequences

Arrays = dict[str, Any]


class SequenceParser:
    """Parses batches of SequenceExamples.

    Args:
      parser: Says what to parse.
      traced: Makes a graph of a function of string `[n]` that returns NumPy arrays.
    """

    def __init__(
        self,
        parser: RecordParser,
        traced: Callable[[Callable[[Any], Any]], Callable[[Any], Any]],
    ):
        self._parser = parser
        self._specs = parser.documents_with_id
        self._parse = traced(self._graph)

    def _graph(self, serialized: Any) -> Arrays:
        specs = {
            name: tf.io.FixedLenSequenceFeature(
                spec.shape, spec.dtype, allow_missing=True
            )
            if _is_fixed(spec)
            else spec
            for name, spec in self._specs.items()
        }
        context, parsed, sizes = tf.io.parse_sequence_example(
            serialized, self._parser.context_with_id, specs
        )
        return {
            **self._parser.of_queries(context),
            "documents": {name: _parts(value) for name, value in parsed.items()},
            "sizes": sizes,
        }

    def __call__(self, serialized: Any) -> Arrays:
        """Parses string `[lists]`; returns what `RecordParser` returns, as arrays.

        Raises:
          NotAListError: A record is of another format; or features of one record have
            different numbers of documents, and there is no default to make up for it.
        """
        check_sequences(serialized.numpy(), self._specs)
        found = self._parse(serialized)
        documents, sizes = found.pop("documents"), found.pop("sizes")
        count = len(serialized)
        lengths = _list_lengths(documents, sizes, count)
        columns: Arrays = {
            name: _fixed(name, documents[name], sizes[name], spec, lengths)
            if _is_fixed(spec)
            else _loose(name, documents[name], lengths)
            for name, spec in self._specs.items()
        }
        total = int(lengths.sum())
        parser = self._parser
        result = {
            **found,
            "lengths": lengths,
            "values": {
                dtype: np.concatenate(
                    [columns[slot.name].reshape(total, slot.width) for slot in slots],
                    axis=1,
                )
                for dtype, slots in parser.layout.slots.items()
            },
            "extra": {name: columns[name] for name in parser.extra_spec},
            "loose": {name: _as_loose(columns[name]) for name in parser.loose_spec},
        }
        if parser.document_id:
            result["document_ids"] = columns[parser.document_id].reshape(-1)
        return result


def _is_fixed(spec: Any) -> bool:
    return isinstance(spec, tf.io.FixedLenFeature)


def _parts(value: Any) -> Any:
    """Returns the tensors that a ragged or sparse tensor is made of."""
    if isinstance(value, tf.RaggedTensor):
        counts = value.values.row_lengths()
        return {"values": value.flat_values, "counts": counts, "rows": value.row_splits}
    if isinstance(value, tf.SparseTensor):
        return {"values": value.values, "indices": value.indices}
    return value


def _list_lengths(
    documents: Mapping[str, Any], sizes: Mapping[str, np.ndarray], count: int
) -> np.ndarray:
    """Returns the longest of the lists of features that say how long they are."""
    found = list(sizes.values()) or [
        _loose_lengths(part, count) for part in documents.values()
    ]
    return np.max(found, axis=0).astype(np.int64)


def _loose_lengths(part: Arrays, count: int) -> np.ndarray:
    if "rows" in part:
        return np.diff(part["rows"])
    lengths = np.zeros(count, np.int64)  # of records without any value
    np.maximum.at(lengths, part["indices"][:, 0], part["indices"][:, 1] + 1)
    return lengths


def _fixed(
    name: str, dense: np.ndarray, own: np.ndarray, spec: Any, lengths: np.ndarray
) -> np.ndarray:
    """Returns `[documents, ...]` of `[lists, entries, ...]`."""
    present = np.arange(dense.shape[1]) < own[:, np.newaxis]
    values = dense[present]
    if len(values) == lengths.sum():
        return values
    if spec.default_value is None:
        raise NotAListError(
            f"feature {name!r}: expected an entry for each document, found "
            f"{len(values)} for {lengths.sum()} documents, and it has no default."
        )
    shape = tf.TensorShape(spec.shape).as_list()
    default = np.array(spec.default_value, dense.dtype)
    if default.dtype == object:
        default = np.array([_encoded(v) for v in default.ravel()], object)
    if default.size == np.prod(shape, dtype=int):
        default = default.reshape(shape)
    result = np.empty((lengths.sum(), *shape), dense.dtype)
    result[:] = default
    result[_places(own, lengths)] = values
    return result


def _encoded(text: Any) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode()


def _places(own: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns bool `[documents]`: true for the first `own` ones of each list."""
    starts = np.cumsum(lengths) - lengths
    number = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    return number < np.repeat(own, lengths)


def _loose(name: str, part: Arrays, lengths: np.ndarray) -> loose.Flat:
    """Returns values and their numbers by document."""
    counts = np.zeros(lengths.sum(), np.int64)
    starts = np.cumsum(lengths) - lengths
    if "rows" in part:
        own = np.diff(part["rows"])
        if (own <= lengths).all():
            counts[_places(own, lengths)] = part["counts"]
            return {"values": part["values"], "lengths": counts}
    else:
        lists, entries = part["indices"][:, 0], part["indices"][:, 1]
        if (entries < lengths[lists]).all():
            np.add.at(counts, starts[lists] + entries, 1)
            return {"values": part["values"], "lengths": counts}
    raise NotAListError(
        f"feature {name!r} has entries for more documents than the other features of "
        "its record."
    )


def _as_loose(column: Any) -> loose.Flat:
    if isinstance(column, dict):
        return column
    size = int(np.prod(column.shape[1:], dtype=int))
    return {
        "values": column.reshape(-1),
        "lengths": np.full(len(column), size, np.int64),
    }
