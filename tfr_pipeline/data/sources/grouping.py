"""`--group_by_query`: rows of one query brought together, in bounded memory.

Queries come out in the order of their first row, and the rows of a query in the order
of the input: what a stable sort by first appearance gives. The input is read twice:
once to know the size of each query, once to spread the rows over bucket files that
hold consecutive queries. Memory: one bucket, and about 150 bytes a query.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

from tfr_pipeline.data.sources import libsvm, libsvm_chunks
from tfr_pipeline.data.sources.libsvm_chunks import Chunk

BUCKET_BYTES = 64 << 20
_MAX_BUCKETS = 256  # files open at once


def assign_buckets(
    sizes: dict[bytes, int], bucket_bytes: int | None = None
) -> dict[bytes, int]:
    """Maps every query to a bucket; consecutive queries share one.

    Args:
      sizes: Bytes of each query, in order of first appearance.
      bucket_bytes: Size of a bucket, unless there would be too many.

    Example:
      >>> assign_buckets({b"a": 6, b"b": 3, b"c": 2}, 10)
      {b'a': 0, b'b': 0, b'c': 1}
    """
    total = sum(sizes.values())
    limit = max(bucket_bytes or BUCKET_BYTES, 2 * total // _MAX_BUCKETS)
    buckets: dict[bytes, int] = {}
    bucket = filled = 0
    for query, size in sizes.items():
        if filled and filled + size > limit:
            bucket, filled = bucket + 1, 0
        buckets[query] = bucket
        filled += size
    return buckets


def text_chunks(paths: list[str], folder: str | None = None) -> Iterator[Chunk]:
    """Yields LibSVM text with the lines of each query together.

    Args:
      paths: Files whose lines have `qid:`.
      folder: Where to put the bucket files; a temporary folder by default.
    """
    sizes: dict[bytes, int] = {}
    for _, _, query, line in _lines(paths):
        sizes[query] = sizes.get(query, 0) + len(line)
    bucket_of = assign_buckets(sizes)
    total = sum(os.path.getsize(path) for path in paths)
    with tempfile.TemporaryDirectory(prefix=".grouped.", dir=folder) as temporary:
        names = [
            os.path.join(temporary, str(bucket))
            for bucket in range(max(bucket_of.values(), default=-1) + 1)
        ]
        with contextlib.ExitStack() as stack:
            buckets = [stack.enter_context(open(name, "wb")) for name in names]
            for file, number, query, line in _lines(paths):
                buckets[bucket_of[query]].write(b"%d %d " % (file, number) + line)
        for bucket, name in enumerate(names):
            done = total * (bucket + 1) // len(names)
            yield from _bucket_chunks(name, paths, done)
            os.remove(name)


def _lines(paths: list[str]) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Yields file, line number, `qid:` token and text of every document."""
    for file, path in enumerate(paths):
        number = 0
        for block, _ in libsvm_chunks.read_blocks(path):
            for text in block.split(b"\n")[:-1]:
                line = text + b"\n"
                number += 1
                parts = line.partition(b"#")[0].split(None, 2)
                if not parts:
                    continue
                query = libsvm_chunks.query_of(parts)
                if query is None:
                    list(libsvm.parse(Chunk(line, path, number)))  # raises
                assert query is not None
                yield file, number, query, line


def _bucket_chunks(name: str, paths: list[str], done: int) -> Iterator[Chunk]:
    """Yields the chunks of one bucket file."""
    queries: dict[bytes, list[tuple[tuple[str, int], bytes]]] = {}
    with open(name, "rb") as bucket:
        for row in bucket:
            file, number, line = row.split(b" ", 2)
            query = libsvm_chunks.query_of(line.partition(b"#")[0].split(None, 2))
            assert query is not None
            place = paths[int(file)], int(number)
            queries.setdefault(query, []).append((place, line))
    lines: list[bytes] = []
    places: list[tuple[str, int]] = []
    size = 0
    for rows in queries.values():
        for place, line in rows:
            places.append(place)
            lines.append(line)
            size += len(line)
        if size >= libsvm_chunks.CHUNK_BYTES:
            yield Chunk(b"".join(lines), "", places=tuple(places), bytes_read=done)
            lines, places, size = [], [], 0
    if lines:
        yield Chunk(b"".join(lines), "", places=tuple(places), bytes_read=done)
