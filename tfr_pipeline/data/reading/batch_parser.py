"""Parses batches of records of any format.

Documents of ELWC, and of formats that are made into ELWC, are read by templates; those
that match none go through `RecordParser`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.reading.sequences import SequenceParser
from tfr_pipeline.data.records import formats
from tfr_pipeline.data.records.formats import EIE, ELWC, EXAMPLE, SEQ
from tfr_pipeline.data.records.template import Output, Template, find_documents

_ROWS = 256  # documents compared at once, so that they stay in the CPU's cache
_BYTES = 1 << 17  # lists searched at once: more needs memory that is not yet at hand
_ATTEMPTS = 64  # templates that are learned at most
_PATIENCE = 1000  # more documents without a template than with one: templates are off


def batch_parser(parser: RecordParser) -> Callable[[Any], dict[str, Any]]:
    """Returns a function from records, string `[n]`, to what the parser returns.

    The results are NumPy arrays, and the function may be called from several threads.
    """
    if parser.data_format == EXAMPLE:
        return PointwiseParser(parser)
    if parser.data_format == SEQ:
        return SequenceParser(parser, _traced_once)
    if parser.data_format not in (ELWC, EIE):
        return _traced_once(parser)
    lists = BatchParser(parser)
    if parser.data_format == ELWC:
        return lists

    def transcoded(serialized: Any) -> dict[str, Any]:
        records = [formats.elwc_of_eie(r) for r in serialized.numpy()]
        return lists.parse(np.array(records, object))

    return transcoded


class PointwiseParser:
    """Parses `tf.train.Example`s, each a list of one document.

    Query features stand among those of the document.

    Args:
      parser: The parser.
    """

    def __init__(self, parser: RecordParser):
        self._documents = BatchParser(parser.without_queries)
        has_context = parser.context_spec or parser.query_id
        self._queries = _traced_once(parser.queries) if has_context else None

    def __call__(self, serialized: Any) -> dict[str, Any]:
        """Parses string `[documents]`; returns what the parser returns, as arrays."""
        records = serialized.numpy()
        formats.check_examples(records)
        # All of them are one long list to the parser of documents.
        elwc = formats.elwc_of_examples(records)
        result = self._documents.parse(np.array([elwc], object))
        if self._queries is not None:
            result.update(self._queries(serialized))
        result["lengths"] = np.ones(len(records), np.int64)
        return result


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
        self._possible = not parser.loose_spec
        specs = {**parser.example_spec, **parser.extra_spec}
        self._outputs = [
            Output(dtype, {s.name: s.width for s in slots}, (slots[-1].stop,))
            for dtype, slots in parser.layout.slots.items()
        ]
        for name, spec in parser.extra_spec.items():
            shape = tuple(tf.TensorShape(spec.shape).as_list())
            dtype = tf.dtypes.as_dtype(spec.dtype).name
            self._outputs.append(Output(dtype, {name: math.prod(shape)}, shape))
        if parser.document_id:
            self._outputs.append(Output("string", {parser.document_id: 1}, ()))
            # What is an id and a feature at once has no place of its own.
            self._possible &= parser.document_id not in specs

    def __call__(self, serialized: Any) -> dict[str, Any]:
        """Parses string `[lists]`; returns what the parser returns, as arrays."""
        return self.parse(serialized.numpy())

    def parse(self, records: np.ndarray) -> dict[str, Any]:
        """Does the same for an object array of `bytes`."""
        if not self._possible or self._missed > self._taken + _PATIENCE:
            return self._parse(records)
        rest, counts, known, outputs = self._split(records)
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
        result["loose"] = {}
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
        walks = [find_documents(record) for record in records]
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
