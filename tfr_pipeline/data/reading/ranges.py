"""Some records in a row of several files, without reading the others."""

from __future__ import annotations

import dataclasses
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline import leaving, remote, remote_ranges, urls
from tfr_pipeline.data.batching.plan import plain
from tfr_pipeline.data.reading.memory_file import MemoryFile
from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.data.records.index import ShardIndex
from tfr_pipeline.errors import DataError, PipelineError
from tfr_pipeline.remote_ranges import Copy, Part

_PIECE = 1 << 25  # bytes that are read at once


def runs_of(numbers: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Returns the runs of a `RecordRange` for numbers, int64 `[n]`, that rise."""
    ends = np.flatnonzero(np.diff(numbers) > 1)
    firsts = [numbers[0], *numbers[ends + 1]]
    lasts = [*numbers[ends], numbers[-1]]
    return tuple((int(a), int(b) + 1) for a, b in zip(firsts, lasts, strict=True))


@dataclasses.dataclass(frozen=True)
class RecordRange:
    """Reads some records of files, and no others.

    A `RecordReader` for `loading.load`, which is given the same files.

    Attributes:
      whole: Reads the files from their beginnings.
      shards: The index of each file.
      runs: Pairs of the first record and the one behind the last, counted over all
        files; rising.
      copies: Local copies of remote files, or of what is wanted of them, by URL;
        others are read from the store.
      problems: What went wrong; see `tell`.
    """

    whole: RecordReader
    shards: Sequence[ShardIndex]
    runs: tuple[tuple[int, int], ...]
    copies: Mapping[str, Copy] = dataclasses.field(default_factory=dict)
    problems: list[PipelineError] = dataclasses.field(
        default_factory=list, compare=False, repr=False
    )

    @property
    def ranged(self) -> bool:
        """Whether none of the files has to be read from its beginning."""
        return all(shard.ranged for shard in self.shards)

    @property
    def narrowed(self) -> RecordRange:
        """The same records, counted over those files alone that have some."""
        counts = np.array([len(shard.documents) for shard in self.shards])
        ends = np.cumsum(counts)
        taken = np.zeros(len(counts), bool)
        for first, last in self.runs:
            taken |= (ends - counts < last) & (ends > first)
        before = np.concatenate([[0], np.cumsum(np.where(taken, 0, counts))])

        def moved(first: int, last: int) -> tuple[int, int]:
            less = int(before[np.searchsorted(ends, first, "right")])
            return first - less, last - less

        shards = [s for s, own in zip(self.shards, taken, strict=True) if own]
        runs = tuple(moved(*run) for run in self.runs)
        return dataclasses.replace(self, shards=shards, runs=runs)

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
    def fingerprint(self) -> int:
        """Equal where the same lists stand in files of the same names and sizes."""
        found = 0
        for shard in self.shards:
            told = f"{os.path.basename(shard.path)} {shard.offsets[-1]}".encode()
            for content in (told, shard.documents.tobytes()):
                found = zlib.crc32(content, found)
        return found

    @property
    def size(self) -> int:
        """Bytes of the records with what is around them."""
        return sum(stop - start for _, start, stop in self.pieces())

    @property
    def paths(self) -> list[str]:
        """Those of the files that records are read of."""
        return list(dict.fromkeys(path for path, _, _ in self.pieces()))

    def beginning(self, path: str, count: int) -> RecordRange:
        """Returns the first so many of the records in a file, or in those after it."""
        before = 0
        for shard in self.shards:
            if shard.path == path:
                break
            before += len(shard.documents)
        runs = [(max(first, before), end) for first, end in self.runs if end > before]
        found = []
        for first, end in runs:
            found.append((first, min(end, first + count)))
            count -= found[-1][1] - first
            if not count:
                break
        return dataclasses.replace(self, runs=tuple(found))

    def only(self, numbers: np.ndarray) -> RecordReader | RecordRange:
        """Returns what reads some records of a file to say what is wrong with it.

        Args:
          numbers: int64 `[lists]`, rising, all of them in one file.

        Returns:
          For a file of this machine, a reader of all of it.
        """
        if self.local:
            return self.whole
        runs = ((int(numbers[0]), int(numbers[-1]) + 1),)
        return dataclasses.replace(self, runs=runs)

    def first_numbers(self) -> dict[str, int]:
        """Returns by path which record of a file is the first that is read."""
        found: dict[str, int] = {}
        starts = {shard.path: shard.offsets for shard in self.shards}
        for path, start, _ in self.pieces():
            found.setdefault(path, int(np.searchsorted(starts[path], start)))
        return found

    def check_files(self) -> None:
        """Checks that files which are read in a store are what they were.

        Raises:
          DataError: One is not.
        """
        if self._remote:
            files = {part.url: part.entry for part in self.parts(self.pieces())}
            remote.at_once(lambda pair: remote_ranges.check(*pair), files.items())

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
            f"{len(wanted)} lists were expected, {len(lengths)} found. "
            f"{self.shards[0].advice}"
        )

    def _runs(self) -> Iterator[tuple[ShardIndex, int, int]]:
        """Yields each file with its first record and the one behind its last."""
        for run in self.runs:
            before = 0
            for shard in self.shards:
                count = len(shard.documents)
                begin, end = (int(np.clip(n - before, 0, count)) for n in run)
                before += count
                if begin < end:
                    yield shard, begin, end

    def pieces(self, most: int = _PIECE) -> list[tuple[str, int, int]]:
        """Returns path, first byte and last byte of pieces of whole records.

        Args:
          most: Bytes of a piece, unless a record has more.
        """
        pieces = []
        for shard, begin, end in self._runs():
            offsets = shard.offsets[begin : end + 1]
            while len(offsets) > 1:
                limit = offsets[0] + most
                stop = max(1, int(np.searchsorted(offsets, limit, "right")) - 1)
                pieces.append((shard.path, int(offsets[0]), int(offsets[stop])))
                offsets = offsets[stop:]
        return pieces

    def _counted(self, paths: Sequence[str]) -> tf.data.Dataset:
        """Returns the records of files that have to be read from their beginnings."""
        runs = [
            (shard.path, begin, end - begin)
            for shard, begin, end in self._runs()
            if shard.path in paths
        ]
        read = self.whole.one_file([path for path, _, _ in runs])

        @plain
        def records(path: tf.Tensor, first: tf.Tensor, count: tf.Tensor) -> Any:
            return read(path).skip(first).take(count)

        names, *numbers = zip(*runs, strict=True)
        columns = list(names), *(np.array(each, np.int64) for each in numbers)
        dataset = tf.data.Dataset.from_tensor_slices(columns).flat_map(records)
        if isinstance(dataset.element_spec, tuple):  # of a key and a record
            return dataset.map(lambda _, record: record)
        return dataset

    def __call__(self, paths: Sequence[str]) -> tf.data.Dataset:
        """Returns the records in these of the files, string `[]`, in order.

        Raises:
          DataError: A file is shorter than its index says.
        """
        if not self.ranged:
            return self._counted(paths)
        most = remote_ranges.PIECE if self._remote else _PIECE
        wanted = [piece for piece in self.pieces(most) if piece[0] in paths]
        copies: list[MemoryFile] = []
        contents: list[Iterator[bytes]] = []

        def fetch(number: np.ndarray) -> bytes:
            if not number:
                contents[:] = [self._contents(wanted)]
            # The one before it has been read to its end.
            copies.clear()
            try:
                with leaving.call():
                    content = next(contents[0], None)
            except PipelineError as error:
                self.problems.append(error)
                raise
            if content is None:
                return os.devnull.encode()
            copies.append(MemoryFile(content))
            return copies[0].path.encode()

        @plain
        def records(number: tf.Tensor) -> tf.data.Dataset:
            path = tf.numpy_function(fetch, [number], tf.string)
            # Knows the checksums of records, and checks them far faster than Python.
            return tf.data.TFRecordDataset(tf.ensure_shape(path, []))

        return tf.data.Dataset.range(len(wanted) + 1).flat_map(records)

    @property
    def _remote(self) -> bool:
        return not self.local and not self.copies

    def _contents(self, pieces: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
        if self._remote:
            yield from remote_ranges.in_order(self.parts(pieces))
            return
        for path, start, stop in pieces:
            copy = self.copies.get(path, Copy(path, 0))
            yield _content(copy.path, start - copy.first, stop - copy.first)

    def parts(self, pieces: Iterable[tuple[str, int, int]]) -> list[Part]:
        """Returns pieces of remote files with what these files were."""
        entries = {shard.path: shard.entry for shard in self.shards if shard.entry}
        return [Part(path, entries[path], *piece) for path, *piece in pieces]

    @property
    def local(self) -> bool:
        """Whether the files are those of this machine, and all of them is there."""
        return not any(urls.is_remote(shard.path) for shard in self.shards)

    def tell(self) -> None:
        """Raises what went wrong in reading, of which TensorFlow says less.

        Raises:
          PipelineError: That, if anything did.
        """
        if self.problems:
            raise self.problems.pop()


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
