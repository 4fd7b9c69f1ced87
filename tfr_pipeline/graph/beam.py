"""Apache Beam transforms: `Read`, `Identify` and `Build`; `Pack` is in `beam_pack`.

Elements are pairs of a place, the number of a file and of a record in it, and a `Part`
of one list or of one example. What the transforms give is what the functions give.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np

from tfr_pipeline.data.convert import staged
from tfr_pipeline.graph import building, edges, identification, similarity
from tfr_pipeline.graph.dataset import DataSet, Reading
from tfr_pipeline.graph.encoders import Encoder
from tfr_pipeline.graph.identification import Report
from tfr_pipeline.graph.nodes import Fingerprint
from tfr_pipeline.graph.parts import ExamplesPart, ListsPart, Part
from tfr_pipeline.graph.similarity import Wanted

# Number of a set of files, of a file and of a record in it.
Place = tuple[int, int, int]
Element = tuple[Place, Part]
# Source, target and weight.
Edge = tuple[str, str, float]


@functools.lru_cache(maxsize=8)
def _data_set(paths: tuple[str, ...], others: tuple[str, ...], how: Reading) -> DataSet:
    """Returns what a worker reads by, and keeps."""
    data = DataSet(list(paths), how)
    return data.like(list(others), "--unlabelled") if others else data


def singles(part: Part) -> Iterator[Part]:
    """Yields the lists, or examples, of a part one by one."""
    if isinstance(part, ExamplesPart):
        for record in part.records:
            yield ExamplesPart([record], part.id_feature, part.label)
        return
    for number in range(part.lists.num_lists):
        lists = part.lists.slice(number, number + 1)
        yield dataclasses.replace(part, lists=lists)


class Read(beam.PTransform):
    """Reads files: nothing -> elements.

    Args:
      paths: TFRecord files of ranked lists, or of `tf.train.Example`s.
      reading: How to read.
      others: Files that are read in their place, as those are: unlabelled ones.
      staging: Where a failure leaves its message; nowhere by default.
    """

    def __init__(
        self,
        paths: Iterable[str],
        reading: Reading | None = None,
        others: Iterable[str] = (),
        staging: str = "",
    ) -> None:
        super().__init__()
        self._paths, self._others = tuple(paths), tuple(others)
        self._reading, self._staging = reading or Reading(), staging

    def expand(self, start: Any) -> Any:
        """Adds the steps."""
        files = list(enumerate(self._others or self._paths))
        return (
            start
            | "Files" >> beam.Create(files)
            | "Spread files" >> beam.Reshuffle()
            | "Read" >> beam.FlatMap(self._read)
        )

    def _read(self, file: tuple[int, str]) -> Iterator[Element]:
        number, path = file
        record = 0
        with failing(self._staging, f"1-{number:09d}"):
            data = _data_set(self._paths, self._others, self._reading)
            for part in data.like([path], "--input").parts():
                for one in singles(part):
                    yield (int(bool(self._others)), number, record), one
                    record += 1


def failing(staging: str, rank: str) -> Any:
    """Returns what leaves the message of an error in a folder, if there is one."""
    import contextlib

    return staged.failing(staging, rank) if staging else contextlib.nullcontext()


class Identify(beam.PTransform):
    """Elements -> elements with ids; aside, under `report`, what was found.

    See `identification.identify`.
    """

    def expand(self, elements: Any) -> Any:
        """Adds the steps."""
        contents = (
            elements
            | "Contents" >> beam.FlatMap(_contents)
            | "By name" >> beam.GroupByKey()
            | "Compare" >> beam.Map(_compare)
        )
        clashes = (
            contents
            | "Clashes" >> beam.FlatMap(lambda found: [found[0]] if found[1] else [])
            | "Clash" >> beam.combiners.ToList()
        )
        named = elements | "Name" >> beam.ParDo(
            _Name(), beam.pvalue.AsSingleton(clashes)
        ).with_outputs("report", main="elements")
        counts = contents | "Counts" >> beam.Map(lambda found: found[2])
        report = (
            (named.report, counts)
            | "Reports" >> beam.Flatten()
            | "Report" >> beam.CombineGlobally(_sum_of)
        )
        return {"elements": named.elements, "report": report}


def _contents(element: Element) -> Iterator[tuple[str, bytes]]:
    _, keys, contents = identification.keys_of(element[1])
    yield from zip(keys, contents, strict=True)


def _compare(named: tuple[str, Iterable[bytes]]) -> tuple[int, bool, Report]:
    """Returns the hash of a name, whether contents differ, and what to report."""
    name, contents = named
    found = list(contents)
    distinct = len(set(found))
    report = Report(nodes=distinct, copies=len(found) - distinct)
    return int(identification.hashes([name])[0]), distinct > 1, report


class _Name(beam.DoFn):
    """Element -> element with ids; aside, a report."""

    def process(self, element: Element, clashes: list[int]) -> Iterator[Any]:
        """Gives ids to a part."""
        place, part = element
        sorted_clashes = np.sort(np.array(clashes, np.uint64))
        named, report = identification.identified(part, sorted_clashes)
        yield place, named
        yield beam.pvalue.TaggedOutput("report", report)


def _sum_of(reports: Iterable[Report]) -> Report:
    result = Report()
    for report in reports:
        result.add(report)
    return result


class Build(beam.PTransform):
    """Elements -> edges, both directions of each, in no order.

    All pairs of vectors are compared: blocks of nodes, each with each other.

    Args:
      wanted: Which pairs are edges.
      encoder: Makes the vectors.
      kind: What nodes are.
      num_blocks: Into how many blocks nodes are cut; more of them for more workers.
      staging: See `Read`.
    """

    def __init__(
        self,
        wanted: Wanted,
        encoder: Encoder | None = None,
        kind: str = "documents",
        num_blocks: int = 8,
        staging: str = "",
    ) -> None:
        super().__init__()
        self._wanted, self._encoder = wanted, encoder or Encoder()
        self._kind, self._staging = kind, staging
        self._blocks = num_blocks

    def expand(self, elements: Any) -> Any:
        """Adds the steps."""
        found = (
            elements
            | "Vectors" >> beam.FlatMap(self._vectors)
            | "Nodes" >> beam.GroupByKey()
            | "First" >> beam.Map(_first)
            | "To blocks" >> beam.FlatMap(self._to_blocks)
            | "Blocks" >> beam.GroupByKey()
            | "Compare" >> beam.FlatMap(self._compare)
        )
        if self._wanted.k is not None:
            found = (
                found
                | "By source" >> beam.GroupByKey()
                | "Nearest" >> beam.FlatMap(self._nearest)
            )
        return (
            found
            | "As written" >> beam.Map(_as_written, self._wanted)
            | beam.Distinct()
        )

    def _vectors(self, element: Element) -> Iterator[tuple[str, Any]]:
        place, part = element
        with failing(self._staging, f"2-{place!r}"):
            names = part.nodes(self._kind)
            vectors = self._encoder(part, self._kind)
        for row, name in enumerate(names):
            yield name, ((*place, row), vectors[row])

    def _to_blocks(self, node: tuple[str, np.ndarray]) -> Iterator[Any]:
        own = int(identification.hashes([node[0]])[0] % np.uint64(self._blocks))
        for other in range(self._blocks):
            if other != own or self._blocks == 1:
                yield (min(own, other), max(own, other)), node

    def _compare(self, block: tuple[Any, Iterable[Any]]) -> Iterator[Any]:
        found = sorted(block[1], key=lambda node: node[0])
        names = [name for name, _ in found]
        with failing(self._staging, f"3-{block[0]}"):
            for name, vector in found:
                building.check_length(name, len(vector), len(found[0][1]))
        matrix = np.stack([vector for _, vector in found])
        ranks = edges.ranks(edges.as_strings(names))
        vectors = similarity.Vectors(matrix, ranks, self._wanted.metric)
        for pairs in similarity.exact(vectors, self._wanted, lambda count: None):
            for source, target, weight in zip(
                *(p.tolist() for p in pairs), strict=True
            ):
                one, other = names[source], names[target]
                if self._wanted.k is not None:
                    yield one, (weight, other)
                else:
                    yield one, other, weight
                    yield other, one, weight

    def _nearest(self, source: tuple[str, Iterable[Any]]) -> Iterator[Edge]:
        name, targets = source
        for weight, other in sorted(set(targets), reverse=True)[: self._wanted.k]:
            yield name, other, weight
            yield other, name, weight


def _as_written(edge: Edge, wanted: Wanted) -> Edge:
    """Returns an edge with the weight that a file of edges has."""
    source, target, weight = edge
    return source, target, float(wanted.written(weight))


def _first(node: tuple[str, Iterable[Any]]) -> tuple[str, np.ndarray]:
    """Returns the vector of the first of nodes of one name."""
    name, found = node
    return name, min(found, key=lambda placed: placed[0])[1]


class Describe(beam.PTransform):
    """Elements -> one `Fingerprint` of their nodes.

    Args:
      kind: What nodes are.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def expand(self, elements: Any) -> Any:
        """Adds the steps."""
        kind = self._kind
        return (
            elements
            | "Names" >> beam.FlatMap(lambda element: element[1].nodes(kind))
            | "Each name" >> beam.Distinct()
            | "One" >> beam.Map(lambda name: Fingerprint([name]))
            | "All" >> beam.CombineGlobally(_merged)
        )


def _merged(fingerprints: Iterable[Fingerprint]) -> Fingerprint:
    result = Fingerprint()
    for one in fingerprints:
        result.merge(one)
    return result


def lists_of(part: Part) -> ListsPart:
    """Returns a part that is known to be of lists."""
    assert isinstance(part, ListsPart)
    return part
