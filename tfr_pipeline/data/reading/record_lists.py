"""Packed records as they stand in shards, of which some are read at a time.

A packed record holds whole matrices, so nothing is parsed: what the index says where it
is, is read in large pieces, and matrices are cut out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfr_pipeline.data import store
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.reading import direct, explain
from tfr_pipeline.data.reading.disk_lists import buffers
from tfr_pipeline.data.reading.memory_file import MemoryFile
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.reading.ranges import RecordRange
from tfr_pipeline.data.reading.remote_column import column_of
from tfr_pipeline.data.reading.wholeness import FOOTER, HEADER
from tfr_pipeline.data.records.formats import (
    PACKED_LABELS,
    PACKED_WEIGHTS,
    packed_block,
)
from tfr_pipeline.data.records.wire import (
    FIRST,
    SECOND,
    Messages,
    WireError,
    read_fields,
    read_only,
)
from tfr_pipeline.errors import DataError

_CHECKED = 1 << 22  # bytes of which checksums are compared at once
# Several times as fast as a `TFRecordDataset`. The function behind what says, on every
# call, that datasets are to be preferred.
_records_of = inspect.unwrap(tf.compat.v1.io.tf_record_iterator)


class RecordLists:
    """Lists of packed shards, for training.

    Records are checked when they are read for the first time: their checksums, the
    sizes of their matrices, that numbers are finite.

    Args:
      records: Which records.
      parser: The parser of them; see `possible`.
      label: Name of the label.
      weight: Name of the document weight, or None.

    Attributes:
      lengths: int64 `[lists]`, documents a list.
    """

    def __init__(
        self,
        records: RecordRange,
        parser: RecordParser,
        label: str | None,
        weight: str | None,
    ):
        self._records, self._parser = records, parser
        self.lengths = records.documents
        self._numbers = records.numbers
        large = direct.is_worth_it(records.size)
        self._files = [
            column_of(shard, records.copies.get(shard.path), large)
            for shard in records.shards
        ]
        counts = [len(shard.documents) for shard in records.shards]
        self._ends = np.cumsum(counts)
        self._changes: tuple[Callable[[Lists], Lists], ...] = ()
        # Key in a record, name in `store.columns`, dtype and width of each matrix.
        self._parts: list[tuple[bytes, str, np.dtype, int]] = []
        for dtype in parser.layout.slots:
            stored = parser.stored(dtype)
            width = parser.layout.width(dtype)
            key = packed_block(stored).encode()
            name = f"values/{dtype}"
            self._parts.append((key, name, np.dtype(stored), width))
        float32 = np.dtype(np.float32)
        for wanted, name, text in (
            (label, "labels", PACKED_LABELS),
            (weight, "weights", PACKED_WEIGHTS),
        ):
            if wanted is not None:
                self._parts.append((text.encode(), name, float32, 1))
        # Where in a record each matrix begins; below 0 where that is not known yet.
        self._places = np.full((len(self._parts), len(self.lengths)), -1, np.int32)

    @property
    def fingerprint(self) -> int:
        """See `RecordRange`."""
        return self._records.fingerprint

    @staticmethod
    def possible(parser: RecordParser) -> bool:
        """Whether nothing but matrices is wanted of records."""
        return (
            bool(parser.layout.slots)
            and not parser.context_spec
            and not parser.loose_spec
            and parser.document_id is None
        )

    def changed(self, change: Callable[[Lists], Lists]) -> RecordLists:
        """See `Lists`."""
        other = RecordLists.__new__(RecordLists)
        other.__dict__.update(self.__dict__)
        other._changes = (*self._changes, change)
        return other

    def read(self, numbers: np.ndarray) -> Lists:
        """Reads some lists, without ids.

        Args:
          numbers: int64 `[lists]`, rising.

        Raises:
          DataError: A record is damaged, or has other matrices or no finite numbers.
          RunError: A file cannot be read any more.
        """
        splits = np.concatenate([[0], np.cumsum(self.lengths[numbers])])
        found: dict[str, np.ndarray] = {}
        for _, name, dtype, width in self._parts:
            shape = (int(splits[-1]), *([width] if name.startswith("values") else []))
            found[name] = buffers.array(shape, dtype)
        new = self._places[0, numbers] < 0
        inside = self._numbers[numbers]
        shard_of = np.searchsorted(self._ends, inside, "right")
        begun = []
        for shard in np.unique(shard_of).tolist():
            mine = np.flatnonzero(shard_of == shard)
            before = int(self._ends[shard - 1]) if shard else 0
            begun.append((shard, mine, *self._begin(shard, inside[mine] - before)))
        for shard, mine, wait, starts in begun:
            raw = wait()
            if new[mine].any():
                self._check_new(shard, raw, starts, numbers[mine])
            self._cut(raw, starts, numbers[mine], splits[mine], found)
            del raw  # the next ones go to the same memory
        found["lengths"] = self.lengths[numbers]
        found["query_ids"] = store.no_ids(len(numbers))
        result = store.from_columns(found)
        if new.any():
            paths = [shard.path for shard in self._records.shards]
            explain.check_finite(paths, result, self._parser)
        for change in self._changes:
            result = change(result)
        return result

    def _begin(
        self, shard: int, local: np.ndarray
    ) -> tuple[Callable[[], np.ndarray], np.ndarray]:
        """Begins to read records of a shard.

        Returns:
          What waits for their bytes, and where each begins in them.
        """
        offsets = self._records.shards[shard].offsets
        begins, sizes = offsets[local], offsets[local + 1] - offsets[local]
        breaks = np.flatnonzero(begins[1:] != begins[:-1] + sizes[:-1]) + 1
        firsts = np.concatenate([[0], breaks]).astype(np.int64)
        runs = begins[firsts], np.add.reduceat(sizes, firsts)
        return self._files[shard].begin(*runs), np.cumsum(sizes) - sizes

    def _check_new(
        self, shard: int, raw: np.ndarray, starts: np.ndarray, numbers: np.ndarray
    ) -> None:
        """Checks records, and finds out where their matrices are."""
        path = self._records.shards[shard].path
        try:
            _check_sums(raw, starts)
            ends = np.append(starts[1:], len(raw))
            try:
                found = self._locate_all(raw, starts, ends, numbers)
            except (WireError, IndexError):  # not of one form
                view = memoryview(raw.data)
                found = np.array(
                    [
                        self._locate(view[start + HEADER : end - FOOTER], number)
                        for number, start, end in zip(
                            numbers.tolist(),
                            starts.tolist(),
                            ends.tolist(),
                            strict=True,
                        )
                    ]
                ).T
            self._places[:, numbers] = found
        except (tf.errors.DataLossError, WireError, IndexError, KeyError) as error:
            inside = self._numbers[numbers]
            explain.explain([path], self._parser, self._records.only(inside))
            raise DataError(
                f"{path}: lists {numbers[0]} to {numbers[-1]}: expected packed lists "
                f"as `convert` writes them ({type(error).__name__}: {error}). Convert "
                "the data again."
            ) from error

    def _locate_all(
        self, raw: np.ndarray, starts: np.ndarray, ends: np.ndarray, numbers: np.ndarray
    ) -> np.ndarray:
        """Returns what `_locate` does for each of many records, int64 `[parts, lists]`.

        Raises:
          WireError: They have not the same entries in the same order.
        """
        records = Messages(raw, starts + HEADER, ends - FOOTER)
        places: dict[bytes, np.ndarray] = {}
        sizes: dict[bytes, np.ndarray] = {}
        for entry in records.only(FIRST).each(FIRST):
            key, value = entry.split(FIRST, SECOND)
            name = key.text()
            if any(name == part[0] for part in self._parts):
                matrix = value.only(FIRST).only(FIRST)
                places[name] = matrix.begin - starts
                sizes[name] = matrix.end - matrix.begin
        documents = self.lengths[numbers]
        for name, _, dtype, width in self._parts:
            wanted = documents * width * dtype.itemsize
            if name not in sizes or (sizes[name] != wanted).any():
                raise WireError
        return np.array([places[part[0]] for part in self._parts])

    def _locate(self, record: memoryview, number: int) -> list[int]:
        """Returns where the matrices of a record begin, from the record's frame on."""
        data: bytes = record  # type: ignore[assignment]
        ((start, stop),) = read_only(data, 0, len(data), FIRST)
        found = {}
        for _, begin, end in read_fields(data, start, stop):
            key, value = read_only(data, begin, end, FIRST, SECOND)
            name = bytes(record[key[0] : key[1]])
            if any(name == part[0] for part in self._parts):
                ((kind, last),) = read_only(data, *value, FIRST)  # a list of bytes
                ((first, last),) = read_only(data, kind, last, FIRST)  # of one
                found[name] = first, last - first
        places = []
        for name, _, dtype, width in self._parts:
            first, size = found[name]
            if size != int(self.lengths[number]) * width * dtype.itemsize:
                raise WireError(f"{name.decode()} has {size} bytes")
            places.append(first + HEADER)
        return places

    def _cut(
        self,
        raw: np.ndarray,
        starts: np.ndarray,
        numbers: np.ndarray,
        splits: np.ndarray,
        found: dict[str, np.ndarray],
    ) -> None:
        """Copies matrices from records to where they are wanted."""
        lengths = self.lengths[numbers]
        for part, (_, name, dtype, width) in enumerate(self._parts):
            row = width * dtype.itemsize
            target = found[name].reshape(-1).view(np.uint8)
            sources = (starts + self._places[part, numbers]).tolist()
            for source, place, size in zip(
                sources, (splits * row).tolist(), (lengths * row).tolist(), strict=True
            ):
                target[place : place + size] = raw[source : source + size]


def _check_sums(raw: np.ndarray, starts: np.ndarray) -> None:
    """Compares the checksums of records.

    Args:
      raw: What stands in files, uint8.
      starts: int64 `[records]`, where records begin in it, one behind the other.

    Raises:
      DataLossError: A record is damaged.
      WireError: There are not so many.
    """
    ends = np.append(starts, len(raw))
    file = MemoryFile(b"")
    first = 0
    while first < len(starts):
        last = int(np.searchsorted(ends, ends[first] + _CHECKED, "right")) - 1
        last = max(first + 1, last)
        file.replace(raw[ends[first] : ends[last]].data)
        if sum(1 for _ in _records_of(file.path)) != last - first:
            raise WireError("fewer records than the index says")
        first = last
