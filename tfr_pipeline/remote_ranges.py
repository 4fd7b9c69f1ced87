"""Parts of remote files: read where they are, or fetched once into the cache.

Many requests are under way at once, for one alone waits most of its time. A part is of
the file as it was when it was found: after the last request for it, the store is asked
whether it still is.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import functools
import itertools
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, TypeAlias, TypeVar

from tfr_pipeline import copies, leaving, remote, urls
from tfr_pipeline.errors import DataError, PipelineError, RunError
from tfr_pipeline.remote import Entry

AT_ONCE = 32  # requests under way; one has some 10 MB/s of a store
# Bytes that one request asks for at most: many are quicker, few are cheaper.
PIECE = 1 << 22
_AHEAD = 1 << 26  # bytes of pieces that are fetched before they are wanted
Item = TypeVar("Item")
Result = TypeVar("Result")
Job: TypeAlias = futures.Future[Result]


@dataclasses.dataclass(frozen=True)
class Part:
    """Bytes of a remote file.

    Attributes:
      url: The file.
      entry: What it was when it was found.
      start: The first byte.
      stop: The one behind the last.
    """

    url: str
    entry: Entry
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.stop - self.start


@dataclasses.dataclass(frozen=True)
class Copy:
    """A local file with bytes of a remote one.

    Attributes:
      path: The file.
      first: Which byte of the remote file is its first one.
    """

    path: str
    first: int


def check(url: str, entry: Entry, seconds: float | None = None) -> None:
    """Checks that a remote file is what it was.

    Args:
      url: The file.
      entry: What it was.
      seconds: See `retries.retried`.

    Raises:
      DataError: It is another, or gone.
    """
    found = remote.stat(url, seconds)
    if found == entry:
        return
    problem = "it is gone"
    if found is not None:
        problem = f"it was written anew: found {found.size} bytes, tag {found.tag!r}"
    raise DataError(
        f"{url}: expected the file that this run began to read, {entry.size} bytes, "
        f"tag {entry.tag!r}; {problem}. Put it back, or begin a new run with the data "
        "that is there now."
    )


def _read(part: Part) -> bytes:
    try:
        return remote.read_range(part.url, part.start, part.size)
    except PipelineError:
        # That the file changed says more than what the store made of it. A store that
        # does not answer has been waited for.
        with contextlib.suppress(RunError):
            check(part.url, part.entry, seconds=0.0)
        raise


class _Pool:
    """Threads that nobody waits for at the end of the process.

    A store that is away may keep them for minutes.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[futures.Future[Any], Any]] = (
            queue.SimpleQueue()
        )
        for number in range(AT_ONCE):
            name = f"tfr_pipeline-remote-{number}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, function: Callable[[Item], Result], item: Item) -> Job[Result]:
        """Calls a function in a thread, some time."""
        job: Job[Result] = futures.Future()
        self._queue.put((job, functools.partial(function, item)))
        return job

    def _work(self) -> None:
        while True:
            job, function = self._queue.get()
            if not job.set_running_or_notify_cancel():
                continue
            try:
                job.set_result(function())
            except BaseException as error:
                job.set_exception(error)
            # What it holds would stay in memory until the next one comes.
            del job, function


@functools.cache
def _pool() -> _Pool:
    return _Pool()


def begin(
    parts: Sequence[Part], put: Callable[[int, bytes], None]
) -> Callable[[], None]:
    """Begins to read parts of one file; returns what waits until all are there.

    Args:
      parts: What to read.
      put: Takes the number of a part and its bytes, in any order, in other threads.

    Raises:
      DataError: By what is returned: the file is another than it was.
      RunError: Likewise: it cannot be read.
    """
    left, lock = len(parts), threading.Lock()

    def one(number: int) -> None:
        nonlocal left
        put(number, _read(parts[number]))
        with lock:
            left -= 1
            last = not left
        if last:  # what was read before is of the file that is there now
            check(parts[number].url, parts[number].entry)

    jobs = [_pool().submit(one, number) for number in range(len(parts))]

    def wait() -> None:
        try:
            for job in jobs:
                leaving.result_of(job)
        finally:
            running = [job for job in jobs if not job.cancel() and not job.done()]
            # They write into what `put` has.
            for job in running:
                with contextlib.suppress(Exception):
                    leaving.result_of(job)

    return wait


def in_order(parts: Iterable[Part]) -> Iterator[bytes]:
    """Yields the bytes of parts; those that come next are fetched meanwhile.

    Raises:
      DataError: A file is another than it was; at the latest at the end.
      RunError: One cannot be read.
    """
    waiting: collections.deque[tuple[Part, Job[bytes]]] = collections.deque()
    files: dict[str, Entry] = {}
    size = 0
    try:
        for part in parts:
            files[part.url] = part.entry
            waiting.append((part, _pool().submit(_read, part)))
            size += part.size
            while size > _AHEAD or len(waiting) > AT_ONCE:
                first, job = waiting.popleft()
                size -= first.size
                yield leaving.result_of(job)
        while waiting:
            yield leaving.result_of(waiting.popleft()[1])
    finally:
        for _, job in waiting:
            job.cancel()
    remote.at_once(lambda pair: check(*pair), files.items())


def missing(parts: Sequence[Part]) -> int:
    """Returns how many bytes of parts `fetch` would fetch."""
    there, _ = _look(parts)
    return sum(part.size for part in dict.fromkeys(parts) if part not in there)


def fetch(parts: Sequence[Part], what: str) -> list[Copy]:
    """Returns local copies of parts, which later runs find; says so in a line.

    Args:
      parts: What to fetch.
      what: How the line calls it.

    Raises:
      DataError: A file is another than it was.
      RunError: The store cannot be reached, or the cache cannot be written.
    """
    found, new = _look(parts)
    start = time.perf_counter()
    remote.at_once(lambda pair: _fetch(*pair), new.items())
    own, fetched = (sum(part.size for part in some) for some in (parts, new))
    whole = sum(entry.size for entry in {p.url: p.entry for p in parts}.values())
    how = "from the cache in " + copies.root()
    if fetched:
        how = (
            f"fetched {fetched / 1e6:,.1f} MB into {copies.root()} in "
            f"{time.perf_counter() - start:.1f} s"
        )
    copies.say(f"{urls.redact(what)}: {own / 1e6:,.1f} of {whole / 1e6:,.1f} MB, {how}")
    return [{**found, **new}[part] for part in parts]


def _look(parts: Sequence[Part]) -> tuple[dict[Part, Copy], dict[Part, Copy]]:
    """Returns the copies that there are, of parts or of whole files; and the others."""
    whole = copies.places({part.url: part.entry for part in parts})
    there: dict[Part, Copy] = {}
    others: dict[Part, Copy] = {}
    for part in parts:
        path = whole[part.url]
        if part.size == part.entry.size or _has(path, part.entry.size):
            copy = Copy(path, 0)
        else:
            key = copies.key(*dataclasses.astuple(part))
            path = copies.place("ranges", key, urls.split(part.url)[1])
            urls.copy_of(os.path.dirname(path), urls.split(part.url)[0])
            copy = Copy(path, part.start)
        size = part.entry.size if path == whole[part.url] else part.size
        (there if _has(path, size) else others)[part] = copy
    return there, others


def _has(path: str, size: int) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) == size


def _fetch(part: Part, copy: Copy) -> None:
    bounds = [*range(part.start, part.stop, PIECE), part.stop]
    pieces = [
        dataclasses.replace(part, start=one, stop=other)
        for one, other in itertools.pairwise(bounds)
    ]
    try:
        os.makedirs(os.path.dirname(copy.path), mode=0o700, exist_ok=True)
        with copies.temporary(copy.path) as new:
            with open(new, "wb", buffering=0) as file:

                def put(number: int, content: bytes) -> None:
                    done = os.pwrite(file.fileno(), content, number * PIECE)
                    if done < len(content):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

                begin(pieces, put)()
            os.replace(new, copy.path)
    except OSError as error:
        raise RunError(
            f"{part.url}: expected room for {part.size:,} bytes in {copies.root()}: "
            f"{error.strerror or error}. Make room, or say by {copies.ROOT}=FOLDER "
            "where there is some."
        ) from error
