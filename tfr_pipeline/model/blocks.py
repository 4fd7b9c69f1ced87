"""`FeatureBlock`: document features in few matrices that look like a dict by name."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.layout import BlockLayout, Slot

_PROBE_ROWS = 5


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


def _identity(function: Any) -> Any:
    """Equal for functions that compute the same.

    A comprehension makes a new lambda for each feature out of one piece of code.
    """
    if isinstance(function, types.FunctionType):
        keywords = function.__kwdefaults__ or {}
        return (
            function.__code__,
            id(function.__globals__),
            tuple(_argument(cell.cell_contents) for cell in function.__closure__ or ()),
            tuple(map(_argument, function.__defaults__ or ())),
            tuple((name, _argument(value)) for name, value in keywords.items()),
        )
    return id(function)


def _argument(value: Any) -> Any:
    # The text of an array leaves out its middle; only the same array is the same.
    plain = value is None or isinstance(value, bool | int | float | str)
    return repr(value) if plain else id(value)


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


def _has_layer(function: Callable[[Any], Any]) -> bool:
    parts = [
        cell.cell_contents for cell in getattr(function, "__closure__", None) or ()
    ]
    return any(isinstance(part, tf.Module) for part in (function, *parts))


def _probe(rows: int, shape: tuple[int, ...], dtype: Any) -> tf.Tensor:
    probe = np.linspace(-3.0, 40.0, rows * math.prod(shape)).reshape(rows, *shape)
    probe[0].flat[:4] = np.array((0.0, 1.0, -1.0, 1e4))[: probe[0].size]
    return tf.cast(tf.constant(probe), dtype)


def _close(left: np.ndarray, right: np.ndarray) -> bool:
    # Vector and scalar instructions may round differently in the last place.
    return left.shape == right.shape and bool(
        np.allclose(left, right, 1e-5, 1e-6, equal_nan=True)
    )


def _acts_by_element(
    function: Callable[[Any], Any], dtype: tf.DType, shape: tuple[int, ...]
) -> bool:
    """Whether a function does to a block what it does to each feature alone.

    Found by trying: a pure function of the elements gives the same columns.
    Layers are left out: they are made for the features that they are called with.
    """
    if _has_layer(function):
        return False
    width, rows = math.prod(shape), _PROBE_ROWS
    try:
        with tf.init_scope():
            block = _probe(rows, (4 * width,), dtype)[tf.newaxis]
            # Features first: a layer out of sight takes the first shape for its own.
            alone = [
                np.asarray(function(tf.reshape(part, [1, rows, *shape])))
                for part in tf.split(block, 4, axis=2)
            ]
            if any(part.shape != (1, rows, *shape) for part in alone):
                return False
            whole = np.asarray(function(block))
    except Exception:
        # Whatever the function objects to, it decides on its own features.
        return False
    columns = [part.reshape(1, rows, width) for part in alone]
    return _close(whole, np.concatenate(columns, -1))


def functions_are_constant(
    functions: Mapping[str, Callable[[Any], Any]], slots: Iterable[Slot], dtype: str
) -> bool:
    """Whether every slot has a function whose values can be computed ahead.

    Such a function acts element by element, uses no variables and no random numbers.

    Args:
      functions: Maps features to functions of `[batch, list_size, ...]`.
      slots: The features of one dtype.
      dtype: Its name.
    """
    tried: dict[Any, Slot] = {}
    for slot in slots:
        if slot.name not in functions:
            return False
        tried[_identity(functions[slot.name]), slot.shape] = slot
    return all(
        _is_constant(functions[slot.name], tf.as_dtype(dtype), slot.shape)
        for slot in tried.values()
    )


def _is_constant(
    function: Callable[[Any], Any], dtype: tf.DType, shape: tuple[int, ...]
) -> bool:
    if not _acts_by_element(function, dtype, shape):
        return False
    probe = _probe(_PROBE_ROWS, shape, dtype)[tf.newaxis]
    with tf.init_scope():
        traced = tf.function(function, autograph=False).get_concrete_function(probe)
        once, twice = (np.asarray(function(probe)) for _ in range(2))
    # Control flow and calls count as stateful when anything within them does.
    stateful = any(op.op_def.is_stateful for op in traced.graph.get_operations())
    return not stateful and np.array_equal(once, twice, equal_nan=True)


def mixes_documents(functions: Mapping[str, Callable[[Any], Any]], spec: Any) -> bool:
    """Whether a function gives a document another value in another list.

    Such a function, say one that subtracts the mean of the list, has no meaning for
    packed documents. Found by trying, on all functions but layers.

    Args:
      functions: Maps features to functions of `[batch, list_size, ...]`.
      spec: Maps features to `tf.io.FixedLenFeature`s.
    """
    tried = {
        (_identity(function), tuple(spec[name].shape), spec[name].dtype): function
        for name, function in functions.items()
        if name in spec and not _has_layer(function)
    }
    for (_, shape, dtype), function in tried.items():
        try:
            with tf.init_scope():
                documents = _probe(6, shape, dtype)
                lists = [
                    np.asarray(function(tf.reshape(documents, [size, -1, *shape])))
                    for size in (1, 2)
                ]
        except Exception:  # as above
            continue
        one, two = lists
        if one.size != two.size or not _close(one.ravel(), two.ravel()):
            return True
    return False
