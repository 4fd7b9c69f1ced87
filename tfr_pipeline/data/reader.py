"""Reads TFRecord files of ranked lists into memory, once, in order.

Parsing is parallel and vectorised; what comes out is `Lists`. When something is wrong
with a file, a slow second look finds the file, the record and the feature.
"""

from __future__ import annotations

import collections
import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.records import PACKED_LABELS, RecordParser
from tfr_pipeline.data.template import BatchParser
from tfr_pipeline.errors import DataError

_RECORDS_PER_PARSE = 32
_ID_SPEC = tf.io.FixedLenFeature((), tf.string, "")


def sniff_format(path: str, reader: Callable[[Any], Any]) -> str:
    """Returns `packed` or `elwc` after the first record of a file."""
    # What is wrong with a file is found, and explained, when it is read.
    with contextlib.suppress(tf.errors.DataLossError):
        for record in reader([path]).take(1):
            return "packed" if PACKED_LABELS.encode() in record.numpy() else "elwc"
    return "elwc"


def iterate(
    paths: list[str],
    parser: RecordParser,
    label: str | None,
    weight: str | None = None,
    reader: Callable[[Any], Any] = tf.data.TFRecordDataset,
) -> Iterator[Lists]:
    """Yields the lists of the files in order, some at a time.

    Args:
      paths: TFRecord files.
      parser: Parser for their records; label and weight are among its `extra_spec`.
      label: Name of the label, or None when there is none to be had.
      weight: Name of the document weight, or None.
      reader: Makes a dataset of serialized records from file names.

    Raises:
      DataError: A file is corrupt or does not match the specs; the message names the
        file, the record and the feature.
    """
    dataset = reader(paths).batch(_RECORDS_PER_PARSE).prefetch(2)
    first = 0
    try:
        for batch in _in_threads(BatchParser(parser), dataset):
            part = _to_lists(batch, first, label, weight)
            first += part.num_lists
            yield part
    except (
        tf.errors.DataLossError,
        tf.errors.InvalidArgumentError,
        UnicodeDecodeError,  # raised for messages that quote the record
    ) as error:
        explain(paths, parser, reader)
        problem = getattr(error, "message", error)
        raise DataError(f"{', '.join(paths)}: {problem}") from error


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
    label: str | None,
    weight: str | None = None,
    reader: Callable[[Any], Any] = tf.data.TFRecordDataset,
) -> Lists:
    """Reads all lists of the files into memory. See `iterate`.

    Raises:
      DataError: As `iterate`, and when the files hold no document, or a feature, a
        label or a weight that no model can use (NaN or infinite).
    """
    parts = [
        part for part in iterate(paths, parser, label, weight, reader) if part.num_lists
    ]
    if not parts or not any(part.num_documents for part in parts):
        raise DataError(
            f"{', '.join(paths)}: expected ranked lists, found no document."
        )
    lists = Lists.concatenate(parts)
    _check_present(paths[0], parser, reader)
    _check_finite(paths, lists, parser)
    return lists


def _to_lists(
    batch: dict[str, Any], first: int, label: str | None, weight: str | None
) -> Lists:
    lengths = batch["lengths"]

    def flat(name: str | None) -> np.ndarray | None:
        if name is None:
            return None
        return batch["extra"][name].reshape(-1).astype(np.float32)

    def texts(key: str, count: int, start: int) -> np.ndarray:
        if key not in batch:
            return np.array([str(start + i) for i in range(count)], dtype=object)
        # A query id may be numeric in other people's data.
        return np.array(
            [r.decode() if isinstance(r, bytes) else str(r) for r in batch[key]],
            dtype=object,
        )

    return Lists(
        values=batch["values"],
        row_splits=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=flat(label),
        weights=flat(weight),
        query_ids=texts("query_ids", len(lengths), first),
        document_ids=(
            texts("document_ids", int(lengths.sum()), 0)
            if "document_ids" in batch
            else np.full(int(lengths.sum()), "", dtype=object)
        ),
        context=batch["context"],
    )


def _check_finite(paths: list[str], lists: Lists, parser: RecordParser) -> None:
    for dtype, block in lists.values.items():
        if dtype != "float32" or np.isfinite(np.sum(block)):
            continue
        bad = ~np.isfinite(block)
        if not bad.any():  # finite values whose sum overflows
            continue
        row, column = np.argwhere(bad)[0]
        slot = next(s for s in parser.layout.slots[dtype] if column < s.stop)
        query = lists.query_ids[np.searchsorted(lists.row_splits, row, "right") - 1]
        raise DataError(
            f"{', '.join(paths)}: feature {slot.name!r} column {column - slot.start} "
            f"is {block[row, column]} in query {query!r} ({int(bad.sum())} such "
            "values). "
            "Expected finite numbers: convert with --nan=zero, or clean the input."
        )
    for name, values in (("label", lists.labels), ("weight", lists.weights)):
        if values is not None and not np.isfinite(values).all():
            row = int(np.argmax(~np.isfinite(values)))
            query = lists.query_ids[np.searchsorted(lists.row_splits, row, "right") - 1]
            raise DataError(
                f"{', '.join(paths)}: {name} {values[row]} in query {query!r}; "
                "expected finite numbers."
            )


def _check_present(
    path: str, parser: RecordParser, reader: Callable[[Any], Any]
) -> None:
    """Refuses a schema of which the data knows no feature at all.

    Every feature may have a default, so a wrong schema parses without complaint and
    trains on constants.
    """
    if parser.data_format == "packed":
        return
    found: set[str] = set()
    for record in reader([path]).take(5):
        for example in _elwc(record.numpy()).examples:
            found.update(example.features.feature)
    missing = sorted(set(parser.example_spec) - found)
    if missing and len(missing) == len(parser.example_spec):
        raise DataError(
            f"{path}: the data has none of the expected features "
            f"({', '.join(missing[:5])}...); found {', '.join(sorted(found)[:8])}. "
            "Is features.json (or the feature spec) of another data set?"
        )


def _elwc(serialized: bytes) -> Any:
    from tensorflow_serving.apis import input_pb2

    return input_pb2.ExampleListWithContext.FromString(serialized)


def explain(
    paths: list[str], parser: RecordParser, reader: Callable[[Any], Any]
) -> None:
    """Raises the precise error for files that did not parse; returns if all is well."""
    for path in paths:
        iterator = iter(reader([path]))
        index = 0
        while True:
            try:
                record = next(iterator)
            except StopIteration:
                break
            except tf.errors.DataLossError as error:
                raise DataError(
                    f"{path}: record {index} is corrupt ({error.message}). The file "
                    "was damaged or cut off; convert it again."
                ) from error
            problem = _mismatch(record.numpy(), parser)
            if problem:
                raise DataError(f"{path}: record {index}: {problem}")
            index += 1


def _mismatch(serialized: bytes, parser: RecordParser) -> str | None:
    """Says how one record differs from the specs, or returns None."""
    from google.protobuf.message import DecodeError

    context_spec = dict(parser.context_spec)
    if parser.query_id:
        context_spec.setdefault(parser.query_id, _ID_SPEC)
    if parser.data_format == "packed":
        try:
            example = tf.train.Example.FromString(serialized)
        except DecodeError as error:
            return f"expected a packed list ({error})."
        if PACKED_LABELS not in example.features.feature:
            return f"expected a packed list, found no {PACKED_LABELS!r}."
        labels = len(example.features.feature[PACKED_LABELS].bytes_list.value[0]) // 4
        for dtype in parser.layout.slots:
            key = f"packed/{dtype}"
            if key not in example.features.feature:
                return f"feature block {key!r} is missing."
            size = len(example.features.feature[key].bytes_list.value[0])
            width = parser.layout.width(dtype)
            step = tf.dtypes.as_dtype(dtype).size
            if size != labels * width * step:
                return (
                    f"features of dtype {dtype}: expected {width} values a document, "
                    f"found {size / step / max(labels, 1):g}."
                )
        return _compare(example.features.feature, context_spec)
    try:
        elwc = _elwc(serialized)
    except DecodeError as error:
        return f"expected a serialized ExampleListWithContext ({error})."
    wanted = {**parser.example_spec, **parser.extra_spec}
    if parser.document_id:
        wanted[parser.document_id] = _ID_SPEC
    for example in elwc.examples:
        problem = _compare(example.features.feature, wanted)
        if problem:
            return problem
    return _compare(elwc.context.features.feature, context_spec)


def _compare(feature: Any, specs: dict[str, Any]) -> str | None:
    kinds = {"float32": "float_list", "int64": "int64_list", "string": "bytes_list"}
    for name, spec in specs.items():
        if not isinstance(spec, tf.io.FixedLenFeature):
            continue
        if name not in feature or feature[name].WhichOneof("kind") is None:
            if spec.default_value is None:
                near = ", ".join(sorted(feature)[:8])
                return f"feature {name!r} is missing and has no default; found {near}."
            continue
        expected = kinds[tf.dtypes.as_dtype(spec.dtype).name]
        found = feature[name].WhichOneof("kind")
        if found != expected:
            return f"feature {name!r}: expected a {expected}, found a {found}."
        count = len(getattr(feature[name], found).value)
        size = int(np.prod(tf.TensorShape(spec.shape).as_list(), dtype=int))
        if count != size:
            return f"feature {name!r}: expected {size} values, found {count}."
    return None
