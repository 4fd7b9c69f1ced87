"""LibSVM files as chunks of whole queries: reading and cutting, no parsing.

Runs in the main process of a conversion, which must keep up with the workers that
parse, so it only looks at the text around a cut.
"""

from __future__ import annotations

import codecs
import dataclasses
import os
from collections.abc import Iterator

from tfr_pipeline.data.sources.opening import open_binary
from tfr_pipeline.errors import DataError

CHUNK_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Text of whole lists.

    Attributes:
      text: Whole lines.
      path: Their file.
      first_line: 1-based number of the first line in its file.
      places: Instead of `path` and `first_line`: `(path, line number)` of every line,
        for lines that were gathered from several places.
      lengths: Documents of each list if a query file gives them, else None: then the
        lines have `qid:`.
      first_list: Number of lists before this chunk; used with `lengths`.
      bytes_read: Size of the input consumed so far, of compressed files as stored.
      classes: Names of the classes that labels are, each line being a list of its own;
        None for grades. See `class_names`.
    """

    text: bytes
    path: str
    first_line: int = 1
    places: tuple[tuple[str, int], ...] | None = None
    lengths: tuple[int, ...] | None = None
    first_list: int = 0
    bytes_read: int = 0
    classes: tuple[str, ...] | None = None

    def place(self, row: int) -> tuple[str, int]:
        """Returns `(path, line number)` of a line of the text, counted from 0."""
        if self.places is not None:
            return self.places[row]
        return self.path, self.first_line + row


def is_data(line: bytes) -> bool:
    """Whether a line holds a document: not blank, not only a comment."""
    start = line[:64].lstrip() or line.lstrip()
    return bool(start) and not start.startswith(b"#")


def query_of(parts: list[bytes]) -> bytes | None:
    """Returns the `qid:` token among the first of a line; None if there is none.

    It comes after the label, or first where there is no label.
    """
    return next((part for part in parts[:2] if part.startswith(b"qid:")), None)


def read_blocks(path: str, size: int = CHUNK_BYTES) -> Iterator[tuple[bytes, int]]:
    """Yields runs of whole lines of about `size` bytes, and the stored bytes read."""
    with open_binary(path) as (content, stored):
        tail: list[bytes] = []
        first = True
        while block := content.read(max(size, len(codecs.BOM_UTF8))):
            if first:
                block, first = block.removeprefix(codecs.BOM_UTF8), False
            cut = block.rfind(b"\n") + 1
            if cut:
                yield b"".join([*tail, block[:cut]]), stored.tell()
                tail = []
            tail.append(block[cut:])
        rest = b"".join(tail)
        if rest:
            yield rest + b"\n", stored.tell()


def by_query(paths: list[str], size: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """Yields the chunks of files whose lines have `qid:`; a cut is between queries."""
    before = 0
    for path in paths:
        carried: list[bytes] = []
        line, position = 1, 0
        for block, position in read_blocks(path, size):
            cut = _last_query_start(block)
            if cut:
                text = b"".join([*carried, block[:cut]])
                yield Chunk(text, path, line, bytes_read=before + position)
                line += text.count(b"\n")
                carried = []
            carried.append(block[cut:])
        if any(carried):
            yield Chunk(b"".join(carried), path, line, bytes_read=before + position)
        before += os.path.getsize(path)


def by_line(
    paths: list[str], classes: tuple[str, ...], size: int = CHUNK_BYTES
) -> Iterator[Chunk]:
    """Yields the chunks of files whose lines are examples of classes."""
    before = lists = 0
    for path in paths:
        line, position = 1, 0
        for block, position in read_blocks(path, size):
            count = sum(map(is_data, block.split(b"\n")))
            yield Chunk(
                block,
                path,
                line,
                lengths=(1,) * count,
                first_list=lists,
                bytes_read=before + position,
                classes=classes,
            )
            line += block.count(b"\n")
            lists += count
        before += os.path.getsize(path)


def _last_query_start(block: bytes) -> int:
    """Returns where the last query of whole lines starts; 0 if there is but one.

    A line without `qid:` ends the chunk: the parser will refuse it, and nothing should
    be read after it.
    """
    last: bytes | None = None
    stop = len(block)
    cut = stop
    while stop > 0:
        start = block.rfind(b"\n", 0, stop - 1) + 1
        parts = block[start:stop].partition(b"#")[0].split(None, 2)
        if parts:
            query = query_of(parts)
            if query is None:
                return len(block)
            if last is not None and query != last:
                return cut
            last, cut = query, start
        stop = start
    return 0


def read_lengths(path: str) -> list[int]:
    """Reads list lengths, one a line.

    Raises:
      DataError: A line is not a positive whole number.
    """
    lengths = []
    with open_binary(path) as (content, _):
        for number, line in enumerate(content, 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            text = line.strip()
            if not text:
                continue
            if not text.isdigit() or len(text) > 15 or int(text) < 1:
                raise DataError(
                    f"{path}:{number}: expected the number of documents of a list, "
                    f"found {text[:60].decode(errors='replace')!r}."
                )
            lengths.append(int(text))
    return lengths


def by_lengths(
    paths: list[str], query_files: list[str], size: int = CHUNK_BYTES
) -> Iterator[Chunk]:
    """Yields the chunks of files whose list lengths stand in a query file each.

    Raises:
      DataError: The numbers of files differ, or the lengths of a query file do not
        add up to the documents of its file.
    """
    if len(paths) != len(query_files):
        raise DataError(
            f"--query_file: expected one file for each of {len(paths)} input files, "
            f"found {len(query_files)}: {', '.join(query_files)}."
        )
    before = lists = 0
    for path, query_file in zip(paths, query_files, strict=True):
        lengths = read_lengths(query_file)
        done = documents = 0  # lists cut so far, documents seen so far
        lines: list[bytes] = []
        first_line, position = 1, 0
        current: list[int] = []
        missing = lengths[0] if lengths else 0
        for block, position in read_blocks(path, size):
            for line in block.split(b"\n")[:-1]:
                lines.append(line)
                if not is_data(line):
                    continue
                documents += 1
                missing -= 1
                if missing < 0:
                    continue  # counted for the message below
                if missing == 0:
                    current.append(lengths[done + len(current)])
                    following = done + len(current)
                    missing = lengths[following] if following < len(lengths) else 0
                    cut = len(lines)
            if current and documents <= sum(lengths):
                yield Chunk(
                    b"\n".join([*lines[:cut], b""]),
                    path,
                    first_line,
                    lengths=tuple(current),
                    first_list=lists + done,
                    bytes_read=before + position,
                )
                done += len(current)
                current = []
                first_line += cut
                del lines[:cut]
        if documents != sum(lengths):
            raise DataError(
                f"{query_file}: its {len(lengths)} lengths add up to {sum(lengths)} "
                f"documents, but {path} has {documents}. Expected the same number."
            )
        lists += len(lengths)
        before += os.path.getsize(path)
