"""Neighbours whose features stand in the documents themselves, of `graph pack`.

In files they are columns among the others. In lists they stand apart: matrices beside
those of the documents, under names that no dtype has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.batching.gather import Tensors, gather, value_name
from tfr_pipeline.data.batching.neighbours import Neighbours, named
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.features import PADDING_LABEL
from tfr_pipeline.layout import PACKED_INPUT, BlockLayout

_ALL = "neighbours"  # what the names of all that is set apart begin with
_OF, _WEIGHTS = f"{_ALL}_", f"{_ALL}/weights"


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns of the matrices of files hold what.

    Attributes:
      own: Columns of the documents' features, by dtype.
      others: Those of their neighbours, one neighbour after the other, by dtype.
      weights: Those of the weights of edges, in the matrix of float32.
    """

    own: dict[str, np.ndarray]
    others: dict[str, np.ndarray]
    weights: np.ndarray

    @classmethod
    def of(
        cls,
        own: BlockLayout,
        every: BlockLayout,
        neighbours: Sequence[Callable[[str], str]],
    ) -> Columns:
        """Returns the columns of some layouts.

        Args:
          own: Where the features of documents stand among themselves.
          every: Where they and those of neighbours stand in files.
          neighbours: Of each neighbour, a function from the name of a feature, or
            `weight`, to its name among those of the neighbour.
        """
        slots = {slot.name: slot for row in every.slots.values() for slot in row}

        def columns(wanted: list[str]) -> np.ndarray:
            ranges = [np.arange(slots[n].start, slots[n].stop) for n in wanted]
            return np.concatenate([np.zeros(0, int), *ranges]).astype(np.int64)

        names = {d: [slot.name for slot in row] for d, row in own.slots.items()}
        return cls(
            {dtype: columns(row) for dtype, row in names.items()},
            {
                dtype: columns([name(one) for name in neighbours for one in row])
                for dtype, row in names.items()
            },
            columns([name("weight") for name in neighbours]),
        )


def set_apart(columns: Columns, lists: Lists) -> Lists:
    """Returns lists with the features of neighbours in matrices of their own.

    Args:
      columns: Which are which.
      lists: Lists as they are in files.

    Returns:
      Lists with the documents' own columns; for each dtype a matrix of those of the
      neighbours, `[documents, N * columns]`; and their weights, `[documents, N]`.
    """
    values = {
        dtype: lists.values[dtype][:, some] for dtype, some in columns.own.items()
    }
    for dtype, some in columns.others.items():
        values[_OF + dtype] = lists.values[dtype][:, some]
    weights = lists.values["float32"][:, columns.weights]
    values[_WEIGHTS] = weights.astype(np.float32, copy=False)
    return dataclasses.replace(lists, values=values)


def without_neighbours(tensors: Tensors) -> Tensors:
    """Returns the tensors of lists without those of neighbours."""
    gone = value_name(_ALL)
    return {n: tensor for n, tensor in tensors.items() if not n.startswith(gone)}


class StoredNeighbours(Neighbours):
    """The neighbours that `set_apart` has set apart.

    Args:
      most: How many of them count.
      count: How many there are of each document.
    """

    def __init__(self, most: int, count: int):
        self._most, self._count = most, count

    def _gather(
        self, tensors: Tensors, list_size: int | None, padded: bool, index: Any
    ) -> Any:
        features, labels, weights = gather(tensors, index, list_size)
        matrices = {
            name.removeprefix(PACKED_INPUT): features.pop(name).values
            for name in list(features)
            if name.startswith(PACKED_INPUT + _ALL)
        }
        rows = next(v for n, v in features.items() if n.startswith(PACKED_INPUT))
        edge_weights = matrices.pop(_WEIGHTS)[:, : self._most]
        # First the first neighbour of each document, then the second, and so on: each
        # of these is a list, as long as documents have so many.
        there = tf.where(tf.transpose(edge_weights) != 0.0)
        places, sources = there[:, 0], there[:, 1]
        lists, documents = rows.nrows(), tf.size(edge_weights[:, 0], tf.int64)
        ids = places * lists + tf.gather(rows.value_rowids(), sources)
        ids, _, counts = tf.unique_with_counts(ids, tf.int64)
        lengths = tf.concat([rows.row_lengths(), counts], axis=0)
        queries = tf.concat([tf.range(lists), ids % lists], axis=0)
        more = tf.stack([sources, places], axis=1)
        result = {}
        for name, value in features.items():
            if not name.startswith(PACKED_INPUT):
                result[name] = tf.gather(value, queries)
                continue
            others = matrices[_OF + name.removeprefix(PACKED_INPUT)]
            shape = [-1, self._count, value.values.shape[1]]
            others = tf.gather_nd(tf.reshape(others, shape), more)
            others = tf.cast(others, value.dtype)
            result[name] = _joined(value, others, lengths)
        edges = named(
            tf.cast(sources, tf.int32),
            tf.cast(documents + tf.range(tf.size(sources, tf.int64)), tf.int32),
            tf.gather_nd(edge_weights, more),
            lengths,
        )
        labels, weights = (
            None if value is None else _filled(value, fill, lengths)
            for value, fill in ((labels, PADDING_LABEL), (weights, 1.0))
        )
        return {**result, **edges}, labels, weights


def _joined(value: Any, more: Any, lengths: Any) -> Any:
    values = tf.concat([value.values, more], axis=0)
    return tf.RaggedTensor.from_row_lengths(values, lengths, validate=False)


def _filled(value: Any, fill: float, lengths: Any) -> Any:
    """Returns labels or weights with those of neighbours, which do not count."""
    missing = tf.reduce_sum(lengths) - tf.size(value.values, tf.int64)
    shape = tf.concat([[missing], tf.shape(value.values, tf.int64)[1:]], axis=0)
    return _joined(value, tf.fill(shape, tf.constant(fill, value.dtype)), lengths)
