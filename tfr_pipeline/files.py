"""Files that are whole or absent, and globs that find something.

Everything this package writes is written beside its final place and renamed, so a
reader never sees half a file and an interrupted command leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import glob
import json
import os
import re
import shutil
import sys
import tempfile
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from tfr_pipeline import copies, remote, urls
from tfr_pipeline.errors import ConfigError, DataError, RunError

# What `convert` writes beside its shards.
_DESCRIPTION = "features.json"
# Files are probed in so many pieces of so many bytes.
_PIECES, _PIECE = 16, 4096


def local(path: str, what: str = "path") -> str:
    """Returns a path, `~` being the home of the user, or a URL as it is.

    Raises:
      ConfigError: The path is empty; for the system that is the working directory.

    Example:
      >>> local("data/train.txt")
      'data/train.txt'
    """
    if not path.strip():
        raise ConfigError(f"{what}: expected a path, found nothing.")
    return path if urls.is_remote(path) else os.path.expanduser(path)


def exists(path: str) -> bool:
    """Whether something is at a path, or a file at a URL."""
    if urls.is_remote(path):
        return remote.stat(path) is not None
    return os.path.lexists(path)


def expand(
    patterns: str | list[str] | tuple[str, ...],
    what: str = "input",
    *,
    streams: bool = False,
    fetch: bool = True,
) -> list[str]:
    """Returns the files that paths, folders or globs match, those of each sorted.

    Several stand in one string with commas between; a name may have commas too. `~` is
    the home of the user, and `-` is standard input. Of a folder, these are the files in
    it whose names do not begin with a dot or an underscore.

    Args:
      patterns: What to look for.
      what: How messages call it, such as `--input`.
      streams: Whether to take what can be read but once, such as a pipe.
      fetch: Whether to return local copies of remote files, or their URLs.

    Raises:
      DataError: A pattern matches no file, a path without wildcard is missing, or a
        folder holds the splits of a conversion; or a remote file cannot be fetched.
      RunError: A store cannot be reached.
    """
    if isinstance(patterns, str):
        patterns = _at_commas(patterns)
    if not patterns:
        raise DataError(f"{what}: expected a path or a glob, found nothing.")
    found: list[str] = []
    for pattern in patterns:
        matches = _matches(pattern)
        if not matches:
            problem = "no file matches" if glob.has_magic(pattern) else "no such file"
            if os.path.isdir(os.path.expanduser(pattern)):
                problem = "no file in the folder"
            where = "" if urls.is_remote(pattern) else f" (looked from {os.getcwd()})"
            raise DataError(f"{what}: {problem} {pattern!r}{where}.")
        for path in matches:
            if is_stream(path) and not streams:
                raise DataError(
                    f"{what}: expected files, which can be read more than once, found "
                    f"the stream {path!r}. Write it to a file first."
                )
            if os.path.dirname(path) and os.path.basename(path) == _DESCRIPTION:
                folder = os.path.dirname(path)
                raise DataError(
                    f"{what}: expected the files of one split, found all that a "
                    f"conversion wrote. Name those of a split, such as "
                    f"{os.path.join(folder, 'test-*')!r}."
                )
        found.extend(path for path in matches if path not in found)
    return copies.fetch(found) if fetch else found


def _at_commas(text: str) -> list[str]:
    """Cuts a text at the commas that are not part of a name."""
    parts = text.split(",")
    found, start = [], 0
    while start < len(parts):
        # A URL is never the rest of a name.
        following = range(start + 1, len(parts))
        limit = next((i for i in following if urls.is_remote(parts[i].strip())), None)
        # The longest that is there: a folder may be called as the start of a name.
        end = next(
            (
                end
                for end in range(limit or len(parts), start + 1, -1)
                if _matches(",".join(parts[start:end]).strip())
            ),
            start + 1,
        )
        if pattern := ",".join(parts[start:end]).strip():
            found.append(pattern)
        start = end
    return found


def _matches(pattern: str) -> list[str]:
    """Returns the files and streams that one path or glob matches."""
    if urls.is_remote(pattern):
        return _remote_matches(pattern)
    path = "/dev/stdin" if pattern == "-" else os.path.expanduser(pattern)
    if os.path.isdir(path):
        names = sorted(os.listdir(path))
        matches = [os.path.join(path, n) for n in names if n[0] not in "._"]
    elif os.path.exists(path):
        return [path]  # a name may have the brackets of a glob
    else:
        matches = sorted(glob.glob(path))
    return [match for match in matches if os.path.isfile(match)]


def _remote_matches(pattern: str) -> list[str]:
    try:
        if remote.stat(pattern) is not None:
            return [pattern]
        if glob.has_magic(pattern):
            return list(remote.glob(pattern))
        names = [n for n in remote.find(pattern, deep=False) if n[0] not in "._"]
        return [urls.join(pattern, name) for name in names]
    except remote.GoneError as error:
        raise DataError(f"{error} No file matches {pattern!r}.") from error


def descriptor(path: str) -> int | None:
    """Returns the open file of this process that an output stands for, if it does.

    Example:
      >>> descriptor("-"), descriptor("/dev/fd/7"), descriptor("a/-")
      (1, 7, None)
    """
    if path in ("-", "/dev/stdout", "/dev/stderr"):
        return 2 if path == "/dev/stderr" else 1
    match = re.fullmatch(r"/dev/fd/(\d+)|/proc/self/fd/(\d+)", path)
    return int(match[1] or match[2]) if match else None


def is_stream(path: str) -> bool:
    """Whether a path leads to something that is neither a file nor a folder."""
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))


def _open_stream(path: str) -> IO[bytes]:
    number = descriptor(path)
    if number is None:
        return open(path, "wb")
    # Opened anew, a file behind it would be cut, and what was written lost.
    if sys.stdout is not None:
        sys.stdout.flush()
    return open(os.dup(number), "wb")


@contextlib.contextmanager
def replacing(path: str, ours: Sequence[str] = ()) -> Iterator[str]:
    """Yields a temporary path that becomes `path` if the block succeeds.

    Works for files and for folders. An existing file is replaced, and so is a folder
    that is empty or holds nothing but what this package writes there; if the block
    raises, all stays as it was: the temporary is removed, and so are the folders that
    were made for it. Links are followed. A
    device, a pipe or `-`, which is standard output, is no file that could be replaced:
    the whole content is written to it at the end, and so is a remote file.

    Args:
      path: What to write.
      ours: Patterns of the files, relative to `path`, that a folder may hold to be
        replaced.

    Raises:
      ConfigError: The path is empty.
      RunError: A folder is there that has other files.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with replacing(os.path.join(folder, "a.txt")) as temporary:
      ...         _ = open(temporary, "w").write("whole")
      ...     os.listdir(folder)
      ['a.txt']
    """
    path = local(path)
    if urls.is_remote(path):
        with copies.staged(path) as temporary:
            yield temporary
        return
    if descriptor(path) is not None or is_stream(path):
        with tempfile.TemporaryDirectory(prefix="tfr_pipeline_") as place:
            temporary = os.path.join(place, "output")
            yield temporary
            # A reader that has seen enough may go.
            with contextlib.suppress(BrokenPipeError):
                with open(temporary, "rb") as whole, _open_stream(path) as stream:
                    shutil.copyfileobj(whole, stream)
        return
    path = os.path.realpath(path)
    _check_ours(path, path, ours)
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.tmp")
    made = _make_folders(folder)
    try:
        yield temporary
        if os.path.isdir(temporary) and os.path.isdir(path):
            old = f"{temporary}.old"
            os.rename(path, old)
            try:
                # Again: others may have written into it since.
                _check_ours(old, path, ours)
                os.rename(temporary, path)
            except (OSError, RunError):
                os.rename(old, path)
                raise
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
        made.clear()
    finally:
        if os.path.isdir(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.remove(temporary)
        with contextlib.suppress(OSError):  # somebody else has put something there
            for place in made:
                os.rmdir(place)


def _make_folders(folder: str) -> list[str]:
    """Makes a folder and those above it; returns those that were not there."""
    made, above = [], folder
    while not os.path.lexists(above):
        made.append(above)
        above = os.path.dirname(above)
    os.makedirs(folder, exist_ok=True)
    return made


def _check_ours(folder: str, name: str, ours: Sequence[str]) -> None:
    """Raises a RunError if a folder holds a file that no pattern of `ours` matches."""
    for place, _, names in os.walk(folder):
        for file in names:
            relative = os.path.relpath(os.path.join(place, file), folder)
            if not any(fnmatch.fnmatchcase(relative, pattern) for pattern in ours):
                raise RunError(
                    f"{name}: expected a new folder or one to be replaced as a whole, "
                    f"found {relative!r} in it, which is not ours to remove. Choose "
                    "another place, or move that file away."
                )


def remove_stale(folder: str) -> None:
    """Removes what processes that were killed in `replacing` left in a folder.

    Call it only where nobody else is writing.
    """
    for path in glob.glob(os.path.join(glob.escape(folder), ".*.tmp*")):
        if re.search(r"\.[0-9a-f]{8}\.tmp(\.old)?$", path):
            a_folder = os.path.isdir(path) and not os.path.islink(path)
            shutil.rmtree(path) if a_folder else os.remove(path)


def probe(path: str) -> tuple[int, int]:
    """Returns the size of a file, and a checksum of parts of it, evenly spread.

    Raises:
      DataError: A remote file is not there.
    """
    if urls.is_remote(path):
        return _probe_remote(path, remote.states([path])[path])
    size = os.path.getsize(path)
    with open(path, "rb") as file:

        def read(start: int, length: int) -> bytes:
            file.seek(start)
            return file.read(length)

        return size, _checksum(read(*piece) for piece in _pieces(size))


@functools.lru_cache(1 << 16)
def _probe_remote(url: str, entry: remote.Entry) -> tuple[int, int]:
    """Probes a file in a state that it has now."""

    def read(piece: tuple[int, int]) -> bytes:
        return remote.read_range(url, *piece)

    return entry.size, _checksum(remote.at_once(read, _pieces(entry.size)))


def _pieces(size: int) -> list[tuple[int, int]]:
    """Returns where a file of a size is probed: first byte and number of bytes."""
    if size <= _PIECES * _PIECE:
        return [(0, size)]
    last = size - _PIECE
    return [(last * number // (_PIECES - 1), _PIECE) for number in range(_PIECES)]


def _checksum(parts: Iterable[bytes]) -> int:
    result = 0
    for part in parts:
        result = zlib.crc32(part, result)
    return result


def read_json(path: str) -> Any:
    """Returns the content of a JSON file.

    Raises:
      DataError: The file is missing, cannot be read or is not JSON.
    """
    try:
        if urls.is_remote(path):
            return json.loads(remote.read(path))
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except remote.GoneError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: not found.") from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror or error}."
        ) from error
    # Not UTF-8, no JSON, a number of thousands of digits, a list in a list and so on.
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}.") from error


def write_text(path: str, text: str) -> None:
    """Writes a whole text file or none, with `\\n` line ends."""
    with replacing(path) as temporary:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
