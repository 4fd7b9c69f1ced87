"""What is wrong with a file: the record and the feature, found by a second look.

Parsing is quick because it does not ask. When it fails, or gives what no model can
use, the functions here read as slowly as it takes to say where.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.reading.ranges import RecordRange
from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.data.records.formats import (
    EIE,
    EXAMPLE,
    MESSAGES,
    PACKED,
    PACKED_LABELS,
    SEQ,
    NotAListError,
    check_sequences,
    elwc_of_eie,
    packed_block,
    recognize,
)
from tfr_pipeline.errors import ConfigError, DataError, PipelineError, RunError
from tfr_pipeline.layout import FEATURE_DTYPES

SAMPLED = 5  # records in which a feature is looked for


def check_finite(paths: list[str], lists: Lists, parser: RecordParser) -> None:
    """Refuses features, labels and weights that are NaN or infinite."""
    check_features(paths, lists, parser)
    check_labels(paths, lists)


def check_features(paths: list[str], lists: Lists, parser: RecordParser) -> None:
    """Refuses features of documents and queries that are NaN or infinite.

    NaN is a missing value where the parser keeps it.
    """
    is_bad = np.isinf if parser.keeps_nan else _is_not_finite
    for dtype, block in lists.values.items():
        if dtype != "float32" or _sums_up(block):
            continue
        bad = is_bad(block)
        if not bad.any():  # finite values whose sum overflows
            continue
        row, column = np.argwhere(bad)[0]
        slot = next(s for s in parser.layout.slots[dtype] if column < s.stop)
        raise DataError(
            f"{', '.join(paths)}: feature {slot.name!r} column {column - slot.start} "
            f"is {block[row, column]} in {lists.place(row)} ({int(bad.sum())} such "
            "values). Expected finite numbers: convert with --nan=zero, or with "
            "--nan=keep for NaN to be a missing value, or clean the input."
        )
    for name, column in lists.loose.items():
        if column.values.dtype.kind == "f" and is_bad(column.values).any():
            place = int(np.argmax(is_bad(column.values)))
            row = int(np.searchsorted(column.row_splits, place, "right")) - 1
            raise DataError(
                f"{', '.join(paths)}: feature {name!r} has the value "
                f"{column.values[place]} in {lists.place(row)}. Expected finite "
                "numbers."
            )
    for name, array in lists.context.items():
        if array.dtype.kind == "f" and is_bad(array).any():
            cell = np.argwhere(is_bad(array))[0]
            raise DataError(
                f"{', '.join(paths)}: query feature {name!r} has the value "
                f"{array[tuple(cell)]} in query {lists.query_ids[cell[0]]!r}. "
                "Expected finite numbers."
            )


def _is_not_finite(values: np.ndarray) -> np.ndarray:
    return ~np.isfinite(values)


def _sums_up(block: np.ndarray) -> bool:
    """Whether numbers are finite, without looking at each, if they are float32.

    False may also mean that the sum of finite numbers is infinite.
    """
    if block.dtype.itemsize > 2:
        return bool(np.isfinite(np.sum(block)))
    # Integers are quicker. All bits of the exponent are set in NaN and infinity.
    exponent = np.array(np.inf, block.dtype).view(np.uint16)
    return bool((block.view(np.uint16) & exponent).max(initial=0) < exponent)


def check_labels(paths: list[str], lists: Lists) -> None:
    """Refuses labels and weights that are NaN or infinite."""
    for name, values in (("label", lists.labels), ("weight", lists.weights)):
        if values is not None and not np.isfinite(values).all():
            cell = tuple(np.argwhere(~np.isfinite(values))[0])
            raise DataError(
                f"{', '.join(paths)}: {name} {values[cell]} in {lists.place(cell[0])}; "
                "expected finite numbers."
            )


def check_present(
    path: str, parser: RecordParser, reader: Callable[[Any], Any]
) -> None:
    """Refuses a schema of which the data knows no feature at all.

    Every feature may have a default, so a wrong schema parses without complaint and
    trains on constants.
    """
    if parser.data_format == PACKED:
        return
    found: set[str] = set()
    # About as many documents.
    count = 500 if parser.data_format == EXAMPLE else SAMPLED
    for record in reader([path]).take(count):
        for document in documents_of(record.numpy(), parser.data_format):
            found.update(document)
    missing = sorted(set(parser.example_spec) - found)
    if missing and len(missing) == len(parser.example_spec):
        raise DataError(
            f"{path}: the data has none of the expected features "
            f"({', '.join(missing[:5])}...); found {', '.join(sorted(found)[:8])}. "
            "Is features.json (or the feature spec) of another data set?"
        )


def placed_records(paths: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yields where each record of files stands, in words, and the record.

    Raises:
      DataError: One is damaged; names file and record.
    """
    reader = RecordReader()
    for path in paths:
        number = 0
        try:
            for record in reader([path]):
                yield f"{path}: record {number}", record.numpy()
                number += 1
        except tf.errors.DataLossError as error:
            reader.refuse_damaged([path])
            problem = without_node(error.message)
            raise DataError(f"{path}: record {number}: {problem}.") from error


def documents_of(serialized: bytes, data_format: str) -> list[Any]:
    """Returns the documents of a record: maps from names to `tf.train.Feature`."""
    if data_format == SEQ:
        lists = tf.train.SequenceExample.FromString(serialized).feature_lists
        columns = {name: f.feature for name, f in lists.feature_list.items()}
        count = max(map(len, columns.values()), default=0)
        return [
            {name: column[i] for name, column in columns.items() if i < len(column)}
            for i in range(count)
        ]
    if data_format == EXAMPLE:
        return [tf.train.Example.FromString(serialized).features.feature]
    elwc = _elwc(serialized, data_format)
    return [example.features.feature for example in elwc.examples]


def context_of(serialized: bytes, data_format: str) -> Any:
    """Returns the features of the query of a record."""
    if data_format == SEQ:
        return tf.train.SequenceExample.FromString(serialized).context.feature
    if data_format == EXAMPLE:
        return tf.train.Example.FromString(serialized).features.feature
    return _elwc(serialized, data_format).context.features.feature


def _elwc(serialized: bytes, data_format: str) -> Any:
    from tensorflow_serving.apis import input_pb2

    if data_format == EIE:
        serialized = elwc_of_eie(serialized)
    return input_pb2.ExampleListWithContext.FromString(serialized)


def explain(
    paths: list[str], parser: RecordParser, reader: Callable[[Any], Any]
) -> None:
    """Raises the precise error for files that did not parse; returns if all is well."""
    numbers: dict[str, int] = {}
    if isinstance(reader, RecordReader):
        reader.refuse_damaged(paths)
    elif isinstance(reader, RecordRange):
        reader.check_files()
        numbers = reader.first_numbers()
        paths = [path for path in paths if path in numbers]
    for path in paths:
        iterator = iter(reader([path]))
        index = numbers.get(path, 0)
        while True:
            try:
                record = next(iterator)
            except StopIteration:
                break
            except tf.errors.DataLossError as error:
                raise DataError(
                    f"{path}: record {index} is corrupt "
                    f"({without_node(error.message)}). The file was damaged or cut "
                    "off; fetch it again or convert it again."
                ) from error
            problem = _mismatch(record.numpy(), parser)
            if problem:
                raise DataError(f"{path}: record {index}: {problem}")
            index += 1


def in_python(error: tf.errors.OpError) -> PipelineError | None:
    """Returns the error of ours that was raised in a function that TensorFlow called.

    It says which worker that was, if it was in another process.

    Example:
      >>> message = "RunError: a: no room.\\nTraceback (most recent call last): ..."
      >>> in_python(tf.errors.UnknownError(None, None, message))
      RunError('a: no room.')
    """
    kinds = {kind.__name__: kind for kind in (DataError, ConfigError, RunError)}
    pattern = rf"\b({'|'.join(kinds)}): (.*?)\nTraceback \("
    found = re.search(pattern, error.message, re.DOTALL)
    if found is None:
        return None
    task = re.search(r"/job:(worker)/replica:\d+/task:(\d+)", error.message)
    where = f"{task[1]} {task[2]}: " if task else ""
    return kinds[found[1]](f"{where}{found[2]}")


def without_node(message: str) -> str:
    """Returns a message of TensorFlow without the names of its operations.

    Example:
      >>> without_node("{{function_node a/b}} corrupted record at 0 [Op:Next] name: ")
      'corrupted record at 0'
    """
    message = re.sub(r"\{\{.*?\}\}", "", message)
    return re.sub(r"\[(Op:|\[).*", "", message, flags=re.DOTALL).strip()


def _mismatch(serialized: bytes, parser: RecordParser) -> str | None:
    """Says how one record differs from the specs, or returns None."""
    from google.protobuf.message import DecodeError

    data_format = parser.data_format
    other = _other_format(serialized, parser)
    if other:
        return f"expected {MESSAGES[data_format]}, found {MESSAGES[other]}."
    try:
        if data_format == PACKED:
            return _packed_mismatch(serialized, parser)
        documents = documents_of(serialized, data_format)
        context = context_of(serialized, data_format)
    except DecodeError as error:
        return f"expected {MESSAGES[data_format]} ({error})."
    except NotAListError as error:
        return str(error)
    for document in documents:
        problem = _compare(document, parser.documents_with_id)
        if problem:
            return problem
    return _compare(context, parser.context_with_id)


def _other_format(serialized: bytes, parser: RecordParser) -> str | None:
    """Returns the format of a record, None if it is what it should be or unknown."""
    found = recognize(serialized)
    if found == parser.data_format:
        return None
    if (parser.data_format, found) == (SEQ, EXAMPLE):
        with contextlib.suppress(NotAListError):
            check_sequences([serialized], parser.documents_with_id)
            return None
    return found


def _packed_mismatch(serialized: bytes, parser: RecordParser) -> str | None:
    features = tf.train.Example.FromString(serialized).features.feature
    if PACKED_LABELS not in features:
        return f"expected a packed list, found no {PACKED_LABELS!r}."
    labels = len(features[PACKED_LABELS].bytes_list.value[0]) // 4
    for dtype in parser.layout.slots:
        stored = parser.stored(dtype)
        key = packed_block(stored)
        if key not in features:
            others = [d for d in FEATURE_DTYPES if packed_block(d) in features]
            if stored in FEATURE_DTYPES and others:
                return (
                    f"expected the feature_dtype {stored} of the first record that "
                    f"is read, found {others[0]}. Convert files that are read "
                    "together with the same --feature_dtype."
                )
            return f"feature block {key!r} is missing."
        size = len(features[key].bytes_list.value[0])
        width = parser.layout.width(dtype)
        step = tf.dtypes.as_dtype(stored).size
        if size != labels * width * step:
            return (
                f"features of dtype {dtype}: expected {width} values a document, "
                f"found {size / step / max(labels, 1):g}."
            )
    return _compare(features, parser.context_with_id)


def _compare(feature: Any, specs: dict[str, Any]) -> str | None:
    kinds = {"float32": "float_list", "int64": "int64_list", "string": "bytes_list"}
    for name, spec in specs.items():
        fixed = isinstance(spec, tf.io.FixedLenFeature)
        name = getattr(spec, "value_key", None) or name
        if name not in feature or feature[name].WhichOneof("kind") is None:
            if fixed and spec.default_value is None:
                near = ", ".join(sorted(feature)[:8])
                return f"feature {name!r} is missing and has no default; found {near}."
            continue
        expected = kinds[tf.dtypes.as_dtype(spec.dtype).name]
        found = feature[name].WhichOneof("kind")
        if found != expected:
            return f"feature {name!r}: expected a {expected}, found a {found}."
        if not fixed:
            continue
        count = len(getattr(feature[name], found).value)
        size = int(np.prod(tf.TensorShape(spec.shape).as_list(), dtype=int))
        if count != size:
            return f"feature {name!r}: expected {size} values, found {count}."
    return None
