"""Protos by their bytes: where the fields of a message stand, and writing them.

Knows only what serializers write: length-delimited fields with lengths in their
shortest form. Wire format: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Tags of length-delimited fields 1, 2 and 3.
FIRST, SECOND, THIRD = b"\x0a\x12\x1a"
FIRST_TAG, SECOND_TAG, THIRD_TAG = b"\x0a", b"\x12", b"\x1a"


class WireError(Exception):
    """The bytes are not of the form that serializers write."""


def read_length(data: bytes, position: int) -> tuple[int, int]:
    """Returns a length in its shortest form, and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if shift > 28 or (byte == 0 and shift > 7):
        raise WireError
    return value, position


def read_fields(data: bytes, start: int, stop: int) -> list[tuple[int, int, int]]:
    """Returns tag, start and stop of fields, which must be length-delimited."""
    fields = []
    while start < stop:
        size, begin = read_length(data, start + 1)
        fields.append((data[start], begin, begin + size))
        start = begin + size
    if start != stop or any(tag & 7 != 2 for tag, _, _ in fields):
        raise WireError
    return fields


def read_only(data: bytes, start: int, stop: int, *tags: int) -> list[tuple[int, int]]:
    """Returns where the fields stand of a message that has just these, in order."""
    fields = read_fields(data, start, stop)
    if tuple(tag for tag, _, _ in fields) != tags:
        raise WireError
    return [(begin, end) for _, begin, end in fields]


def varint(value: int) -> bytes:
    """Returns a non-negative number in base 128."""
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def field(tag: bytes, content: bytes) -> bytes:
    """Returns a length-delimited field."""
    return tag + varint(len(content)) + content


def _entry(name: str, feature: bytes) -> bytes:
    """Returns one entry of the map `Features.feature`."""
    return field(
        FIRST_TAG, field(FIRST_TAG, name.encode()) + field(SECOND_TAG, feature)
    )


def bytes_entry(name: str, values: Sequence[bytes]) -> bytes:
    """Returns the map entry of a feature with a `BytesList`."""
    content = b"".join([field(FIRST_TAG, value) for value in values])
    return _entry(name, field(FIRST_TAG, content))


def float_entry(name: str, values: np.ndarray) -> bytes:
    """Returns the map entry of a feature with a packed `FloatList`."""
    raw = np.ascontiguousarray(values, "<f4").tobytes()
    return _entry(name, field(SECOND_TAG, field(FIRST_TAG, raw)))


def int64_entry(name: str, values: np.ndarray) -> bytes:
    """Returns the map entry of a feature with a packed `Int64List`."""
    raw = b"".join(varint(int(value) & (1 << 64) - 1) for value in values.ravel())
    return _entry(name, field(THIRD_TAG, field(FIRST_TAG, raw)))


def example(*entries: bytes) -> bytes:
    """Returns a `tf.train.Example` made of map entries."""
    return field(FIRST_TAG, b"".join(entries))
