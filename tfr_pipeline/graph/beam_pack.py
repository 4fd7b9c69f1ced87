"""The Apache Beam transform that puts the features of neighbours into data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np

from tfr_pipeline.data.lists import Ragged
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.graph import list_neighbours, nodes
from tfr_pipeline.graph.beam import Edge, Element, Place, failing, lists_of
from tfr_pipeline.graph.example_neighbours import merged
from tfr_pipeline.graph.list_neighbours import Packing, Rows
from tfr_pipeline.graph.packing import Rules
from tfr_pipeline.graph.parts import ExamplesPart, Part


class Pack(beam.PTransform):
    """Elements, and edges -> elements with neighbours; see `packing.pack`.

    The input is a dict: `seeds`, elements that get neighbours; `others`, more elements
    that are neighbours (may be left out); `edges`, triples of source, target, weight.

    Args:
      rules: Which edges count; with a number of neighbours.
      kind: What nodes are.
      staging: See `beam.Read`.

    Raises:
      ConfigError: The rules have no number of neighbours.
    """

    def __init__(
        self, rules: Rules, kind: str = "documents", staging: str = ""
    ) -> None:
        super().__init__()
        if rules.max_nbrs is None:
            raise ConfigError(
                "max_nbrs: expected a number, for the steps of Beam do not see the "
                "largest degree; found None."
            )
        self._rules, self._kind, self._staging = rules, kind, staging

    def expand(self, given: dict[str, Any]) -> Any:
        """Adds the steps."""
        seeds = given["seeds"]
        known = [given[name] for name in ("seeds", "others") if name in given]
        contents = (
            known
            | "All" >> beam.Flatten()
            | "Nodes" >> beam.FlatMap(self._nodes)
            | "Named" >> beam.GroupByKey()
            | "First" >> beam.Map(_first)
        )
        names = contents | "Names" >> beam.Map(lambda node: (node[0], True))
        asked = (
            given["edges"]
            | "Edges" >> beam.FlatMap(self._directed)
            | "Each edge" >> beam.CombinePerKey(max)
            | "To target" >> beam.Map(lambda e: (e[0][1], (e[0][0], e[1])))
        )
        asked = (
            {"asked": asked, "known": names}
            | "Known targets" >> beam.CoGroupByKey()
            | "With target" >> beam.FlatMap(self._with_known, 1)
        )
        asked = (
            {"asked": asked, "known": names}
            | "Known sources" >> beam.CoGroupByKey()
            | "Heaviest" >> beam.FlatMap(self._heaviest)
        )
        found = (
            {"asked": asked, "known": contents}
            | "Fetch" >> beam.CoGroupByKey()
            | "To source" >> beam.FlatMap(_fetched)
        )
        rows = seeds | "Rows" >> beam.FlatMap(self._rows)
        found = (
            {"rows": rows, "found": found}
            | "To rows" >> beam.CoGroupByKey()
            | "By place" >> beam.FlatMap(_to_place)
        )
        return (
            {"part": seeds, "found": found}
            | "Together" >> beam.CoGroupByKey()
            | "Pack" >> beam.FlatMap(self._packed)
        )

    def _nodes(self, element: Element) -> Iterator[tuple[str, Any]]:
        place, part = element
        with failing(self._staging, f"4-{place!r}"):
            names = part.nodes(self._kind)
        for row, name in enumerate(names):
            yield name, ((*place, row), _content(part, row, self._kind))

    def _rows(self, element: Element) -> Iterator[tuple[str, tuple[Place, int]]]:
        for row, name in enumerate(element[1].nodes(self._kind)):
            yield name, (element[0], row)

    def _directed(self, edge: Edge) -> Iterator[tuple[tuple[str, str], float]]:
        source, target, weight = edge
        if source == target and self._rules.self_loops == "drop":
            return
        yield (source, target), float(weight)
        if self._rules.add_undirected_edges:
            yield (target, source), float(weight)

    def _with_known(self, group: Any, side: int) -> Iterator[Any]:
        name, found = group
        asked = list(found["asked"])
        if asked and not list(found["known"]):
            self._refuse(name)
            return
        for other, weight in asked:
            yield other, (weight, name)

    def _refuse(self, name: str) -> None:
        if self._rules.unknown == "error":
            with failing(self._staging, f"5-{name!r:.80}".replace("/", "_")):
                raise DataError(
                    f"--graph: an edge has the id {name!r}, which is no node of the "
                    "data. Give all of the data that the graph was made of, unlabelled "
                    "too, or skip such edges: --unknown_ids=skip."
                )

    def _heaviest(self, group: Any) -> Iterator[Any]:
        name, found = group
        asked = list(found["asked"])
        if asked and not list(found["known"]):
            self._refuse(name)
            return
        heaviest = sorted(asked, reverse=True)[: self._rules.max_nbrs]
        for rank, (weight, target) in enumerate(heaviest):
            yield target, (name, rank, weight)

    def _packed(self, group: Any) -> Iterator[Element]:
        place, together = group
        found = sorted(together["found"], key=lambda one: one[:2])
        for part in together["part"]:
            with failing(self._staging, f"6-{place!r}"):
                yield place, self._with_neighbours(part, found)

    def _with_neighbours(self, part: Part, found: list[Any]) -> Part:
        if isinstance(part, ExamplesPart):
            others = [content for *_, content in found]
            record = merged(
                part.records[0], others, [weight for _, _, weight, _ in found]
            )
            return ExamplesPart([record], part.id_feature, part.label)
        part = lists_of(part)
        assert self._rules.max_nbrs is not None
        packing = Packing(part.features, self._rules.max_nbrs, self._kind)
        count = part.lists.num_documents
        if self._kind == nodes.QUERIES:
            count = part.lists.num_lists
        places = np.full((count, self._rules.max_nbrs), -1)
        weights = np.zeros(places.shape, np.float32)
        for number, (row, rank, weight, _) in enumerate(found):
            places[row, rank], weights[row, rank] = number, weight
        none = list_neighbours.rows_of(part.lists, np.zeros(0, np.int64), self._kind)
        rows = _joined([none, *(content for *_, content in found)])
        lists = packing.applied(part.lists, rows, places, weights)
        return dataclasses.replace(part, lists=lists, features=packing.features)


def _content(part: Part, row: int, kind: str) -> Any:
    """Returns what is packed of a node."""
    if isinstance(part, ExamplesPart):
        return part.records[row]
    return list_neighbours.rows_of(part.lists, np.array([row]), kind)


def _first(node: tuple[str, Iterable[Any]]) -> tuple[str, Any]:
    name, found = node
    return name, min(found, key=lambda placed: placed[0])[1]


def _fetched(group: Any) -> Iterator[Any]:
    _, found = group
    for content in found["known"]:
        for source, rank, weight in found["asked"]:
            yield source, (rank, weight, content)


def _to_place(group: Any) -> Iterator[Any]:
    _, found = group
    neighbours = list(found["found"])
    for place, row in found["rows"]:
        for rank, weight, content in neighbours:
            yield place, (row, rank, weight, content)


def _joined(parts: list[Rows]) -> Rows:
    """Returns all rows of several."""
    first = parts[0]
    return Rows(
        {n: np.concatenate([p.values[n] for p in parts]) for n in first.values},
        {n: Ragged.concatenate([p.loose[n] for p in parts]) for n in first.loose},
    )
