"""Workers of `ParameterServerStrategy` that read what they train on.

The chief sends the numbers of the lists of a batch. The step, which runs in the worker,
calls Python there, which reads them: the worker runs the same program, has the same
files, and has got ready for it before it waits for steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.reading.record_lists import RecordLists
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.pipeline.datasets.batches import WindowReader

# Returns what reads a split for a batch layout, if anything does.
Reader = Callable[[str, str], WindowReader | None]

# What this process reads with.
_readers: list[Reader] = []


def get_ready(reader: Reader) -> None:
    """Lets steps that are sent to this process read in it.

    The chief, too, has to call it, at the same point of the same program: TensorFlow
    knows a Python function by the number of those that were made before it.

    Args:
      reader: Called when a batch of a split is first wanted.
    """
    _readers[:] = [functools.cache(reader)]
    _registered()


def read(
    reader: WindowReader, split: str, layout: str, index: Any
) -> tuple[Any, list[Any]]:
    """Reads lists in the process in which the step runs that this becomes a part of.

    Args:
      reader: What reads them in this process, which may be another.
      split: `train` or `valid`.
      layout: The batch layout.
      index: int64 `[batch]`, the numbers of the lists.

    Returns:
      See `WindowReader.read`.
    """
    what = tf.constant([split, layout, str(fingerprint(reader))])
    places, *arrays = tf.raw_ops.PyFunc(
        input=[index, what],
        token=_token(),
        Tout=[tf.int64, *(spec.dtype for spec in reader.specs)],
    )
    found = zip(arrays, reader.specs, strict=True)
    return (
        tf.ensure_shape(places, [None]),
        [tf.ensure_shape(array, spec.shape) for array, spec in found],
    )


def fingerprint(reader: WindowReader) -> int:
    """Returns a number that is another one where other lists are read."""
    assert isinstance(reader.lists, RecordLists)
    return reader.lists.fingerprint


def _read(order: np.ndarray, what: np.ndarray) -> tuple[np.ndarray, ...]:
    split, layout, wanted = (word.decode() for word in what)
    (make,) = _readers
    reader = make(split, layout)
    if reader is None:
        raise ConfigError(
            "data: found no packed shards with many lists in a worker, but in the "
            "chief. Give all tasks of a job the same command and data."
        )
    if str(fingerprint(reader)) != wanted:
        raise DataError(
            f"data: a worker has other {split} files than the chief: others by name, "
            "size, or length of their lists. Give all tasks of a job the same data."
        )
    return reader.read(order)


def _token() -> str:
    """Returns what TensorFlow calls `_read`, in all tasks of a job."""
    operations = _registered().graph.get_operations()
    (token,) = (op.get_attr("token") for op in operations if op.type == "PyFunc")
    return str(token.decode())


@functools.cache
def _registered() -> Any:
    """Makes `_read` known, once; it is, for as long as what is returned is there."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None], tf.string),
        ],
        autograph=False,
    )
    def registered(*arguments: Any) -> Any:
        return tf.numpy_function(_read, arguments, [tf.int64])

    return registered.get_concrete_function()
