"""Reading protos by their bytes: where the fields of a message stand.

Knows only what serializers write: length-delimited fields with lengths in their
shortest form. Wire format: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

# Tags of length-delimited fields 1, 2 and 3.
FIRST, SECOND, THIRD = b"\x0a\x12\x1a"


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
