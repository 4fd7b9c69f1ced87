"""Opens input files: plain or compressed."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from tfr_pipeline.data.stored import refuse_stored
from tfr_pipeline.errors import DataError

_OPENERS: dict[str, tuple[re.Pattern[bytes], Callable[..., Any]]] = {
    "gzip": (re.compile(rb"\x1f\x8b"), gzip.open),
    "bz2": (re.compile(rb"BZh[1-9]1AY&SY"), bz2.open),
    "xz": (re.compile(rb"\xfd7zXZ\x00"), lzma.open),
}


@contextlib.contextmanager
def open_binary(path: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Opens a plain, gzip, bz2 or xz file; yields the content and the file as stored.

    Raises:
      DataError: The file cannot be read, or its compressed data is truncated or
        corrupt, also if that shows only while the block reads; or it is compressed in
        another way, or the pointer of Git LFS.
    """
    kind = ""
    try:
        magic = refuse_stored(path, "text or gzip, bz2 or xz")
        with open(path, "rb") as stored:
            for name, (start, opener) in _OPENERS.items():
                if start.match(magic):
                    kind = name
                    with opener(stored, "rb") as content:
                        yield content, stored
                    return
            yield stored, stored
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise DataError(
            f"{path}: expected a whole {kind} file, found truncated or corrupt data "
            f"({error}). Fetch or compress the file again."
        ) from error
    except OSError as error:
        if error.filename not in (path, None):
            raise  # not this file: an output that the block writes
        raise DataError(
            f"{path}: cannot be read: {error.strerror or error}."
        ) from error
