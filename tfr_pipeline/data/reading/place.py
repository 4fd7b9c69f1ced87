"""Where lists are kept: in memory if they fit, else on disk."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
import zlib

import numpy as np
import tensorflow as tf

from tfr_pipeline import copies, urls
from tfr_pipeline.data import room, store
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.reading import direct, loading, wholeness
from tfr_pipeline.data.reading.batch_parser import batch_parser
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.reading.ranges import RecordRange
from tfr_pipeline.data.reading.record_reader import RecordReader, framed_size
from tfr_pipeline.data.records.formats import EXAMPLE
from tfr_pipeline.errors import ConfigError, DataError, RunError

AUTO, MEMORY, DISK = "auto", "memory", "disk"
# Files that are so much smaller than the memory fit, whatever is in them.
_CLEARLY = 16
# Prepared features stand in memory beside the raw ones, unless they are so many.
PREPARED_BYTES = 1 << 31
_SAMPLED = 4  # files of which the beginning is parsed
_COPIED_A_SECOND = 5e8  # bytes
_TEXT = 57  # bytes of a Python text beside its characters


@dataclasses.dataclass(frozen=True)
class Size:
    """What files become when they are parsed; an estimate.

    Attributes:
      bytes: In memory, or on disk.
      seconds: That it takes on this machine.
    """

    bytes: int
    seconds: float

    @property
    def in_training(self) -> int:
        """Bytes of memory that training with them takes."""
        copies = 2 if self.bytes <= PREPARED_BYTES else 1
        return copies * self.bytes + room.RESERVE


def choose(cache: str, processes: int, size: SizeOf, straight: bool = False) -> str:
    """Returns the folder in which lists are to be kept; empty for memory.

    Says where large ones are kept, and why.

    Args:
      cache: `auto`, `memory`, `disk` or a folder.
      processes: Processes of the job that read them on this machine.
      size: Knows what the files become.
      straight: Whether those that are kept on disk stay where they are.

    Raises:
      ConfigError: They do not fit the memory, which was asked for.
    """
    if cache not in (AUTO, MEMORY):
        _warn_of_little(room.memory(processes), processes, size.stored)
        return copies.place("lists") if cache == DISK else cache
    here = room.memory(processes)
    if size.stored * _CLEARLY < here.bytes - room.RESERVE:
        return ""
    need = size.get()
    what = f"{size}: {room.shown(need.bytes)} when parsed"
    limit = f"{room.shown(here.bytes)} {here.why}"
    if need.in_training <= here.bytes:
        _say(f"{what}, kept in memory ({limit}); about {need.seconds:.0f} s to read")
        return ""
    if cache == MEMORY:
        if need.bytes + room.RESERVE <= here.bytes:
            return ""
        raise ConfigError(
            f"data.cache: 'memory' was asked for, but {what}, with "
            f"{room.shown(room.RESERVE)} for training, are more than {limit}. Leave "
            "it at 'auto', which trains from disk, or name a folder."
        )
    folder = copies.place("lists")
    where = f"kept on disk in {folder}, where later runs find it"
    if straight:
        where = "trained on straight from the files"
    _say(f"{what}, more than fits in memory with a training ({limit}): {where}")
    _warn_of_little(here, processes, size.stored)
    return folder


def _warn_of_little(here: room.Room, processes: int, stored: int) -> None:
    """Says if training from disk, too, needs more memory than there is.

    The kernel would throw out the pages of the program, and read them again, over and
    over: the run would stand still without a word.
    """
    need = room.RESERVE + min(direct.windows(processes), stored)
    if need > here.bytes:
        _say(
            f"warning: training from disk takes about {room.shown(need)} of memory "
            f"beside the program, found {room.shown(here.bytes)} {here.why}: it may "
            "stand still for want of memory. Raise the limit."
        )


def _say(text: str) -> None:
    print(urls.shown(text), file=sys.stderr, flush=True)


@dataclasses.dataclass
class SizeOf:
    """Estimates, when it is first asked, what files become when they are parsed.

    Parses the beginning of some.

    Attributes:
      paths: See `loading.load`, as the others.
      parser: Likewise.
      label: Likewise.
      weight: Likewise.
      reader: Likewise.
    """

    paths: list[str]
    parser: RecordParser
    label: str | tuple[str, ...] | None
    weight: str | None
    reader: RecordReader | RecordRange
    _known: Size | None = None

    def __str__(self) -> str:
        count = len(self.paths) - 1
        more = f" and {count} more" if count else ""
        part = f", {self.reader}" if isinstance(self.reader, RecordRange) else ""
        return f"{self.paths[0]}{more}{part}"

    @property
    def stored(self) -> int:
        """Bytes that are read."""
        if isinstance(self.reader, RecordRange):
            return self.reader.size
        return sum(map(os.path.getsize, self.paths))

    def check_disk(self, folder: str) -> None:
        """Checks that lists fit a disk before they are written; says what is done.

        Raises:
          RunError: They do not.
        """
        free = room.disk(folder)
        if self.stored * _CLEARLY < free.bytes:
            return
        need = self.get()
        if need.bytes > free.bytes:
            raise RunError(
                f"cache: {folder}: {self} need {room.shown(need.bytes)}, found "
                f"{room.shown(free.bytes)} {free.why}. Make room, or name another "
                "folder: data.cache, or TFR_PIPELINE_CACHE for 'auto' and 'disk'."
            )
        _say(
            f"{self}: writing {room.shown(need.bytes)} to {folder}, once; about "
            f"{need.seconds:.0f} s"
        )

    def get(self) -> Size:
        """Returns the estimate."""
        if self._known is None:
            try:
                self._known = self._estimate()
            except (tf.errors.OpError, DataError, UnicodeDecodeError):
                if isinstance(self.reader, RecordRange):
                    self.reader.tell()
                # What is wrong with a file is found, and explained, when it is read.
                self._known = Size(self.stored, 0.0)
        return self._known

    def _estimate(self) -> Size:
        examples = self.parser.data_format == EXAMPLE
        count = loading.EXAMPLES_PER_PARSE if examples else loading.RECORDS_PER_PARSE
        paths = self.paths
        if isinstance(self.reader, RecordRange):
            paths = self.reader.paths
        chosen = np.linspace(0, len(paths) - 1, _SAMPLED).astype(int)
        parse = batch_parser(loading.of_stored(self.parser, self.paths, self.reader))
        read = parsed = 0
        seconds = 0.0
        for number in sorted(set(chosen.tolist())):
            path, reader = paths[number], self.reader
            if isinstance(reader, RecordRange):
                reader = reader.beginning(path, 2 * count)
            for records in reader([path]).batch(count).take(2):
                parse(records)  # once before: the first time a graph is made
                start = time.perf_counter()
                lists = loading.to_lists(parse(records), 0, self.label, self.weight)
                seconds += time.perf_counter() - start
                parsed += _bytes(lists)
                read += framed_size(records)
        if not read:
            return Size(0, 0.0)
        total = float(self.stored)
        if isinstance(self.reader, RecordReader):
            total = sum(os.path.getsize(p) * _inflation(p) for p in self.paths)
        # All processors parse; one reads and checks, and copies what was parsed.
        seconds = seconds / (os.cpu_count() or 1) + read / _COPIED_A_SECOND
        return Size(int(parsed * total / read), seconds * total / read)


def _bytes(lists: Lists) -> int:
    found = 0
    for array in store.Numbered().columns(lists).values():
        found += array.nbytes
        if array.dtype == object:
            found += sum(len(text) + _TEXT for text in array.ravel().tolist())
    return found


def _inflation(path: str) -> float:
    """Returns by how much the beginning of a compressed file grows."""
    kind = wholeness.detect(path)
    if not kind:
        return 1.0
    with open(path, "rb") as file:
        raw = file.read(1 << 20)
    inflate = zlib.decompressobj(zlib.MAX_WBITS + (16 if kind == "GZIP" else 0))
    try:
        content = inflate.decompress(raw)
    except zlib.error:
        return 1.0  # whoever reads it says what is wrong
    return len(content) / max(1, len(raw) - len(inflate.unused_data))
