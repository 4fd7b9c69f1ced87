"""LibSVM / SVMrank text to `Lists`.

One line is one document: `grade qid:ID index:value ... # comment`. Indices count from
1, may come in any order, and features that are not written are 0. A comment such as
`#docid = GX008-86 inc = 1` names the document; without one its line number does.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

import numpy as np

from tfr_pipeline.data import ids
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.oddities import Oddities
from tfr_pipeline.data.sources import libsvm_tokens
from tfr_pipeline.data.sources.class_names import ClassNumbers
from tfr_pipeline.data.sources.libsvm_chunks import Chunk
from tfr_pipeline.errors import DataError

# Not what is said next where the id itself is missing: `docid = inc = 1`.
_DOCUMENT_ID = re.compile(rb"doc[-_ ]?id\s*[=:]\s*(?!\S+\s*=\s)(\S+)", re.IGNORECASE)
# Lines parsed at once: arrays of their tokens then stay in the second-level cache.
_BLOCK_LINES = 128
# A larger index is a broken line rather than a feature: each has a name and a
# place in every document.
MAX_INDEX = 1 << 20
# Elements of the dense matrix of one piece (16 MB), unless one list has more.
_MAX_ELEMENTS = 1 << 22


class FeatureIndexError(DataError):
    """A feature index is beyond the number of features."""


@dataclasses.dataclass
class Parsed:
    """What a chunk holds.

    Attributes:
      lists: The lists, with `values["float32"]` of shape `[documents, features]`.
      places: `(path, line number)` of the first document of each list.
      bytes_read: Size of the input consumed so far, if known.
      oddities: What deserves a word, in tables.
    """

    lists: Lists
    places: list[tuple[str, int]]
    bytes_read: int = 0
    oddities: Oddities = dataclasses.field(default_factory=Oddities)


@dataclasses.dataclass
class _Rows:
    """The documents of a chunk before their features are parsed; parallel lists."""

    lines: list[int] = dataclasses.field(default_factory=list)
    labels: list[float] = dataclasses.field(default_factory=list)
    queries: list[bytes] = dataclasses.field(default_factory=list)
    documents: list[bytes | None] = dataclasses.field(default_factory=list)
    features: list[bytes] = dataclasses.field(default_factory=list)


def parse(
    chunk: Chunk,
    num_features: int | None = None,
    nan: str = "error",
    labelled: bool = True,
) -> Iterator[Parsed]:
    """Parses a chunk; yields pieces whose dense matrix has a bounded size.

    Args:
      chunk: Text of whole lists.
      num_features: Width of the result; by default the largest index of the chunk.
      nan: What to do with a NaN or infinite value: `error`, `keep`, or `zero`.
      labelled: Whether a line must have a label of 0 or more. Otherwise it may have
        another number or none, which is -1.

    Raises:
      FeatureIndexError: A feature index is above `num_features`.
      DataError: A line is malformed; the message has file, line and token.
    """
    rows = _split(chunk, labelled)
    if num_features is None:
        num_features = max_index(chunk)
    splits, names = _query_splits(chunk, rows)
    limit = max(1, _MAX_ELEMENTS // max(1, num_features))
    start = 0
    while start < len(names):
        last = int(np.searchsorted(splits, splits[start] + limit, side="right")) - 1
        stop = max(start + 1, last)
        first, end = int(splits[start]), int(splits[stop])
        if chunk.classes is not None:
            rows.documents[first:end] = [
                number.encode() if name is None else name
                for name, number in zip(
                    rows.documents[first:end], names[start:stop], strict=True
                )
            ]
        documents = _document_ids(chunk, rows, first, end)
        lists = Lists(
            values={"float32": _values(chunk, rows, first, end, num_features, nan)},
            row_splits=splits[start : stop + 1] - first,
            labels=np.array(rows.labels[first:end], np.float32),
            query_ids=_strings(
                names[start:stop] if chunk.classes is None else documents
            ),
            document_ids=_strings(documents),
        )
        places = [chunk.place(rows.lines[int(row)]) for row in splits[start:stop]]
        yield Parsed(lists, places)
        start = stop


def _query_splits(chunk: Chunk, rows: _Rows) -> tuple[np.ndarray, list[str]]:
    """Returns the row splits of the lists of a chunk, and their query ids."""
    if chunk.lengths is not None:
        splits = np.concatenate([[0], np.cumsum(chunk.lengths)]).astype(np.int64)
        first = chunk.first_list + 1
        return splits, [str(first + number) for number in range(len(chunk.lengths))]
    queries = rows.queries
    starts = [
        row
        for row, query in enumerate(queries)
        if row == 0 or query != queries[row - 1]
    ]
    names = _decoded(chunk, rows, [(row, queries[row]) for row in starts], "query")
    return np.array([*starts, len(queries)], np.int64), names


def _document_ids(chunk: Chunk, rows: _Rows, first: int, end: int) -> list[str]:
    """Returns the ids of documents; those without one are called by their line."""
    names = [
        (row, str(chunk.place(rows.lines[row])[1]).encode() if name is None else name)
        for row, name in enumerate(rows.documents[first:end], first)
    ]
    return _decoded(chunk, rows, names, "document")


def _decoded(
    chunk: Chunk, rows: _Rows, names: list[tuple[int, bytes]], kind: str
) -> list[str]:
    try:
        return [name.decode() for _, name in names]
    except UnicodeDecodeError:
        for row, name in names:
            place = functools.partial(_where, chunk, rows.lines[row])
            ids.decode(name, kind, place)  # raises
        raise


def max_index(chunk: Chunk) -> int:
    """Returns the largest feature index of a chunk, 0 if it has no feature."""
    rows = _split(chunk, labelled=False)
    largest = 0
    for start in range(0, len(rows.lines), _BLOCK_LINES):
        indices, _, _ = _block(chunk, rows, start, start + _BLOCK_LINES, None, "keep")
        largest = max(largest, int(indices.max(initial=0)))
    return largest


def _strings(values: list[str]) -> np.ndarray:
    result = np.empty(len(values), object)
    result[:] = values
    return result


def _where(chunk: Chunk, line: int) -> str:
    path, number = chunk.place(line)
    return f"{path}:{number}"


def _show(token: bytes) -> str:
    return repr(token[:60].decode("utf-8", "replace"))


def labels_of(chunk: Chunk) -> list[str]:
    """Returns the labels of the lines of a chunk as they are written."""
    rows = (line.partition(b"#")[0].split(None, 1) for line in chunk.text.split(b"\n"))
    heads = [row[0] for row in rows if row]
    return [_class_of(head) for head in heads]


def _class_of(token: bytes) -> str:
    """Returns a label as text; nothing for a line that begins with its features."""
    return "" if b":" in token else token.decode(errors="replace")


def _split(chunk: Chunk, labelled: bool) -> _Rows:
    """Separates label, query and document id of each line from its features."""
    rows = _Rows()
    with_query = chunk.lengths is None
    head = 2 if with_query else 1
    grades: dict[bytes, float] = {}
    numbers = None
    if chunk.classes is not None:
        numbers = ClassNumbers(chunk.classes, labelled)
    for number, line in enumerate(chunk.text.split(b"\n")):
        body, _, comment = line.partition(b"#")
        parts = body.rstrip().split(None, head)
        if not parts:
            continue
        if (not labelled or numbers is not None) and b":" in parts[0]:
            missing = b"-1 " if numbers is None else b": "  # -1 may be a class
            parts = (missing + body.strip()).split(None, head)
        label = grades.get(parts[0])
        if label is None and numbers is not None:
            place = functools.partial(_class_place, chunk, number)
            label = float(numbers([_class_of(parts[0])], place)[0])
        elif label is None:
            label = _grade(chunk, number, parts[0], labelled)
        grades[parts[0]] = label
        if with_query:
            if len(parts) < 2 or not parts[1].startswith(b"qid:") or len(parts[1]) < 5:
                found = _show(parts[1]) if len(parts) > 1 else "the end of the line"
                raise DataError(
                    f"{_where(chunk, number)}: expected 'qid:ID' after the label, "
                    f"found {found}. Files without it need --query_file."
                )
            rows.queries.append(parts[1][4:])
        elif len(parts) > 1 and parts[1].startswith(b"qid:"):
            if numbers is not None:
                raise DataError(
                    f"{_where(chunk, number)}: expected 'index:value' after the class,"
                    f" found {_show(parts[1].split()[0])}. Lists are to be ranked: "
                    "leave out --classes, or the query."
                )
            raise DataError(
                f"{_where(chunk, number)}: found {_show(parts[1].split()[0])} in a "
                "file that has a query file. Expected one or the other: leave out "
                "--query_file."
            )
        rows.lines.append(number)
        rows.labels.append(label)
        rows.features.append(parts[head] if len(parts) > head else b"")
        named = _DOCUMENT_ID.search(comment) if comment else None
        rows.documents.append(named.group(1) if named else None)
    return rows


def _class_place(chunk: Chunk, line: int, _: int) -> str:
    return _where(chunk, line)


def _grade(chunk: Chunk, line: int, token: bytes, labelled: bool) -> float:
    try:
        grade = libsvm_tokens.nearest_float32(token)
        if not labelled:
            return grade if math.isfinite(grade) else -1.0
    except ValueError:
        grade = math.nan
    if not math.isfinite(grade):
        raise DataError(
            f"{_where(chunk, line)}: expected a number as label at the start of the "
            f"line, found {_show(token)}."
        )
    if grade < 0:
        raise DataError(
            f"{_where(chunk, line)}: expected a grade of 0 or more, found "
            f"{_show(token)}. Leave out documents that nobody judged, or grade them 0."
        )
    return grade


def _values(
    chunk: Chunk, rows: _Rows, first: int, end: int, num_features: int, nan: str
) -> np.ndarray:
    """Returns float32 `[documents, features]` of the documents `first:end`."""
    result = np.zeros((end - first, num_features), np.float32)
    for start in range(first, end, _BLOCK_LINES):
        stop = min(start + _BLOCK_LINES, end)
        indices, values, counts = _block(chunk, rows, start, stop, num_features, nan)
        block = result[start - first : stop - first]
        width = int(counts[0])
        dense = width > 0 and bool((counts == width).all())
        if dense and (indices.reshape(-1, width) == indices[:width]).all():
            block[:, indices[:width] - 1] = values.reshape(-1, width)
        else:
            block[np.repeat(np.arange(len(counts)), counts), indices - 1] = values
    return result


def _block(
    chunk: Chunk,
    rows: _Rows,
    start: int,
    stop: int,
    num_features: int | None,
    nan: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns checked indices and values of some documents, and tokens of each."""
    lines = rows.features[start:stop]
    parsed = _parse_fast(lines)
    if parsed is not None and not (parsed.has_nonfinite and nan == "error"):
        limit = MAX_INDEX if num_features is None else num_features
        indices = parsed.indices
        in_range = indices.min(initial=1) >= 1 and indices.max(initial=0) <= limit
        if in_range and not _has_duplicates(indices, parsed.counts):
            if nan == "zero":
                parsed.values[~np.isfinite(parsed.values)] = 0
            return indices, parsed.values, parsed.counts
    slow = [
        _parse_line(_where(chunk, rows.lines[start + row]), line, num_features, nan)
        for row, line in enumerate(lines)
    ]
    return (
        np.array([index for line in slow for index in line], np.int64),
        np.array([value for line in slow for value in line.values()], np.float32),
        np.array([len(line) for line in slow], np.int64),
    )


def _parse_fast(lines: list[bytes]) -> libsvm_tokens.Tokens | None:
    filled = [line for line in lines if line]
    if not filled:
        return None
    parsed = libsvm_tokens.parse(filled)
    if parsed is None:  # perhaps only for tabs or more than one blank
        parsed = libsvm_tokens.parse([b" ".join(line.split()) for line in filled])
    if parsed is not None and len(filled) < len(lines):
        counts = np.zeros(len(lines), np.int64)
        counts[[row for row, line in enumerate(lines) if line]] = parsed.counts
        parsed = dataclasses.replace(parsed, counts=counts)
    return parsed


def _has_duplicates(indices: np.ndarray, counts: np.ndarray) -> bool:
    """Whether an index comes twice in a line."""
    ascending = indices[1:] > indices[:-1]
    ends = np.cumsum(counts)[:-1]
    ascending[ends[(ends > 0) & (ends < len(indices))] - 1] = True
    if ascending.all():
        return False
    rows = np.repeat(np.arange(len(counts)), counts)
    keys = rows * (int(indices.max()) + 1) + indices
    return len(np.unique(keys)) < len(keys)


def _parse_line(
    where: str, line: bytes, num_features: int | None, nan: str
) -> dict[int, float]:
    """Parses the features of one line; knows what is wrong and says it."""
    result: dict[int, float] = {}
    for token in line.split():
        name, colon, number = token.partition(b":")
        try:
            if not colon or not re.fullmatch(rb"-?\d{1,18}", name):
                raise ValueError
            value = libsvm_tokens.nearest_float32(number)
        except ValueError:
            raise DataError(
                f"{where}: expected 'index:value', found {_show(token)}."
            ) from None
        index = int(name)
        if index < 1:
            raise DataError(
                f"{where}: expected feature indices from 1 on, found {_show(token)}. "
                "If the file counts from 0, add 1 to every index."
            )
        if num_features is not None and index > num_features:
            raise FeatureIndexError(
                f"{where}: expected feature indices up to {num_features}, found "
                f"{_show(token)}. Set --num_features to the largest index."
            )
        if index > MAX_INDEX:
            raise DataError(
                f"{where}: expected feature indices up to {MAX_INDEX}, found "
                f"{_show(token)}. Rows are dense: number the features that are "
                "there from 1 on."
            )
        if index in result:
            raise DataError(
                f"{where}: expected each feature once, found index {index} again in "
                f"{_show(token)}."
            )
        if not math.isfinite(value) and nan != "keep":
            if nan == "error":
                raise DataError(
                    f"{where}: expected a finite float32, found {_show(token)}. Use "
                    "--nan=zero to make such values 0."
                )
            value = 0.0
        result[index] = value
    return result
