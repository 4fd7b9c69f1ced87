"""A shard made of pieces: lists brought together, put in order, encoded, written."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pickle
import tempfile
import uuid
from collections.abc import Hashable, Iterable, Iterator

import numpy as np

from tfr_pipeline.data.convert import staged
from tfr_pipeline.data.convert.job import Target, encode_lists
from tfr_pipeline.data.convert.pieces import MARK, Piece
from tfr_pipeline.data.convert.statistics import Statistics
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.records.index import ShardIndex, Writing
from tfr_pipeline.data.sources.libsvm import Parsed
from tfr_pipeline.errors import RunError

# Pieces of a shard beyond this wait on the disk.
_IN_MEMORY = 64 << 20
_BATCH_ELEMENTS = 1 << 20  # of the matrix that is encoded at once
# Where a part of a list is: file, number in it, piece, position in that.
_Place = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Rules:
    """How pieces become lists.

    Attributes:
      paths: The files of the input; for messages.
      joins_queries: Whether lists with one query id are one.
      before: Maps the number of a file to the lists and documents in the files before
        it; None where no id is a number.
    """

    paths: list[str]
    joins_queries: bool
    before: dict[int, tuple[int, int]] | None = None


@dataclasses.dataclass
class Written:
    """What a shard holds.

    Attributes:
      statistics: Its counts; None if it has no list.
      gathered: Number of lists whose parts stood in several places, and the query id of
        the first.
      index: Where its lists are.
    """

    statistics: Statistics | None = None
    gathered: tuple[int, str] = (0, "")
    index: ShardIndex | None = None


def write_shard(
    path: str, pieces: Iterable[bytes], target: Target, rules: Rules
) -> Written:
    """Writes a shard: lists in the order of their first documents in the input.

    Memory: some pieces, one list, and about 300 bytes for each list; the pieces wait
    in a temporary file of this machine (`TMPDIR`).

    Args:
      path: The file; another one of the name is replaced. Its folder must be there.
      pieces: Pickled `Piece`s, in any order.
      target: How to write.
      rules: How to read them.

    Raises:
      DataError: A list cannot be written.
      RunError: A disk is full, or the folder is gone.
    """
    written = Written()
    try:
        with contextlib.closing(_Spool()) as spool:
            groups = _in_order(spool, pieces, rules.joins_queries)
            lists = _joined(spool, groups, target, rules, written)
            written.index = _write_records(path, _encoded(lists, target, written))
    except OSError as error:
        raise RunError(
            f"{error.filename or path}: cannot be written: {error.strerror or error}. "
            f"Nothing was changed; temporary files were in {tempfile.gettempdir()!r}."
        ) from error
    return written


def _write_records(
    path: str, batches: Iterable[tuple[list[bytes], np.ndarray]]
) -> ShardIndex:
    """Writes the records of a shard; returns their index.

    Args:
      path: The shard.
      batches: Framed records, and the number of documents of each.
    """
    writing = Writing(path)
    temporary = f"{path}.{uuid.uuid4().hex[:8]}.part"  # of a worker that may be a twin
    try:
        with open(temporary, "wb") as file:
            for records, lengths in batches:
                staged.check_wanted(os.path.dirname(path))
                file.writelines(records)
                for record, length in zip(records, lengths.tolist(), strict=True):
                    writing.add(length, len(record))
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)
    return writing.index()


class _Spool:
    """Pickled pieces on the disk of this machine; in memory while they are few."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
        self._ends = [0]
        # Neighbours in the shard come from the same few pieces.
        self.piece = functools.lru_cache(maxsize=4)(self._load)

    def add(self, raw: bytes) -> int:
        """Keeps a piece; returns its number."""
        self._file.write(raw)
        self._ends.append(self._ends[-1] + len(raw))
        return len(self._ends) - 2

    def _load(self, number: int) -> Piece:
        start, end = self._ends[number : number + 2]
        self._file.seek(start)
        return pickle.loads(self._file.read(end - start))

    def close(self) -> None:
        """Removes all of it."""
        self._file.close()


def _in_order(
    spool: _Spool, pieces: Iterable[bytes], joins_queries: bool
) -> list[list[_Place]]:
    """Returns the places of the parts of each list; lists and parts are sorted."""
    groups: dict[Hashable, list[_Place]] = {}
    for raw in pieces:
        piece, number = pickle.loads(raw), spool.add(raw)
        found = zip(piece.lists.query_ids.tolist(), piece.numbers.tolist(), strict=True)
        for position, (query, line) in enumerate(found):
            key = query if joins_queries else (piece.file, line)
            place = piece.file, line, number, position
            groups.setdefault(key, []).append(place)
    for places in groups.values():
        places.sort()
    return sorted(groups.values())


def _joined(
    spool: _Spool,
    groups: list[list[_Place]],
    target: Target,
    rules: Rules,
    written: Written,
) -> Iterator[Parsed]:
    """Yields lists, several at a time; counts those that were in several places."""
    batch: list[Lists] = []
    places: list[tuple[str, int]] = []
    elements = 0
    for group in groups:
        parts = [
            _whole(spool.piece(number), position, target.num_features, rules.before)
            for _, _, number, position in group
        ]
        lists = Lists.concatenate(parts)
        if len(parts) > 1:
            lists = lists.regrouped(
                np.zeros(1, np.int64), np.array([0, lists.num_documents])
            )
            count, query = written.gathered
            written.gathered = count + 1, query or str(lists.query_ids[0])
        batch.append(lists)
        places.append((rules.paths[group[0][0]], group[0][1]))
        elements += lists.values["float32"].size
        if elements >= _BATCH_ELEMENTS:
            yield Parsed(Lists.concatenate(batch), places)
            batch, places, elements = [], [], 0
    if batch:
        yield Parsed(Lists.concatenate(batch), places)


def _whole(
    piece: Piece,
    position: int,
    width: int,
    before: dict[int, tuple[int, int]] | None,
) -> Lists:
    """Returns a part of a list with the features that all have, and its real ids."""
    lists = piece.lists.slice(position, position + 1)
    matrix = lists.values["float32"]
    if (missing := width - matrix.shape[1]) > 0:
        lists.values["float32"] = np.pad(matrix, ((0, 0), (0, missing)))
    if before is not None:
        first_list, first_document = before[piece.file]
        lists.query_ids = _counted_on(lists.query_ids, first_list)
        lists.document_ids = _counted_on(lists.document_ids, first_document)
    return lists


def _counted_on(names: np.ndarray, first: int) -> np.ndarray:
    """Returns ids with what has a mark made a number among all of the input."""
    result = np.empty(len(names), object)
    result[:] = [
        str(first + int(name[1:])) if name.startswith(MARK) else name
        for name in names.tolist()
    ]
    return result


def _encoded(
    batches: Iterable[Parsed], target: Target, written: Written
) -> Iterator[tuple[list[bytes], np.ndarray]]:
    """Yields framed records and their lengths; counts what is in them."""
    for parsed in batches:
        records, statistics = encode_lists(target, parsed)
        if written.statistics is None:
            written.statistics = statistics
        else:
            written.statistics.add(statistics)
        yield records, parsed.lists.lengths


def total(shards: Iterable[Written]) -> Written:
    """Returns what all shards hold, in their order."""
    result = Written()
    for shard in shards:
        if result.statistics is None:
            result.statistics = shard.statistics
        elif shard.statistics is not None:
            result.statistics.add(shard.statistics)
        result.gathered = (
            result.gathered[0] + shard.gathered[0],
            result.gathered[1] or shard.gathered[1],
        )
    return result
