"""Batches with the neighbours of their nodes: more lists behind those that train.

The features of a batch with neighbours have more lists than its labels. Those behind
the lists that train hold their neighbours, each once, but for those that are in the
batch anyway. Three tensors among the features say who is whose neighbour.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.batching.gather import (
    ROW_SPLITS,
    Tensors,
    bounds,
    gather,
    has_context,
)
from tfr_pipeline.data.batching.plan import plain
from tfr_pipeline.data.batching.tensors import as_tensor

# Names of what a batch has of its edges among its features.
SOURCES = "tfr_pipeline/graph/sources"
TARGETS = "tfr_pipeline/graph/targets"
WEIGHTS = "tfr_pipeline/graph/weights"
LENGTHS = "tfr_pipeline/graph/lengths"
NAMES = (SOURCES, TARGETS, WEIGHTS, LENGTHS)
_MOST_PARTS = 1 << 32  # of a list


@dataclasses.dataclass(frozen=True)
class Edges:
    """The edges of a batch.

    Attributes:
      sources: int32 `[edges]`, numbers of nodes of the lists that train: lists, or
        documents counted through all lists.
      targets: int32 `[edges]`, numbers of nodes, counted on through the lists behind.
      weights: float32 `[edges]`, none of them 0.
      lengths: int64 `[lists]`, documents a list, of all lists.
    """

    sources: Any
    targets: Any
    weights: Any
    lengths: Any


def take(features: Any) -> tuple[Any, Edges | None]:
    """Takes the edges of a batch out of its features.

    Returns:
      The features without them, and the edges; None for a batch that has none.
    """
    if not isinstance(features, Mapping) or SOURCES not in features:
        return features, None
    rest = {name: value for name, value in features.items() if name not in NAMES}
    return rest, Edges(*(features[name] for name in NAMES))


class Neighbours(abc.ABC):
    """What adds neighbours to the batches of some lists."""

    def around(
        self,
        assembler: Callable[[Any], Callable[[Any], Any]],
        tensors: Tensors,
        list_size: int | None,
        padded: bool = False,
    ) -> Callable[[Any], Any]:
        """Returns a function from list indices to a batch with neighbours.

        Args:
          assembler: Makes of a function as `gather` one to whole batches.
          tensors: Those of the lists.
          list_size: See `gather`.
          padded: Whether lists are padded to that, or to the longest.
        """
        gathered = functools.partial(self._gather, tensors, list_size, padded)
        batch = assembler(plain(gathered))

        @plain
        def of_lists(index: Any) -> Any:
            count = tf.size(index[0] if isinstance(index, tuple) else index)
            features, *others = batch(index)
            others = tf.nest.map_structure(lambda value: value[:count], others)
            return features, *others

        return of_lists

    @abc.abstractmethod
    def _gather(
        self, tensors: Tensors, list_size: int | None, padded: bool, index: Any
    ) -> Any:
        """Returns what `gather` does, of more lists and with edges among features."""


class IndexedNeighbours(Neighbours):
    """Neighbours among lists in memory: nothing is copied before there is a batch.

    Args:
      numbers: int32 `[nodes, N]`, numbers of nodes, -1 where there is none.
      weights: float32 `[nodes, N]`.
      of_lists: Whether nodes are lists; else they are documents.
    """

    def __init__(
        self, numbers: np.ndarray, weights: np.ndarray, of_lists: bool = False
    ):
        self._numbers, self._weights = as_tensor(numbers), as_tensor(weights)
        self._of_lists = of_lists

    def _gather(
        self, tensors: Tensors, list_size: int | None, padded: bool, index: Any
    ) -> Any:
        index, rows = _rows(tensors, index, list_size)
        nodes = (index if self._of_lists else rows.values), self._numbers, self._weights
        sources, targets, weights = _edges(*nodes)
        new, targets = _placed(nodes[0], targets)
        if self._of_lists:
            index, rows = _with_lists(tensors, index, rows, new, list_size)
        else:
            index, rows = _with_documents(tensors, index, rows, new, list_size, padded)
        edges = named(sources, targets, weights, rows.row_lengths())
        features, *others = gather(tensors, (index, rows))
        return {**features, **edges}, *others


def _rows(tensors: Tensors, index: Any, list_size: int | None) -> tuple[Any, Any]:
    """Returns list indices and the documents of each list."""
    if isinstance(index, tuple):
        return index
    start, stop = bounds(tensors, index)
    if list_size:
        stop = tf.minimum(stop, start + list_size)
    return index, tf.ragged.range(start, stop)


def _edges(nodes: Any, numbers: Any, weights: Any) -> tuple[Any, Any, Any]:
    """Returns sources by place, targets by number, and weights, of some nodes."""
    numbers = tf.cast(tf.gather(numbers, nodes), tf.int64)
    weights = tf.gather(weights, nodes)
    places = tf.where((numbers >= 0) & (weights != 0.0))
    return (
        tf.cast(places[:, 0], tf.int32),
        tf.gather_nd(numbers, places),
        tf.gather_nd(weights, places),
    )


def _placed(nodes: Any, targets: Any) -> tuple[Any, Any]:
    """Returns the targets that are not among the nodes, in order, and where all are.

    Args:
      nodes: int64 `[nodes]`, different ones.
      targets: int64 `[edges]`.

    Returns:
      int64 `[new]`; and int32 `[edges]`, places among nodes and new ones behind them.
    """
    count = tf.size(nodes)
    found, places = tf.unique(tf.concat([nodes, targets], axis=0))
    new, places = tf.sort(found[count:]), places[count:]
    behind = tf.searchsorted(new, targets)
    return new, tf.where(places < count, places, count + behind)


def _with_documents(
    tensors: Tensors,
    index: Any,
    rows: Any,
    new: Any,
    list_size: int | None,
    padded: bool,
) -> tuple[Any, Any]:
    """Returns lists and documents of a batch with more documents, `new`, in order.

    They stand in lists of their own queries, whose other documents are left out. Where
    that would be mostly padding, and queries have no features, lists are filled up.
    """
    lists = tf.searchsorted(tensors[ROW_SPLITS], new, side="right") - 1
    lists = tf.cast(lists, tf.int64)
    size: Any = list_size
    if padded and not has_context(tensors):
        lists = tf.zeros_like(lists)
        size = size or tf.maximum(tf.reduce_max(rows.row_lengths()), 1)
    parts = lists * _MOST_PARTS
    if size is not None:  # for lists are cut at it
        first = tf.cast(tf.searchsorted(lists, lists), tf.int64)
        parts += (tf.range(tf.size(lists, tf.int64)) - first) // size
    parts, _, counts = tf.unique_with_counts(parts, tf.int64)
    lengths = tf.concat([rows.row_lengths(), counts], axis=0)
    rows = _ragged(tf.concat([rows.values, new], axis=0), lengths)
    return tf.concat([index, parts // _MOST_PARTS], axis=0), rows


def _with_lists(
    tensors: Tensors, index: Any, rows: Any, new: Any, list_size: int | None
) -> tuple[Any, Any]:
    """Returns lists and documents of a batch with more lists, `new`."""
    _, more = _rows(tensors, new, list_size)
    lengths = tf.concat([rows.row_lengths(), more.row_lengths()], axis=0)
    rows = _ragged(tf.concat([rows.values, more.values], axis=0), lengths)
    return tf.concat([index, new], axis=0), rows


def _ragged(values: Any, lengths: Any) -> Any:
    return tf.RaggedTensor.from_row_lengths(values, lengths, validate=False)


def named(sources: Any, targets: Any, weights: Any, lengths: Any) -> dict[str, Any]:
    """Returns the edges of a batch as they stand among its features; see `Edges`."""
    return dict(zip(NAMES, (sources, targets, weights, lengths), strict=True))
