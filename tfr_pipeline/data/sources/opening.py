"""Opens input files: plain or compressed."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from typing import IO

from tfr_pipeline.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"


@contextlib.contextmanager
def open_binary(path: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Opens a plain or gzip file; yields the content and the file as stored.

    Raises:
      DataError: The file cannot be read, or its gzip data is truncated or corrupt,
        also if that shows only while the block reads.
    """
    try:
        with open(path, "rb") as stored:
            magic = stored.read(2)
            stored.seek(0)
            if magic == _GZIP_MAGIC:
                with gzip.open(stored, "rb") as content:
                    yield content, stored  # type: ignore[misc]
            else:
                yield stored, stored
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: expected a whole gzip file, found truncated or corrupt data "
            f"({error}). Fetch or compress the file again."
        ) from error
    except OSError as error:
        if error.filename not in (path, None):
            raise  # not this file: an output that the block writes
        raise DataError(
            f"{path}: cannot be read: {error.strerror or error}."
        ) from error
