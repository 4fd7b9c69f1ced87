"""`graph build`: a graph of the documents, queries or examples that are alike."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from tfr_pipeline import files, outputs
from tfr_pipeline.data.progress import Progress
from tfr_pipeline.data.store import Block
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.graph import edges, similarity, similarity_index
from tfr_pipeline.graph.dataset import DataSet, Reading
from tfr_pipeline.graph.encoders import Encoder
from tfr_pipeline.graph.nodes import Fingerprint
from tfr_pipeline.graph.parts import Part
from tfr_pipeline.graph.similarity import Pairs, Wanted

METHODS = ("auto", "exact", "approximate")
# Up to so many vectors all pairs are compared, unless told otherwise: a minute or so.
MOST_EXACT = 50_000
# Where an index has to compare more than this share of all pairs, as with vectors that
# know no clusters, products of whole matrices are quicker.
_WORTH_IT = 0.2
_LINES = 1 << 16  # edges that are written at once


@dataclasses.dataclass
class Nodes:
    """Nodes with their vectors.

    Attributes:
      names: Distinct names.
      matrix: float32 `[nodes, dims]`.
      again: How many more there were with the name of another, which were left out.
    """

    names: pa.Array
    matrix: np.ndarray
    again: int = 0


def collect(parts: Iterable[Part], encoder: Encoder, kind: str) -> Nodes:
    """Returns the vectors of all nodes of a data set.

    Of nodes with one name, the first counts.

    Raises:
      DataError: A vector is longer than another or not finite, or there is none.
    """
    names: list[pa.Array] = []
    block: Block | None = None
    dims = 0
    for part in parts:
        some = part.nodes(kind)
        vectors = encoder(part, kind)
        if not some:
            continue
        if block is None:
            dims = vectors.shape[1]
            block = Block(np.float32, (dims,))
        check_length(some[0], vectors.shape[1], dims)
        block.append(vectors)
        names.append(pa.array(some, pa.large_string()))
    if block is None or not dims:
        raise DataError("expected nodes with vectors, found none.")
    joined, matrix = pa.concat_arrays(names), block.array()
    coded = joined.dictionary_encode()
    numbers = coded.indices.to_numpy()
    again = len(joined) - len(coded.dictionary)
    if again:
        _, first = np.unique(numbers, return_index=True)
        matrix = matrix[first]
    return Nodes(coded.dictionary, matrix, again)


def check_length(name: str, found: int, expected: int) -> None:
    """Raises a DataError if the vector of a node is longer or shorter than others."""
    if found != expected:
        raise DataError(
            f"node {name!r}: expected a vector of {expected} numbers, as those before, "
            f"found {found}."
        )


def build(
    paths: str | list[str],
    output: str,
    *,
    wanted: Wanted,
    encoder: Encoder | None = None,
    kind: str | None = None,
    method: str = "auto",
    recall: float = 0.95,
    reading: Reading | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Writes a graph of the nodes of a data set that are alike.

    Memory: two float32 matrices of all vectors, the names, and 16 bytes an edge; with a
    threshold and all pairs no edges.

    Args:
      paths: TFRecord files of ranked lists, or of `tf.train.Example`s; labelled and
        unlabelled ones together.
      output: TSV file of `source`, `target` and `weight`, both directions of each edge;
        its description is written beside it, `output` + `.json`.
      wanted: Which pairs are edges.
      encoder: Makes the vectors.
      kind: What nodes are: `documents` (default), `queries`; or `examples`.
      method: `exact` compares all pairs; `approximate` uses an index; `auto` the index
        if there are more than `MOST_EXACT` nodes and it saves time.
      recall: Of the index: share of the true neighbours that is to be found.
      reading: How to read.
      report: Takes lines for the user.

    Returns:
      The description.

    Raises:
      DataError: The input is missing or malformed, or has no node; a vector is not
        finite, or longer than another.
      ConfigError: A setting is wrong.

    Example:
      >>> build("data/*", "graph.tsv", wanted=Wanted(k=5))  # doctest: +SKIP
    """
    if method not in METHODS:
        raise ConfigError(unknown_name("method", method, METHODS))
    if not 0 < recall <= 1:
        raise ConfigError(f"--recall: expected above 0 and at most 1, found {recall}.")
    data = DataSet(paths, reading or Reading())
    kind = data.kind(kind)
    outputs.check_output(output, data.paths, what="--output")
    encoder = encoder or Encoder()
    found = collect(data.parts(), encoder, kind)
    if found.again:
        report(
            f"warning: {found.again:,} {kind} have the name of another, which counts; "
            "`tfr-pipeline graph identify` tells them apart"
        )
    pairs, more = edges_of(found, wanted, method, recall)
    described = {
        **description(edges.each(found.names), kind, wanted, encoder),
        **more,
    }
    with files.replacing(output) as temporary:
        described["edges"] = write_tsv(temporary, found.names, pairs, wanted)
    finish(described, output, report)
    return described


def finish(
    described: dict[str, Any], output: str, report: Callable[[str], None]
) -> None:
    """Writes the description of a graph beside it; tells if that has no edge."""
    text = json.dumps(described, indent=1)
    files.write_text(edges.description_path(output), text + "\n")
    if not described["edges"]:
        report(
            f"warning: {output}: no two {described['kind']} are so alike: the graph "
            "has no edge. Lower --threshold."
        )


def description(
    names: Iterable[str], kind: str, wanted: Wanted, encoder: Encoder
) -> dict[str, Any]:
    """Returns what is written beside a graph, but for the number of edges."""
    fingerprint = Fingerprint(names)
    return {
        "version": 1,
        "kind": kind,
        "nodes": fingerprint.count,
        "fingerprint": str(fingerprint),
        **dataclasses.asdict(wanted),
        "features": list(encoder.features),
        "module": encoder.module,
    }


def edges_of(
    found: Nodes, wanted: Wanted, method: str = "exact", recall: float = 0.95
) -> tuple[Iterator[Pairs], dict[str, Any]]:
    """Finds the edges between nodes.

    Returns:
      Pairs of different nodes, each in both directions; and the method, and the recall
      that was measured.
    """
    ranks = edges.ranks(found.names)
    vectors = similarity.Vectors(found.matrix, ranks, wanted.metric)
    count = len(vectors)
    progress = Progress(count, "comparing vectors")

    def tell(number: int) -> None:
        progress.update(number, number)

    if method == "approximate" or (method == "auto" and count > MOST_EXACT):
        index = similarity_index.approximate(vectors, wanted, recall, tell)
        if method == "approximate" or index.share < _WORTH_IT:
            pairs = iter([similarity.symmetric(list(index.parts), count)])
            return pairs, {"method": "approximate", "recall": index.recall}
    parts = similarity.exact(vectors, wanted, tell)
    if wanted.k is not None:
        pairs = iter([similarity.symmetric(list(parts), count)])
    else:
        pairs = map(_both_ways, parts)
    return pairs, {"method": "exact", "recall": 1.0}


def _both_ways(pairs: Pairs) -> Pairs:
    sources, targets, weights = pairs
    ends = np.stack([sources, targets], axis=1)
    return ends.ravel(), ends[:, ::-1].ravel(), np.repeat(weights, 2)


def write_tsv(
    path: str, names: pa.Array, parts: Iterable[Pairs], wanted: Wanted
) -> int:
    """Writes edges as NSL does; returns how many lines."""
    count = 0
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for sources, targets, weights in parts:
            for start in range(0, len(weights), _LINES):
                some = slice(start, start + _LINES)
                ends = (names.take(pa.array(side[some])) for side in (sources, targets))
                texts = map(wanted.written, weights[some].tolist())
                columns = [*(side.to_pylist() for side in ends), list(texts)]
                flat = itertools.chain.from_iterable(zip(*columns, strict=True))
                file.write("%s\t%s\t%s\n" * len(columns[2]) % tuple(flat))
            count += len(weights)
    return count
