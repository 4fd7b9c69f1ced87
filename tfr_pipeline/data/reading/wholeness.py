"""Whether TFRecord files are whole: what is missing or damaged, and where.

TensorFlow takes the end of a file for the end of the data, also where it is inside the
header of a record, and names no file where it finds damage.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import warnings
import zlib
from collections.abc import Iterator
from typing import IO, Any

from tfr_pipeline.data.records.tfrecord import masked_crc32c
from tfr_pipeline.data.stored import refuse_other_records
from tfr_pipeline.errors import DataError

HEADER, FOOTER = 12, 4  # length and its checksum; checksum of the record
_GZIP = b"\x1f\x8b\x08"
_BLOCK = 1 << 20
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.tfrecord")
_ADVICE = "The file was damaged or cut off; fetch it again or convert it again."


def detect(path: str) -> str:
    """Returns how a TFRecord file is compressed: an empty text, `GZIP` or `ZLIB`.

    The beginning of a plain file has a checksum, so it is never taken for another.

    Raises:
      DataError: It is compressed in another way, or the pointer of Git LFS.
    """
    with open(path, "rb") as file:
        start = file.read(32)
    head = start[:HEADER]
    if len(head) == HEADER and masked_crc32c([head[:8]])[0] == head[8:]:
        return ""
    refuse_other_records(path, start)
    if head.startswith(_GZIP):
        return "GZIP"
    # RFC 1950: the method is 8, and both bytes are a multiple of 31.
    if len(head) > 2 and head[0] & 0x0F == 8 and int.from_bytes(head[:2], "big") % 31:
        return ""
    return "ZLIB" if len(head) > 2 and head[0] & 0x8F == 8 else ""


class _Inflated:
    """The content of a compressed file; gzip may have several members."""

    def __init__(self, file: IO[bytes], kind: str):
        self._file, self._several = file, kind == "GZIP"
        self._bits = zlib.MAX_WBITS + (16 if self._several else 0)
        self._stream = zlib.decompressobj(self._bits)
        self._held = self._raw = b""

    def read(self, size: int) -> bytes:
        """Returns so many bytes; fewer at the end of the content.

        Raises:
          zlib.error: The data is corrupt.
          EOFError: It has no end mark.
        """
        parts, length = [self._held], len(self._held)
        while length < size:
            if self._stream.eof:
                self._raw = self._stream.unused_data or self._file.read(_BLOCK)
                if not self._raw or not self._several:
                    break
                self._stream = zlib.decompressobj(self._bits)
            else:
                self._raw = self._stream.unconsumed_tail or self._file.read(_BLOCK)
                if not self._raw:
                    raise EOFError
            parts.append(self._stream.decompress(self._raw, _BLOCK))
            length += len(parts[-1])
        content = b"".join(parts)
        self._held = content[size:]
        return content[:size]


@contextlib.contextmanager
def _content(path: str) -> Iterator[Any]:
    kind = detect(path)
    with open(path, "rb") as file:
        yield _Inflated(file, kind) if kind else file


def _walk(path: str, checksums: bool) -> tuple[int, str]:
    """Goes through a file; returns the number of whole records, and what is wrong."""
    number = position = 0
    # A length that is wrong must not be taken for so much memory.
    most = os.path.getsize(path) if not detect(path) else sys.maxsize // 2
    with _content(path) as content:
        try:
            while header := content.read(HEADER):
                size = int.from_bytes(header[:8], "little")
                where = f"record {number} is corrupt: at byte {position}"
                if len(header) < HEADER:
                    return number, (
                        f"{where} the file ends inside the {HEADER} bytes before a "
                        "record"
                    )
                if checksums and masked_crc32c([header[:8]])[0] != header[8:]:
                    return number, f"{where} the checksum of its length is wrong"
                body = content.read(min(size + FOOTER, most))
                if len(body) < size + FOOTER:
                    return number, (
                        f"{where} begin {HEADER + size + FOOTER} bytes of which the "
                        f"file has {HEADER + len(body)}"
                    )
                if checksums and masked_crc32c([body[:size]])[0] != body[size:]:
                    return number, f"{where} its checksum is wrong"
                number += 1
                position += HEADER + size + FOOTER
        except EOFError:
            return number, (
                "the compressed file was cut off: its data ends without an end mark, "
                f"after {number} records"
            )
        except zlib.error as error:
            return number, f"record {number} is corrupt: decompressing it: {error}"
    return number, ""


def refuse_damaged(paths: list[str], checksums: bool = True) -> None:
    """Raises the error for the first file that is damaged; returns if all are whole.

    Args:
      paths: TFRecord files, compressed or not.
      checksums: Whether to check the records too, which is slow.

    Raises:
      DataError: A file is damaged or cut off; names record and byte.
    """
    for path in paths:
        _, problem = _walk(path, checksums)
        if problem:
            raise DataError(f"{path}: {problem}. {_ADVICE}")


def check(paths: list[str], size: int, count: int) -> None:
    """Refuses files that were not read to their ends.

    Args:
      paths: The files that were read.
      size: Bytes of their records with what is around them.
      count: Number of their records.

    Raises:
      DataError: A file is cut off, or `convert` wrote another number of records.
    """
    if any(detect(path) == "ZLIB" for path in paths) or (
        (sum(map(_stored_size, paths)) - size) % (1 << 32)
    ):
        refuse_damaged(paths, checksums=False)
    expected = {path: _expected(path) for path in paths}
    known = [number for number, _ in filter(None, expected.values())]
    if not known or (len(known) == len(paths) and sum(known) == count):
        return
    for path, pair in expected.items():
        if pair is not None and (found := _walk(path, False)[0]) != pair[0]:
            raise DataError(
                f"{path}: expected {pair[0]} records, as {pair[1]} says, found "
                f"{found}. The file was cut off between two records, or is not of "
                "that conversion: convert or fetch it again; without the .stats.json "
                "records are not counted."
            )


def _stored_size(path: str) -> int:
    """Returns the size of the content of a file; of gzip files modulo 2 ** 32."""
    size = os.path.getsize(path)
    if detect(path) != "GZIP":
        return size
    with open(path, "rb") as file:
        file.seek(max(0, size - 4))
        return int.from_bytes(file.read(4), "little")


def _expected(path: str) -> tuple[int, str] | None:
    """Returns how many records `convert` wrote into a file, and what says so."""
    folder, name = os.path.split(path)
    match = _SHARD.fullmatch(name)
    if not match:
        return None
    stats = os.path.join(folder, f"{match[1]}.stats.json")
    try:
        with open(stats, encoding="utf-8") as file:
            content = json.load(file)
        queries, shards = content["queries"], content["num_shards"]
        if not (isinstance(queries, int) and isinstance(shards, int)):
            raise ValueError(f"queries {queries!r}, num_shards {shards!r}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        warnings.warn(
            f"{stats}: expected what `convert` writes ({type(error).__name__}: "
            f"{error}); the records of {name} are not counted.",
            stacklevel=2,
        )
        return None
    shard, written = int(match[2]), int(match[3])
    if shards != written or shard >= shards:
        return None  # of another conversion
    return len(range(shard, queries, shards)), stats
