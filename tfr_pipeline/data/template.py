"""Reads documents of one byte layout without parsing them one by one.

A program that writes `tf.train.Example`s with the same features in the same order
writes the same bytes document after document, but for the values. One document is then
a template: where all other bytes are equal, the values stand at known places, and whole
matrices of documents are compared and cut at once. Documents that match no template go
through `RecordParser`.
Wire format: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.records import RecordParser

_ROWS = 256  # documents compared at once, so that they stay in the CPU's cache
_BYTES = 1 << 17  # lists searched at once: more needs memory that is not yet at hand
_ATTEMPTS = 64  # templates that are learned at most
_PATIENCE = 1000  # more documents without a template than with one: templates are off

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


def _walk(data: bytes) -> tuple[np.ndarray, int]:
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
class _Output:
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
    def learn(cls, data: bytes, outputs: list[_Output]) -> Template | None:
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


class BatchParser:
    """Parses batches of serialized lists into NumPy arrays, from several threads.

    Results are bit for bit those of the `RecordParser` that it is made of; it is
    quicker where many documents have one layout, which it learns from them.

    Args:
      parser: The parser.
    """

    def __init__(self, parser: RecordParser):
        self._parser = parser
        self._parse = _traced_once(parser)
        self._parse_rest = _traced_once(parser.without_documents)
        self._templates: dict[int, list[Template]] = {}
        self._attempts = self._taken = self._missed = 0
        self._possible = parser.data_format == "elwc"
        specs = {**parser.example_spec, **parser.extra_spec}
        self._outputs = [
            _Output(dtype, {s.name: s.width for s in slots}, (slots[-1].stop,))
            for dtype, slots in parser.layout.slots.items()
        ]
        for name, spec in parser.extra_spec.items():
            shape = tuple(tf.TensorShape(spec.shape).as_list())
            dtype = tf.dtypes.as_dtype(spec.dtype).name
            self._outputs.append(_Output(dtype, {name: math.prod(shape)}, shape))
        if parser.document_id:
            self._outputs.append(_Output("string", {parser.document_id: 1}, ()))
            # What is an id and a feature at once has no place of its own.
            self._possible &= parser.document_id not in specs

    def __call__(self, serialized: Any) -> dict[str, Any]:
        """Parses string `[lists]`; returns what the parser returns, as arrays."""
        if not self._possible or self._missed > self._taken + _PATIENCE:
            return self._parse(serialized)
        rest, counts, known, outputs = self._split(serialized.numpy())
        result = self._parse_rest(rest)
        documents = [
            values.reshape(len(known), *output.shape)
            for output, values in zip(self._outputs, outputs, strict=True)
        ]
        if result["lengths"].any():  # some documents are left
            result = self._parse(rest)
            lists = np.repeat(np.arange(len(rest)), counts)
            left = np.bincount(lists[~known], minlength=len(rest))
            # Documents that the walk did not reach come after the others.
            unseen = np.repeat(np.cumsum(counts), result["lengths"] - left)
            mask = np.insert(known, unseen, False)
            documents = [
                _merged(mask, mine[known], other)
                for mine, other in zip(documents, self._by_output(result), strict=True)
            ]
            counts = counts - left
        result["lengths"] = result["lengths"] + counts
        parts = iter(documents)
        result["values"] = {dtype: next(parts) for dtype in self._parser.layout.slots}
        result["extra"] = {name: next(parts) for name in self._parser.extra_spec}
        if self._parser.document_id:
            result["document_ids"] = next(parts)
        return result

    def _by_output(self, result: dict[str, Any]) -> list[np.ndarray]:
        arrays = [result["values"][dtype] for dtype in self._parser.layout.slots]
        arrays += [result["extra"][name] for name in self._parser.extra_spec]
        return arrays + ([result["document_ids"]] if self._parser.document_id else [])

    def _split(self, records: np.ndarray) -> tuple[Any, ...]:
        """Takes the documents that match a template out of serialized lists.

        Returns:
          The lists without those documents; of how many documents of each list the
          following tells; whether they were taken, bool `[documents]`; and outputs, in
          which the rows of documents that were not taken are undefined.
        """
        walks = [_walk(record) for record in records]
        counts = np.array([len(places) for places, _ in walks], np.int64)
        ends = np.cumsum(counts)
        known = np.zeros(counts.sum(), bool)
        outputs = [output.empty(len(known)) for output in self._outputs]
        for first, last in _pieces([len(record) for record in records]):
            data = b"".join(records[first:last])
            offsets = np.cumsum([0] + [len(r) for r in records[first : last - 1]])
            places = np.concatenate(
                [
                    places + offset
                    for (places, _), offset in zip(
                        walks[first:last], offsets, strict=True
                    )
                ]
            )
            part = slice(ends[first] - counts[first], ends[last - 1])
            self._take(data, places, known[part], [output[part] for output in outputs])
        rest = []
        for record, (places, begin), end in zip(records, walks, ends, strict=True):
            missed = places[~known[end - len(places) : end]]
            fields = [record[start:stop] for start, _, stop in missed]
            rest.append(b"".join([*fields, record[begin:]]))
        return rest, counts, known, outputs

    def _take(
        self,
        data: bytes,
        places: np.ndarray,
        known: np.ndarray,
        outputs: list[np.ndarray],
    ) -> None:
        """Fills in `known`, and `outputs` where that is true."""
        begins, sizes = places[:, 1], places[:, 2] - places[:, 1]
        for size in np.unique(sizes[sizes > 0]).tolist():
            # Every stretch of this size; a document is one of them.
            stretches = np.lib.stride_tricks.sliding_window_view(
                np.frombuffer(data, np.uint8), size
            )
            same = np.flatnonzero(sizes == size)
            for start in range(0, len(same), _ROWS):
                index = same[start : start + _ROWS]
                self._take_rows(stretches[begins[index]], index, known, outputs)
        self._taken += int(known.sum())
        self._missed += int((~known).sum())

    def _take_rows(
        self,
        rows: np.ndarray,
        index: np.ndarray,
        known: np.ndarray,
        outputs: list[np.ndarray],
    ) -> None:
        """Fills in the values of documents of one size.

        Args:
          rows: uint8 `[documents, bytes]`.
          index: Their numbers.
          known: Becomes true for those that match a template.
          outputs: Receive their values.
        """
        templates = self._templates.setdefault(rows.shape[1], [])
        number = 0
        while len(index):
            if number == len(templates) and not self._learn(rows[0], templates):
                break
            template = templates[number]
            number += 1
            hit = template.matches(rows)
            if not hit.any():
                continue
            some: Any = slice(None) if hit.all() else hit
            for place, (output, result) in enumerate(
                zip(self._outputs, outputs, strict=True)
            ):
                result[index[some]] = template.read(place, output.dtype, rows[some])
            known[index[some]] = True
            rows, index = rows[~hit], index[~hit]

    def _learn(self, row: np.ndarray, templates: list[Template]) -> bool:
        if self._attempts >= _ATTEMPTS:
            return False
        self._attempts += 1
        template = Template.learn(row.tobytes(), self._outputs)
        if template is None:
            return False
        templates.append(template)
        return True


def _traced_once(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns a function of string `[n]` as a graph, made when it is first needed.

    `tf.function` alone warns of tracing again when a process reads many files.
    """
    graph = tf.function(function, autograph=False)
    lock = threading.Lock()
    concrete: list[Any] = []

    def call(serialized: Any) -> Any:
        with lock:
            if not concrete:
                specification = tf.TensorSpec([None], tf.string)
                concrete.append(graph.get_concrete_function(specification))
        return _arrays(concrete[0](tf.convert_to_tensor(serialized, tf.string)))

    return call


def _arrays(result: Any) -> Any:
    return tf.nest.map_structure(lambda tensor: tensor.numpy(), result)


def _merged(mask: np.ndarray, mine: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns an array with the rows of `mine` where the mask is true."""
    result = np.empty((len(mask), *other.shape[1:]), other.dtype)
    result[mask], result[~mask] = mine, other
    return result


def _pieces(sizes: list[int]) -> list[tuple[int, int]]:
    """Cuts records into runs of about `_BYTES`, so that memory is used again."""
    pieces, first, total = [], 0, 0
    for number, size in enumerate(sizes):
        total += size
        if total >= _BYTES or number == len(sizes) - 1:
            pieces.append((first, number + 1))
            first, total = number + 1, 0
    return pieces
