"""Local copies of remote files and folders, and local files that become remote ones.

Copies are kept in a cache by URL and by what the store says of the content: what has
not changed is fetched once. A copy is whole or absent, and never changes: another
content has another place. Nothing is removed by itself; whoever wants the room back
removes the folder while no job runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping

from tfr_pipeline import remote, remote_splits, urls
from tfr_pipeline.errors import DataError, RunError
from tfr_pipeline.remote import Entry

ROOT = "TFR_PIPELINE_CACHE"
_ATTEMPTS = 3  # to see a folder that does not change while it is fetched
_said: set[str] = set()


def place(*names: str) -> str:
    """Returns where a folder of the user's cache is, or would be."""
    above = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    own = os.environ.get(ROOT) or os.path.join(above, "tfr_pipeline")
    return os.path.join(os.path.realpath(os.path.expanduser(own)), *names)


def root(*names: str) -> str:
    """Returns a folder of the cache; made, for this user alone, if it is not there.

    Raises:
      RunError: It cannot be made.
    """
    folder = place(*names)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"{folder}: the cache for remote files cannot be made ({error.strerror}). "
            f"Say by {ROOT}=FOLDER where there is room."
        ) from error
    return folder


def key(*parts: object) -> str:
    """Returns the name in the cache of what these say."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]


def fetch(names: Iterable[str]) -> list[str]:
    """Returns local copies of remote files; local files stay what they are.

    Of shards that `convert` wrote the whole split has to be there, as its
    `.stats.json` says, which is fetched beside them, and the index.

    Args:
      names: Paths and URLs of files.

    Raises:
      DataError: A file is gone or changes, or a split is not whole.
      RunError: The store cannot be reached, or there is no room for the copies.
    """
    names = list(names)
    entries = remote.states(name for name in names if urls.is_remote(name))
    if not entries:
        return names
    beside = remote_splits.beside(entries)
    wanted: dict[str, tuple[str, Entry]] = {}
    found: dict[str, str] = {}
    for url, entry in entries.items():
        found[url] = _place(url, entry, beside)
        wanted[found[url]] = url, entry
        for other in beside.get(url, ()):
            wanted[
                os.path.join(os.path.dirname(found[url]), urls.split(other[0])[1])
            ] = other
    _get_all(wanted, urls.split(next(iter(entries)))[0])
    return [found.get(name, name) for name in names]


def places(entries: Mapping[str, Entry]) -> dict[str, str]:
    """Returns by URL where `fetch` puts the copies of files in these states.

    Raises:
      DataError: A split is not whole.
    """
    beside = remote_splits.beside(entries)
    return {url: _place(url, entry, beside) for url, entry in entries.items()}


def _place(
    url: str, entry: Entry, beside: Mapping[str, list[tuple[str, Entry]]]
) -> str:
    folder = place("files", key(url, entry, beside.get(url)))
    urls.copy_of(folder, urls.split(url)[0])
    return os.path.join(folder, urls.split(url)[1])


def _get_all(wanted: Mapping[str, tuple[str, Entry]], what: str) -> None:
    """Fetches what is not there yet, at once or not at all; says so in a line.

    Args:
      wanted: URL and state by local path.
      what: How the line calls it.
    """
    size = sum(entry.size for _, entry in wanted.values())
    missing = {
        path: pair
        for path, pair in wanted.items()
        if not (os.path.isfile(path) and os.path.getsize(path) == pair[1].size)
    }
    total = f"{len(wanted)} file{'s' * (len(wanted) != 1)}, {size / 1e6:,.1f} MB"
    if not missing:
        # Files are looked for several times, and found where they were.
        if not _said.issuperset(wanted):
            _said.update(wanted)
            say(f"{urls.redact(what)}: {total}, from the cache in {root()}")
        return
    _said.update(wanted)
    needed = sum(entry.size for _, entry in missing.values())
    free = shutil.disk_usage(root()).free
    if needed > free:
        raise RunError(
            f"{what}: expected room for {needed:,} bytes in {root()}, found {free:,}. "
            f"Make room, or say by {ROOT}=FOLDER where there is some."
        )
    start = time.perf_counter()

    def get(pair: tuple[str, tuple[str, Entry]]) -> None:
        path, (url, entry) = pair
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with temporary(path) as new:
            remote.get(url, entry, new)
            os.replace(new, path)

    first: dict[str, str] = {}
    for path, (url, _) in missing.items():
        first.setdefault(url, path)
    remote.at_once(get, [(path, missing[path]) for path in first.values()])
    for path, (url, _) in missing.items():
        if path != first[url]:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            with temporary(path) as new:
                shutil.copyfile(first[url], new)
                os.replace(new, path)
    say(
        f"{urls.redact(what)}: {total}; fetched {needed / 1e6:,.1f} MB into {root()} "
        f"in {time.perf_counter() - start:.1f} s"
    )


def say(line: str) -> None:
    """Tells the user what is fetched."""
    print(line, file=sys.stderr, flush=True)


def fetch_folder(
    url: str, wanted: Callable[[str], bool] = lambda _: True, to: str = ""
) -> str:
    """Returns a local copy of a remote folder, as it was at one time.

    Args:
      url: The folder.
      wanted: Whether to fetch a file, by its path in the folder.
      to: A local folder to fill, which is not there; by default a place in the cache.

    Raises:
      DataError: There is nothing, or it changes all the time.
    """
    for attempt in range(_ATTEMPTS):
        before = _listing(url, wanted)
        if not before:
            raise remote.GoneError(f"{url}: no such folder, or nothing in it.")
        place = to or os.path.join(
            root("folders"), key(url, sorted(before.items())), urls.split(url)[1]
        )
        urls.copy_of(place, url)
        if not to and os.path.isdir(place):
            return place
        folder, name = os.path.split(place)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with _alone(os.path.join(folder, f".{name}.lock")), temporary(place) as new:
            if os.path.isdir(place):
                return place  # another process was first
            try:
                _get_all(
                    {
                        os.path.join(new, *path.split("/")): (urls.join(url, path), e)
                        for path, e in before.items()
                    },
                    url,
                )
            except DataError:
                if attempt + 1 == _ATTEMPTS:
                    raise
            if _listing(url, wanted) == before:
                os.rename(new, place)
                return place
        time.sleep(1.0)
    raise DataError(
        f"{url}: it changed each of {_ATTEMPTS} times while it was fetched. Run the "
        "same command again when nobody is writing there."
    )


def _listing(url: str, wanted: Callable[[str], bool]) -> dict[str, Entry]:
    return {path: e for path, e in remote.find(url).items() if wanted(path)}


@contextlib.contextmanager
def temporary(place: str) -> Iterator[str]:
    """Yields a path beside a place of the cache; nothing is there afterwards."""
    folder, name = os.path.split(place)
    new = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield new
    finally:
        if os.path.isdir(new):
            shutil.rmtree(new, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.remove(new)


@contextlib.contextmanager
def _alone(path: str) -> Iterator[None]:
    """Lets one process of this machine fetch, where its file system has locks."""
    with open(path, "a") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def staged(url: str) -> Iterator[str]:
    """Yields a local path; the file there becomes remote if the block succeeds.

    Raises:
      RunError: It cannot be written there; the message says where it is kept.
    """
    folder = tempfile.mkdtemp(dir=root("staging"))
    path = os.path.join(folder, urls.split(url)[1] or "output")
    keep = False
    try:
        yield path
        try:
            remote.put(path, url)
        except (RunError, DataError) as error:
            keep = True
            raise RunError(
                f"{error} What should stand there is kept in {path}."
            ) from error
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def publish(
    folder: str, url: str, groups: Iterable[Iterable[str]], obsolete: Iterable[str] = ()
) -> None:
    """Makes the files of a local folder remote ones, what names the rest last.

    The last group and what is obsolete are removed first: readers who come now find
    nothing, rather than parts of two.

    Args:
      folder: The local folder.
      url: The remote one; what else is there stays.
      groups: Paths in the folder; a group is there before the next one is begun.
      obsolete: Paths of remote files that are to go.

    Raises:
      RunError: Not all could be written.
    """
    parts = [list(group) for group in groups]
    for path in [*parts[-1], *obsolete]:
        remote.remove(urls.join(url, path))

    def put(path: str) -> Entry:
        return remote.put(os.path.join(folder, *path.split("/")), urls.join(url, path))

    for part in parts:
        remote.at_once(put, part)
