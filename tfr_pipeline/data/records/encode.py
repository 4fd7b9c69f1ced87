"""`Lists` to serialized protos, without protobuf.

`tensorflow.serving.ExampleListWithContext` and `tf.train.Example` are simple on the
wire, and almost every byte of a document is its float row. The constant bytes are made
once; rows are copied into the holes between them.
Wire format: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes  # noqa: F401 - makes NumPy know bfloat16
import numpy as np

from tfr_pipeline.data.lists import Lists, Ragged
from tfr_pipeline.data.records.formats import (
    PACKED_IDS,
    PACKED_LABELS,
    PACKED_WEIGHTS,
    packed_block,
)
from tfr_pipeline.data.records.wire import (
    FIRST_TAG,
    SECOND_TAG,
    bytes_entry,
    example,
    field,
    float_entry,
    int64_entry,
    varint,
)
from tfr_pipeline.errors import DataError
from tfr_pipeline.features import PADDING_LABEL, Features

# Tags: field number << 3 | wire type 2 (length-delimited).


def _context_entries(lists: Lists, features: Features, number: int) -> list[bytes]:
    """Returns the entries of list `number` for the query id and the context."""
    entries = []
    if features.query_id is not None:
        entries.append(
            bytes_entry(features.query_id, [str(lists.query_ids[number]).encode()])
        )
    for name, values in lists.context.items():
        value = np.atleast_1d(values[number])
        if value.dtype.kind in "OUS":
            entries.append(bytes_entry(name, [_raw(item) for item in value]))
        else:
            entries.append(_entry_of(name, value))
    for name, column in lists.loose_context.items():
        entries.append(_entry_of(name, column.row(number)))
    return entries


def _raw(text: object) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode()


def _entry_of(name: str, values: np.ndarray) -> bytes:
    """Returns the map entry of a feature by the dtype of its values."""
    if values.dtype == object:
        return bytes_entry(name, values.tolist())
    if values.dtype.kind in "iu":
        return int64_entry(name, values)
    return float_entry(name, values)


def _fixed_bytes(columns: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """Returns uint8 `[documents, bytes]`: map entries of float features.

    Args:
      columns: Maps a feature name to float32 `[documents, size]`.
      count: Number of documents.
    """
    pieces: list[bytes] = []
    offsets, position = [], 0
    for name, values in columns.items():
        empty = float_entry(name, np.zeros(values.shape[1], np.float32))
        pieces.append(empty)
        position += len(empty)
        offsets.append(position - 4 * values.shape[1])  # the values come last
    result = np.empty((count, position), np.uint8)
    result[:] = np.frombuffer(b"".join(pieces), np.uint8)
    for offset, values in zip(offsets, columns.values(), strict=True):
        raw = np.ascontiguousarray(values, "<f4").view(np.uint8)
        result[:, offset : offset + raw.shape[1]] = raw
    return result


def _columns(lists: Lists, features: Features, dtype: str) -> dict[str, np.ndarray]:
    """Returns the columns of a matrix by the features that they belong to."""
    columns: dict[str, np.ndarray] = {}
    position = 0
    for name, feature in features.example.items():
        if feature.dtype != dtype or feature.kind != "fixed":
            continue
        size = int(np.prod(feature.shape))
        columns[name] = lists.values[dtype][:, position : position + size]
        position += size
    found = lists.values[dtype].shape[1] if dtype in lists.values else 0
    if position != found:
        raise DataError(f"expected {position} {dtype} columns, found {found}.")
    return columns


def _other_entries(
    row: int, integers: Mapping[str, np.ndarray], others: Mapping[str, Ragged]
) -> bytes:
    """Returns the map entries of a document's features that are no fixed floats."""
    entries = [int64_entry(name, values[row]) for name, values in integers.items()]
    entries += [_entry_of(name, column.row(row)) for name, column in others.items()]
    return b"".join(entries)


def _document_columns(lists: Lists, features: Features) -> dict[str, np.ndarray]:
    """Returns the float features of the documents by name, label and weight last."""
    columns = _columns(lists, features, "float32")
    if lists.labels is not None:
        names = [name for name, _ in features.labels.values()] or [features.label[0]]
        labels = lists.labels.reshape(len(lists.labels), -1)
        columns.update(zip(names, np.split(labels, len(names), axis=1), strict=True))
    if features.weight is not None and lists.weights is not None:
        columns[features.weight[0]] = lists.weights[:, np.newaxis]
    return columns


def elwc(lists: Lists, features: Features) -> list[bytes]:
    """Returns one serialized `ExampleListWithContext` a list.

    Args:
      lists: Lists whose columns are the features of `features.example` in its order,
        those of each type in the matrix of that type.
      features: Description to write by.
    """
    columns = _document_columns(lists, features)
    fixed = _fixed_bytes(columns, lists.num_documents)
    width = fixed.shape[1]
    raw = fixed.tobytes()
    # The bytes around a document depend only on the lengths of what is in it.
    around: dict[tuple[int, int], tuple[bytes, bytes]] = {}
    integers = _columns(lists, features, "int64")
    records = []
    for number in range(lists.num_lists):
        first, last = int(lists.row_splits[number]), int(lists.row_splits[number + 1])
        parts: list[bytes] = []
        for row in range(first, last):
            name = str(lists.document_ids[row]).encode()
            rest = _other_entries(row, integers, lists.loose)
            size = len(name), len(rest)
            if size not in around:
                around[size] = _around(features.document_id, name, width + size[1])
            before, after = around[size]
            parts += (before, raw[row * width : (row + 1) * width], rest, after, name)
        context = example(*_context_entries(lists, features, number))
        records.append(b"".join(parts) + field(SECOND_TAG, context))
    return records


def _around(name: str | None, value: bytes, width: int) -> tuple[bytes, bytes]:
    """Returns what stands before the float entries, and between them and the id."""
    if name is None:
        raise DataError("expected a name for the document id, found None.")
    entry = bytes_entry(name, [value])
    entry = entry[: len(entry) - len(value)]
    length = width + len(entry) + len(value)
    inner = FIRST_TAG + varint(length)
    return FIRST_TAG + varint(len(inner) + length) + inner, entry


def packed(lists: Lists, features: Features) -> list[bytes]:
    """Returns one serialized `tf.train.Example` a list, with raw matrices.

    `packed/float32` holds the row-major little-endian matrix `[documents, columns]`,
    its columns being the example features of that type sorted by name; it is called
    `packed/float16` or `packed/bfloat16` where `features.feature_dtype` says so.
    `packed/int64` holds the same of integers; `packed/labels` and `packed/weights` hold
    float32 `[documents]`; `packed/document_ids` has one value a document. The query id
    and the context are ordinary features.
    """
    matrices = {}
    for dtype in lists.values:
        columns = _columns(lists, features, dtype)
        blocks = [columns[name] for name in sorted(columns)]
        if blocks:
            stored = features.feature_dtype if dtype == "float32" else dtype
            little_endian = np.dtype(stored).newbyteorder("<")
            matrix = np.concatenate(blocks, axis=1)
            matrices[packed_block(stored)] = matrix.astype(little_endian, copy=False)
    labels = lists.labels
    if labels is None:  # readers tell the format, and count documents, by them
        labels = np.full(lists.num_documents, PADDING_LABEL)
    matrices[PACKED_LABELS] = labels.astype("<f4")
    if lists.weights is not None and features.weight is not None:
        matrices[PACKED_WEIGHTS] = lists.weights.astype("<f4")
    records = []
    for number in range(lists.num_lists):
        rows = slice(int(lists.row_splits[number]), int(lists.row_splits[number + 1]))
        entries = [
            *_context_entries(lists, features, number),
            *(bytes_entry(key, [m[rows].tobytes()]) for key, m in matrices.items()),
            bytes_entry(
                PACKED_IDS,
                [str(name).encode() for name in lists.document_ids[rows]],
            ),
        ]
        records.append(example(*entries))
    return records
