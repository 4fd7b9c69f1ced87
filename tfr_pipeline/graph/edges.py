"""Edges of a graph: read from the TSV that NSL's tools write, and checked.

Lines are `source<TAB>target<TAB>weight`; without a weight it is 1. What is in them, and
what becomes of it:

- an id that is no node: an error, or counted and skipped (`unknown`);
- a self loop: counted and dropped (`self_loops`; NSL keeps it);
- an edge that comes again: counted; the largest weight stays, as with NSL;
- weights that differ in the two directions, or only one direction: counted; edges are
  directed unless `neighbours` is told to add the others;
- no edge at all: a warning; no node has a neighbour.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfr_pipeline import files
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.graph import edge_lines

UNKNOWN = ("error", "skip")
SELF_LOOPS = ("drop", "keep")
_EDGES = 1 << 16  # that are compared with the others at once
_NAMES = 1 << 16  # that are texts of Python at once
_SHOWN = 5  # unknown ids that messages list
_SUFFIX = ".json"


@dataclasses.dataclass
class Found:
    """What was found in a file of edges beside those that are taken.

    Attributes:
      lines: Edges in the file.
      unknown: Edges of which an end is no node.
      unknown_ids: The first such ids.
      self_loops: Edges from a node to itself.
      duplicates: Edges that came before, with the same source and target.
      one_way: Edges, of those taken, without one in the other direction.
      asymmetric: Pairs of nodes whose edges have two weights.
    """

    lines: int = 0
    unknown: int = 0
    unknown_ids: list[str] = dataclasses.field(default_factory=list)
    self_loops: int = 0
    duplicates: int = 0
    one_way: int = 0
    asymmetric: int = 0

    def remarks(self) -> list[str]:
        """Returns what is worth a word to the user, a line each."""
        ids = ", ".join(map(repr, self.unknown_ids))
        found = [
            (self.unknown, f"edges with an id that is no node were skipped: {ids}"),
            (self.self_loops, "edges from a node to itself"),
            (self.duplicates, "edges came again; the largest weight counts"),
            (self.one_way, "edges have none in the other direction"),
            (self.asymmetric, "pairs of nodes have two weights, one a direction"),
        ]
        return [f"{count:,} {text}" for count, text in found if count]


@dataclasses.dataclass(frozen=True)
class Edges:
    """Directed edges between numbered nodes, each once, sorted by source and target.

    Attributes:
      ids: Names of the nodes, string `[nodes]`.
      sources: int32 `[edges]`.
      targets: int32 `[edges]`.
      weights: float64 `[edges]`, as they are written; finite.
      found: What else there was.
    """

    ids: pa.Array
    sources: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    found: Found = dataclasses.field(default_factory=Found)

    @property
    def num_nodes(self) -> int:
        """Number of nodes, also of those without an edge."""
        return len(self.ids)

    def undirected(self) -> Edges:
        """Returns the edges in both directions.

        Where both are there, the larger weight counts, as with NSL.
        """
        return self._of(
            np.concatenate([self.sources, self.targets]),
            np.concatenate([self.targets, self.sources]),
            np.tile(self.weights, 2),
        )

    def _of(self, sources: np.ndarray, targets: np.ndarray, w: np.ndarray) -> Edges:
        order, _ = _distinct(sources, targets, w)
        return dataclasses.replace(
            self, sources=sources[order], targets=targets[order], weights=w[order]
        )

    def neighbours(
        self, max_nbrs: int | None = None, add_undirected_edges: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the neighbours of each node, by falling weight.

        Those that `neural_structured_learning.tools.pack_nbrs` takes: of equal weights
        the larger id comes first.

        Args:
          max_nbrs: How many at most, N; None for as many as any node has.
          add_undirected_edges: Whether an edge leads both ways.

        Returns:
          int32 `[nodes, N]`, numbers of nodes, -1 where a node has fewer; and float32
          `[nodes, N]`, weights, 0 there.

        Example:
          >>> ids = pa.array(["a", "b", "c"])
          >>> numbers = np.array([0, 0]), np.array([1, 2])
          >>> Edges(ids, *numbers, np.array([0.5, 0.9])).neighbours()[0].tolist()
          [[2, 1], [-1, -1], [-1, -1]]
        """
        if max_nbrs is not None and max_nbrs < 1:
            raise ConfigError(f"max_nbrs: expected 1 or more, found {max_nbrs}.")
        edges = self.undirected() if add_undirected_edges else self
        names = ranks(self.ids)[edges.targets]
        order = np.lexsort((-names, -edges.weights, edges.sources))
        sources = edges.sources[order]
        degrees = np.bincount(sources, minlength=self.num_nodes)
        first = np.concatenate([[0], np.cumsum(degrees)])[:-1]
        places = np.arange(len(sources)) - first[sources]
        width = int(degrees.max(initial=0)) if max_nbrs is None else max_nbrs
        kept = places < width
        rows, columns, order = sources[kept], places[kept], order[kept]
        numbers = np.full((self.num_nodes, width), -1, np.int32)
        weights = np.zeros((self.num_nodes, width), np.float32)
        numbers[rows, columns] = edges.targets[order]
        weights[rows, columns] = edges.weights[order]
        return numbers, weights


def read_edges(
    path: str,
    ids: Sequence[str] | np.ndarray | pa.Array,
    *,
    unknown: str = "error",
    self_loops: str = "drop",
) -> Edges:
    """Reads the edges between nodes.

    Args:
      path: TSV file, plain or compressed; a glob or several are one graph.
      ids: Names of the nodes in the order of their numbers, see `nodes`; of a name that
        comes again, the first is meant.
      unknown: What to do with edges of which an end is no node: `error`, or `skip`.
      self_loops: What to do with edges from a node to itself: `drop`, or `keep`.

    Returns:
      The edges; `found` tells what else there was. Memory: about 50 bytes an edge.

    Raises:
      DataError: A line is malformed, a weight is not finite, or an id is unknown; or
        all are.
      ConfigError: A setting has no such value.
    """
    for name, value, choices in (
        ("unknown", unknown, UNKNOWN),
        ("self_loops", self_loops, SELF_LOOPS),
    ):
        if value not in choices:
            raise ConfigError(unknown_name(name, value, choices))
    names = as_strings(ids)
    found = Found()
    parts = []
    for file in files.expand(path, "graph"):
        for sources, targets, weights in edge_lines.blocks(file):
            found.lines += len(weights)
            numbers = [numbers_of(ends, names) for ends in (sources, targets)]
            for place, text in enumerate((sources, targets)):
                _note_unknown(found, text.filter(pa.array(numbers[place] < 0)))
            known = (numbers[0] >= 0) & (numbers[1] >= 0)
            found.unknown += int((~known).sum())
            loops = known & (numbers[0] == numbers[1])
            found.self_loops += int(loops.sum())
            kept = known & ~loops if self_loops == "drop" else known
            parts.append((numbers[0][kept], numbers[1][kept], weights[kept]))
    _check_unknown(path, found, unknown)
    empty = [(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0))]
    sources, targets, weights = map(np.concatenate, zip(*(parts or empty), strict=True))
    order, found.duplicates = _distinct(sources, targets, weights)
    edges = Edges(names, sources[order], targets[order], weights[order], found)
    _compare_directions(edges)
    if not len(order):
        warnings.warn(
            f"{path}: the graph has no edge: no node has a neighbour.", stacklevel=2
        )
    return edges


def each(names: pa.Array) -> Iterator[str]:
    """Yields names, without holding all of them as texts of Python."""
    for start in range(0, len(names), _NAMES):
        yield from names.slice(start, _NAMES).to_pylist()


def as_strings(ids: Sequence[str] | np.ndarray | pa.Array) -> pa.Array:
    """Returns names as an array of Arrow's strings."""
    if isinstance(ids, pa.Array):
        return ids.cast(pa.large_string())
    return pa.array(ids, pa.large_string())


def numbers_of(texts: pa.Array, names: pa.Array) -> np.ndarray:
    """Returns int32, the number of the node of each text, -1 where there is none."""
    found = pc.fill_null(pc.index_in(texts, value_set=names), -1)
    return found.to_numpy(zero_copy_only=False).astype(np.int32)


def _note_unknown(found: Found, texts: pa.Array) -> None:
    if len(found.unknown_ids) < _SHOWN:
        new = [*found.unknown_ids, *texts.unique().to_pylist()[: 2 * _SHOWN]]
        found.unknown_ids = list(dict.fromkeys(new))[:_SHOWN]


def _check_unknown(path: str, found: Found, unknown: str) -> None:
    if not found.unknown or (unknown == "skip" and found.unknown < found.lines):
        return
    ids = ", ".join(map(repr, found.unknown_ids))
    how_many = "all" if found.unknown == found.lines else "expected none, found"
    raise DataError(
        f"{path}: {how_many} {found.unknown:,} of {found.lines:,} edges have an id "
        f"that is no node of the data, such as {ids}. Give all of the data that the "
        "graph was made of, unlabelled too, or skip such edges: unknown='skip', "
        "--unknown_ids=skip."
    )


def _distinct(
    sources: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, int]:
    """Returns which edges stay, in order, the heaviest of equals; and the others."""
    order = np.lexsort((-weights, targets, sources))
    if not len(order):
        return order, 0
    first = np.ones(len(order), bool)
    for ends in (sources[order], targets[order]):
        first[1:] &= ends[1:] == ends[:-1]
    first[1:] = ~first[1:]  # not both as before
    return order[first], len(order) - int(first.sum())


def _compare_directions(edges: Edges) -> None:
    """Counts edges that go one way only, and pairs with two weights."""
    if not len(edges.sources):
        return
    keys = edges.sources.astype(np.int64) * edges.num_nodes + edges.targets
    differ = 0
    for start in range(0, len(keys), _EDGES):
        some = slice(start, start + _EDGES)
        back = edges.targets[some].astype(np.int64) * edges.num_nodes
        back += edges.sources[some]
        place = np.minimum(np.searchsorted(keys, back), len(keys) - 1)
        there = keys[place] == back
        edges.found.one_way += int((~there).sum())
        differ += int((edges.weights[some] != edges.weights[place])[there].sum())
    edges.found.asymmetric = differ // 2


def ranks(ids: pa.Array) -> np.ndarray:
    """Returns int64 `[nodes]`, the place of each id in the order of all."""
    order = pc.sort_indices(ids).to_numpy()
    result = np.empty(len(order), np.int64)
    result[order] = np.arange(len(order))
    return result


def description_path(path: str) -> str:
    """Returns where the description of a graph is: beside it."""
    return path + _SUFFIX


def is_described(path: str) -> bool:
    """Whether a graph has a description beside it."""
    return files.exists(description_path(path))


def check_fingerprint(path: str, fingerprint: str, nodes: int) -> None:
    """Refuses a graph that was built of other nodes than there are.

    Args:
      path: TSV file; a graph without a description, of another program, passes.
      fingerprint: `nodes.Fingerprint` of the data, as text.
      nodes: Number of distinct nodes of the data; for the message.

    Raises:
      DataError: The description tells of other nodes, or cannot be read.
    """
    place = description_path(path)
    if not is_described(path):
        return
    described = files.read_json(place)
    try:
        expected, count = str(described["fingerprint"]), int(described["nodes"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{place}: expected what `graph build` writes beside a graph ({error!r})."
        ) from error
    if expected != fingerprint:
        raise DataError(
            f"{path}: the graph belongs to another data set: it was built of {count:,} "
            f"nodes with fingerprint {expected[:12]}, and the data has {nodes:,} with "
            f"{fingerprint[:12]}. Give all of the data that it was built of, the "
            "unlabelled too, or build it again."
        )
