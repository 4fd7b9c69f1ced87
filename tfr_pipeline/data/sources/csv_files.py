"""CSV and TSV text cut into blocks of whole rows that know their lines.

Quotes are those of RFC 4180: a quote at the start of a cell opens it, a doubled one
stands for itself. A cell may span lines, so lines are not rows; and a quote that is
never closed swallows what follows, which no parser calls an error. Both are seen here,
before pyarrow parses a block.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Iterator

import numpy as np

from tfr_pipeline.data.sources.opening import open_binary
from tfr_pipeline.errors import DataError

_BLOCK_BYTES = 4 << 20
# A cell or row beyond these is an unclosed quote, or no CSV, rather than data.
_MAX_CELL_LINES = 1000
_MAX_ROW_BYTES = 64 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_ADVICE = (
    "Close it; a quote that is part of the text is written twice, in a cell in quotes."
)
DELIMITERS = {"csv": ",", "tsv": "\t"}


@dataclasses.dataclass(frozen=True)
class Block:
    """Whole rows of a file.

    Attributes:
      text: The rows, without the header.
      path: Their file.
      first_line: 1-based number of the first line in the file.
      names: What the header calls the columns.
      delimiter: What stands between two cells.
      spans: Start and end in `text` of each quoted cell that has a line end.
      padded: Whether the last column, without a name, is the nothing after a delimiter
        that ends each row, but not the header.
    """

    text: bytes
    path: str
    first_line: int
    names: tuple[str, ...]
    delimiter: str
    spans: tuple[tuple[int, int], ...] = ()
    padded: bool = False

    def starts(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns where each row starts in the text, and its line number.

        Blank lines are no rows.
        """
        if not self.text:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        raw = np.frombuffer(self.text, np.uint8)
        ends = np.flatnonzero(raw == ord("\n")) + 1
        starts = np.append(0, ends)[: len(ends) + (not self.text.endswith(b"\n"))]
        is_row = raw[starts] != ord("\n")
        returns = np.flatnonzero(raw[starts] == ord("\r"))
        following = np.minimum(starts[returns] + 1, len(raw) - 1)
        is_row[returns] = raw[following] != ord("\n")
        for first, last in self.spans:
            low, high = np.searchsorted(starts, [first + 1, last])
            is_row[low:high] = False
        return starts[is_row], self.first_line + np.flatnonzero(is_row)

    def rows(self) -> Iterator[tuple[int, list[bytes]]]:
        """Yields line number and cells of each row; slow, to find what is wrong."""
        starts, lines = self.starts()
        ends = np.append(starts, len(self.text))[1:].tolist()
        for line, start, end in zip(lines.tolist(), starts.tolist(), ends, strict=True):
            yield line, split(self.text[start:end], self.delimiter)


def split(row: bytes, delimiter: str) -> list[bytes]:
    """Returns the cells of one row.

    Example:
      >>> split(b'a,"b,c",d', ",")
      [b'a', b'b,c', b'd']
    """
    text = io.StringIO(row.decode("latin-1"), newline="")  # any byte is a character
    try:
        cells = next(csv.reader(text, delimiter=delimiter), [])
    except csv.Error:  # a cell of more than 128 KB
        return row.rstrip(b"\r\n").split(delimiter.encode())
    return [cell.encode("latin-1") for cell in cells]


def blocks(path: str, input_format: str) -> Iterator[Block]:
    """Yields the rows of a file, some megabytes at a time; at least one block.

    Raises:
      DataError: The file is empty or no UTF-8 text, a quote is not closed, or a quoted
        cell spans very many lines.
    """
    delimiter = DELIMITERS[input_format]
    names: tuple[str, ...] = ()
    padded = False
    tail, line = b"", 1
    with open_binary(path) as (content, _):
        while True:
            data = content.read(_BLOCK_BYTES)
            if not names:
                if data.startswith(_UTF_16_MARKS):
                    raise DataError(
                        f"{path}: expected UTF-8, found UTF-16. Save it as 'CSV UTF-8',"
                        " or: iconv -f utf-16 -t utf-8 FILE."
                    )
                data = data.removeprefix(_BYTE_ORDER_MARK)
            text = tail + data
            if b"\n" not in text and (b"\r" in text[:-1] or not data):
                text = text.replace(b"\r", b"\n")  # line ends of old Macs
            cut, spans = _cut(text, path, line, delimiter, at_end=not data)
            if not cut and data:
                if len(text) > _MAX_ROW_BYTES:
                    raise DataError(
                        f"{path}:{line}: expected rows of at most "
                        f"{_MAX_ROW_BYTES >> 20} MB, found no line end."
                    )
                tail = text
                continue
            text, tail = text[:cut], text[cut:]
            if not names:
                names, size, padded = _header(text, path, delimiter)
                line += text[:size].count(b"\n")
                text = text[size:]
                spans = tuple((a - size, b - size) for a, b in spans if a >= size)
                yield Block(text, path, line, names, delimiter, spans, padded)
            elif text:
                yield Block(text, path, line, names, delimiter, spans, padded)
            if not data:
                return
            line += text.count(b"\n")


def _quoted(delimiter: str) -> re.Pattern[bytes]:
    """Returns the pattern of a quoted cell; its last group is empty if it is open."""
    separator = re.escape(delimiter).encode()
    # The quote comes first, for which the search is quick.
    at_start = rb"(?:(?<=[\r\n" + separator + rb']")|(?<=\A"))'
    return re.compile(rb'"' + at_start + rb'[^"]*(?:""[^"]*)*("|\Z)')


def _cut(
    text: bytes, path: str, line: int, delimiter: str, *, at_end: bool
) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Returns where the last whole row ends, and the cells that span lines."""
    stop = len(text)
    spans: list[tuple[int, int]] = []
    whole = text if at_end else text[: text.rfind(b"\n") + 1]
    if _within_lines(whole, delimiter):
        return len(whole), ()
    for first, last, lines, closed in _several_lines(text, delimiter):
        if lines > _MAX_CELL_LINES or (at_end and not closed):
            raise DataError(
                f"{_place(text, first, path, line)}: expected the quote that "
                "opens a cell here to be closed, found "
                + ("no other one" if at_end and not closed else f"{lines:,} lines")
                + f" after it: {_shown(text[first:last])}. {_ADVICE}"
            )
        if not closed:
            stop = first
            break
        following = text[last : last + 1]
        if following not in (b"", b"\r", b"\n", delimiter.encode()):
            raise DataError(
                f"{_place(text, first, path, line)}: expected the quote that opens a "
                "cell here to be closed at the end of a cell, found it closed "
                f"{lines:,} line{'s' if lines > 1 else ''} later before "
                f"{_shown(text[last : last + 20])}. {_ADVICE}"
            )
        spans.append((first, last))
    if at_end:
        return len(text), tuple(spans)
    for first, last in reversed(spans):
        if cut := text.rfind(b"\n", last, stop) + 1:
            break
        stop = first
    else:
        cut = text.rfind(b"\n", 0, stop) + 1
    return cut, tuple(span for span in spans if span[1] <= cut)


def _within_lines(text: bytes, delimiter: str) -> bool:
    """Whether surely no quoted cell has a line end; much faster than a look at each.

    True if the quotes of each line are even in number and each one that opens stands
    where a cell begins, or after another that would have closed.
    """
    if b'"' not in text:
        return True
    raw = np.frombuffer(text, np.uint8)
    quotes = np.flatnonzero(raw == ord('"'))
    before = np.searchsorted(quotes, np.flatnonzero(raw == ord("\n")))
    if len(quotes) % 2 or (before % 2).any():
        return False
    # Even numbers before, so the place in the line is as odd as that in the text.
    left = np.where(quotes[::2] > 0, raw[quotes[::2] - 1], ord("\n"))
    return bool(np.isin(left, [ord(c) for c in '\r\n"' + delimiter]).all())


def _several_lines(text: bytes, delimiter: str) -> list[tuple[int, int, int, bool]]:
    """Returns start, end, line ends and whether it is closed, of quoted cells.

    Those with a line end, and one that is not closed, which is the last.
    """
    cell = None
    spans = [(cell := found).span() for found in _quoted(delimiter).finditer(text)]
    if cell is None:
        return []
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
    first, last = np.searchsorted(ends, np.array(spans)).T
    lines = last - first
    several = np.flatnonzero(lines).tolist()
    number = len(spans) - 1
    closed = bool(cell[1])
    if not closed and number not in several[-1:]:
        several.append(number)
    return [(*spans[i], int(lines[i]), closed or i < number) for i in several]


def _place(text: bytes, position: int, path: str, line: int) -> str:
    before = text.count(b"\n", 0, position)
    return f"{path}:{line + before}"


def _shown(text: bytes) -> str:
    return repr(text[:40].decode("utf-8", "replace"))


def _header(
    text: bytes, path: str, delimiter: str
) -> tuple[tuple[str, ...], int, bool]:
    """Returns names of the columns, where the rows begin, and `Block.padded`."""
    start = len(text) - len(text.lstrip(b"\r\n"))
    if not text.strip():
        raise DataError(f"{path}: expected a header line, found an empty file.")
    end = text.find(b"\n", start) + 1 or len(text)
    quoted = _quoted(delimiter)
    while end < len(text) and any(
        not cell[1] for cell in quoted.finditer(text[start:end])
    ):
        end = text.find(b"\n", end) + 1 or len(text)
    try:
        names = [name.decode() for name in split(text[start:end], delimiter)]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: expected a header in UTF-8, found the bytes "
            f"{text[start:end][:60]!r}. Convert the file first, for example: "
            "iconv -f latin1 -t utf-8 FILE."
        ) from error
    following = text[end:].lstrip(b"\r\n")[:_BLOCK_BYTES]
    row = split(following.partition(b"\n")[0], delimiter)
    padded = len(row) == len(names) + 1 and not row[-1]
    return (*names, *([""] if padded else [])), end, padded
