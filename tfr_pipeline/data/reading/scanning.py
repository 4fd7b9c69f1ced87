"""Files gone through for where records begin and how many documents they have."""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.reading import explain, loading
from tfr_pipeline.data.reading.batch_parser import batch_parser
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.data.reading.wholeness import FOOTER, HEADER
from tfr_pipeline.data.records import formats
from tfr_pipeline.data.records.counting import SPARE, UNKNOWN, count_documents
from tfr_pipeline.data.records.formats import SEQ
from tfr_pipeline.data.records.tfrecord import masked_crc32c
from tfr_pipeline.errors import DataError

_CHUNK = 1 << 25  # bytes that are gone through at once
_SAMPLED, _SAMPLE = 4, 1 << 20  # files, and bytes of each, that an estimate is made of
_LENGTH = struct.Struct("<Q")
# Data with the places of records in it.
_Buffer = tuple[np.ndarray, np.ndarray, np.ndarray]


def names_of(parser: RecordParser) -> list[str]:
    """Returns the features that say how long a list is, where some do."""
    if parser.data_format != SEQ:
        return []
    specs = parser.documents_with_id.items()
    return sorted(n for n, s in specs if isinstance(s, tf.io.FixedLenFeature))


class Scan:
    """Goes through files.

    Args:
      reader: Opens them.
      parser: Parses what cannot be counted quickly.
    """

    def __init__(self, reader: RecordReader, parser: RecordParser):
        self._reader, self._parser = reader, parser
        self._names = names_of(parser)

    def estimate(self, paths: list[str]) -> float:
        """Returns about how many documents files have, by the beginnings of some."""
        chosen = np.linspace(0, len(paths) - 1, _SAMPLED).astype(int)
        documents = size = 0
        for number in sorted(set(chosen.tolist())):
            sizes, counts = next(self.pieces(paths[number], _SAMPLE), ([], []))
            documents, size = documents + sum(counts), size + sum(sizes)
        return documents * sum(map(os.path.getsize, paths)) / max(1, size)

    def is_plain(self, path: str) -> bool:
        """Whether records of a file can be read without those before them."""
        reader = self._reader
        return reader.reads_plain_files and not reader.compression_of(path)

    def check_whole(self, path: str, size: int, count: int) -> None:
        """See `RecordReader.check_whole`."""
        self._reader.check_whole([path], size, count)

    def pieces(
        self, path: str, chunk: int = _CHUNK
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields sizes of records, with what is around them, and their documents.

        Args:
          path: The file.
          chunk: About how many bytes to go through at once.

        Raises:
          DataError: It is damaged, or of another format.
        """
        buffers = self._of_file if self.is_plain(path) else self._of_reader
        for data, starts, stops in buffers(path, chunk):
            counts = count_documents(
                data, starts, stops, self._parser.data_format, self._names
            )
            unknown = np.flatnonzero(counts == UNKNOWN)
            for first in range(0, len(unknown), loading.RECORDS_PER_PARSE):
                some = unknown[first : first + loading.RECORDS_PER_PARSE]
                records = [
                    data[starts[number] : stops[number]].tobytes() for number in some
                ]
                counts[some] = self._parsed(path, records)
            yield stops - starts + HEADER + FOOTER, counts

    @functools.cached_property
    def _parse(self) -> Callable[[Any], dict[str, Any]]:
        return batch_parser(self._parser)

    def _parsed(self, path: str, records: list[bytes]) -> np.ndarray:
        try:
            return np.asarray(self._parse(tf.constant(records))["lengths"])
        except (
            tf.errors.DataLossError,
            tf.errors.InvalidArgumentError,
            formats.NotAListError,
            UnicodeDecodeError,  # of a message that quotes the record
        ) as error:
            raise self._explained(path, error) from error

    def _explained(self, path: str, error: Exception) -> DataError:
        """Raises what is wrong with a file, or returns it."""
        explain.explain([path], self._parser, self._reader)
        message = getattr(error, "message", str(error))
        return DataError(f"{path}: {explain.without_node(message)}")

    def _of_file(self, path: str, chunk: int) -> Iterator[_Buffer]:
        """Yields buffers with the places of records of a file that is not compressed.

        Damage shows where records do not end with the file; checksums are left to
        whoever reads them.
        """
        total, before, held = os.path.getsize(path), 0, 0
        buffer = np.empty(chunk + SPARE, np.uint8)
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer.data[held:-SPARE]):
                held += count
                starts, stops, used = _frames(buffer, held)
                if len(starts):
                    yield buffer, starts, stops
                held -= used
                before += used
                rest = buffer[used : used + held]
                if held + SPARE == len(buffer):  # one record is longer
                    need = HEADER + _LENGTH.unpack_from(buffer.data)[0] + FOOTER
                    header = buffer[:HEADER].tobytes()
                    if (
                        masked_crc32c([header[:8]])[0] != header[8:]
                        or before + need > total
                    ):
                        break
                    buffer = np.empty(need + SPARE, np.uint8)
                buffer[:held] = rest
        if held:
            self._reader.refuse_damaged([path])
            raise DataError(
                f"{path}: expected records to the end, found others from byte "
                f"{before} on. Fetch it again or convert it again."
            )

    def _of_reader(self, path: str, chunk: int) -> Iterator[_Buffer]:
        """Does the same for files that the reader knows how to read."""
        records: list[bytes] = []
        size = 0
        dataset = self._reader([path]).batch(loading.RECORDS_PER_PARSE).prefetch(2)
        iterator = iter(dataset)
        while True:
            try:
                batch = next(iterator).numpy().tolist()
            except StopIteration:
                break
            except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
                raise self._explained(path, error) from error
            records += batch
            size += sum(map(len, batch))
            if size >= chunk:
                yield _joined(records)
                records, size = [], 0
        if records:
            yield _joined(records)


def _joined(records: list[bytes]) -> _Buffer:
    data = np.frombuffer(b"".join([*records, bytes(SPARE)]), np.uint8)
    sizes = np.array([len(record) for record in records], np.int64)
    stops = np.cumsum(sizes)
    return data, stops - sizes, stops


def _frames(buffer: np.ndarray, stop: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns where whole records begin and end, and where the last one's frame does.

    Args:
      buffer: uint8 `[bytes]`, which begins with a record.
      stop: Bytes of it that are filled.
    """
    starts, stops = [], []
    place, unpack, data = 0, _LENGTH.unpack_from, buffer.data
    while place + HEADER <= stop:
        begin = place + HEADER
        end = begin + unpack(data, place)[0]
        if end + FOOTER > stop:
            break
        starts.append(begin)
        stops.append(end)
        place = end + FOOTER
    return np.array(starts, np.int64), np.array(stops, np.int64), place
