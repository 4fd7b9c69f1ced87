"""Input read file by file, in pieces that many machines deal to the shards.

Each file is read by itself, so a list may come in pieces, of one file or of several,
and what is counted over all of the input is not known yet. Both are mended where a
shard is written, see `shard`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator

import numpy as np

from tfr_pipeline.data.convert import label_transform as label_transforms
from tfr_pipeline.data.convert.label_transform import Counts
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.oddities import Oddities
from tfr_pipeline.data.sources import libsvm
from tfr_pipeline.data.sources.libsvm import Parsed
from tfr_pipeline.data.sources.source import Part, Source, parse

# Stands before a number that is counted in one file only. No id has it.
MARK = "\t"


@dataclasses.dataclass
class Piece:
    """Lists, or parts of lists, of one file that go to one shard.

    Attributes:
      file: Number of the file.
      numbers: int64 `[lists]`, rising with the place of a list in its file: the line or
        row of its first document, or its number.
      lists: The lists.
    """

    file: int
    numbers: np.ndarray
    lists: Lists


@dataclasses.dataclass
class Findings:
    """What must be known of all files before a list can be written.

    Attributes:
      width: Number of features of text.
      labels: Documents by label, if they were asked for.
      counts: Maps the number of a file to how many lists and documents it has.
      oddities: What deserves a word, in tables.
    """

    width: int = 0
    labels: Counts = dataclasses.field(default_factory=list)
    counts: dict[int, tuple[int, int]] = dataclasses.field(default_factory=dict)
    oddities: Oddities = dataclasses.field(default_factory=Oddities)

    def add(self, other: Findings) -> None:
        """Adds what was found in other files."""
        self.width = max(self.width, other.width)
        self.labels = label_transforms.total(self.labels, other.labels)
        self.counts.update(other.counts)
        self.oddities.add(other.oddities)

    def before(self) -> dict[int, tuple[int, int]]:
        """Maps the number of a file to the lists and documents in the files before."""
        lists = documents = 0
        result = {}
        for file in sorted(self.counts):
            result[file] = lists, documents
            lists += self.counts[file][0]
            documents += self.counts[file][1]
        return result


def shard_of(key: str, num_shards: int) -> int:
    """Returns the shard of a list; the same on every machine.

    Example:
      >>> [shard_of(key, 4) for key in ("a", "b", "c")]
      [3, 1, 3]
    """
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % num_shards


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads files; picklable.

    Attributes:
      source: All of the input.
      num_shards: Number of shards.
      width: Number of features of text to begin with.
      certain: Whether there are no more features.
      count_labels: Whether labels are counted.
    """

    source: Source
    num_shards: int
    width: int = 0
    certain: bool = False
    count_labels: bool = False

    def read(self, file: int, findings: Findings) -> Iterator[tuple[int, Piece]]:
        """Yields shards and pieces of a file.

        Args:
          file: Its number.
          findings: What is found is added, and complete at the end.

        Raises:
          DataError: The file is malformed.
        """
        source = self.source.one(file)
        findings.width = max(findings.width, self.width)
        findings.counts[file] = 0, 0
        for numbers, parsed in self._parsed(source, file, findings):
            lists = parsed.lists
            findings.oddities.add(parsed.oddities)
            if self.count_labels:
                found = label_transforms.count(lists.labels)
                findings.labels = label_transforms.total(findings.labels, found)
            if self.source.joins_queries:
                keys = lists.query_ids.tolist()
            else:
                keys = [f"{file}{MARK}{number}" for number in numbers.tolist()]
            if self.source.counts_queries:
                names = [MARK + name for name in lists.query_ids.tolist()]
                lists.query_ids = np.array(names, object)
            shards = np.array([shard_of(key, self.num_shards) for key in keys])
            for shard in np.unique(shards).tolist():
                own = np.flatnonzero(shards == shard)
                some = lists if len(own) == lists.num_lists else lists.take(own)
                yield shard, Piece(file, numbers[own], some)

    def _parsed(
        self, source: Source, file: int, findings: Findings
    ) -> Iterator[tuple[np.ndarray, Parsed]]:
        """Yields lists with their numbers, none of them empty."""
        if source.is_records:
            yield from _records(source, file, findings)
            return
        for part in source.parts():
            for parsed in self._pieces(part, findings):
                if not parsed.lists.num_lists:
                    continue
                lists, documents = findings.counts[file]
                findings.counts[file] = (
                    lists + parsed.lists.num_lists,
                    documents + parsed.lists.num_documents,
                )
                yield np.array([line for _, line in parsed.places], np.int64), parsed

    def _pieces(self, part: Part, findings: Findings) -> Iterator[Parsed]:
        """Yields the lists of a part, of text as wide as need be."""
        options, done = self.source.options, 0
        told = findings.width, options.nan, options.require_label
        try:
            for parsed in parse(part, *told):
                yield parsed
                done += parsed.lists.num_lists
            return
        except libsvm.FeatureIndexError:
            if self.certain or isinstance(part, Parsed):
                raise
            findings.width = libsvm.max_index(part)
        # Other lists are as narrow as they were; they are widened when all is known.
        for parsed in parse(part, findings.width, *told[1:]):
            count = parsed.lists.num_lists
            start, done = min(done, count), max(0, done - count)
            yield dataclasses.replace(
                parsed,
                lists=parsed.lists.slice(start, count),
                places=parsed.places[start:],
            )


def _records(
    source: Source, file: int, findings: Findings
) -> Iterator[tuple[np.ndarray, Parsed]]:
    from tfr_pipeline.data.sources.tfrecords import named, without_empty

    records = source.records()
    read = 0

    def lists_of_file() -> Iterator[Lists]:
        nonlocal read
        for lists in records.lists(scattered=True):
            read += lists.num_lists
            yield without_empty(lists)

    count = documents = 0
    for lists in named(lists_of_file(), source.paths, MARK):
        documents += lists.num_documents
        if lists.num_lists:
            numbers = np.arange(count, count + lists.num_lists)
            yield numbers, records.settled(lists)
        count += lists.num_lists
        findings.counts[file] = read, documents
