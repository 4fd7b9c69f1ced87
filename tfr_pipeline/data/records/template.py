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

from tfr_pipeline.data.records.wire import (
    FIRST,
    SECOND,
    THIRD,
    WireError,
    read_fields,
    read_length,
    read_only,
)


def find_documents(data: bytes) -> tuple[np.ndarray, int]:
    """Finds the documents at the beginning of a serialized ExampleListWithContext.

    Returns:
      Int64 `[documents, 3]`: where the field, its content and the next field begin;
      and where the rest begins, which is left to the parser.
    """
    places: list[int] = []
    position = 0
    try:
        while position < len(data) and data[position] == FIRST:
            length, begin = read_length(data, position + 1)
            if begin + length > len(data):
                break
            places += (position, begin, begin + length)
            position = begin + length
    except (WireError, IndexError):
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
            ((start, stop),) = read_only(data, 0, len(data), FIRST)
            for tag, begin, end in read_fields(data, start, stop):
                key, feature = read_only(data, begin, end, FIRST, SECOND)
                name = data[slice(*key)].decode()
                if tag != FIRST or name in found:
                    raise WireError
                found[name] = _values(data, *feature, mask)
        except (WireError, IndexError, UnicodeDecodeError):
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
    kinds = read_fields(data, start, stop)
    lists = [read_fields(data, begin, end) for _, begin, end in kinds]
    if any(tag != FIRST for fields in lists for tag, _, _ in fields):
        raise WireError
    if len(kinds) == 1 and len(lists[0]) == 1:
        kind, ((_, begin, end),) = kinds[0][0], lists[0]
        if kind == FIRST:
            mask[begin:end] = 0
            return "string", np.array([begin, end])
        if kind == SECOND and (end - begin) % 4 == 0:
            mask[begin:end] = 0
            return "float32", np.arange(begin, end, 4)
        if kind == THIRD and max(data[begin:end], default=0x80) < 0x80:
            mask[begin:end] = 0x80
            return "int64", np.arange(begin, end)
    return "", np.zeros(0, np.int64)
