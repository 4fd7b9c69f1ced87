"""The engine of one machine: parts of the input go through worker processes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from typing import IO

import numpy as np

from tfr_pipeline.data.convert import output_folder, workers
from tfr_pipeline.data.convert.cut import Cut
from tfr_pipeline.data.convert.description import find_transform, first_width
from tfr_pipeline.data.convert.job import (
    Job,
    Result,
    SplitResult,
    Target,
    encode_lists,
)
from tfr_pipeline.data.convert.remarks import hint_at_width, report_columns
from tfr_pipeline.data.convert.statistics import Statistics
from tfr_pipeline.data.oddities import Oddities
from tfr_pipeline.data.progress import Progress
from tfr_pipeline.data.records import index
from tfr_pipeline.data.sources import libsvm
from tfr_pipeline.data.sources.source import Part, QueryOrder, parse
from tfr_pipeline.errors import DataError


@dataclasses.dataclass
class Encoded:
    """The lists of a part of the input that are in one split.

    Attributes:
      records: One TFRecord with checksums a list.
      documents: Number of documents of each list.
      statistics: Its counts; None if it has no list.
    """

    records: list[bytes] = dataclasses.field(default_factory=list)
    documents: list[int] = dataclasses.field(default_factory=list)
    statistics: Statistics | None = None

    def add(self, target: Target, parsed: libsvm.Parsed) -> None:
        """Encodes lists that come later."""
        if not parsed.lists.num_lists:
            return
        records, statistics = encode_lists(target, parsed)
        self.records += records
        self.documents += parsed.lists.lengths.tolist()
        self.count(statistics)

    def count(self, statistics: Statistics | None) -> None:
        """Adds the counts of lists that come later."""
        if self.statistics is None:
            self.statistics = statistics
        elif statistics is not None:
            self.statistics.add(statistics)


@dataclasses.dataclass
class Converted:
    """A part of the input, ready to be written.

    Attributes:
      parsed: Query ids and places of its lists, without their documents.
      splits: What each split has of it.
      bytes_read: Size of the input consumed so far.
      oddities: What deserves a word, in tables.
    """

    parsed: list[libsvm.Parsed]
    splits: list[Encoded]
    bytes_read: int
    oddities: Oddities = dataclasses.field(default_factory=Oddities)


def in_processes(job: Job) -> Result:
    """The engine of one machine: list `i` goes to shard `i % num_shards`."""
    source, report, nan = job.source, job.report, job.source.options.nan
    transform = find_transform(
        *(source, job.label_transform, job.before, job.num_workers, report),
        job.cut,
    )
    describe = functools.partial(job.describe, transform=transform)
    more = job.cut, job.embeds, source.options.require_label
    if not source.is_text:
        if not source.is_records:
            report_columns(source, report)
        features = describe(0)
        return features, _write(job, Target(features, 0, nan, transform, *more))
    width, certain = first_width(source, job.before)
    hint_at_width(width, report)
    try:
        features = describe(width)
        return features, _write(job, Target(features, width, nan, transform, *more))
    except libsvm.FeatureIndexError:
        if certain:
            raise
        report(f"more than {width} features: reading the input once more")
        found = workers.ordered_map(libsvm.max_index, source.texts(), job.num_workers)
        width = max(found)
        hint_at_width(width, report)
        features = describe(width)
        return features, _write(job, Target(features, width, nan, transform, *more))


def _convert_part(target: Target, part: Part) -> Converted:
    """Parses and encodes a part of the input; runs in a worker."""
    count = len(target.cut.names) if target.cut else 1
    result = Converted([], [Encoded() for _ in range(count)], part.bytes_read)
    for parsed in parse(part, target.num_features, target.nan, target.labelled):
        if not parsed.lists.num_lists:
            continue
        result.oddities.add(parsed.oddities)
        # Only ids go back to the parent.
        lists = dataclasses.replace(
            parsed.lists, values={}, loose={}, labels=None, weights=None
        )
        lists.document_ids = lists.document_ids[:0]
        result.parsed.append(dataclasses.replace(parsed, lists=lists))
        for encoded, own in zip(result.splits, _cut(target.cut, parsed), strict=True):
            encoded.add(target, own)
    return result


def _cut(cut: Cut | None, parsed: libsvm.Parsed) -> list[libsvm.Parsed]:
    """Returns what each split has of some lists."""
    if cut is None:
        return [parsed]
    of = cut.of(parsed.lists.query_ids)
    numbers = [np.flatnonzero(of == split) for split in range(len(cut.names))]
    return [
        dataclasses.replace(
            parsed,
            lists=parsed.lists.take(own),
            places=[parsed.places[number] for number in own],
        )
        for own in numbers
    ]


class _Split:
    """The shards of one split while they are written.

    Args:
      job: What is to be done.
      name: The split.
      stack: Closes the files.
    """

    def __init__(self, job: Job, name: str, stack: contextlib.ExitStack):
        names = output_folder.shard_names(name, job.num_shards)
        self._shards = [
            index.Writing(os.path.join(job.staging, shard)) for shard in names
        ]
        self._files: list[IO[bytes]] = [
            stack.enter_context(open(shard.path, "wb"))  # noqa: SIM115
            for shard in self._shards
        ]
        self._number = 0
        self.found = Encoded()

    def write(self, encoded: Encoded) -> None:
        """Writes lists that come later: list `i` goes to shard `i % num_shards`."""
        for record, length in zip(encoded.records, encoded.documents, strict=True):
            shard = self._number % len(self._shards)
            self._files[shard].write(record)
            self._shards[shard].add(length, len(record))
            self._number += 1
        self.found.count(encoded.statistics)

    def indices(self) -> list[index.ShardIndex]:
        """Returns the index of each shard."""
        return [shard.index() for shard in self._shards]


def _write(job: Job, target: Target) -> list[SplitResult]:
    """Writes the shards into the staging folder; returns the counts and the index."""
    source = job.source
    order = QueryOrder(source.options.classes is not None)
    size = sum(os.path.getsize(path) for path in source.paths)
    progress = Progress(size, job.title)
    documents, oddities = 0, Oddities()
    with contextlib.ExitStack() as stack:
        stack.callback(progress.clear)
        splits = [_Split(job, name, stack) for name in job.splits]
        results = workers.ordered_map(
            functools.partial(_convert_part, target), source.parts(), job.num_workers
        )
        stack.callback(results.close)  # type: ignore[attr-defined]
        for result in results:
            for parsed in result.parsed:
                # Lists that come as lists may have the id of another.
                if not source.is_records:
                    order.add(parsed)
            for split, encoded in zip(splits, result.splits, strict=True):
                split.write(encoded)
                documents += sum(encoded.documents)
            oddities.add(result.oddities)
            if documents:
                progress.update(result.bytes_read, documents)
    if not documents:
        raise source.empty()
    written: list[SplitResult] = []
    for name, split in zip(job.splits, splits, strict=True):
        statistics = split.found.statistics
        if statistics is None:
            assert job.cut is not None
            raise DataError(
                f"--splits={job.cut}: expected queries in each split, found none for "
                f"{name!r} in {', '.join(source.paths)}. Choose larger shares."
            )
        # Told once, for all of them.
        statistics.oddities, oddities = oddities, Oddities()
        written.append((statistics, split.indices()))
    return written
