"""The index of files that `convert` did not write: made once, and kept.

Files are gone through for where records begin and how many documents they have, which
takes a small part of the time that parsing them does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent import futures

import numpy as np

from tfr_pipeline import copies, files
from tfr_pipeline.data.progress import Progress
from tfr_pipeline.data.reading import cache, loading
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.data.reading.scanning import Scan, names_of
from tfr_pipeline.data.records import formats, index
from tfr_pipeline.data.records.formats import EXAMPLE
from tfr_pipeline.data.records.index import ShardIndex
from tfr_pipeline.errors import DataError, RunError

_MOST_THREADS = 16  # that go through files, each with a buffer of its own


@dataclasses.dataclass(frozen=True)
class _State:
    """What a file was when its index was made."""

    size: int
    checksum: int
    time: int

    @classmethod
    def of(cls, path: str) -> _State:
        time_ns = os.stat(path).st_mtime_ns
        return cls(*files.probe(path), time_ns)

    @property
    def probe(self) -> tuple[int, int]:
        return self.size, self.checksum

    def holds(self, path: str) -> bool:
        """Whether a file is the same; it is not opened if its time is, too."""
        found = os.stat(path)
        if found.st_size != self.size:
            return False
        return found.st_mtime_ns == self.time or files.probe(path) == self.probe


# State and index of files, by their absolute paths.
_Known = dict[str, tuple[_State, ShardIndex]]


@dataclasses.dataclass(frozen=True)
class Indexing:
    """Finds, or makes, the index of files.

    Attributes:
      paths: The files.
      reader: Opens them.
      parser: Returns the parser of records in a format.
      input_format: The format that they should have; `auto` for any.
    """

    paths: list[str]
    reader: RecordReader
    parser: Callable[[str], RecordParser]
    input_format: str = formats.AUTO

    @property
    def ranged(self) -> bool:
        """Whether all records can be read without those before them.

        Raises:
          DataError: A file is compressed in another way than was said.
        """
        return self.reader.reads_plain_files and not any(
            map(self.reader.compression_of, self.paths)
        )

    def find(
        self, worth: Callable[[float], bool] | None = None
    ) -> list[ShardIndex] | None:
        """Returns the index of each file.

        Args:
          worth: Whether it is to be made where there is none, by about how many
            documents there are; by default it is.

        Returns:
          The index; None if it is not worth it, or documents are records of their own.

        Raises:
          DataError: A file is damaged or of another format, or none has a document.
        """
        known = self._kept()
        if not known.keys() >= set(self._names):
            wanted = formats.canonical(self.input_format)
            found = loading.sniff_format(self.paths, self.reader, wanted)
            if found == EXAMPLE:
                return None
            parser = self.parser(found)
            parser = loading.of_stored(parser, self.paths, self.reader)
            scan = Scan(self.reader, parser)
            if not known and worth is not None and not worth(scan.estimate(self.paths)):
                return None
            known = self._make(scan, parser)
        advice = f"Remove {self._place}, which is then made anew."
        return [
            dataclasses.replace(known[name][1], path=path, advice=advice)
            for path, name in zip(self.paths, self._names, strict=True)
        ]

    @property
    def _names(self) -> list[str]:
        return [os.path.abspath(path) for path in self.paths]

    @property
    def _place(self) -> str:
        plain = self.reader.reads_plain_files
        reader = None if plain else cache.describe_reader(self.reader)
        name = copies.key(self._names, self.input_format, reader)
        stem = os.path.basename(self.paths[0]).split(".")[0]
        return copies.place("index", f"{stem}-{name}.npz")

    def _kept(self) -> _Known:
        """Returns what is kept, and is of what stands there now."""
        try:
            content = index.load(self._place)
            parser = self.parser(str(content["format"]))
            if content["features"].tolist() != names_of(parser):
                return {}
            numbers = {name: i for i, name in enumerate(content["names"].tolist())}
            found: _Known = {}
            for name in self._names:
                state = _State(*content["states"][numbers[name]].tolist())
                if state.holds(name):
                    shard = index.of_shard(content, numbers[name], name)
                    ranged = bool(content["ranged"][numbers[name]])
                    shard = dataclasses.replace(shard, ranged=ranged)
                    found[name] = state, shard
            return found
        except (DataError, LookupError, ValueError, TypeError):
            return {}  # there is none, or it is damaged

    def _make(self, scan: Scan, parser: RecordParser) -> _Known:
        """Returns the index of all files; one process makes what is missing."""
        start = time.perf_counter()
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(RunError):  # whoever keeps it says so
                copies.root("index")
                lock = f"{self._place}.lock"
                stack.enter_context(cache.locked(lock, self._place))
            known = self._kept()
            missing = [name for name in self._names if name not in known]
            if not missing:
                return known
            known.update(zip(missing, _scanned(scan, missing), strict=True))
            if not any(shard.documents.any() for _, shard in known.values()):
                where = ", ".join(self.paths)
                raise DataError(f"{where}: expected ranked lists, found no document.")
            where = self._keep(known, parser)
        lists = sum(len(known[name][1].documents) for name in missing)
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        seconds = time.perf_counter() - start
        print(
            f"{missing[0]}{more}: {lists:,} lists indexed in {seconds:.1f} s; {where}",
            file=sys.stderr,
            flush=True,
        )
        return known

    def _keep(self, known: _Known, parser: RecordParser) -> str:
        """Writes the index; says where, or why not."""
        states, shards = zip(*(known[name] for name in self._names), strict=True)
        try:
            index.save(
                self._place,
                self._names,
                shards,
                [state.probe for state in states],
                states=np.array([dataclasses.astuple(s) for s in states], np.int64),
                ranged=np.array([shard.ranged for shard in shards]),
                format=np.array(parser.data_format),
                features=np.array(names_of(parser), np.str_),
            )
        except (OSError, RunError) as error:
            return f"not kept, because {self._place} cannot be written ({error})"
        return f"kept in {self._place}"


def _scanned(scan: Scan, paths: list[str]) -> list[tuple[_State, ShardIndex]]:
    """Returns the index of each file; several are gone through at once."""
    total = sum(map(os.path.getsize, paths))
    progress = Progress(total, f"indexing {os.path.dirname(paths[0])}")
    lock, ended = threading.Lock(), threading.Event()
    done = documents = 0

    def one(path: str) -> tuple[_State, ShardIndex]:
        nonlocal done, documents
        state, ranged = _State.of(path), scan.is_plain(path)
        written = index.Writing(path)
        for sizes, counts in scan.pieces(path):
            if ended.is_set():
                break
            written.extend(counts, sizes)
            with lock:
                done += int(sizes.sum()) if ranged else 0
                documents += int(counts.sum())
                progress.update(done, documents)
        with lock:
            done += 0 if ranged else state.size
        shard = dataclasses.replace(written.index(), ranged=ranged)
        scan.check_whole(path, int(shard.offsets[-1]), len(shard.documents))
        return state, shard

    threads = min(os.cpu_count() or 1, _MOST_THREADS)
    with futures.ThreadPoolExecutor(threads) as pool:
        try:
            return list(pool.map(one, paths))
        finally:
            ended.set()
            pool.shutdown(cancel_futures=True)
            progress.clear()
