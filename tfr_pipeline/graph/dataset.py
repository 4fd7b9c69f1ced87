"""Data sets that the steps of a graph read: ranked lists, or `tf.train.Example`s."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

import tfr_pipeline.compat  # noqa: F401 - before TensorFlow
from tfr_pipeline import files
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.reading import described, loading
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.data.records.formats import AUTO, EXAMPLE, PACKED, canonical
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.tfrecords import RecordSource, without_empty
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.features import FILE_NAME, Features
from tfr_pipeline.graph import nodes
from tfr_pipeline.graph.parts import ExamplesPart, ListsPart, Part


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the files of a data set are read.

    Attributes:
      input_format: `elwc`, `packed`, `eie`, `seq`; `example` for
        `tf.train.Example`s that are nodes each; or `auto`.
      features: Description of lists, `features.json`; by default the one beside the
        files, or what the first records have.
      id_feature: Of examples: the feature with the id.
      label: Name of the label, which is no content.
    """

    input_format: str = AUTO
    features: str = ""
    id_feature: str = "id"
    label: str = "label"


class DataSet:
    """Files of one kind.

    Args:
      paths: TFRecord files: a path, a folder, a glob, or several.
      reading: How to read them.
      what: How messages call them.

    Attributes:
      paths: The files.
      data_format: Their format.
      features: Their description; of examples None.

    Raises:
      DataError: Files are missing, or of another format.
    """

    def __init__(
        self, paths: str | list[str], reading: Reading, what: str = "--input"
    ) -> None:
        self.reading = reading
        self.paths = files.expand(paths, what)
        wanted = canonical(reading.input_format)
        self.data_format = loading.sniff_format(self.paths, wanted=wanted)
        self._source: RecordSource | None = None
        self.features: Features | None = None
        if self.is_examples:
            return
        folder = os.path.dirname(self.paths[0])
        path = reading.features or os.path.join(folder, FILE_NAME)
        found = path if reading.features or os.path.exists(path) else ""
        if self.data_format == PACKED:
            self.features = Features.load(path)
        else:
            options = Options(features=found, label_column=reading.label)
            source = RecordSource(self.paths, self.data_format, options)
            # A label that is missing is none, not the grade 0.
            self._source = source.unlabelled(self.paths)
            self.features = source.output
        ordered = dict(sorted(self.features.example.items()))
        self.features = dataclasses.replace(self.features, example=ordered)

    @property
    def is_examples(self) -> bool:
        """Whether nodes are `tf.train.Example`s."""
        return self.data_format == EXAMPLE

    def like(self, paths: str | list[str], what: str) -> DataSet:
        """Returns other files that are read as these are.

        Their documents may have no label, which then is that of padding.

        Raises:
          DataError: Files are missing, or of another format.
        """
        other = copy.copy(self)
        other.paths = files.expand(paths, what)
        loading.sniff_format(other.paths, wanted=self.data_format)
        if self.features is not None:
            described.check_columns(other.paths, self.features, self.data_format)
        if self._source is not None:
            other._source = self._source.unlabelled(other.paths)
        return other

    def kind(self, wanted: str | None) -> str:
        """Returns what nodes are: `documents`, unless told, or `examples`.

        Raises:
          ConfigError: There are no such nodes.
        """
        known = (
            (nodes.EXAMPLES,) if self.is_examples else (nodes.DOCUMENTS, nodes.QUERIES)
        )
        if wanted is None:
            return known[0]
        if wanted not in known:
            raise ConfigError(
                unknown_name("nodes", wanted, known, f"{self.data_format} files")
            )
        return wanted

    def parts(self) -> Iterator[Part]:
        """Yields all of the data, some at a time, in the order of the files.

        Raises:
          DataError: A file is damaged or does not match its description.
        """
        if self.is_examples:
            for records in self.records():
                yield ExamplesPart(records, self.reading.id_feature, self.reading.label)
            return
        for lists in self._lists():
            yield self.part(lists)

    def part(self, lists: Lists) -> ListsPart:
        """Returns lists of this data set as a part of it."""
        assert self.features is not None
        lists = lists.widened()
        lists.context.pop(self.features.query_id or "", None)
        empty = np.zeros((lists.num_documents, 0), np.float32)
        lists.values.setdefault("float32", empty)
        numbered = self._source is not None and not self._source.features.query_id
        return ListsPart(lists, self.features, not numbered)

    def records(self) -> Iterator[list[bytes]]:
        """Yields serialized examples, some at a time."""
        import tensorflow as tf

        reader, size, count = RecordReader(), 0, 0
        try:
            for batch in reader(self.paths).batch(loading.EXAMPLES_PER_PARSE):
                records = batch.numpy().tolist()
                size += sum(len(record) + 16 for record in records)
                count += len(records)
                yield records
        except tf.errors.DataLossError as error:
            reader.refuse_damaged(self.paths)
            raise DataError(f"{', '.join(self.paths)}: {error.message}") from error
        reader.check_whole(self.paths, size, count)

    def _lists(self) -> Iterator[Lists]:
        if self._source is not None:
            parts = self._source.lists()
        else:
            parts = loading.iterate(self.paths, self.parser, *self.roles)
        for lists in map(without_empty, parts):
            if lists.num_lists:
                yield lists

    @property
    def parser(self) -> RecordParser:
        """Parser of lists."""
        if self._source is not None:
            return self._source.parser
        features = self.features
        assert features is not None
        pairs: list[Any] = [features.label_spec, features.weight_spec]
        return RecordParser(
            features.context_spec,
            features.example_spec,
            dict(filter(None, pairs)),
            features.query_id,
            features.document_id,
            PACKED,
        )

    @property
    def roles(self) -> tuple[str | tuple[str, ...], str | None]:
        """Names of the label, or labels, and of the weight."""
        features = self.features
        assert features is not None
        names = tuple(name for name, _ in features.labels.values())
        weight = features.weight[0] if features.weight else None
        return names or features.label[0], weight
