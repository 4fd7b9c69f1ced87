"""Byte layouts that documents share, and their values read by place.

A program that writes `tf.train.Example`s with the same features in the same order
writes the same bytes document after document, but for the values. One document is then
a template: where all other bytes are equal, the values stand at known places, and whole
matrices of documents are compared and cut at once; `BatchParser` does that.
Wire format: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import dataclasses

import numpy as np

# Tags of length-delimited fields 1, 2 and 3.
_FIRST, _SECOND, _THIRD = b"\x0a\x12\x1a"


class _NoTemplateError(Exception):
    """The bytes are not of the one form that templates know."""


def _length(data: bytes, position: int) -> tuple[int, int]:
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
        raise _NoTemplateError
    return value, position


def _fields(data: bytes, start: int, stop: int) -> list[tuple[int, int, int]]:
    """Returns tag, start and stop of fields, which must be length-delimited."""
    fields = []
    while start < stop:
        size, begin = _length(data, start + 1)
        fields.append((data[start], begin, begin + size))
        start = begin + size
    if start != stop or any(tag & 7 != 2 for tag, _, _ in fields):
        raise _NoTemplateError
    return fields


def _only(data: bytes, start: int, stop: int, *tags: int) -> list[tuple[int, int]]:
    """Returns where the fields stand of a message that has just these, in order."""
    fields = _fields(data, start, stop)
    if tuple(tag for tag, _, _ in fields) != tags:
        raise _NoTemplateError
    return [(begin, end) for _, begin, end in fields]


def find_documents(data: bytes) -> tuple[np.ndarray, int]:
    """Finds the documents at the beginning of a serialized ExampleListWithContext.

    Returns:
      Int64 `[documents, 3]`: where the field, its content and the next field begin;
      and where the rest begins, which is left to the parser.
    """
    places: list[int] = []
    position = 0
    try:
        while position < len(data) and data[position] == _FIRST:
            length, begin = _length(data, position + 1)
            if begin + length > len(data):
                break
            places += (position, begin, begin + length)
            position = begin + length
    except (_NoTemplateError, IndexError):
        pass
    return np.array(places, np.int64).reshape(-1, 3), position


@dataclasses.dataclass(frozen=True)
class Output:
    """Features that come out as one array, the columns side by side in this order.

    Attributes:
      dtype: Name of their dtype.
      sizes: Maps each to its number of values.
      shape: Shape of the output for one document.
    """

    dtype: str
    sizes: dict[str, int]
    shape: tuple[int, ...]

    def empty(self, count: int) -> np.ndarray:
        dtype = object if self.dtype == "string" else self.dtype
        return np.empty((count, sum(self.sizes.values())), dtype)


@dataclasses.dataclass(frozen=True)
class Template:
    """The layout of documents of one length.

    Attributes:
      static: uint8 `[bytes]`, one such document.
      mask: uint8 `[bytes]`, the bits that all of them share.
      offsets: For each output where its values begin, int64 `[values]`; where a text
        begins and ends.
    """

    static: np.ndarray
    mask: np.ndarray
    offsets: list[np.ndarray]

    @classmethod
    def learn(cls, data: bytes, outputs: list[Output]) -> Template | None:
        """Returns the template of a serialized Example, or None if it can have none.

        Args:
          data: The document.
          outputs: The features to be read, all of which it must have.
        """
        mask = np.full(len(data), 0xFF, np.uint8)
        found: dict[str, tuple[str, np.ndarray]] = {}
        try:
            ((start, stop),) = _only(data, 0, len(data), _FIRST)
            for tag, begin, end in _fields(data, start, stop):
                key, feature = _only(data, begin, end, _FIRST, _SECOND)
                name = data[slice(*key)].decode()
                if tag != _FIRST or name in found:
                    raise _NoTemplateError
                found[name] = _values(data, *feature, mask)
        except (_NoTemplateError, IndexError, UnicodeDecodeError):
            return None
        offsets = []
        for output in outputs:
            for name, size in output.sizes.items():
                dtype, places = found.get(name, ("", np.zeros(0)))
                if dtype != output.dtype or len(places) != size + (dtype == "string"):
                    return None
            offsets.append(np.concatenate([found[n][1] for n in output.sizes]))
        return cls(np.frombuffer(data, np.uint8), mask, offsets)

    def matches(self, rows: np.ndarray) -> np.ndarray:
        """Returns bool `[documents]` for uint8 `[documents, bytes]`."""
        differences = rows ^ self.static
        differences &= self.mask
        return ~differences.any(axis=1)

    def read(self, output: int, dtype: str, rows: np.ndarray) -> np.ndarray:
        """Returns the values `[documents, values]` of an output in matching rows."""
        offsets = self.offsets[output]
        if dtype == "float32":
            # A float at every byte, of which only those at `offsets` are looked at.
            shape = (len(rows), rows.shape[1] - 3)
            return np.ndarray(shape, "<f4", rows, 0, (rows.shape[1], 1))[:, offsets]
        if dtype == "int64":
            return rows[:, offsets].astype(np.int64)
        result = np.empty((len(rows), 1), object)
        result[:, 0] = [row.tobytes() for row in rows[:, slice(*offsets)]]
        return result


def _values(
    data: bytes, start: int, stop: int, mask: np.ndarray
) -> tuple[str, np.ndarray]:
    """Returns the dtype and the places of a feature's values, and frees their bits.

    Every value that the freed bits can take leaves the structure of the message as it
    is: four bytes of a float, the bytes of a text, seven bits of an integer below 128.
    """
    kinds = _fields(data, start, stop)
    lists = [_fields(data, begin, end) for _, begin, end in kinds]
    if any(tag != _FIRST for fields in lists for tag, _, _ in fields):
        raise _NoTemplateError
    if len(kinds) == 1 and len(lists[0]) == 1:
        kind, ((_, begin, end),) = kinds[0][0], lists[0]
        if kind == _FIRST:
            mask[begin:end] = 0
            return "string", np.array([begin, end])
        if kind == _SECOND and (end - begin) % 4 == 0:
            mask[begin:end] = 0
            return "float32", np.arange(begin, end, 4)
        if kind == _THIRD and max(data[begin:end], default=0x80) < 0x80:
            mask[begin:end] = 0x80
            return "int64", np.arange(begin, end)
    return "", np.zeros(0, np.int64)
