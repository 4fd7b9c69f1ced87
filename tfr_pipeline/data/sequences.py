"""Parsing of `tf.train.SequenceExample`s, in which features stand list by list.

As TF-Ranking reads them: each document feature is a `feature_list` with an entry for
each document, and the end of a list that is shorter than the others of its record is
made of the feature's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.data import loose


def parse_sequences(
    serialized: Any, context_spec: Mapping[str, Any], example_spec: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Parses string `[lists]`.

    Args:
      serialized: The records.
      context_spec: Maps query features to `tf.io` specs.
      example_spec: Maps document features to `tf.io` specs.

    Returns:
      Query features as parsed; document features, `[documents, ...]` for those of fixed
      length and `loose.flatten`'s for the others; and the lengths of the lists, int64
      `[lists]`.

    Raises:
      tf.errors.InvalidArgumentError: At run time, for a feature without default that
        has fewer entries than the list has documents.
    """
    specs = {
        name: tf.io.FixedLenSequenceFeature(spec.shape, spec.dtype, allow_missing=True)
        if isinstance(spec, tf.io.FixedLenFeature)
        else spec
        for name, spec in example_spec.items()
    }
    context, parsed, sizes = tf.io.parse_sequence_example(
        serialized, dict(context_spec), specs
    )
    lengths = _list_lengths(parsed, sizes, tf.shape(serialized)[0])
    size = tf.reduce_max(tf.concat([lengths, [0]], axis=0))
    real = tf.sequence_mask(lengths, size)
    documents = {}
    for name, value in parsed.items():
        spec = example_spec[name]
        if isinstance(spec, tf.io.FixedLenFeature):
            dense = _filled(value, tf.cast(sizes[name], tf.int64), spec, lengths, size)
            documents[name] = tf.boolean_mask(dense, real)
        else:
            documents[name] = _flat(value, real, size)
    return context, documents, lengths


def _list_lengths(parsed: Any, sizes: Any, count: Any) -> Any:
    """Returns the longest of the lists of features that say how long they are."""
    if sizes:
        found = [tf.cast(size, tf.int64) for size in sizes.values()]
    else:
        found = [_ragged_lengths(value, count) for value in parsed.values()]
    return tf.reduce_max(tf.stack(found), axis=0)


def _ragged_lengths(value: Any, count: Any) -> Any:
    if isinstance(value, tf.RaggedTensor):
        return tf.cast(value.row_lengths(), tf.int64)
    ends = tf.math.unsorted_segment_max(
        value.indices[:, 1] + 1, value.indices[:, 0], tf.cast(count, tf.int64)
    )
    return tf.maximum(ends, 0)  # records without any value


def _filled(value: Any, own: Any, spec: Any, lengths: Any, size: Any) -> Any:
    """Returns `[lists, size, ...]` with the default where a feature has no entry."""
    missing = tf.cast(size, tf.int32) - tf.shape(value)[1]
    rank = len(value.shape)
    value = tf.pad(value, [[0, 0], [0, tf.maximum(missing, 0)]] + [[0, 0]] * (rank - 2))
    if spec.default_value is None:
        with tf.control_dependencies([tf.debugging.assert_equal(own, lengths)]):
            return tf.identity(value)
    shape = tf.TensorShape(spec.shape).as_list()
    default = np.array(spec.default_value, object).ravel().tolist()
    default = default * (1 if len(default) > 1 else int(np.prod(shape, dtype=int)))
    default = tf.reshape(tf.constant(default, value.dtype), shape)
    present = tf.sequence_mask(own, tf.shape(value)[1])
    present = tf.reshape(present, tf.concat([tf.shape(present), [1] * (rank - 2)], 0))
    return tf.where(present, value, default)


def _flat(value: Any, real: Any, size: Any) -> loose.Flat:
    """Returns values and their numbers by document, of a feature `[lists, ...]`."""
    if isinstance(value, tf.RaggedTensor):
        counts = tf.cast(value.row_lengths(axis=2), tf.int64)
        counts, values = loose.to_width(counts, size), value.flat_values
    else:
        count = tf.shape(real, tf.int64)[0]
        places = value.indices[:, 0] * size + value.indices[:, 1]
        counts = tf.math.unsorted_segment_sum(
            tf.ones_like(places), places, count * size
        )
        counts, values = tf.reshape(counts, [count, size]), value.values
    lengths = tf.boolean_mask(counts, real)
    # Values of more documents than the list has would shift those of later lists.
    total = tf.reduce_sum(lengths)
    check = tf.debugging.assert_equal(total, tf.size(values, out_type=tf.int64))
    with tf.control_dependencies([check]):
        return {"values": tf.identity(values), "lengths": lengths}
