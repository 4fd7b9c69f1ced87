"""`graph pack`: the features of neighbours, in each example or document.

What is packed is read as a stream. Neighbours can be anywhere: those of examples are
read from the files when they are wanted, those of lists from memory, or where they do
not fit, from the cache on disk. So memory does not grow with features, but with names
and neighbours only.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from tfr_pipeline import files
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.graph import edges as graph_edges
from tfr_pipeline.graph import list_neighbours, nodes, writing
from tfr_pipeline.graph.dataset import DataSet, Reading
from tfr_pipeline.graph.edges import Found, read_edges
from tfr_pipeline.graph.example_neighbours import RecordStore, merged
from tfr_pipeline.graph.list_neighbours import ListStore, Packing
from tfr_pipeline.graph.nodes import Fingerprint
from tfr_pipeline.graph.parts import ListsPart
from tfr_pipeline.graph.writing import Output

_AT_ONCE = 512  # examples that get their neighbours together


@dataclasses.dataclass(frozen=True)
class Rules:
    """Which edges of a graph lead to neighbours.

    Attributes:
      max_nbrs: How many neighbours at most, the heaviest; None for all.
      add_undirected_edges: Whether an edge leads both ways.
      unknown: What to do with edges of which an end is no node: `error`, or `skip`.
      self_loops: What to do with edges from a node to itself: `drop`, or `keep`.
    """

    max_nbrs: int | None = 3
    add_undirected_edges: bool = False
    unknown: str = "error"
    self_loops: str = "drop"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("unknown_ids", self.unknown, graph_edges.UNKNOWN),
            ("self_loops", self.self_loops, graph_edges.SELF_LOOPS),
        ):
            if value not in known:
                raise ConfigError(unknown_name(name, value, known))


@dataclasses.dataclass
class Neighbours:
    """The neighbours of all nodes, by number.

    Attributes:
      numbers: int32 `[nodes, N]`, -1 where a node has fewer.
      weights: float32 `[nodes, N]`, 0 there.
      found: What was found among the edges.
    """

    numbers: np.ndarray
    weights: np.ndarray
    found: Found

    @classmethod
    def of(cls, graph: str, names: pa.Array, rules: Rules) -> Neighbours:
        """Reads the neighbours of nodes; those that have one name share them.

        Args:
          graph: TSV file.
          names: Names of the nodes.
          rules: Which edges count.

        Raises:
          DataError: The graph is malformed, or one of other data.
          ConfigError: A setting is wrong.
        """
        distinct = names.unique()
        if rules.unknown == "error":
            _check_fingerprint(graph, distinct)
        read = read_edges(
            graph, names, unknown=rules.unknown, self_loops=rules.self_loops
        )
        numbers, weights = read.neighbours(rules.max_nbrs, rules.add_undirected_edges)
        if len(distinct) < len(names):
            same = graph_edges.numbers_of(names, names)
            numbers, weights = numbers[same], weights[same]
        return cls(numbers, weights, read.found)


def _check_fingerprint(graph: str, names: pa.Array) -> None:
    for path in files.expand(graph, "--graph"):
        found = Fingerprint(graph_edges.each(names))
        graph_edges.check_fingerprint(path, str(found), found.count)


def neighbours_of(
    lists: Lists, graph: str, rules: Rules | None = None, kind: str = nodes.DOCUMENTS
) -> Neighbours:
    """Returns the neighbours of lists in memory, of which nothing is copied.

    Args:
      lists: All lists that the graph is of, with ids.
      graph: TSV file.
      rules: Which edges count.
      kind: What nodes are: `documents`, or `queries`.

    Raises:
      DataError: The graph is malformed, or one of other data.
    """
    names = graph_edges.as_strings(nodes.of_lists(lists, kind))
    return Neighbours.of(graph, names, rules or Rules())


@dataclasses.dataclass
class Report:
    """What was packed.

    Attributes:
      nodes: Documents, queries or examples that were written.
      degrees: Maps a number of neighbours to the nodes that got so many.
      found: What was found among the edges.
    """

    nodes: int
    degrees: dict[int, int]
    found: Found


def pack(
    paths: str | list[str],
    output: str,
    *,
    graph: str,
    unlabelled: str | list[str] = "",
    with_unlabelled: bool = False,
    rules: Rules | None = None,
    kind: str | None = None,
    split: str = "train",
    num_shards: int = 1,
    output_format: str | None = None,
    cache: str = "auto",
    reading: Reading | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Report:
    """Writes data with the features and weights of the neighbours of each node.

    Of examples, what `neural_structured_learning.tools.pack_nbrs` writes.

    Args:
      paths: TFRecord files of ranked lists, or of `tf.train.Example`s.
      output: Folder that is written as by `convert`; of examples, shards alone, or one
        file `NAME.tfrecord`.
      graph: TSV file, of `graph build` or your own.
      unlabelled: More files, whose nodes are neighbours.
      with_unlabelled: Whether they are written, too, behind the others.
      rules: Which edges count.
      kind: What nodes are: `documents` (default), `queries`; or `examples`.
      split: Name of the split.
      num_shards: Number of files.
      output_format: `elwc` or `packed`; by default that of the input.
      cache: Where lists are from which neighbours come: `auto`, `memory`, `disk`, or a
        folder.
      reading: How to read.
      report: Takes lines for the user.

    Returns:
      What was packed.

    Raises:
      DataError: The input or the graph is malformed, or the graph is one of other data.
      ConfigError: A setting is wrong.

    Example:
      >>> pack("data/train-*", "packed", graph="graph.tsv")  # doctest: +SKIP
    """
    rules = rules or Rules()
    data = DataSet(paths, reading or Reading())
    kind = data.kind(kind)
    sets = [data]
    if unlabelled:
        sets.append(data.like(unlabelled, "--unlabelled"))
    inputs = tuple(path for one in sets for path in one.paths)
    place = Output(output, split, num_shards, inputs)
    place.check()
    written = sets if with_unlabelled else sets[:1]
    if data.is_examples:
        found, count = _pack_examples(sets, written, graph, rules, place)
    else:
        found, count = _pack_lists(
            sets, written, graph, rules, place, kind, output_format, cache
        )
    degrees = (found.numbers[:count] >= 0).sum(axis=1)
    sizes, counts = np.unique(degrees, return_counts=True)
    of_degree = dict(zip(sizes.tolist(), counts.tolist(), strict=True))
    for line in found.found.remarks():
        report(f"{graph}: {line}")
    return Report(count, of_degree, found.found)


def _pack_examples(
    sets: list[DataSet],
    written: list[DataSet],
    graph: str,
    rules: Rules,
    place: Output,
) -> tuple[Neighbours, int]:
    with RecordStore(sets) as store:
        found = Neighbours.of(graph, store.names, rules)

        def records() -> Iterator[bytes]:
            row = 0
            for batch in itertools.chain.from_iterable(s.records() for s in written):
                for start in range(0, len(batch), _AT_ONCE):
                    seeds = batch[start : start + _AT_ONCE]
                    rows = slice(row, row + len(seeds))
                    row = rows.stop
                    numbers = found.numbers[rows]
                    others = store.read(np.unique(numbers[numbers >= 0]))
                    yield from map(
                        merged,
                        seeds,
                        (
                            [others[n] for n in some if n >= 0]
                            for some in numbers.tolist()
                        ),
                        found.weights[rows].tolist(),
                    )

        return found, writing.write_examples(records(), place)


def _pack_lists(
    sets: list[DataSet],
    written: list[DataSet],
    graph: str,
    rules: Rules,
    place: Output,
    kind: str,
    output_format: str | None,
    cache: str,
) -> tuple[Neighbours, int]:
    store = ListStore(sets, kind, cache)
    found = Neighbours.of(graph, store.names, rules)
    assert sets[0].features is not None
    packing = Packing(sets[0].features, found.numbers.shape[1], kind)
    features = writing.format_of(output_format, packing.features)
    count = 0

    def parts() -> Iterator[Lists]:
        nonlocal count
        for part in itertools.chain.from_iterable(data.parts() for data in written):
            assert isinstance(part, ListsPart)
            for lists in list_neighbours.cut(part.lists, packing.bytes_each):
                size = lists.num_lists
                if kind == nodes.DOCUMENTS:
                    size = lists.num_documents
                rows = slice(count, count + size)
                count = rows.stop
                numbers = found.numbers[rows]
                wanted = np.unique(numbers[numbers >= 0])
                others = store.read(wanted)
                places = np.where(numbers < 0, -1, np.searchsorted(wanted, numbers))
                yield packing.applied(lists, others, places, found.weights[rows])

    writing.write_lists(parts(), features, place)
    return found, count
