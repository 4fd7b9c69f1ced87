"""Reads TFRecord files of ranked lists into memory, once, in order.

Parsing is parallel and vectorised; what comes out is `Lists`, in memory or mapped from
a cache folder.
"""

from __future__ import annotations

import collections
import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline import urls
from tfr_pipeline.data import ids, store
from tfr_pipeline.data.batching import loose
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.progress import Progress
from tfr_pipeline.data.reading import cache, explain, pointwise
from tfr_pipeline.data.reading.batch_parser import batch_parser
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.reading.ranges import RecordRange
from tfr_pipeline.data.reading.record_reader import RecordReader, framed_size
from tfr_pipeline.data.records import formats
from tfr_pipeline.data.records.formats import (
    AUTO,
    ELWC,
    EXAMPLE,
    MESSAGES,
    PACKED,
    SEQ,
    recognize,
)
from tfr_pipeline.errors import DataError
from tfr_pipeline.layout import FEATURE_DTYPES

Reader = Callable[[list[str]], Any]
_PLAIN = RecordReader()
RECORDS_PER_PARSE = 32
EXAMPLES_PER_PARSE = 2048  # lists of one document
_SNIFFED = 5  # records that are looked at


def sniff_format(
    paths: str | list[str], reader: Reader = _PLAIN, wanted: str = AUTO
) -> str:
    """Returns the format of files after their first records.

    Args:
      paths: One file or several; the first that has records tells.
      reader: Makes a dataset of serialized records from file names.
      wanted: The format that they should have; `auto` for any.

    Raises:
      DataError: They have another.
    """
    for path in _with_records(reader, [paths] if isinstance(paths, str) else paths):
        kinds: list[str] = []
        # What is wrong with a file is found, and explained, when it is read.
        with contextlib.suppress(tf.errors.OpError):
            for record in _beginning(reader, path, _SNIFFED):
                kind = recognize(record.numpy())
                kinds += [kind] if kind else []
        _tell(reader)
        if not kinds:
            continue
        # A SequenceExample without documents looks like an Example.
        found = SEQ if kinds[0] == EXAMPLE and SEQ in kinds else kinds[0]
        if wanted not in (AUTO, found):
            raise DataError(
                f"{path}: expected {MESSAGES[wanted]} in each record, for the "
                f"input_format is {wanted!r}; found {MESSAGES[found]}. Set "
                f"input_format to {found!r}."
            )
        return found
    return ELWC if wanted == AUTO else wanted


def of_stored(
    parser: RecordParser, paths: list[str], reader: Reader = _PLAIN
) -> RecordParser:
    """Returns a parser for what packed files hold their float32 features as.

    The first record tells; `iterate` refuses those that differ from it.
    """
    if parser.data_format != PACKED:
        return parser
    for path in _with_records(reader, paths):
        with contextlib.suppress(tf.errors.OpError):  # as above
            for record in _beginning(reader, path, 1):
                found = formats.feature_dtype(record.numpy())
                return parser.of_stored(found or FEATURE_DTYPES[0])
        _tell(reader)
    return parser


def _with_records(reader: Reader, paths: list[str]) -> list[str]:
    """Returns those of the files that are read at all."""
    return reader.paths if isinstance(reader, RecordRange) else paths


def _beginning(reader: Reader, path: str, count: int) -> Any:
    """Returns the first records of a file, without reading many more."""
    if isinstance(reader, RecordRange):
        reader = reader.beginning(path, count)
    return reader([path]).take(count)


def _tell(reader: Reader) -> None:
    """Raises what went wrong in reading; what is wrong with records is found later."""
    if isinstance(reader, RecordRange):
        reader.tell()


def iterate(
    paths: list[str],
    parser: RecordParser,
    label: str | tuple[str, ...] | None,
    weight: str | None = None,
    reader: Reader = _PLAIN,
    *,
    grouped: bool = True,
) -> Iterator[Lists]:
    """Yields the lists of the files in order, some at a time.

    Args:
      paths: TFRecord files.
      parser: Parser for their records; label and weight are among its `extra_spec`.
      label: Name of the label, names of the labels of several tasks, or None when
        there is none to be had.
      weight: Name of the document weight, or None.
      reader: Makes a dataset of serialized records from file names.
      grouped: Whether examples in a row that have the same query id are one list;
        otherwise every example is one.

    Raises:
      DataError: A file is corrupt or does not match the specs; the message names the
        file, the record and the feature.
    """
    parser = of_stored(parser, paths, reader)
    examples = parser.data_format == EXAMPLE
    size = EXAMPLES_PER_PARSE if examples else RECORDS_PER_PARSE
    dataset = reader(paths).batch(size).prefetch(2)
    parse = batch_parser(parser)

    def parse_and_count(serialized: Any) -> tuple[dict[str, Any], int]:
        return parse(serialized), framed_size(serialized)

    def parts() -> Iterator[Lists]:
        first = bytes_read = documents = 0
        total = reader.size if isinstance(reader, RecordRange) else _size(paths)
        title = urls.redact(f"reading {os.path.dirname(paths[0])}")
        progress = Progress(total, title)
        try:
            for batch, framed in _in_threads(parse_and_count, dataset):
                part = to_lists(batch, first, label, weight)
                first += part.num_lists
                documents += part.num_documents
                bytes_read += framed
                progress.update(bytes_read, documents)
                yield part
        except tf.errors.OpError:
            _tell(reader)
            raise
        progress.clear()
        if isinstance(reader, RecordReader):
            reader.check_whole(paths, bytes_read, first)
        elif isinstance(reader, RecordRange) and bytes_read != reader.size:
            raise DataError(
                f"{', '.join(paths)}: expected {reader.size} bytes of records, as the "
                f"index says, found {bytes_read}. {reader.shards[0].advice}"
            )

    try:
        if examples and grouped and parser.query_id:
            yield from pointwise.group(parts(), parser.query_id, paths)
        else:
            yield from parts()
    except (
        tf.errors.DataLossError,
        tf.errors.InvalidArgumentError,
        formats.NotAListError,
        UnicodeDecodeError,  # of an id, or of a message that quotes the record
    ) as error:
        explain.explain(paths, parser, whole_of(reader))
        if isinstance(error, UnicodeDecodeError):
            where = ", ".join(paths)
            raise ids.not_utf8(error.object, "query or document", where) from error
        problem = explain.without_node(getattr(error, "message", str(error)))
        raise DataError(f"{', '.join(paths)}: {problem}") from error


def whole_of(reader: Reader) -> Reader:
    """Returns what reads whole files, where they are at hand."""
    return reader.whole if isinstance(reader, RecordRange) and reader.local else reader


def _size(paths: list[str]) -> int:
    """Returns the size of files; 0 of one that is not there, which a reader tells."""
    return sum(os.path.getsize(path) for path in paths if os.path.exists(path))


def _in_threads(function: Callable[[Any], Any], dataset: Any) -> Iterator[Any]:
    """Yields the function of each element, in order, on all processors."""
    workers = os.cpu_count() or 1
    waiting: collections.deque[Any] = collections.deque()
    with futures.ThreadPoolExecutor(workers) as pool:
        for element in dataset:
            waiting.append(pool.submit(function, element))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def load(
    paths: list[str],
    parser: RecordParser,
    label: str | tuple[str, ...] | None,
    weight: str | None = None,
    reader: Reader = _PLAIN,
    cache_folder: str = "",
    transform: Callable[[Lists], Lists] | None = None,
    before_building: Callable[[], object] = lambda: None,
) -> Lists:
    """Reads all lists of the files, holding little more than what it returns.

    Args:
      paths: See `iterate`, as the next four.
      parser: See `iterate`.
      label: See `iterate`.
      weight: See `iterate`.
      reader: See `iterate`.
      cache_folder: Keeps the lists there, from where the next call takes them, mapped
        into memory; see `tfr_pipeline.data.reading.cache`. In memory by default.
      transform: Applied to the lists, part by part; one function, known by its name.
      before_building: Called before a cache is built, unless it is there.

    Raises:
      DataError: As `iterate`, and when the files hold no document, or a feature, a
        label or a weight that no model can use (NaN or infinite).
      RunError: The cache cannot be written.
    """

    whole = reader.whole if isinstance(reader, RecordRange) else reader

    def parts() -> Iterator[Lists]:
        documents = 0
        named = parser.document_id is None
        for part in iterate(paths, parser, label, weight, reader):
            if part.num_lists:
                explain.check_finite(paths, part, parser)
                documents += part.num_documents
                named = named or bool((part.document_ids != "").any())
                yield transform(part) if transform else part
        if not documents:
            raise DataError(
                f"{', '.join(paths)}: expected ranked lists, found no document."
            )
        if isinstance(reader, RecordRange) and not reader.local:
            first = reader.paths[0]
            sample = reader.beginning(first, explain.SAMPLED)
            explain.check_present(first, parser, sample)
        else:
            explain.check_present(paths[0], parser, whole)
        if not named:
            warnings.warn(
                f"{paths[0]}: document ids were asked for, and no document has the "
                f"feature {parser.document_id!r}; all ids are empty.",
                stacklevel=2,
            )

    if not cache_folder:
        return store.collect(parts(), parser.document_id is not None)
    how: tuple[Any, ...] = label, weight, whole, transform
    if isinstance(reader, RecordRange):
        how = *how, str(reader)
    made_of = cache.fingerprint(paths, parser, *how)

    def building() -> Iterator[Lists]:
        before_building()
        return parts()

    return cache.load(cache_folder, made_of, building)


def texts(ids: np.ndarray) -> np.ndarray:
    """Returns parsed ids, `[n]`, as object `[n]` of `str`."""
    # A query id may be numeric in other people's data.
    return np.array(
        [one.decode() if isinstance(one, bytes) else str(one) for one in ids],
        dtype=object,
    )


def to_lists(
    batch: dict[str, Any],
    first: int,
    label: str | tuple[str, ...] | None,
    weight: str | None,
) -> Lists:
    """Returns what a `batch_parser` returned as lists, numbered from `first`."""
    lengths = batch["lengths"]

    def flat(name: str | tuple[str, ...] | None) -> Any:
        if name is None:
            return None
        if isinstance(name, tuple):
            return np.stack([flat(task) for task in name], axis=1)
        return batch["extra"][name].reshape(-1).astype(np.float32)

    def named(key: str, count: int, start: int) -> np.ndarray:
        if key not in batch:
            return np.array([str(start + i) for i in range(count)], dtype=object)
        return texts(batch[key])

    return Lists(
        values=batch["values"],
        row_splits=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=flat(label),
        weights=flat(weight),
        query_ids=named("query_ids", len(lengths), first),
        document_ids=(
            named("document_ids", int(lengths.sum()), 0)
            if "document_ids" in batch
            else store.no_ids(int(lengths.sum()))
        ),
        context=batch["context"],
        loose={name: loose.ragged(flat) for name, flat in batch["loose"].items()},
        loose_context={
            name: loose.ragged(flat) for name, flat in batch["loose_context"].items()
        },
    )
