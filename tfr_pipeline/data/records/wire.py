"""Protos by their bytes: where the fields of a message stand, and writing them.

Knows only what serializers write: length-delimited fields with lengths in their
shortest form. Wire format: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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


class Messages:
    """Where messages of one form stand in a buffer; they are read side by side.

    Every method raises a `WireError` where the messages are not of the form that it is
    for, and an `IndexError` where one goes beyond the buffer.

    Args:
      data: The buffer, uint8.
      begin: int64 `[messages]`, where each begins.
      end: int64 `[messages]`, where it ends.
    """

    def __init__(self, data: np.ndarray, begin: np.ndarray, end: np.ndarray):
        self.data, self.begin, self.end = data, begin, end

    def each(self, tag: int) -> Iterator[Messages]:
        """Yields the first field of all messages, the second, and so on."""
        at = self.begin
        while (at < self.end).any():
            if (at >= self.end).any():
                raise WireError
            field, at = self._field(at, tag)
            yield field
        if (at != self.end).any():
            raise WireError

    def split(self, *tags: int) -> list[Messages]:
        """Returns the fields of messages that have just these, in order."""
        fields, at = [], self.begin
        for tag in tags:
            field, at = self._field(at, tag)
            fields.append(field)
        if (at != self.end).any():
            raise WireError
        return fields

    def only(self, tag: int) -> Messages:
        """Returns the only field of messages that have one."""
        return self.split(tag)[0]

    def text(self) -> bytes:
        """Returns the content of messages that are all equal."""
        size = int(self.end[0] - self.begin[0])
        if (self.end - self.begin != size).any():
            raise WireError
        texts = self.data[self.begin[:, np.newaxis] + np.arange(size)]
        if (texts != texts[0]).any():
            raise WireError
        return texts[0].tobytes()

    def _field(self, at: np.ndarray, tag: int) -> tuple[Messages, np.ndarray]:
        """Returns the fields that begin there, and where the next ones do."""
        if (self.data[at] != tag).any():
            raise WireError
        size, begin = self._lengths(at + 1)
        return Messages(self.data, begin, begin + size), begin + size

    def _lengths(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Does what `read_length` does, for many positions."""
        value = np.zeros(len(at), np.int64)
        more = np.ones(len(at), bool)
        for shift in range(0, 35, 7):
            byte = np.where(more, self.data[at], 0).astype(np.int64)
            if shift and (more & (byte == 0)).any():
                raise WireError
            value |= (byte & 0x7F) << shift
            at = at + more
            more = byte >= 0x80
            if not more.any():
                return value, at
        raise WireError


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
