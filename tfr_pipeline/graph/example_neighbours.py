"""`tf.train.Example`s by number, read when they are wanted; and joined with others."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from typing import IO

import numpy as np
import pyarrow as pa

from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.data.records.wire import (
    FIRST,
    FIRST_TAG,
    SECOND,
    SECOND_TAG,
    WireError,
    field,
    float_entry,
    int64_entry,
    read_fields,
    read_only,
)
from tfr_pipeline.errors import DataError
from tfr_pipeline.graph import names
from tfr_pipeline.graph.dataset import DataSet
from tfr_pipeline.graph.parts import ExamplesPart

_HEADER, _FOOTER = 12, 4


class RecordStore(contextlib.ExitStack):
    """Records of files, which stay where they are; those of compressed ones are copied.

    Args:
      sets: The files, all of one kind.

    Attributes:
      names: Names of the nodes, string `[records]`.
    """

    def __init__(self, sets: Sequence[DataSet]) -> None:
        super().__init__()
        self._files: list[int] = []
        found: list[pa.Array] = [pa.array([], pa.large_string())]
        numbers, offsets, sizes = [], [], []
        for data in sets:
            for path in data.paths:
                one = data.like([path], "--input")
                names_of_file, offset, size = self._add(one, path)
                found += names_of_file
                numbers.append(np.full(len(size), len(self._files) - 1, np.int32))
                offsets.append(offset)
                sizes.append(size)
        self.names = pa.concat_arrays(found)
        self._numbers = np.concatenate(numbers)
        self._offsets, self._sizes = np.concatenate(offsets), np.concatenate(sizes)

    def _add(
        self, data: DataSet, path: str
    ) -> tuple[list[pa.Array], np.ndarray, np.ndarray]:
        """Opens a file; returns names, and where its records begin and how long."""
        copy = None
        if RecordReader().compression_of(path):
            copy = self.enter_context(_scratch())
        found, sizes = [], []
        for records in data.records():
            part = ExamplesPart(records, data.reading.id_feature)
            found.append(pa.array(part.nodes(), pa.large_string()))
            sizes.append(np.array([len(record) for record in records], np.int32))
            if copy is not None:
                copy.writelines(records)
        size = np.concatenate([np.zeros(0, np.int32), *sizes])
        around = 0 if copy is not None else _HEADER + _FOOTER
        ends = np.cumsum(size + np.int64(around))
        offset = ends - size - (_FOOTER if around else 0)
        if copy is not None:
            copy.flush()
            self._files.append(copy.fileno())
        else:
            self._files.append(os.open(path, os.O_RDONLY))
            self.callback(os.close, self._files[-1])
        return found, offset, size

    def read(self, numbers: np.ndarray) -> dict[int, bytes]:
        """Returns some records by their numbers.

        Raises:
          DataError: A file is shorter than it was.
        """
        result = {}
        for number in numbers.tolist():
            size = int(self._sizes[number])
            file = self._files[self._numbers[number]]
            record = os.pread(file, size, int(self._offsets[number]))
            if len(record) != size:
                raise DataError("--input: a file was changed while it was read.")
            result[number] = record
        return result


def _scratch() -> IO[bytes]:
    return tempfile.TemporaryFile(prefix="tfr_pipeline_")


def merged(seed: bytes, others: Sequence[bytes], weights: Sequence[float]) -> bytes:
    """Returns an example with the features of others, as NSL's `pack_nbrs` makes it.

    Args:
      seed: A serialized `tf.train.Example`.
      others: Its neighbours, by falling weight.
      weights: Weights of the edges to them; more may follow.

    Raises:
      DataError: A neighbour has a feature that is called as the weight of the edge.
    """
    entries = [int64_entry(names.COUNT, np.array([len(others)]))]
    for number, other in enumerate(others):
        entries.append(float_entry(names.weight(number), np.array([weights[number]])))
        prefix = names.feature(number, "").encode()
        for key, value in _features(other):
            if key == b"weight":
                raise DataError(
                    "feature 'weight' of an example: expected another name, for that "
                    f"of a neighbour would be {names.weight(number)!r}, which is the "
                    "weight of the edge. Rename it."
                )
            name = field(FIRST_TAG, prefix + key)
            entries.append(field(FIRST_TAG, name + field(SECOND_TAG, value)))
    own = _content(seed)
    return field(FIRST_TAG, own + b"".join(entries))


def _features(record: bytes) -> list[tuple[bytes, bytes]]:
    """Returns the names of the features of an example, and the messages of values."""
    content = _content(record)
    found = []
    for _, begin, end in read_fields(content, 0, len(content)):
        # Either may be left out where it is empty.
        entry = {tag: content[b:e] for tag, b, e in read_fields(content, begin, end)}
        found.append((entry.get(FIRST, b""), entry.get(SECOND, b"")))
    return found


def _content(record: bytes) -> bytes:
    """Returns the map of an example, as one run of entries."""
    try:
        ((begin, end),) = read_only(record, 0, len(record), FIRST)
        read_fields(record, begin, end)
    except (WireError, IndexError, ValueError):
        from tfr_pipeline.compat import tf

        # What no usual serializer wrote: fields in pieces, long lengths.
        whole = tf.train.Example.FromString(record)
        return whole.features.SerializeToString(deterministic=True)
    return record[begin:end]
