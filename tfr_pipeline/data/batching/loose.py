"""Features that stand in no matrix: texts, and as many values as a document has.

They are kept as flat values and a number of them for each document (or each query),
whatever spec they were parsed by, and come out as TF-Ranking's parser gives them: dense
texts, `tf.SparseTensor` for `VarLenFeature`, `tf.RaggedTensor` for `RaggedFeature`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.lists import Ragged
from tfr_pipeline.layout import DISTINCT, BlockLayout

Flat = dict[str, Any]
# Specs of features that are kept; for messages.
KEPT = ("FixedLenFeature", "VarLenFeature", "RaggedFeature without partitions")


def can_keep(spec: Any) -> bool:
    """Whether values of a `tf.io` spec can be kept, in a matrix or beside it."""
    if isinstance(spec, tf.io.RaggedFeature):
        return not spec.partitions  # one dimension of values
    return isinstance(spec, tf.io.FixedLenFeature | tf.io.VarLenFeature)


def separate(specs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the specs of features that stand in matrices, and the other ones."""
    packed = {n: s for n, s in specs.items() if BlockLayout.can_pack({n: s})}
    return packed, {n: s for n, s in specs.items() if n not in packed}


def flatten(parsed: Any) -> Flat:
    """Returns `values` and `lengths` of a parsed feature `[rows, ...]`."""
    if isinstance(parsed, tf.SparseTensor):
        rows = tf.cast(parsed.dense_shape[0], tf.int32)
        row_ids = tf.cast(parsed.indices[:, 0], tf.int32)
        lengths = tf.math.unsorted_segment_sum(tf.ones_like(row_ids), row_ids, rows)
        return {"values": parsed.values, "lengths": tf.cast(lengths, tf.int64)}
    if isinstance(parsed, tf.RaggedTensor):
        lengths = tf.cast(parsed.row_lengths(), tf.int64)
        return {"values": parsed.flat_values, "lengths": lengths}
    size = tf.cast(tf.reduce_prod(tf.shape(parsed)[1:]), tf.int64)
    return {
        "values": tf.reshape(parsed, [-1]),
        "lengths": tf.fill([tf.shape(parsed)[0]], size),
    }


def ragged(flat: Flat) -> Ragged:
    """Returns what `flatten` returned, as arrays."""
    splits = np.concatenate([[0], np.cumsum(flat["lengths"])]).astype(np.int64)
    return Ragged(flat["values"], splits)


def gather(values: Any, splits: Any, rows: Any) -> Any:
    """Returns some rows of a `Ragged`, as ragged `[rows, (values)]`.

    Args:
      values: Its values, a tensor.
      splits: Its row splits, int64.
      rows: Which rows, int64 `[rows]`.
    """
    places = tf.ragged.range(tf.gather(splits, rows), tf.gather(splits, rows + 1))
    return places.with_values(tf.gather(values, places.values))


def plain(features: Mapping[str, Any], name: str) -> Any:
    """Returns a document feature with its texts in the place of their numbers."""
    value = features[name]
    if DISTINCT + name not in features:
        return value
    return value.with_flat_values(
        tf.gather(features[DISTINCT + name], value.flat_values)
    )


def numbered(value: Any) -> tuple[Any, Any]:
    """Returns the distinct texts of a ragged tensor, and their numbers in its place."""
    distinct, numbers = tf.unique(value.flat_values)
    return distinct, value.with_flat_values(numbers)


def packed(features: Mapping[str, Any], specs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns gathered features as models take them that score packed batches.

    Args:
      features: Document features are ragged `[batch, (list), (values)]`, query features
        `[batch, (values)]`.
      specs: `tf.io` specs of the features that stand in no matrix, by name.

    Returns:
      The same, but `[batch, (list), values]` for a `FixedLenFeature` of documents, and
      query features as their specs have them.
    """
    result = dict(features)
    for name, spec in specs.items():
        value = features[name]
        if not is_of_documents(value):
            result[name] = padded_queries(value, spec)
        elif isinstance(spec, tf.io.FixedLenFeature):
            size = math.prod(tf.TensorShape(spec.shape).as_list())
            flat = tf.reshape(value.flat_values, [-1, size])
            result[name] = value.with_values(flat)
    return result


def is_of_documents(value: Any) -> bool:
    """Whether a gathered feature is one of documents, `[batch, (list), (values)]`."""
    return value.ragged_rank > 1


def padded_documents(value: Any, spec: Any, list_size: Any) -> Any:
    """Returns a document feature as TF-Ranking's parser gives it.

    Args:
      value: Ragged `[batch, (list), (values)]`.
      spec: Its `tf.io` spec.
      list_size: Length of the padded lists, an integer or a scalar tensor.
    """
    lengths = value.values.row_lengths()
    padded = tf.RaggedTensor.from_row_splits(lengths, value.row_splits, validate=False)
    lengths = tf.reshape(to_width(padded, list_size), [-1])
    if isinstance(spec, tf.io.FixedLenFeature):
        return _dense(value, spec, list_size)
    rows = tf.RaggedTensor.from_row_lengths(value.flat_values, lengths, validate=False)
    if isinstance(spec, tf.io.RaggedFeature):
        rows = rows.with_row_splits_dtype(spec.row_splits_dtype)
        size = tf.cast(list_size, spec.row_splits_dtype)
        size = list_size if isinstance(list_size, int) else size
        return tf.RaggedTensor.from_uniform_row_length(rows, size)
    sparse = rows.to_sparse()
    shape = [value.nrows(), tf.cast(list_size, tf.int64), sparse.dense_shape[1]]
    return tf.sparse.reshape(sparse, tf.stack(shape))


def to_width(value: Any, width: Any, padding: Any = 0) -> Any:
    """Returns a ragged `[rows, (columns)]` as a dense tensor so many columns wide."""
    shape = tf.stack([tf.constant(-1, tf.int64), tf.cast(width, tf.int64)])
    return value.to_tensor(padding, shape=shape)


def _dense(value: Any, spec: Any, list_size: Any) -> Any:
    shape = tf.TensorShape(spec.shape).as_list()
    size = int(np.prod(shape, dtype=int))
    default = "" if spec.default_value is None else spec.default_value
    padding = np.broadcast_to(np.array(default, object).ravel(), [size]).tolist()
    rows = tf.RaggedTensor.from_row_splits(
        tf.reshape(value.flat_values, [-1, size]), value.row_splits, validate=False
    )
    static = list_size if isinstance(list_size, int) else None
    # Without a length of its own, the longest list of the batch is as long as that.
    padding = tf.constant(padding, rows.dtype)
    dense = rows.to_tensor(padding, shape=[None, static, size])
    result = tf.reshape(dense, tf.concat([tf.shape(dense)[:2], shape], axis=0))
    return tf.ensure_shape(result, [None, static, *shape])


def padded_queries(value: Any, spec: Any) -> Any:
    """Returns a query feature, ragged `[batch, (values)]`, as its spec has it."""
    if isinstance(spec, tf.io.RaggedFeature):
        return value.with_row_splits_dtype(spec.row_splits_dtype)
    return value.to_sparse()
