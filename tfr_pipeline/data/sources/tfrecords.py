"""TFRecord files of ranked lists as the input of a conversion.

Which features there are is found in the first records, unless it is described.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

import tfr_pipeline.compat  # noqa: F401 - before TensorFlow
from tfr_pipeline.data import ids, store
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.reading import explain, loading, pointwise
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.data.records.formats import EXAMPLE, MESSAGES, PACKED, NotAListError
from tfr_pipeline.data.sources.libsvm import Parsed
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.features import PADDING_LABEL, Feature, Features
from tfr_pipeline.layout import FEATURE_DTYPES

# Documents whose features are looked at.
_DOCUMENTS = 2000
_DTYPES = {"float_list": "float32", "int64_list": "int64", "bytes_list": "string"}
_DEFAULTS: dict[str, Any] = {"float32": 0.0, "int64": 0, "string": ""}


class RecordSource:
    """Lists in TFRecord files.

    Args:
      paths: The files.
      input_format: One of `RECORD_FORMATS` but `packed`.
      options: Names of the label, weight and ids, and which features to take; or the
        description of all of them.

    Attributes:
      features: What the files have.
      output: Description of what will be written: ids that the input lacks are made.
    """

    def __init__(self, paths: list[str], input_format: str, options: Options):
        if input_format == PACKED:
            raise ConfigError(
                "--input_format=packed: packed files are converted already. Convert "
                "what they were made of."
            )
        self._paths = paths
        self._options = options
        self._format = loading.sniff_format(paths, wanted=input_format)
        if options.features:
            self.features = Features.load(options.features)
        else:
            self.features = _Finder(paths, self._format, options).features()
        self._query_dtype = self.features.context.get(self.features.query_id or "")
        context = dict(self.features.context)
        context.pop(self.features.query_id or "", None)
        label, weight = self.features.label, self.features.weight
        written = Feature("float32", (1,), PADDING_LABEL)
        self.output = dataclasses.replace(
            self.features,
            context=context,
            example=dict(sorted(self.features.example.items())),
            label=(label[0], written),
            labels={
                task: (name, written)
                for task, (name, _) in self.features.labels.items()
            },
            weight=weight and (weight[0], Feature("float32", (1,), 1.0)),
            query_id=self.features.query_id or "qid",
            document_id=self.features.document_id or "docid",
        )
        self._check_names()

    def _check_names(self) -> None:
        output = self.output
        for name, group in (
            (output.query_id, output.context),
            (output.document_id, output.example),
        ):
            if name in group:
                raise ConfigError(
                    f"feature {name!r}: the ids are written under this name. Say with "
                    "--qid_column or --docid_column which feature has them."
                )

    def output_as(
        self, output_format: str, feature_dtype: str, without: Collection[str] = ()
    ) -> Features:
        """Returns the description of what will be written in a format.

        Args:
          output_format: `elwc` or `packed`.
          feature_dtype: What packed files hold float32 features as.
          without: Names of texts that become vectors first.

        Raises:
          ConfigError: The format cannot hold a feature.
        """
        loose = [
            name
            for name, feature in self.output.example.items()
            if (feature.kind != "fixed" or feature.dtype == "string")
            and name not in without
        ]
        if loose and output_format == PACKED:
            raise ConfigError(
                "--output_format=packed holds numbers, as many in each document; found "
                f"{', '.join(loose[:8])}. Use --output_format=elwc, or choose others "
                "with --feature_columns."
            )
        if self.output.labels and output_format == PACKED:
            raise ConfigError(
                "--output_format=packed holds one label; found those of the tasks "
                f"{', '.join(self.output.labels)}. Use --output_format=elwc."
            )
        if feature_dtype != FEATURE_DTYPES[0] and not any(
            feature.dtype == FEATURE_DTYPES[0]
            for feature in self.output.example.values()
        ):
            raise ConfigError(
                f"--feature_dtype={feature_dtype}: expected float32 features of "
                "documents, found none. Leave it out: others stay as they are."
            )
        return dataclasses.replace(
            self.output, data_format=output_format, feature_dtype=feature_dtype
        )

    def one(self, path: str) -> RecordSource:
        """Returns the source of one of the files, or of one like them."""
        source = copy.copy(self)
        source._paths = [path]
        return source

    def unlabelled(self, paths: list[str]) -> RecordSource:
        """Returns the source of files like these, where a label may be missing.

        It then is that of padding.
        """
        source = self.one("")
        source._paths = paths
        source.__dict__.pop("parser", None)  # made when it is wanted

        def optional(label: tuple[str, Feature]) -> tuple[str, Feature]:
            whole = label[1].dtype == "int64"
            default = int(PADDING_LABEL) if whole else PADDING_LABEL
            return label[0], dataclasses.replace(label[1], default=default)

        features = self.features
        source.features = dataclasses.replace(
            features,
            label=optional(features.label),
            labels={task: optional(label) for task, label in features.labels.items()},
        )
        return source

    def parts(self) -> Iterator[Parsed]:
        """Yields the lists, some at a time."""
        for lists in named(map(without_empty, self.lists()), self._paths):
            yield self.settled(lists)

    def lists(self, *, scattered: bool = False) -> Iterator[Lists]:
        """Yields the lists as they stand; some may be empty, ids may be missing.

        Args:
          scattered: Whether a query of `example` files may come again after another;
            then several lists have its id.
        """
        features = self.features
        weight = features.weight[0] if features.weight else None
        names = tuple(name for name, _ in features.labels.values())
        label = names or features.label[0]
        arguments = self._paths, self.parser, label, weight, RecordReader()
        query = features.query_id
        if self._format == EXAMPLE and scattered and query:
            singles = loading.iterate(*arguments, grouped=False)
            return pointwise.neighbours(singles, query, self._paths)
        if self._format == EXAMPLE and self._options.group_by_query:
            return self._together(loading.iterate(*arguments, grouped=False))
        return loading.iterate(*arguments)

    def settled(self, lists: Lists) -> Parsed:
        """Returns lists as they are written: without the id among their features.

        NaN and infinite features are what the options say.
        """
        lists.context.pop(self.features.query_id or "", None)
        lists.values.setdefault(
            "float32", np.zeros((lists.num_documents, 0), np.float32)
        )
        self._numbers(lists)
        return Parsed(lists, [(self._paths[0], 0)] * lists.num_lists)

    @functools.cached_property
    def parser(self) -> RecordParser:
        """The parser of the records."""
        features = self.features
        context = dict(self.output.context)
        if self._query_dtype is not None and features.query_id:
            context[features.query_id] = self._query_dtype
        if features.list_weight:
            # Not a feature, but written with them.
            context.setdefault(*features.list_weight)
        labels = list(features.labels_spec.values()) or [features.label_spec]
        return RecordParser(
            {name: feature.to_spec() for name, feature in context.items()},
            features.example_spec,
            dict([*labels, *filter(None, [features.weight_spec])]),
            features.query_id,
            features.document_id,
            self._format,
        )

    def _together(self, parts: Iterable[Lists]) -> Iterator[Lists]:
        """Yields the lists of all documents, which are held in memory."""
        if not self.features.query_id:
            raise ConfigError(
                "--group_by_query needs a query id: name its feature by --qid_column."
            )
        singles = store.collect(parts, self.features.document_id is not None)
        pointwise.check_ids(singles, 0, self.features.query_id, self._paths)
        lists = pointwise.bring_together(singles)
        step = 256
        for start in range(0, lists.num_lists, step):
            yield lists.slice(start, min(start + step, lists.num_lists))

    def _numbers(self, lists: Lists) -> None:
        """Does with NaN and infinite features what the options say."""
        explain.check_labels(self._paths, lists)
        if self._options.nan == "error":
            explain.check_features(self._paths, lists, self.parser)
        elif self._options.nan == "zero":
            loose = [*lists.loose.values(), *lists.loose_context.values()]
            for block in (
                *lists.values.values(),
                *lists.context.values(),
                *(column.values for column in loose),
            ):
                if block.dtype.kind == "f":
                    block[~np.isfinite(block)] = 0


def without_empty(lists: Lists) -> Lists:
    """Returns the lists that have a document."""
    whole = np.flatnonzero(lists.lengths)
    splits = np.append(lists.row_splits[whole], lists.num_documents)
    return lists.regrouped(whole, splits)


def named(parts: Iterable[Lists], paths: list[str], mark: str = "") -> Iterator[Lists]:
    """Yields lists after a look at their ids; documents without one get their number.

    Args:
      parts: The lists, in the order of the files.
      paths: The files; for messages.
      mark: Stands before the numbers.

    Raises:
      DataError: An id cannot stand in a line of predictions, or a query has none.
    """
    files = ", ".join(paths)
    queries = documents = 0

    def place(kind: str, first: int) -> Callable[[int], str]:
        return lambda position: f"{files}: {kind} {first + position}"

    for lists in parts:
        ids.check(lists.query_ids.tolist(), "query", place("list", queries))
        names = lists.document_ids.tolist()
        ids.check(names, "document", place("document", documents))
        numbers = [
            f"{mark}{number}"
            for number in range(documents + 1, documents + lists.num_documents + 1)
        ]
        lists.document_ids = np.where(
            lists.document_ids == "",
            np.array(numbers, object),
            lists.document_ids,
        )
        queries += lists.num_lists
        documents += lists.num_documents
        yield lists


class _Finder:
    """Finds the features of documents and queries in the first records."""

    def __init__(self, paths: list[str], data_format: str, options: Options):
        self._path, self._options = paths[0], options
        self._documents: dict[str, _Found] = collections.defaultdict(_Found)
        self._queries: dict[str, _Found] = collections.defaultdict(_Found)
        count = 0
        for place, serialized in explain.placed_records(paths):
            try:
                documents = explain.documents_of(serialized, data_format)
                context = explain.context_of(serialized, data_format)
            except (DecodeError, NotAListError) as error:
                raise DataError(
                    f"{place}: expected {MESSAGES[data_format]} ({error})."
                ) from error
            for document in documents:
                _add(self._documents, document)
            if data_format == EXAMPLE:
                query = set(options.context_columns) | {options.qid_column}
                features = {n: f for n, f in documents[0].items() if n in query}
                _add(self._queries, features)
            else:
                _add(self._queries, context)
            count += len(documents)
            if count >= _DOCUMENTS:
                break
        if not count:
            raise DataError(f"{', '.join(paths)}: expected ranked lists, found none.")
        if data_format == EXAMPLE:
            for name in self._queries:
                del self._documents[name]

    def features(self) -> Features:
        """Returns the description of what was found."""
        options = self._options
        label = self._named(options.label_column, self._documents, "--label_column")
        if label.dtype == "string" or label.shape != (1,):
            raise DataError(
                f"{self._path}: label {options.label_column!r}: expected one number, "
                f"found {label.dtype} of shape {label.shape}."
            )
        weight = None
        if options.weight_column:
            name = options.weight_column
            weight = name, self._named(name, self._documents, "--weight_column")
        query = options.qid_column if options.qid_column in self._queries else None
        document = options.docid_column
        if document:
            self._named(document, self._documents, "--docid_column")
        elif "docid" in self._documents:
            document = "docid"
        taken = {options.label_column, options.weight_column, document}
        example = [
            *(options.feature_columns or (n for n in self._documents if n not in taken))
        ]
        context = [*(options.context_columns or self._queries)]
        if query and query not in context:
            context.append(query)
        result = Features(
            context={
                n: self._named(n, self._queries, "--context_columns") for n in context
            },
            example={
                n: self._named(n, self._documents, "--feature_columns") for n in example
            },
            label=(options.label_column, label),
            weight=weight,
            query_id=query,
            document_id=document or None,
        )
        if query and result.context[query].dtype == "string":
            del result.context[query]
        return result

    def _named(self, name: str, found: dict[str, _Found], flag: str) -> Feature:
        if name not in found:
            known = sorted(found)
            where = f"{self._path} ({flag})"
            raise ConfigError(unknown_name("feature", name, known, where))
        return found[name].feature(f"{self._path}: feature {name!r}")


class _Found:
    """What a feature was like in the records that had it."""

    def __init__(self) -> None:
        self._kinds: set[str] = set()
        self._sizes: set[int] = set()

    def add(self, feature: Any) -> None:
        kind = feature.WhichOneof("kind")
        if kind:
            self._kinds.add(kind)
            self._sizes.add(len(getattr(feature, kind).value))

    def feature(self, where: str) -> Feature:
        if len(self._kinds) != 1:
            found = ", ".join(sorted(self._kinds)) or "no value at all"
            raise DataError(f"{where}: expected values of one type, found {found}.")
        (kind,) = self._kinds
        dtype = _DTYPES[kind]
        if len(self._sizes) > 1 or 0 in self._sizes:
            return Feature(dtype, (), None, "ragged")
        return Feature(dtype, (*self._sizes,), _DEFAULTS[dtype])


def _add(found: dict[str, _Found], features: Any) -> None:
    for name in features:
        found[name].add(features[name])
