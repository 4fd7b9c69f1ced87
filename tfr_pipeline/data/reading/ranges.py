"""Some records in a row of several files, without reading the others."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.batching.plan import plain
from tfr_pipeline.data.reading.memory_file import MemoryFile
from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.data.records.index import ShardIndex
from tfr_pipeline.errors import DataError

_PIECE = 1 << 25  # bytes that are read at once


@dataclasses.dataclass(frozen=True)
class RecordRange:
    """Reads some records of files, and no others.

    A `RecordReader` for `loading.load`, which is given the same files.

    Attributes:
      whole: Reads the files from their beginnings.
      shards: The index of each file.
      runs: Pairs of the first record and the one behind the last, counted over all
        files; rising.
    """

    whole: RecordReader
    shards: Sequence[ShardIndex]
    runs: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        return "lists " + ", ".join(f"{first} to {end - 1}" for first, end in self.runs)

    @property
    def numbers(self) -> np.ndarray:
        """int64 `[lists]`, the numbers of the records."""
        return np.concatenate([np.arange(first, end) for first, end in self.runs])

    @property
    def documents(self) -> np.ndarray:
        """int64 `[lists]`, documents of each list."""
        every = np.concatenate([shard.documents for shard in self.shards])
        return every[self.numbers]

    @property
    def size(self) -> int:
        """Bytes of the records with what is around them."""
        return sum(stop - start for _, start, stop in self._pieces())

    def check(self, lengths: np.ndarray) -> None:
        """Checks that lists are as long as the index says, int64 `[lists]`.

        Raises:
          DataError: They are not: batches would be others than were planned.
        """
        wanted = self.documents
        if np.array_equal(lengths, wanted):
            return
        place = int(np.argmin(lengths[: len(wanted)] == wanted[: len(lengths)]))
        paths = ", ".join(shard.path for shard in self.shards)
        raise DataError(
            f"{paths}: list {self.numbers[place]} is not as long as the index says; "
            f"{len(wanted)} lists were expected, {len(lengths)} found. Convert the "
            "data again."
        )

    def _pieces(self) -> list[tuple[str, int, int]]:
        """Returns path, first byte and last byte of pieces of whole records."""
        pieces = []
        for run in self.runs:
            before = 0
            for shard in self.shards:
                count = len(shard.documents)
                begin, end = (int(np.clip(n - before, 0, count)) for n in run)
                before += count
                offsets = shard.offsets[begin : end + 1]
                while len(offsets) > 1:
                    limit = offsets[0] + _PIECE
                    stop = max(1, int(np.searchsorted(offsets, limit, "right")) - 1)
                    pieces.append((shard.path, int(offsets[0]), int(offsets[stop])))
                    offsets = offsets[stop:]
        return pieces

    def __call__(self, paths: Sequence[str]) -> tf.data.Dataset:
        """Returns the records in these of the files, string `[]`, in order.

        Raises:
          DataError: A file is shorter than its index says.
        """
        pieces = [piece for piece in self._pieces() if piece[0] in paths]
        copies: list[MemoryFile] = []

        def fetch(number: np.ndarray) -> bytes:
            # The one before it has been read to its end.
            copies.clear()
            if number == len(pieces):
                return os.devnull.encode()
            copies.append(MemoryFile(_content(*pieces[int(number)])))
            return copies[0].path.encode()

        @plain
        def records(number: tf.Tensor) -> tf.data.Dataset:
            path = tf.numpy_function(fetch, [number], tf.string)
            # Knows the checksums of records, and checks them far faster than Python.
            return tf.data.TFRecordDataset(tf.ensure_shape(path, []))

        return tf.data.Dataset.range(len(pieces) + 1).flat_map(records)


def _content(path: str, start: int, stop: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        content = file.read(stop - start)
    if len(content) < stop - start:
        raise DataError(
            f"{path}: expected {stop} bytes, as its index says, found "
            f"{start + len(content)}. It was cut off; convert it again."
        )
    return content
