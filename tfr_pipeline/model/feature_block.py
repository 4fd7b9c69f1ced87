"""`FeatureBlock`: document features in few matrices that look like a dict by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.layout import BlockLayout, Slot
from tfr_pipeline.model.layers.lists import check_number
from tfr_pipeline.model.layers.ragged import Densify, is_dense
from tfr_pipeline.model.probing import _acts_by_element, _identity
from tfr_pipeline.model.steps.chain import Bound


class FeatureBlock(Mapping[str, Any]):
    """Document features `[documents, ...]` by name, kept in matrices side by side.

    Code written for TF-Ranking's dict of flattened features can use it as one; a
    scorer that wants all features takes `concat()`, which costs nothing as long as
    they still stand in one matrix in the order of their names.

    Args:
      pieces: Pairs of slots and the matrix `[documents, columns]` they point into.
      names: Order of iteration; that of the specs, for code that relies on it. The
        order of the names by default. There may be names of features to be `joined`.
      others: Features that stand in no matrix, for the sizes of their axes are known
        only when there is a batch.
    """

    __supported_by_tf_nest__ = True

    def __new__(cls, pieces: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns a block, or a dict for the pairs of names and values of `tf.nest`.

        A Keras layer that is called with a block maps its values in this way.
        """
        return super().__new__(cls) if isinstance(pieces, list) else dict(pieces)

    def __init__(
        self,
        pieces: list[tuple[tuple[Slot, ...], Any]],
        names: Iterable[str] | None = None,
        others: Mapping[str, Any] | None = None,
    ):
        self._pieces = pieces
        self._where = {slot.name: (m, slot) for slots, m in pieces for slot in slots}
        self._others = dict(others or {})
        known = {**self._where, **self._others}
        self._order = sorted(known) if names is None else list(names)
        self._names = [name for name in self._order if name in known]

    @classmethod
    def from_matrices(
        cls,
        layout: BlockLayout,
        matrices: Mapping[str, Any],
        names: Iterable[str] | None = None,
    ) -> FeatureBlock:
        """Wraps one matrix a dtype, as a packed batch has them."""
        pieces = [(slots, matrices[dtype]) for dtype, slots in layout.slots.items()]
        return cls(pieces, names)

    def __getitem__(self, name: str) -> Any:
        if name in self._others:
            return self._others[name]
        matrix, slot = self._where[name]
        columns = _columns(matrix, slot.start, slot.stop)
        if len(slot.shape) == 1:
            return columns
        return tf.reshape(columns, [-1, *slot.shape])

    def __contains__(self, name: object) -> bool:
        # That of `Mapping` would cut out the columns.
        return name in self._where or name in self._others

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def dtypes(self) -> set[tf.DType]:
        """The dtypes of the features."""
        found = [*(matrix for _, matrix in self._pieces), *self._others.values()]
        return {tf.as_dtype(value.dtype) for value in found}

    @property
    def in_matrices(self) -> bool:
        """Whether all features stand in matrices."""
        return not self._others

    def slots(self) -> list[Slot]:
        """Returns the slots in the order of the names.

        Raises:
          ConfigError: A feature stands in no matrix.
        """
        for name, value in self._others.items():
            check_number(name, value)
        return [self._where[name][1] for name in sorted(self)]

    def joined(self, features: Mapping[str, Any]) -> FeatureBlock:
        """Returns the block with further features, `[documents, ...]` by name."""
        if not features:
            return self
        pieces, others = list(self._pieces), dict(self._others)
        for name, value in features.items():
            shape = tuple(value.shape[1:])
            if None in shape:
                others[name] = value
                continue
            slot = Slot(name, 0, math.prod(shape), shape)
            matrix = value
            if len(shape) != 1:
                matrix = tf.reshape(value, [-1, slot.width])
            pieces.append(((slot,), matrix))
        order = [*self._order, *(n for n in features if n not in self._order)]
        return FeatureBlock(pieces, order, others)

    def concat(self) -> Any:
        """Returns all features in the order of their names, `[documents, columns]`.

        Raises:
          ConfigError: A feature stands in no matrix.
        """
        runs: list[list[Any]] = []  # [matrix, start, stop], neighbours merged
        for slot in self.slots():
            matrix, _ = self._where[slot.name]
            if runs and runs[-1][0] is matrix and runs[-1][2] == slot.start:
                runs[-1][2] = slot.stop
            else:
                runs.append([matrix, slot.start, slot.stop])
        parts = [_columns(*run) for run in runs]
        return parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)

    def matrices(self, names: Iterable[str] | None = None) -> list[Any]:
        """Returns the matrices that the features, or those of `names`, stand in."""
        wanted = set(self if names is None else names)
        return [m for slots, m in self._pieces if slots[0].name in wanted]

    def replaced(
        self, names: Iterable[str], features: Mapping[str, Any]
    ) -> FeatureBlock:
        """Returns the block with vectors `[documents, columns]` in the place of some.

        Args:
          names: What goes; other names are ignored.
          features: What comes, by name.
        """
        gone = {*names, *features}
        pieces = [
            (tuple(slot for slot in slots if slot.name not in gone), matrix)
            for slots, matrix in self._pieces
        ]
        for name, value in features.items():
            width = value.shape[-1]
            pieces.append(((Slot(name, 0, width, (width,)),), value))
        kept = [name for name in self._order if name not in gone]
        others = {n: value for n, value in self._others.items() if n not in gone}
        pieces = [piece for piece in pieces if piece[0]]
        return FeatureBlock(pieces, [*kept, *features], others)

    def map(
        self, functions: Mapping[str, Any], lists: tuple[Any, ...] = ()
    ) -> FeatureBlock:
        """Returns the block with functions applied to the features they are named for.

        A function is written for TF-Ranking's `[batch, list_size, ...]`, so it gets
        `[1, documents, ...]`: all documents as one list. When one function serves
        several features and acts element by element, it is applied to all at once.
        A `Bound` gets all of its columns at once if it is by column.

        Args:
          functions: Maps features to functions.
          lists: int64 `row_ids` `[documents]` and `row_splits` `[batch + 1]`.
        """
        pieces: list[tuple[tuple[Slot, ...], Any]] = []
        for slots, matrix in self._pieces:
            for function, group in _by_function(slots, functions):
                if isinstance(function, Bound):
                    pieces += _apply_bound(function, group, matrix, lists)
                else:
                    pieces += _apply(function, group, matrix)
        return FeatureBlock(pieces, self._order, self._others)


def _columns(matrix: Any, start: int, stop: int) -> Any:
    if start == 0 and stop == matrix.shape[-1]:
        return matrix
    return matrix[:, start:stop]


def _by_function(
    slots: tuple[Slot, ...], functions: Mapping[str, Callable[[Any], Any]]
) -> Iterator[tuple[Callable[[Any], Any] | None, tuple[Slot, ...]]]:
    groups: dict[Any, list[Slot]] = {}
    for slot in slots:
        function = functions.get(slot.name)
        groups.setdefault(_identity(function) if function else None, []).append(slot)
    for group in groups.values():
        yield functions.get(group[0].name), tuple(group)


def _apply(
    function: Callable[[Any], Any] | None, group: tuple[Slot, ...], matrix: Any
) -> list[tuple[tuple[Slot, ...], Any]]:
    if function is None:
        return [(group, matrix)]
    if _acts_by_element(function, matrix.dtype, group[0].shape):
        result = function(_gathered(group, matrix)[tf.newaxis])[0]
        slots, position = [], 0
        for slot in group:
            stop = position + slot.width
            slots.append(Slot(slot.name, position, stop, slot.shape))
            position = stop
        return [(tuple(slots), result)]
    pieces: list[tuple[tuple[Slot, ...], Any]] = []
    for slot in group:
        value = _columns(matrix, slot.start, slot.stop)
        value = tf.reshape(value, [1, -1, *slot.shape])
        pieces.append(_piece(slot.name, function(value)))
    return pieces


def _gathered(group: tuple[Slot, ...], matrix: Any) -> Any:
    """Returns the columns of some slots side by side."""
    start, stop = group[0].start, group[-1].stop
    if stop - start == sum(slot.width for slot in group):
        return _columns(matrix, start, stop)
    index = np.concatenate([np.arange(s.start, s.stop) for s in group])
    return tf.gather(matrix, index, axis=1)


def _piece(name: str, result: Any) -> tuple[tuple[Slot, ...], Any]:
    """Returns what a function made of a feature, `[1, documents, ...]`, as a matrix."""
    if not is_dense(result):
        result = Densify()(result)
    shape = tuple(result.shape[2:])
    width = int(np.prod(shape, dtype=int))
    return (Slot(name, 0, width, shape),), tf.reshape(result, [-1, width])


def _apply_bound(
    bound: Bound, group: tuple[Slot, ...], matrix: Any, lists: tuple[Any, ...]
) -> list[tuple[tuple[Slot, ...], Any]]:
    if bound.by_column:
        part = _gathered(group, matrix)
        result = bound([slot.name for slot in group], part[tf.newaxis], lists)[0]
        times = int(result.shape[-1]) // int(part.shape[-1])
        slots, position = [], 0
        for slot in group:
            stop = position + slot.width * times
            shape = slot.shape if times == 1 else (slot.width * times,)
            slots.append(Slot(slot.name, position, stop, shape))
            position = stop
        return [(tuple(slots), result)]
    pieces = []
    for slot in group:
        value = _columns(matrix, slot.start, slot.stop)
        value = tf.reshape(value, [1, -1, *slot.shape])
        pieces.append(_piece(slot.name, bound([slot.name], value, lists)))
    return pieces
