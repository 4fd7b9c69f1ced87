"""Tensors that share the memory of arrays."""

from __future__ import annotations

import contextlib

import numpy as np
import tensorflow as tf

_ALIGNMENT = 64  # what TensorFlow asks of the memory of a tensor


def as_tensor(array: np.ndarray) -> tf.Tensor:
    """Returns an array as an eager tensor, in the same memory where that can be.

    That is so for numeric arrays of `Block` and of the cache. Functions of `tf.data`
    take such a tensor by reference, unless its default optimisations are on, which
    turn it into a constant: a copy.
    """
    with tf.init_scope(), tf.device("CPU:0"):
        if array.dtype == tf.bfloat16.as_numpy_dtype:
            # NumPy exports its own types only; a bitcast copies nothing.
            return tf.bitcast(as_tensor(array.view(np.uint16)), tf.bfloat16)
        if (
            array.dtype.kind in "fiu"
            and array.size
            and array.flags.c_contiguous
            and array.flags.writeable
            and array.ctypes.data % _ALIGNMENT == 0
        ):
            # A plain array, for subclasses may export themselves in another way.
            with contextlib.suppress(BufferError, tf.errors.OpError):
                capsule = np.asarray(array).__dlpack__()
                return tf.experimental.dlpack.from_dlpack(capsule)
        return tf.constant(array, tf.string if array.dtype == object else None)
