"""Lists on disk, of which some are read at a time: in large pieces, several at once."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import mmap
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tfr_pipeline.data import store
from tfr_pipeline.data.lists import Lists, Ragged
from tfr_pipeline.data.reading import direct
from tfr_pipeline.errors import RunError

_READERS = 8  # requests under way; a disk that can do more at once gains little
_PIECE = 1 << 20  # bytes that one request asks for at most
_TASK = 1 << 20  # bytes of small pieces that one thread reads in a row
_LARGER = 4  # memory is used again for what needs a fourth of it
_DIRECT = 1 << 16  # bytes that a run has, on average, to be read past the page cache
_MOST_FREE = 8  # pieces of memory that wait for their next use


class Buffers:
    """Memory for arrays, used again when they are gone.

    New memory is filled with zeros by the kernel, page by page, which takes longer than
    to read into it.
    """

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Returns an array with any content, at the beginning of a page."""
        count = int(np.prod(shape, dtype=int))
        memory = self._take(max(1, count * dtype.itemsize))
        flat = np.frombuffer(memory, dtype, count)
        # Views of it, and tensors that share its memory, keep it alive.
        weakref.finalize(flat, self._free.append, memory)
        return flat.reshape(shape)

    def _take(self, size: int) -> mmap.mmap:
        for memory in sorted(self._free.copy(), key=len):
            if size <= len(memory) <= _LARGER * size:
                # Somebody else may have been quicker.
                with contextlib.suppress(ValueError):
                    self._free.remove(memory)
                    return memory
        # Too small or too large for anything that was asked for of late.
        del self._free[:-_MOST_FREE]
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        memory = mmap.mmap(-1, size + size // 8, flags=flags)
        with contextlib.suppress(AttributeError, OSError):  # Linux only
            memory.madvise(mmap.MADV_HUGEPAGE)
        return memory


buffers = Buffers()


@dataclasses.dataclass(frozen=True)
class DiskColumn:
    """A file that holds one array of documents.

    Attributes:
      path: The file.
      dtype: Name of the type of its values.
      shape: Shape of a row.
      beyond_memory: Whether it is of files that the kernel cannot keep all of.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    beyond_memory: bool = False

    def read(self, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Returns rows of several runs, one run after the other.

        Args:
          starts: int64 `[runs]`, the first row of each.
          counts: int64 `[runs]`, their numbers of rows.

        Raises:
          RunError: The file is shorter than it was, or cannot be read.
        """
        dtype = np.dtype(self.dtype)
        width = dtype.itemsize * int(np.prod(self.shape, dtype=int))
        result = buffers.array((int(counts.sum()), *self.shape), dtype)
        raw = result.reshape(-1).view(np.uint8)
        tasks: list[list[tuple[int, int, int]]] = [[]]
        size = place = 0
        for start, count in zip(
            (starts * width).tolist(), (counts * width).tolist(), strict=True
        ):
            for first in range(0, count, _PIECE):
                length = min(_PIECE, count - first)
                if size and size + length > _TASK:
                    tasks.append([])
                    size = 0
                tasks[-1].append((start + first, place + first, length))
                size += length
            place += count
        large = self.beyond_memory and len(raw) >= _DIRECT * len(starts)
        with self._opened(large) as (file, is_direct):
            read = self._direct_pieces if is_direct else self._pieces
            waiting = [_pool().submit(read, file, raw, task) for task in tasks]
            # All of them end, whatever happens to one: they write into `result`.
            concurrent.futures.wait(waiting)
        for done in waiting:
            done.result()
        return result

    @contextlib.contextmanager
    def _opened(self, large: bool) -> Iterator[tuple[int, bool]]:
        """Opens the file; yields it, and whether it is read past the page cache."""
        # Each time: datasets, which TensorFlow may keep, hold on to this object.
        try:
            file = direct.open_direct(self.path) if large else None
            is_direct = file is not None
            if file is None:
                file = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise self._unreadable(error) from error
        try:
            # Whoever reads says what; to read on would only read what others want.
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
            yield file, is_direct
        finally:
            os.close(file)

    def _unreadable(self, error: OSError) -> RunError:
        return RunError(f"{self.path}: cannot be read: {error.strerror or error}.")

    def _pieces(
        self, file: int, raw: np.ndarray, pieces: list[tuple[int, int, int]]
    ) -> None:
        for offset, place, length in pieces:
            self._fill(file, raw[place : place + length], offset, length)

    def _direct_pieces(
        self, file: int, raw: np.ndarray, pieces: list[tuple[int, int, int]]
    ) -> None:
        for offset, place, length in pieces:
            before = offset % direct.ALIGNMENT
            size = before + length
            padded = size + -size % direct.ALIGNMENT
            around = direct.scratch(padded)[:padded]
            self._fill(file, around, offset - before, size, direct.ALIGNMENT)
            raw[place : place + length] = around[before:size]

    def _fill(
        self, file: int, target: np.ndarray, offset: int, least: int, unit: int = 1
    ) -> None:
        """Reads bytes, so many at least: there may be no more of them.

        Args:
          file: The open file.
          target: Where they go, uint8.
          offset: Of the first one.
          least: How many are wanted.
          unit: So many are read at a time, but at the end of the file.
        """
        found = count = 0
        while found < least:
            ended = count % unit
            try:
                if not ended:
                    count = os.preadv(file, [target[found:].data], offset + found)
            except OSError as error:
                raise self._unreadable(error) from error
            if ended or not count:
                raise RunError(
                    f"{self.path}: expected {least - found} more bytes at byte "
                    f"{offset + found}, found the end of the file. It was changed "
                    "while it was in use; remove its folder, and it will be made anew."
                )
            found += count


@functools.cache
def _pool() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(_READERS, "tfr_pipeline-disk")


@dataclasses.dataclass
class DiskLists(Lists):
    """Lists whose arrays are mapped files, of which `read` reads some in large pieces.

    Attributes:
      columns: Files of arrays of documents, by their names in `store.columns`.
      changes: Applied to what is read, one after the other, as they have been to the
        mapped arrays.
    """

    columns: dict[str, DiskColumn] = dataclasses.field(default_factory=dict)
    changes: tuple[Callable[[Lists], Lists], ...] = ()

    @classmethod
    def of(
        cls,
        lists: Lists,
        columns: dict[str, DiskColumn],
        changes: tuple[Callable[[Lists], Lists], ...] = (),
    ) -> DiskLists:
        """Returns mapped lists with the files that they are mapped from."""
        return cls(**_fields(lists), columns=columns, changes=changes)

    @property
    def mapped(self) -> Lists:
        """The mapped arrays, without knowledge of their files."""
        return Lists(**_fields(self))

    def changed(self, change: Callable[[Lists], Lists]) -> DiskLists:
        """See `Lists`."""
        lists = change(self.mapped)
        return DiskLists.of(lists, self.columns, (*self.changes, change))

    def regrouped(self, queries: np.ndarray, row_splits: np.ndarray) -> Lists:
        """See `Lists`."""
        return self.mapped.regrouped(queries, row_splits)

    def take_documents(self, rows: np.ndarray) -> Lists:
        """See `Lists`."""
        return self.mapped.take_documents(rows)

    def read(self, numbers: np.ndarray) -> Lists:
        """Reads some lists, without the ids of their documents.

        Args:
          numbers: int64 `[lists]`, rising.

        Raises:
          RunError: A file cannot be read any more.
        """
        lengths = self.lengths[numbers]
        splits = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        # Neighbours are read in one go.
        breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
        firsts = np.concatenate([[0], breaks]).astype(np.int64)[: len(numbers)]
        starts = self.row_splits[numbers[firsts]]
        counts = np.add.reduceat(lengths, firsts) if len(numbers) else starts
        found: dict[str, np.ndarray] = {
            name: column.read(starts, counts) for name, column in self.columns.items()
        }
        found["lengths"], found["query_ids"] = lengths, self.query_ids[numbers]
        result = store.from_columns(found)
        result.context = {name: value[numbers] for name, value in self.context.items()}
        if self.loose:
            rows = np.repeat(self.row_splits[numbers] - splits[:-1], lengths)
            rows += np.arange(splits[-1])
            result.loose = {n: _some(value, rows) for n, value in self.loose.items()}
        result.loose_context = {
            name: _some(value, numbers) for name, value in self.loose_context.items()
        }
        for change in self.changes:
            result = change(result)
        return result


def _some(column: Ragged, rows: np.ndarray) -> Ragged:
    some = column.take(rows)
    return some if some.texts is None else some.numbered()


def _fields(lists: Lists) -> dict[str, Any]:
    return {f.name: getattr(lists, f.name) for f in dataclasses.fields(Lists)}
