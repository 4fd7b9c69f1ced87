"""`FeatureBlock`: document features in few matrices that look like a dict by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.layout import BlockLayout, Slot
from tfr_pipeline.model.probing import _acts_by_element, _identity


class FeatureBlock(Mapping[str, Any]):
    """Document features `[documents, ...]` by name, kept in matrices side by side.

    Code written for TF-Ranking's dict of flattened features can use it as one; a
    scorer that wants all features takes `concat()`, which costs nothing as long as
    they still stand in one matrix in the order of their names.

    Args:
      pieces: Pairs of slots and the matrix `[documents, columns]` they point into.
      names: Order of iteration; that of the specs, for code that relies on it. The
        order of the names by default.
    """

    __supported_by_tf_nest__ = True

    def __new__(cls, pieces: Any, names: Iterable[str] | None = None) -> Any:
        """Returns a block, or a dict for the pairs of names and values of `tf.nest`.

        A Keras layer that is called with a block maps its values in this way.
        """
        return super().__new__(cls) if isinstance(pieces, list) else dict(pieces)

    def __init__(
        self,
        pieces: list[tuple[tuple[Slot, ...], Any]],
        names: Iterable[str] | None = None,
    ):
        self._pieces = pieces
        self._where = {slot.name: (m, slot) for slots, m in pieces for slot in slots}
        self._names = sorted(self._where) if names is None else list(names)

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
        matrix, slot = self._where[name]
        columns = _columns(matrix, slot.start, slot.stop)
        if len(slot.shape) == 1:
            return columns
        return tf.reshape(columns, [-1, *slot.shape])

    def __contains__(self, name: object) -> bool:
        return name in self._where  # that of `Mapping` would cut out the columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._where)

    @property
    def dtypes(self) -> set[tf.DType]:
        """The dtypes of the features."""
        return {tf.as_dtype(matrix.dtype) for _, matrix in self._pieces}

    def slots(self) -> list[Slot]:
        """Returns the slots in the order of the names."""
        return [self._where[name][1] for name in sorted(self)]

    def concat(self) -> Any:
        """Returns all features in the order of their names, `[documents, columns]`."""
        runs: list[list[Any]] = []  # [matrix, start, stop], neighbours merged
        for name in sorted(self):
            matrix, slot = self._where[name]
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

    def map(self, functions: Mapping[str, Callable[[Any], Any]]) -> FeatureBlock:
        """Returns the block with functions applied to the features they are named for.

        A function is written for TF-Ranking's `[batch, list_size, ...]`, so it gets
        `[1, documents, ...]`: all documents as one list. When one function serves
        several features and acts element by element, it is applied to all at once.
        """
        pieces: list[tuple[tuple[Slot, ...], Any]] = []
        for slots, matrix in self._pieces:
            for function, group in _by_function(slots, functions):
                pieces += _apply(function, group, matrix)
        return FeatureBlock(pieces, self._names)


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
        start, stop = group[0].start, group[-1].stop
        if stop - start == sum(slot.width for slot in group):
            part = _columns(matrix, start, stop)
        else:
            index = np.concatenate([np.arange(s.start, s.stop) for s in group])
            part = tf.gather(matrix, index, axis=1)
        result = function(part[tf.newaxis])[0]
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
        result = function(value)
        if isinstance(result, tf.RaggedTensor):
            result = result.to_tensor()
        shape = tuple(result.shape[2:])
        width = int(np.prod(shape, dtype=int))
        result = tf.reshape(result, [-1, width])
        pieces.append(((Slot(slot.name, 0, width, shape),), result))
    return pieces
