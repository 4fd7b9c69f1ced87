"""Packed lists on disk: parsed by the first run, mapped into memory by all others.

A cache folder has one folder for each set of files and way to read them. In it are raw
little-endian matrices and `meta.json`, which says what they are and what they were made
of. The kernel reads pages of a mapped file when they are needed and forgets them when
memory is short, so data may be larger than memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import math
import mmap
import os
import socket
import sys
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

import numpy as np
import tensorflow as tf

from tfr_pipeline import files, remote, urls
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.reading import direct
from tfr_pipeline.data.reading.disk_lists import DiskColumn, DiskLists
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.data.store import Numbered, from_columns
from tfr_pipeline.errors import RunError

_VERSION = 3
_META, _CHECKSUM = "meta.json", "checksum"
# Checksums cover up to this many pieces of a file, spread evenly, of this size.
_PIECES, _PIECE = 64, 1 << 20
# Linux counts a mapping that can be written to as memory, unless it is told not to.
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0


def fingerprint(
    paths: list[str], parser: RecordParser, *how: Any
) -> dict[str, dict[str, Any]]:
    """Describes what a cache is made of: `content`, and `files` as they are now.

    Args:
      paths: The source files.
      parser: How their records are parsed.
      *how: More on how they are read: texts, None, or functions.
    """
    states = _states(paths)
    paths = [urls.redact(p) if urls.is_remote(p) else os.path.abspath(p) for p in paths]
    content = {
        "version": _VERSION,
        "byteorder": sys.byteorder,
        "paths": paths,
        "format": parser.data_format,
        **describe_parsing(parser, *how),
    }
    return {"content": content, "files": dict(zip(paths, states, strict=True))}


def _states(paths: list[str]) -> list[list[Any]]:
    entries = remote.states(filter(urls.is_remote, paths))
    found: list[list[Any]] = []
    for path in paths:
        if path in entries:
            found.append([entries[path].size, entries[path].tag])
        else:
            state = os.stat(path)
            found.append([state.st_size, state.st_mtime_ns])
    return found


def describe_parsing(parser: RecordParser, *how: Any) -> dict[str, Any]:
    """Returns as JSON how records of any format are parsed; see `fingerprint`."""
    specs = (parser.context_spec, parser.example_spec, parser.extra_spec)
    return {
        "query_id": parser.query_id,
        "document_id": parser.document_id,
        "specs": [{n: _describe(s) for n, s in group.items()} for group in specs],
        "how": [_describe(item) for item in how],
    }


def describe_reader(reader: RecordReader) -> Any:
    """Returns as JSON what opens files."""
    return [*_describe(reader), reader.compression]


def _describe(item: Any) -> Any:
    if isinstance(item, tf.io.FixedLenFeature):
        default = item.default_value
        return [
            tf.dtypes.as_dtype(item.dtype).name,
            tf.TensorShape(item.shape).as_list(),
            default if default is None else repr(np.ravel(default).tolist()),
        ]
    if isinstance(item, tf.io.VarLenFeature | tf.io.RaggedFeature):
        return repr(item)
    if isinstance(item, RecordReader):
        return [_describe(item.reader), repr(item.reader_args)]
    if isinstance(item, functools.partial):
        return [_describe(item.func), repr(item.args), repr(sorted(item.keywords))] + [
            repr(value) for _, value in sorted(item.keywords.items())
        ]
    if callable(item):
        return f"{item.__module__}.{getattr(item, '__qualname__', type(item))}"
    return item


def load(
    folder: str,
    made_of: dict[str, dict[str, Any]],
    parts: Callable[[], Iterable[Lists]],
) -> Lists:
    """Returns lists from the cache; reads them first where it has them not.

    Any number of processes may call it at once: one reads, the others wait.

    Args:
      folder: The cache folder; made if it is not there.
      made_of: The `fingerprint` of the lists.
      parts: Reads the lists, some at a time.

    Returns:
      Lists whose numeric arrays are mapped files. What is written to them stays in
      this process.

    Raises:
      RunError: The folder cannot be written, or the disk is full.
    """
    content = json.dumps(made_of["content"], sort_keys=True)
    stem = os.path.basename(made_of["content"]["paths"][0]).split(".")[0]
    name = f"{stem}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    home = os.path.join(os.path.abspath(folder), name)
    made_of = json.loads(json.dumps(made_of))
    path = os.path.join(home, "lists")
    try:
        with contextlib.suppress(OSError):  # it may be there, and read-only
            os.makedirs(home, exist_ok=True)
        with locked(os.path.join(home, "lock"), home) as alone:
            lists = _open(path, made_of)
            if lists is None:
                os.makedirs(home, exist_ok=True)
                if alone:
                    files.remove_stale(home)
                with files.replacing(path, ("*.bin", _META)) as temporary:
                    _write(temporary, made_of, parts())
                lists = _open(path, made_of)
    except OSError as error:
        raise RunError(
            f"cache: {home} cannot be used: {error.strerror or error}. Name another "
            "folder, or 'memory'."
        ) from error
    if lists is None:
        raise RunError(f"cache: {path} was written but cannot be read back.")
    return lists


@contextlib.contextmanager
def locked(path: str, what: str) -> Iterator[bool]:
    """Holds a lock that dies with the process; yields whether there is one.

    There is none in a folder that is read-only, or on a file system without locks.
    Then whoever comes last replaces what the others wrote, which is as good.

    Args:
      path: The file that is locked.
      what: What the holder builds, for those who wait.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "a+"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(
                    f"cache: waiting for {_holder(file)} to build {what}",
                    file=sys.stderr,
                    flush=True,
                )
                fcntl.flock(file, fcntl.LOCK_EX)
            _sign(file)
        except OSError:
            yield False
        else:
            yield True


def _sign(file: IO[str]) -> None:
    """Writes who holds a lock, for those who wait for it."""
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read(200).strip() or "another process"


def _write(
    folder: str, made_of: dict[str, dict[str, Any]], parts: Iterable[Lists]
) -> None:
    os.makedirs(folder)
    keep_ids = made_of["content"]["document_id"] is not None
    written: dict[str, _Column] = {}
    numbered = Numbered()
    with contextlib.ExitStack() as stack:
        for part in parts:
            for name, array in numbered.columns(part, keep_ids).items():
                for key, numbers in _numeric(name, array).items():
                    if key not in written:
                        file = os.path.join(folder, f"{len(written)}.bin")
                        stream = stack.enter_context(open(file, "wb"))
                        written[key] = _Column(
                            file, stream, numbers.dtype.name, numbers.shape[1:]
                        )
                    written[key].append(numbers)
        for column in written.values():
            column.stream.flush()
            os.fsync(column.stream.fileno())
    meta: dict[str, Any] = dict(made_of)
    meta["columns"] = {key: column.description() for key, column in written.items()}
    meta[_CHECKSUM] = _checksum_of(meta)
    files.write_text(os.path.join(folder, _META), json.dumps(meta, indent=1))


@dataclasses.dataclass
class _Column:
    """A file that an array is written to, part by part."""

    path: str
    stream: IO[bytes]
    dtype: str
    shape: tuple[int, ...]

    def append(self, array: np.ndarray) -> None:
        # As bytes, for bfloat16 is no type of the buffer protocol.
        self.stream.write(np.ascontiguousarray(array).view(np.uint8).data)

    def description(self) -> dict[str, Any]:
        return {
            "file": os.path.basename(self.path),
            "dtype": self.dtype,
            "shape": self.shape,
            "size": os.path.getsize(self.path),
            "checksum": _checksum(self.path),
        }


def _checksum_of(meta: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


def _checksum(path: str) -> int:
    result, size = 0, os.path.getsize(path)
    with open(path, "rb") as file:
        pieces = min(_PIECES, math.ceil(size / _PIECE))
        for start in np.linspace(0, max(0, size - _PIECE), pieces).astype(int):
            file.seek(int(start))
            result = zlib.crc32(file.read(_PIECE), result)
    return result


def _numeric(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """Returns texts as their bytes and the number of bytes of each."""
    if array.dtype != object:
        return {name: array}
    ids = name in ("query_ids", "document_ids")
    raw = [text.encode() if ids else text for text in array.ravel().tolist()]
    kind = "str" if ids else "bytes"
    sizes = np.array([len(text) for text in raw], np.int64).reshape(array.shape)
    content = np.frombuffer(b"".join(raw), np.uint8)
    return {f"{kind}:{name}": sizes, f"content:{name}": content}


def _open(path: str, made_of: dict[str, dict[str, Any]]) -> Lists | None:
    """Returns the lists of a cache, or None where it is of other data or damaged."""
    try:
        with open(os.path.join(path, _META), encoding="utf-8") as file:
            meta = json.load(file)
        if meta.pop(_CHECKSUM) != _checksum_of(meta):
            raise ValueError(f"{_META}: the checksum is wrong")
        if {key: meta[key] for key in made_of} != made_of:
            return None  # the source files have changed since
        found = {
            name: _map(os.path.join(path, column["file"]), column)
            for name, column in meta["columns"].items()
        }
        lists = from_columns(_with_texts(found))
        size = sum(column["size"] for column in meta["columns"].values())
        large = direct.is_worth_it(size)
        columns = {
            name: DiskColumn(
                os.path.join(path, column["file"]),
                column["dtype"],
                tuple(column["shape"]),
                large,
            )
            for name, column in meta["columns"].items()
            if name in ("labels", "weights") or name.startswith("values/")
        }
        return DiskLists.of(lists, columns)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        if not os.path.exists(path):
            return None
        problem = f"{error.filename}: {error.strerror}"
    except (LookupError, ArithmeticError, RecursionError) as error:
        problem = f"{_META} is not what was written: {type(error).__name__}: {error}"
    except (AttributeError, TypeError, ValueError) as error:
        problem = str(error)
    warnings.warn(f"cache: {path} is damaged ({problem}); made anew.", stacklevel=2)
    return None


def _map(path: str, column: dict[str, Any]) -> np.ndarray:
    size = os.path.getsize(path)
    if size != column["size"]:
        raise ValueError(f"{path}: expected {column['size']} bytes, found {size}")
    if _checksum(path) != column["checksum"]:
        raise ValueError(f"{path}: the checksum is wrong")
    dtype, shape = np.dtype(column["dtype"]), column["shape"]
    rows = size // (dtype.itemsize * math.prod(shape))
    if not size:
        return np.zeros((rows, *shape), dtype)
    with open(path, "rb") as file:
        # Private and writable, so that a tensor can share it.
        memory = mmap.mmap(
            file.fileno(),
            size,
            flags=mmap.MAP_PRIVATE | _NO_RESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )
    return np.frombuffer(memory, dtype).reshape(rows, *shape)


def _with_texts(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Undoes `_numeric`."""
    result = {}
    for key, array in found.items():
        kind, colon, name = key.partition(":")
        if not colon or kind not in ("str", "bytes", "content"):
            result[key] = array
        elif kind != "content":
            content = found[f"content:{name}"].tobytes()
            ends = np.cumsum(array.ravel()).tolist()
            raw = (content[a:b] for a, b in zip([0, *ends], ends, strict=False))
            texts = np.empty(len(ends), object)
            texts[:] = [t.decode() for t in raw] if kind == "str" else list(raw)
            result[name] = texts.reshape(array.shape)
    return result
