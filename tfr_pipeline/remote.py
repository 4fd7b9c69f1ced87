"""Object stores and other remote file systems, by URL, through `fsspec`.

`fsspec` and its drivers come with the extras `s3` and `gcs`; nothing here is imported
before a URL is used. What fails for a moment is tried again with longer and longer
pauses; what fails for good is one line that names the URL, what was found and what to
do. There is no rename here that could make a folder visible at once: writers write what
names the rest last, and readers look for that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib
import logging
import os
import posixpath
import uuid
from collections.abc import Callable, Iterable
from concurrent import futures
from typing import Any, TypeVar

from tfr_pipeline.errors import DataError, RunError
from tfr_pipeline.retries import GoneError as GoneError
from tfr_pipeline.retries import cause_of, explained, retried

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
# Where writing a file is all or nothing, and folders are but parts of names.
_ATOMIC = (*_EXTRAS, "memory", "abfs", "abfss", "az")
# Drivers that log each request that they made in vain, with a traceback.
_CHATTY = ("gcsfs", "google.auth")
_AT_ONCE = 8  # requests under way
_CONNECTIONS = 64  # to one store
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A remote file as it is at one time.

    Attributes:
      size: Its bytes.
      tag: What changes when it is written: the tag of its content where the store has
        one, else the time.
    """

    size: int
    tag: str

    @classmethod
    def of(cls, info: dict[str, Any]) -> Entry:
        """Takes it from what `fsspec` says of a file."""
        keys = ("ETag", "etag", "md5Hash", "generation", "LastModified", "mtime")
        found = (info.get(key) for key in (*keys, "updated", "modified", "created"))
        tag = next(filter(None, found), "")
        if isinstance(tag, datetime.datetime):
            tag = tag.timestamp()
        if isinstance(tag, float):  # one driver may write a time in several ways
            tag = f"{tag:.6f}"
        return cls(int(info.get("size") or 0), str(tag))


def filesystem(url: str) -> tuple[Any, str]:
    """Returns the `fsspec` file system of a URL, and the path that it has there.

    Raises:
      RunError: Its driver is not installed, or there is none.
    """
    scheme = url.partition("://")[0].lower()
    extra = _EXTRAS.get(scheme)
    need = f"pip install 'tfr_pipeline[{extra}]'" if extra else "pip install fsspec"
    for name in _CHATTY:
        if not (logger := logging.getLogger(name)).level:
            logger.setLevel(logging.CRITICAL)
    try:
        fsspec = importlib.import_module("fsspec")
        # What a store held a moment ago says nothing about now.
        options: dict[str, Any] = {"use_listings_cache": False}
        if extra == "s3":
            # Ten by default, which a store that is far away keeps waiting.
            own = fsspec.config.conf.get(scheme, {}).get("config_kwargs", {})
            options["config_kwargs"] = {"max_pool_connections": _CONNECTIONS, **own}
        return fsspec.url_to_fs(url, **options)
    except ImportError as error:
        found = f"no module {error.name!r}" if error.name else str(error)
        raise RunError(
            f"{url}: expected the driver for {scheme}:// to be installed, found "
            f"{found}. Run: {need}"
        ) from error
    except ValueError as error:
        raise RunError(
            f"{url}: expected a URL that fsspec knows, such as s3:// or gs://, found "
            f"{scheme}:// ({cause_of(error)})."
        ) from error
    except Exception as error:
        raise explained(error, url) from error


def _is_atomic(url: str) -> bool:
    return url.partition("://")[0].lower() in _ATOMIC


def stat(url: str, seconds: float | None = None) -> Entry | None:
    """Returns what a remote file is; None where there is none.

    Args:
      url: The file.
      seconds: See `retried`.
    """
    fs, path = filesystem(url)

    def look() -> Entry | None:
        try:
            info = fs.info(path)
        except FileNotFoundError:
            return None
        return Entry.of(info) if info["type"] == "file" else None

    return retried(look, url, seconds)


def find(url: str, deep: bool = True) -> dict[str, Entry]:
    """Returns the files below a remote folder, by their paths in it, sorted.

    Args:
      url: The folder; there may be nothing.
      deep: Whether to look into folders in it, too.

    Raises:
      GoneError: The bucket is not there.
    """
    fs, path = filesystem(url)
    path = path.rstrip("/")
    found = retried(
        lambda: fs.find(path, maxdepth=None if deep else 1, detail=True), url
    )
    result = {}
    for name, info in sorted(found.items()):
        relative = name[len(path) :].lstrip("/") if path else name.lstrip("/")
        # The file itself; or an object that some tools put in the place of a folder.
        if not relative or relative.endswith("/"):
            continue
        if posixpath.normpath(relative) != relative or relative.startswith(".."):
            raise DataError(
                f"{url}: expected files below it, found one called {relative!r}."
            )
        result[relative] = Entry.of(info)
    return result


def glob(url: str) -> dict[str, Entry]:
    """Returns the files that a URL with wildcards matches, by URL, sorted."""
    fs, path = filesystem(url)
    found = retried(lambda: fs.glob(path, detail=True), url)
    # What precedes the path, such as the scheme and a host, was taken off.
    start = url[: len(url) - len(path.lstrip("/"))] if url.endswith(path) else url
    start = start if url.endswith(path) else f"{url.partition('://')[0]}://"
    return {
        start + name.lstrip("/"): Entry.of(info)
        for name, info in sorted(found.items())
        if info["type"] == "file"
    }


def read(url: str, seconds: float | None = None) -> bytes:
    """Returns the content of a remote file.

    Args:
      url: The file.
      seconds: See `retried`.

    Raises:
      GoneError: It is not there.
    """
    fs, path = filesystem(url)
    return retried(lambda: fs.cat_file(path), url, seconds)


def read_range(url: str, offset: int, size: int) -> bytes:
    """Returns bytes of a remote file.

    Args:
      url: The file.
      offset: Where they begin.
      size: How many.

    Raises:
      GoneError: The file is not there.
      DataError: It is shorter.
    """
    if not size:
        return b""
    fs, path = filesystem(url)
    found = retried(lambda: fs.cat_file(path, start=offset, end=offset + size), url)
    if len(found) != size:
        raise DataError(
            f"{url}: expected {size} bytes at byte {offset}, found {len(found)}. The "
            "file was changed while it was read."
        )
    return found


def get(url: str, entry: Entry, path: str) -> None:
    """Copies a remote file to a local one, whole or with an error.

    Raises:
      DataError: It is not what it was, or gone.
    """
    fs, source = filesystem(url)
    retried(lambda: fs.get_file(source, path), url)
    found, size = stat(url), os.path.getsize(path)
    if found != entry or size != entry.size:
        problem = "is gone" if found is None else "has changed"
        raise DataError(
            f"{url}: it {problem} while it was fetched: expected {entry.size} bytes, "
            f"got {size}. Run the same command again when nobody is writing there."
        )


def put(path: str, url: str, seconds: float | None = None) -> Entry:
    """Copies a local file to a remote one, which readers see whole or not at all.

    Args:
      path: The file.
      url: Its place.
      seconds: See `retried`.

    Returns:
      What it is there.
    """
    fs, place = filesystem(url)
    size = os.path.getsize(path)

    def send() -> Entry:
        if _is_atomic(url):
            fs.put_file(path, place)
        else:
            folder, name = posixpath.split(place)
            temporary = posixpath.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.tmp")
            fs.makedirs(folder, exist_ok=True)
            try:
                fs.put_file(path, temporary)
                fs.mv(temporary, place)
            except BaseException:
                with contextlib.suppress(Exception):
                    fs.rm_file(temporary)
                raise
        entry = Entry.of(fs.info(place))
        if entry.size != size:
            raise OSError(f"{entry.size} of {size} bytes arrived")
        return entry

    return retried(send, url, seconds)


def write(
    url: str, content: bytes, *, new: bool = False, seconds: float | None = None
) -> bool:
    """Writes a small file; returns False if `new` and there is one already.

    That may be the one of an earlier try, whose answer was lost.

    Args:
      url: The file.
      content: What to write.
      new: Leaves a file alone that is there.
      seconds: See `retried`.
    """
    fs, path = filesystem(url)

    def send() -> bool:
        if not _is_atomic(url):
            fs.makedirs(posixpath.dirname(path), exist_ok=True)
        try:
            fs.pipe_file(path, content, mode="create" if new else "overwrite")
        except FileExistsError:
            return False
        except (NotImplementedError, TypeError, ValueError):
            # A driver that cannot do both in one request.
            if new and fs.exists(path):
                return False
            fs.pipe_file(path, content)
        except OSError as error:
            # S3's own name for a file that is there.
            if new and "PreconditionFailed" in repr(error.__cause__):
                return False
            raise
        return True

    return retried(send, url, seconds)


def remove(url: str, seconds: float | None = None) -> None:
    """Removes a remote file; one that is gone is none to remove."""
    fs, path = filesystem(url)

    def take() -> None:
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(path)

    retried(take, url, seconds)


def at_once(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Returns the function of each item, several at once; the first error ends it."""
    with futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        jobs = [pool.submit(function, item) for item in items]
        try:
            for job in futures.as_completed(jobs):
                job.result()
        finally:
            for job in jobs:
                job.cancel()
    return [job.result() for job in jobs]


def states(names: Iterable[str]) -> dict[str, Entry]:
    """Returns what remote files are now, by URL.

    Raises:
      GoneError: One is not there.
    """
    names = list(names)
    found = dict(zip(names, at_once(stat, names), strict=True))
    for url, entry in found.items():
        if entry is None:
            raise GoneError(f"{url}: no such file.")
    return {url: entry for url, entry in found.items() if entry is not None}
