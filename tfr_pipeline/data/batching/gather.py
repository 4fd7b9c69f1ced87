"""Batches gathered out of lists in memory, packed or padded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.batching import loose
from tfr_pipeline.data.batching.plan import plain
from tfr_pipeline.data.batching.tensors import as_tensor
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.layout import (
    PACKED_DTYPES,
    PACKED_INPUT,
    PACKED_INPUTS,
    BlockLayout,
)


def packed_gather(
    lists: Lists, list_size: int | None = None, num_lists: int | None = None
) -> Callable[[Any], tuple[dict[str, Any], Any, Any]]:
    """Returns a function from list indices to a packed batch.

    Args:
      lists: All lists. Their arrays are not copied where `as_tensor` can do without.
        Features kept in 16 bits become float32 in the batch.
      list_size: Takes only the first so many documents of each list.
      num_lists: Fills each batch up to so many lists with some that have no documents;
        their query features are those of list 0. A batch must not have more.

    Returns:
      A function from int64 `[batch]`, or from a pair of that and the documents as
      `Selection` chooses them, to `(features, labels, weights)`: `features`
      holds a ragged `[batch, (list), columns]` for each dtype under
      `documents_<dtype>`, and the query features `[batch, ...]`; those that stand in
      no matrix are ragged `[batch, (list), (values)]` and `[batch, (values)]`. `labels`
      and `weights` are ragged `[batch, (list)]`, or None when there are none.
    """
    values = {dtype: as_tensor(block) for dtype, block in lists.values.items()}
    starts = as_tensor(lists.row_splits[:-1])
    lengths = lists.lengths
    if list_size:
        lengths = np.minimum(lengths, list_size)
    lengths = as_tensor(lengths)
    labels = None if lists.labels is None else as_tensor(lists.labels)
    weights = None if lists.weights is None else as_tensor(lists.weights)
    context = {name: as_tensor(value) for name, value in lists.context.items()}
    of_documents = {name: loose.gatherer(c) for name, c in lists.loose.items()}
    of_queries = {name: loose.gatherer(c) for name, c in lists.loose_context.items()}

    @plain
    def gather(index: Any) -> tuple[dict[str, Any], Any, Any]:
        if isinstance(index, tuple):
            index, rows = index
        else:
            start = tf.gather(starts, index)
            rows = tf.ragged.range(start, start + tf.gather(lengths, index))
        splits = rows.row_splits
        if num_lists is not None:
            missing = num_lists - tf.size(index)
            index = tf.ensure_shape(tf.pad(index, [[0, missing]]), [num_lists])
            splits = tf.concat([splits, tf.repeat(splits[-1:], missing)], axis=0)
            splits = tf.ensure_shape(splits, [num_lists + 1])
            rows = tf.RaggedTensor.from_row_splits(rows.values, splits, validate=False)

        def ragged(source: Any) -> Any:
            if source is None:
                return None
            return tf.RaggedTensor.from_row_splits(
                tf.gather(source, rows.values), splits, validate=False
            )

        features = {
            PACKED_INPUT + dtype: _widened(ragged(block), dtype)
            for dtype, block in values.items()
        }
        features.update({name: tf.gather(v, index) for name, v in context.items()})
        for name, values_of in of_documents.items():
            features[name] = rows.with_values(values_of(rows.values))
        features.update({name: of(index) for name, of in of_queries.items()})
        return features, ragged(labels), ragged(weights)

    return gather


def _widened(value: Any, name: str) -> Any:
    """Returns gathered features in the dtype they are named for, if they are."""
    if name not in PACKED_DTYPES or value.dtype.name == name:
        return value
    return value.with_values(tf.cast(value.values, name))


def pad(
    features: Mapping[str, Any],
    layout: BlockLayout,
    list_size: int | None,
    defaults: Mapping[str, Any],
    mask_name: str | None,
    specs: Mapping[str, Any] | None = None,
    lengths: Any = None,
) -> dict[str, Any]:
    """Turns packed features into TF-Ranking's: one padded tensor a name, and a mask.

    Args:
      features: The features of a packed batch.
      layout: Where each feature stands.
      list_size: Length of the padded lists; None for the longest in the batch.
      defaults: Maps a feature to the value of its padding; 0 when absent.
      mask_name: Name of the mask, or None for no mask.
      specs: `tf.io` specs of the features that stand in no matrix, of documents and of
        queries, by name.
      lengths: int64 `[batch]`, documents a list; by default those of the features.

    Returns:
      Features `[batch, list_size, ...]`, query features as they came, and the mask,
      bool `[batch, list_size]`.
    """
    specs = specs or {}
    result = {
        name: value
        for name, value in features.items()
        if name not in PACKED_INPUTS and name not in specs
    }
    documents = [PACKED_INPUT + dtype for dtype in layout.slots]
    documents += [n for n in specs if loose.is_of_documents(features[n])]
    if lengths is None:
        lengths = features[documents[0]].row_lengths()
    size = list_size or tf.cast(tf.reduce_max(lengths), tf.int32)
    for dtype, slots in layout.slots.items():
        block = features[PACKED_INPUT + dtype]
        padding = np.zeros(layout.width(dtype), dtype)
        for slot in slots:
            default = defaults.get(slot.name)
            if default is not None:
                padding[slot.start : slot.stop] = np.ravel(default)
        dense = block.to_tensor(padding, shape=[None, list_size, layout.width(dtype)])
        for slot, piece in zip(
            slots, tf.split(dense, [s.width for s in slots], axis=2), strict=True
        ):
            shape = tf.concat([tf.shape(dense)[:2], slot.shape], axis=0)
            piece = tf.reshape(piece, tf.cast(shape, tf.int32))
            result[slot.name] = tf.ensure_shape(piece, [None, list_size, *slot.shape])
    for name, spec in specs.items():
        if name in documents:
            result[name] = loose.padded_documents(features[name], spec, size)
        else:
            result[name] = loose.padded_queries(features[name], spec)
    if mask_name:
        result[mask_name] = tf.sequence_mask(lengths, size)
    return result
