"""`graph identify`: an id for each document, whatever the sharding; and no id for two.

Ids that are there and unique stay. A document without one is called by a hash of its
features; so is a list without a query id. Documents of one list and id but of other
content have that hash behind their id. All of it depends on the content alone, so the
same input gives the same ids, in whatever order and files; and ids that were made are
not changed by another run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from tfr_pipeline import files
from tfr_pipeline.graph import nodes, writing
from tfr_pipeline.graph.dataset import DataSet, Reading
from tfr_pipeline.graph.parts import (
    ExamplesPart,
    ListsPart,
    Part,
    content_id,
    distinct_id,
)
from tfr_pipeline.graph.writing import Output

_SHOWN = 5


@dataclasses.dataclass
class Report:
    """What was found of ids.

    Attributes:
      documents: Number of documents, or of examples.
      nodes: Those of them with distinct names.
      made: Documents that had no id.
      renamed: Documents that shared their id with one of other content.
      copies: Documents that are another one, by id and content: one node.
      shown: The names of some nodes that were renamed or come again.
    """

    documents: int = 0
    nodes: int = 0
    made: int = 0
    renamed: int = 0
    copies: int = 0
    shown: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: Report) -> None:
        """Adds what was found in another part."""
        for name in ("documents", "nodes", "made", "renamed", "copies"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.shown = (self.shown + other.shown)[:_SHOWN]

    def lines(self) -> list[str]:
        """Returns it in words, what is worth a word."""
        shown = ", ".join(map(repr, self.shown))
        found = [
            (self.made, "documents had no id; a hash of their content is it"),
            (
                self.renamed,
                "documents had the id of one of other content; a hash is added to "
                f"theirs, e.g. {shown}",
            ),
            (
                self.copies,
                "documents are another one again, by id and content; they are one "
                f"node, e.g. {shown}",
            ),
        ]
        return [f"{count:,} {text}" for count, text in found if count]


def identify(
    paths: str | list[str],
    output: str,
    *,
    split: str = "train",
    num_shards: int = 1,
    output_format: str | None = None,
    reading: Reading | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Report:
    """Writes data with an id for each document that no other has.

    Reads the data twice; memory: 16 bytes a document beside some of the data.

    Args:
      paths: TFRecord files of ranked lists, or of `tf.train.Example`s.
      output: Folder that is written as by `convert`, and `<split>.ids.json`; of
        examples, shards alone, or one file `NAME.tfrecord`.
      split: Name of the split.
      num_shards: Number of files.
      output_format: `elwc` or `packed`; by default that of the input.
      reading: How to read.
      report: Takes lines for the user.

    Returns:
      What was found.

    Raises:
      DataError: The input is missing or malformed.
      ConfigError: A setting is wrong.

    Example:
      >>> identify("data/train-*", "identified")  # doctest: +SKIP
    """
    data = DataSet(paths, reading or Reading())
    place = Output(output, split, num_shards, tuple(data.paths))
    place.check()
    clashes, counts = _clashes(data.parts())
    found = Report()

    def parts() -> Iterator[Part]:
        for part in data.parts():
            named, one = identified(part, clashes)
            found.add(one)
            yield named

    if data.features is None:
        records = (r for part in parts() for r in _records(part))
        writing.write_examples(records, place)
    else:
        features = writing.format_of(output_format, data.features)
        lists = (part.lists for part in parts() if isinstance(part, ListsPart))
        writing.write_lists(lists, features, place)
    found.nodes, found.copies = counts
    finish(found, place, report)
    return found


def finish(found: Report, place: Output, report: Callable[[str], None]) -> None:
    """Writes what was found beside the data, and tells it."""
    if not place.is_file:
        path = os.path.join(place.folder, f"{place.split}.ids.json")
        text = json.dumps(dataclasses.asdict(found), indent=1)
        files.write_text(path, text + "\n")
    for line in found.lines():
        report(line)


def _records(part: Part) -> list[bytes]:
    assert isinstance(part, ExamplesPart)
    return part.records


def keys_of(part: Part) -> tuple[Part, list[str], list[bytes]]:
    """Returns a part with query ids, and the name and the content of each document.

    The name of a document without id is that which it gets.
    """
    contents = part.contents()
    part = part.with_query_ids(contents)
    ids = [
        name or content_id(content)
        for name, content in zip(part.ids(), contents, strict=True)
    ]
    return part, part.with_ids(ids).nodes(), contents


def _clashes(parts: Iterable[Part]) -> tuple[np.ndarray, tuple[int, int]]:
    """Finds names that documents of different content have.

    Returns:
      uint64, sorted: their hashes; and the number of distinct documents, and of those
      that are another one again.
    """
    names, contents = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for part in parts:
        _, keys, digests = keys_of(part)
        names.append(hashes(keys))
        contents.append(np.array([_number(digest) for digest in digests], np.uint64))
    name, content = np.concatenate(names), np.concatenate(contents)
    order = np.lexsort((content, name))
    name, content = name[order], content[order]
    same_name = name[1:] == name[:-1]
    same = same_name & (content[1:] == content[:-1])
    copies = int(same.sum())
    return np.unique(name[1:][same_name & ~same]), (len(name) - copies, copies)


def identified(part: Part, clashes: np.ndarray) -> tuple[Part, Report]:
    """Returns a part with an id for each document, and what was done.

    Args:
      part: The part.
      clashes: uint64, sorted: hashes of names of documents with different content.
    """
    given = part.ids()
    part, keys, contents = keys_of(part)
    numbers = hashes(keys)
    places = np.searchsorted(clashes, numbers)
    clash = np.zeros(len(keys), bool)
    inside = places < len(clashes)
    clash[inside] = clashes[places[inside]] == numbers[inside]
    ids = []
    report = Report(documents=len(keys))
    for name, content, shared in zip(given, contents, clash.tolist(), strict=True):
        if not name:
            report.made += 1
            name = content_id(content)
        elif shared:
            report.renamed += 1
            name = distinct_id(name, content)
        ids.append(name)
    named = part.with_ids(ids)
    if report.renamed:
        names = named.nodes()
        report.shown = [names[i] for i in np.flatnonzero(clash)[:_SHOWN]]
    return named, report


def hashes(names: list[str]) -> np.ndarray:
    """Returns uint64 `[names]`."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8) for name in names)
    return np.array([_number(digest.digest()) for digest in digests], np.uint64)


def _number(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little")


def fingerprint(names: Iterable[str]) -> nodes.Fingerprint:
    """Returns the fingerprint of nodes, each of which counts once."""
    return nodes.Fingerprint(dict.fromkeys(names))
