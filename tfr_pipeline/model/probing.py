"""What a function does to the features of documents, found by trying it."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.layout import Slot

_PROBE_ROWS = 5


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


def _has_layer(function: Callable[[Any], Any]) -> bool:
    if isinstance(function, tf.Module):
        return True
    parts: list[Any] = []
    for cell in getattr(function, "__closure__", None) or ():
        parts.append(cell.cell_contents)
    for value in getattr(function, "__dict__", {}).values():  # of `Steps`, say
        parts += value if isinstance(value, list | tuple) else [value]
    return any(isinstance(part, tf.Module) for part in parts)


def _probe(rows: int, shape: tuple[int, ...], dtype: Any) -> tf.Tensor:
    probe = np.linspace(-3.0, 40.0, rows * math.prod(shape)).reshape(rows, *shape)
    probe[0].flat[:4] = np.array((0.0, 1.0, -1.0, 1e4))[: probe[0].size]
    if dtype == tf.string:
        return tf.constant(probe.astype(str), tf.string)
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
    tried: dict[Any, tuple[Any, str, tuple[int, ...]]] = {}
    how: tuple[str, tuple[int, ...]]
    for slot in slots:
        function: Any = functions.get(slot.name)
        if function is None or not getattr(function, "is_constant", True):
            return False
        if hasattr(function, "is_constant"):  # a `Bound`
            parts, how = function.functions, ("float32", (1,))
        else:
            parts, how = [function], (dtype, slot.shape)
        tried |= {(_identity(part), *how): (part, *how) for part in parts}
    return all(
        _is_constant(part, tf.as_dtype(name), shape)
        for part, name, shape in tried.values()
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
      spec: Maps features to `tf.io` specs.
    """
    tried = {
        (_identity(function), *_form(spec[name])): function
        for name, function in functions.items()
        if name in spec and not _has_layer(function)
    }
    for (_, shape, dtype), function in tried.items():
        try:
            with tf.init_scope():
                documents = _probe(6, shape or (1,), dtype)
                one, two = (
                    _numbers(function(_lists_of(documents, size, shape)))
                    for size in (1, 2)
                )
        except Exception:  # as above
            continue
        if not (_close if one.dtype.kind in "fiu" else np.array_equal)(one, two):
            return True
    return False


def _numbers(value: Any) -> np.ndarray:
    """Returns all values of a tensor of any kind."""
    if isinstance(value, tf.RaggedTensor):
        value = value.flat_values
    elif isinstance(value, tf.SparseTensor):
        value = value.values
    return np.asarray(value).ravel()


def _form(spec: Any) -> tuple[tuple[int, ...] | None, Any]:
    """Returns shape and dtype of a spec; no shape for any number of values."""
    fixed = isinstance(spec, tf.io.FixedLenFeature)
    return tuple(spec.shape) if fixed else None, spec.dtype


def _lists_of(documents: Any, size: int, shape: tuple[int, ...] | None) -> Any:
    """Returns documents as so many lists; ragged ones, of one value each, for None."""
    if shape is not None:
        return tf.reshape(documents, [size, -1, *shape])
    return tf.RaggedTensor.from_tensor(
        tf.reshape(documents, [size, -1, 1]), ragged_rank=2
    )
