"""Ranking files of any accepted format as `Lists`."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from tfr_pipeline import files
from tfr_pipeline.data import ids
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.oddities import Oddities
from tfr_pipeline.data.sources import grouping, libsvm, libsvm_chunks, tables
from tfr_pipeline.data.sources.libsvm import Parsed
from tfr_pipeline.data.sources.libsvm_chunks import Chunk
from tfr_pipeline.data.sources.options import FORMATS, NAN, RECORD_FORMATS, Options
from tfr_pipeline.data.sources.table_columns import Columns
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.features import Feature

if TYPE_CHECKING:
    from tfr_pipeline.data.sources.tfrecords import RecordSource

# A part of the input: text still to be parsed, or lists.
Part = Chunk | Parsed


def read_lists(
    paths: str | list[str],
    input_format: str,
    *,
    options: Options | None = None,
    report: Callable[[str], None] | None = None,
) -> Iterator[Lists]:
    """Yields whole lists, several at a time, in the order of the input.

    Args:
      paths: A path, a glob, comma-separated globs, or a list of those.
      input_format: `libsvm`, `csv`, `tsv` or `parquet`; or, for TFRecord files, `elwc`,
        `eie`, `seq` or `example`.
      options: How to read. Without `num_features`, LibSVM files are read twice: once
        for the largest feature index.
      report: Takes lines for the user, at the end.

    Yields:
      Lists with `values["float32"]` of shape `[documents, features]`, a bounded
      number of documents unless one list is larger.

    Raises:
      DataError: A file is missing or malformed; the message has file and line.
      ConfigError: The format or an option is wrong.
    """
    source = Source(paths, input_format, options or Options())
    width = source.options.num_features
    if width is None and source.is_text:
        width = max(map(libsvm.max_index, source.texts()), default=0)
    order = QueryOrder(source.options.classes is not None)
    documents, oddities = 0, Oddities()
    repeated = 0, ""
    for part in source.parts():
        for parsed in parse(
            part, width, source.options.nan, source.options.require_label
        ):
            if not source.is_records:
                order.add(parsed)
            documents += parsed.lists.num_documents
            oddities.add(parsed.oddities)
            if report is not None:
                count, first = ids.repeated(parsed.lists)
                repeated = repeated[0] + count, repeated[1] or first
            yield parsed.lists
    if not documents:
        raise source.empty()
    if report is not None:
        for line in oddities.warnings() + ids.warnings(repeated):
            report(line)


def parse(
    part: Part, num_features: int | None, nan: str, labelled: bool = True
) -> Iterable[Parsed]:
    """Returns the lists of a part."""
    if isinstance(part, Parsed):
        return [part]
    return libsvm.parse(part, num_features, nan, labelled)


class Source:
    """Input files that were found and whose settings were checked.

    Attributes:
      paths: The files, in order.
      options: How to read them.
      is_text: Whether the parts are text still to be parsed.
      is_records: Whether the files are TFRecord files of lists.
    """

    def __init__(
        self, paths: str | list[str], input_format: str, options: Options
    ) -> None:
        if input_format not in FORMATS:
            raise ConfigError(unknown_name("input format", input_format, FORMATS))
        if options.nan not in NAN:
            raise ConfigError(unknown_name("value of --nan", options.nan, NAN))
        self.paths = files.expand(paths, "--input")
        self.options = options
        self.is_text = input_format == "libsvm"
        self.is_records = input_format in RECORD_FORMATS
        self._format = input_format
        self._query_files: list[str] | None = None
        self._records: RecordSource | None = None
        self._columns: Columns | None = None
        self._like: tuple[str, Columns] | None = None
        if options.classes is not None:
            self._check_classes()
        if options.query_file and self.is_text:
            if options.group_by_query:
                raise ConfigError(
                    "--group_by_query needs query ids in the lines; with --query_file "
                    "lists are contiguous by definition. Leave one out."
                )
            self._query_files = files.expand(options.query_file, "--query_file")

    def _check_classes(self) -> None:
        options = self.options
        useless = {
            "--label_columns": options.label_columns,
            "--context_columns": options.context_columns,
            "--query_file": options.query_file,
            "--group_by_query": options.group_by_query,
        }
        for flag, value in useless.items():
            if value:
                raise ConfigError(
                    f"{flag}: it is for lists to rank; with --classes each row is an "
                    "example of its own. Leave one of the two out."
                )
        if self.is_records:
            raise ConfigError(
                "--classes: expected csv, tsv, parquet or libsvm, found "
                f"{self._format}. TFRecord files whose labels are numbers of classes "
                "need no conversion: name the classes in their features.json (docs/"
                "classification.md)."
            )

    def labels(self) -> Iterator[str]:
        """Yields all labels as they are written; reads all of the input."""
        if self.is_text:
            for chunk in self.texts():
                yield from libsvm.labels_of(chunk)
        else:
            yield from tables.labels(self.paths, self._format, self.columns())

    @property
    def inputs(self) -> list[str]:
        """All files that are read, the query files too."""
        return [*self.paths, *(self._query_files or ())]

    def one(self, number: int) -> Source:
        """Returns one of the files alone, to be read as it is among the others.

        Columns and features stay those of all; what is counted over files, as the ids
        of `query_file` are, starts anew.
        """
        source = copy.copy(self)
        source.paths = self.paths[number : number + 1]
        if self._query_files is not None:
            source._query_files = self._query_files[number : number + 1]
        if self.is_records:
            source._records = self.records().one(self.paths[number])
        elif not self.is_text:
            source._like = self.paths[0], self.columns()
        return source

    def absolute(self) -> Source:
        """Returns the same input for processes that run in another folder."""
        source = copy.copy(self)
        source.paths = [os.path.abspath(path) for path in self.paths]
        if self._query_files is not None:
            source._query_files = [os.path.abspath(path) for path in self._query_files]
        return source

    @property
    def counts_queries(self) -> bool:
        """Whether the id of a query is its number among all of the input."""
        if self.is_records:
            return self.records().features.query_id is None
        return self._query_files is not None

    @property
    def joins_queries(self) -> bool:
        """Whether documents with one query id are one list.

        TFRecord files have lists already, which may share an id.
        """
        is_lists = self.is_records and self._format != "example"
        return not (is_lists or self.counts_queries)

    def texts(self) -> Iterator[Chunk]:
        """Yields the parts of a text format."""
        if self.options.classes is not None:
            return libsvm_chunks.by_line(self.paths, self.options.classes)
        if self._query_files is not None:
            return libsvm_chunks.by_lengths(self.paths, self._query_files)
        if self.options.group_by_query:
            return grouping.text_chunks(self.paths, self.options.work_dir)
        return libsvm_chunks.by_query(self.paths)

    def parts(self) -> Iterator[Part]:
        """Yields the input in parts of whole lists."""
        if self.is_text:
            return self.texts()
        if self.is_records:
            return self.records().parts()
        return tables.read(self.paths, self._format, self.options, self._like)

    def records(self) -> RecordSource:
        """Returns the lists of TFRecord files."""
        # Imported late: TensorFlow takes seconds to load.
        from tfr_pipeline.data.sources.tfrecords import RecordSource

        if self._records is None:
            # To find their features, some of the records are read.
            self._records = RecordSource(self.paths, self._format, self.options)
        return self._records

    def columns(self) -> Columns:
        """Returns the columns of a table."""
        if self._columns is None:
            self._columns = tables.columns(self.paths[0], self._format, self.options)
        return self._columns

    def remembered(self) -> dict[str, str]:
        """Returns what to know to read such files; see `Options.remembered`."""
        return self.options.remembered(self._format)

    def context(self) -> dict[str, Feature]:
        """Returns the description of the query features."""
        return {} if self.is_text else self.columns().context

    def empty(self) -> DataError:
        """Returns the error for an input without a document."""
        return DataError(
            f"{', '.join(self.paths)}: expected at least one document, found none "
            "(empty, or only blank lines and comments)."
        )


class QueryOrder:
    """Checks that the documents of each query stand together.

    Keeps the first place of every query: about 200 bytes each.

    Args:
      of_examples: Whether a list is an example, and its id that of one row.
    """

    def __init__(self, of_examples: bool = False) -> None:
        self._places: dict[str, tuple[str, int]] = {}
        self._of_examples = of_examples

    def add(self, parsed: Parsed) -> None:
        """Adds lists in the order of the input.

        Raises:
          DataError: A query came before.
        """
        for query, place in zip(parsed.lists.query_ids, parsed.places, strict=True):
            before = self._places.setdefault(query, place)
            if before is not place and self._of_examples:
                raise DataError(
                    f"{place[0]}:{place[1]}: expected each id once, found {query!r} "
                    f"again; it was at {before[0]}:{before[1]}. Give each example an "
                    "id of its own, or let row numbers be the ids: no --docid_column."
                )
            if before is not place:
                raise DataError(
                    f"{place[0]}:{place[1]}: expected the rows of a query to stand "
                    f"together, found query {query!r} again; it began at "
                    f"{before[0]}:{before[1]}. Use --group_by_query to bring them "
                    "together, or give different queries different ids."
                )
