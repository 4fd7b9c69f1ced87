"""Bytes of documents in remote shards, of which some are read at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from tfr_pipeline import remote_ranges
from tfr_pipeline.data.reading.disk_lists import DiskColumn, buffers
from tfr_pipeline.data.records.index import ShardIndex
from tfr_pipeline.remote import Entry
from tfr_pipeline.remote_ranges import Copy, Part

_BYTES = np.dtype(np.uint8)


@dataclasses.dataclass(frozen=True)
class RemoteColumn:
    """A remote file of bytes; see `DiskColumn`.

    Attributes:
      url: The file.
      entry: What it is as long as it may be read.
    """

    url: str
    entry: Entry

    def read(self, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Returns bytes of several runs, one run after the other.

        Args:
          starts: int64 `[runs]`, the first byte of each.
          counts: int64 `[runs]`, their numbers of bytes.

        Raises:
          DataError: The file is another than it was, or gone.
          RunError: It cannot be read.
        """
        return self.begin(starts, counts)()

    def begin(self, starts: np.ndarray, counts: np.ndarray) -> Callable[[], np.ndarray]:
        """Begins to read; returns what waits for the bytes that `read` returns."""
        result = buffers.array((int(counts.sum()),), _BYTES)
        raw = memoryview(result.data)
        parts, places, place = [], [], 0
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
            end = start + count
            for first in range(start, end, remote_ranges.PIECE):
                last = min(first + remote_ranges.PIECE, end)
                parts.append(Part(self.url, self.entry, first, last))
                places.append(place + first - start)
            place += count

        def put(number: int, content: bytes) -> None:
            raw[places[number] : places[number] + len(content)] = content

        wait = remote_ranges.begin(parts, put)

        def whole() -> np.ndarray:
            wait()
            return result

        return whole


@dataclasses.dataclass(frozen=True)
class CopiedColumn:
    """Bytes of a remote file in a local copy of a part of it.

    Attributes:
      copy: The copy.
      direct: See `DiskColumn`.
    """

    copy: Copy
    direct: bool = False

    def begin(self, starts: np.ndarray, counts: np.ndarray) -> Callable[[], np.ndarray]:
        """Returns what reads bytes; see `RemoteColumn`."""
        file = DiskColumn(self.copy.path, _BYTES.name, (), self.direct)
        return lambda: file.read(starts - self.copy.first, counts)


def column_of(
    shard: ShardIndex, copy: Copy | None, direct: bool
) -> RemoteColumn | CopiedColumn:
    """Returns the bytes of a shard.

    Args:
      shard: The shard.
      copy: Its local copy, if it is remote and has one.
      direct: See `DiskColumn`.
    """
    if shard.entry is None or copy is not None:
        return CopiedColumn(copy or Copy(shard.path, 0), direct)
    return RemoteColumn(shard.path, shard.entry)
