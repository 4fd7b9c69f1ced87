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
    DISTINCT,
    PACKED_DTYPES,
    PACKED_INPUT,
    PACKED_INPUTS,
    BlockLayout,
)

Tensors = dict[str, Any]
# Names of tensors: what of `Lists` they are, and the name there.
ROW_SPLITS = "row_splits"
_VALUES, _CONTEXT, _LOOSE = "values/", "context/", "loose/"
_LOOSE_CONTEXT, _SPLITS_OF, _TEXTS_OF = "loose_context/", "splits_of_", "texts_of_"


def packed_gather(
    lists: Lists, list_size: int | None = None, num_lists: int | None = None
) -> Callable[[Any], tuple[dict[str, Any], Any, Any]]:
    """Returns a function from list indices to a packed batch of some lists.

    Args:
      lists: All lists. Their arrays are not copied where `as_tensor` can do without.
      list_size: See `gather`.
      num_lists: See `gather`.
    """
    tensors = tensors_of(lists)

    @plain
    def of_lists(index: Any) -> tuple[dict[str, Any], Any, Any]:
        return gather(tensors, index, list_size, num_lists)

    return of_lists


def tensors_of(lists: Lists) -> Tensors:
    """Returns what `gather` takes out of lists, by name."""
    return {name: as_tensor(array) for name, array in arrays_of(lists).items()}


def arrays_of(lists: Lists) -> dict[str, np.ndarray]:
    """Returns the arrays of `tensors_of`."""
    found = {ROW_SPLITS: lists.row_splits}
    for name in ("labels", "weights"):
        if getattr(lists, name) is not None:
            found[name] = getattr(lists, name)
    for kind in (_VALUES, _CONTEXT):
        for name, array in getattr(lists, kind.rstrip("/")).items():
            found[kind + name] = array
    for kind in (_LOOSE, _LOOSE_CONTEXT):
        for name, column in getattr(lists, kind.rstrip("/")).items():
            if column.values.dtype == object:
                column = column.numbered()
            found[kind + name] = column.values
            found[f"{_SPLITS_OF}{kind}{name}"] = column.row_splits
            if column.texts is not None:
                found[f"{_TEXTS_OF}{kind}{name}"] = column.texts
    return found


@plain
def gather(
    tensors: Tensors,
    index: Any,
    list_size: int | None = None,
    num_lists: int | None = None,
) -> tuple[dict[str, Any], Any, Any]:
    """Returns a packed batch.

    Args:
      tensors: Those of some lists; see `tensors_of`.
      index: Numbers of lists among them, int64 `[batch]`, or a pair of that and the
        documents as `Selection` chooses them. Features kept in 16 bits become float32.
      list_size: Takes only the first so many documents of each list.
      num_lists: Fills each batch up to so many lists with some that have no documents;
        their query features are those of list 0. A batch must not have more.

    Returns:
      `(features, labels, weights)`: `features` holds a ragged
      `[batch, (list), columns]` for each dtype under `documents_<dtype>`, and the query
      features `[batch, ...]`; those that stand in no matrix are ragged
      `[batch, (list), (values)]` and `[batch, (values)]`, where those of documents have
      for a text its number among the distinct ones of the batch, string `[distinct]`,
      under `distinct_of_<name>`; `labels` and `weights` are
      ragged `[batch, (list)]`, or None when there are none. Features kept in 16 bits
      become float32.
    """
    if isinstance(index, tuple):
        index, rows = index
    else:
        start, stop = bounds(tensors, index)
        if list_size:
            stop = tf.minimum(stop, start + list_size)
        rows = tf.ragged.range(start, stop)
    splits = rows.row_splits
    if num_lists is not None:
        missing = num_lists - tf.size(index)
        index = tf.ensure_shape(tf.pad(index, [[0, missing]]), [num_lists])
        splits = tf.concat([splits, tf.repeat(splits[-1:], missing)], axis=0)
        splits = tf.ensure_shape(splits, [num_lists + 1])
        rows = tf.RaggedTensor.from_row_splits(rows.values, splits, validate=False)

    def ragged(name: str) -> Any:
        if name not in tensors:
            return None
        return tf.RaggedTensor.from_row_splits(
            tf.gather(tensors[name], rows.values), splits, validate=False
        )

    def values_of(name: str, which: Any) -> Any:
        return loose.gather(tensors[name], tensors[_SPLITS_OF + name], which)

    def texts_of(name: str, numbers: Any) -> Any:
        return tf.gather(tensors[_TEXTS_OF + name], numbers)

    features: dict[str, Any] = {}
    for name, tensor in tensors.items():
        key = name.partition("/")[2]
        if name.startswith(_VALUES):
            features[PACKED_INPUT + key] = _widened(ragged(name), key)
        elif name.startswith(_CONTEXT):
            features[key] = tf.gather(tensor, index)
        elif name.startswith(_LOOSE):
            value = rows.with_values(values_of(name, rows.values))
            if _TEXTS_OF + name in tensors:
                distinct, value = loose.numbered(value)
                features[DISTINCT + key] = texts_of(name, distinct)
            features[key] = value
        elif name.startswith(_LOOSE_CONTEXT):
            value = values_of(name, index)
            if _TEXTS_OF + name in tensors:
                value = value.with_flat_values(texts_of(name, value.flat_values))
            features[key] = value
    return features, ragged("labels"), ragged("weights")


def bounds(tensors: Mapping[str, Any], index: Any) -> tuple[Any, Any]:
    """Returns where the documents of lists begin and end, int64 `[batch]` each."""
    splits = tensors[ROW_SPLITS]
    return tf.gather(splits, index), tf.gather(splits, index + 1)


def value_name(name: str) -> str:
    """Returns the name of the tensor of a matrix of documents, by its name there."""
    return _VALUES + name


def has_context(tensors: Mapping[str, Any]) -> bool:
    """Whether queries have features."""
    return any(name.startswith((_CONTEXT, _LOOSE_CONTEXT)) for name in tensors)


def matrix_of(tensors: Mapping[str, Any], dtype: str) -> Any:
    """Returns the matrix of document features of a dtype, `[documents, columns]`."""
    return tensors[_VALUES + dtype]


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
        if not (name in PACKED_INPUTS or name in specs or name.startswith(DISTINCT))
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
            value = loose.plain(features, name)
            result[name] = loose.padded_documents(value, spec, size)
        else:
            result[name] = loose.padded_queries(features[name], spec)
    if mask_name:
        result[mask_name] = tf.sequence_mask(lengths, size)
    return result
