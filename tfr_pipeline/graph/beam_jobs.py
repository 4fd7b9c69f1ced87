"""`graph identify`, `build` and `pack` with `--runner`: as Apache Beam pipelines.

The functions have the names, and the results, of those that work without Beam; but a
record goes to a shard by a hash of its place in the input, and of equal pairs all are
compared: there is no index.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from tfr_pipeline import files, outputs, urls
from tfr_pipeline.data.convert import output_folder, staged
from tfr_pipeline.data.convert.beam_runner import Chosen
from tfr_pipeline.data.convert.statistics import Statistics
from tfr_pipeline.data.records import index, tfrecord
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.features import Features
from tfr_pipeline.graph import building, edge_lines, edges, identification, writing
from tfr_pipeline.graph.beam import Build, Describe, Edge, Element, Identify, Read
from tfr_pipeline.graph.beam_pack import Pack
from tfr_pipeline.graph.dataset import DataSet, Reading
from tfr_pipeline.graph.encoders import Encoder
from tfr_pipeline.graph.identification import Report
from tfr_pipeline.graph.list_neighbours import Packing
from tfr_pipeline.graph.packing import Rules
from tfr_pipeline.graph.parts import ExamplesPart
from tfr_pipeline.graph.similarity import Wanted
from tfr_pipeline.graph.writing import Output

_GRAPH, _COUNTS = "graph.tsv", "counts"


class Write(beam.PTransform):
    """Elements -> shards in a folder; `commit` moves them to their place.

    Args:
      staging: The folder.
      output: Names and number of the shards.
      features: Description of lists; of examples None.
    """

    def __init__(self, staging: str, output: Output, features: Features | None) -> None:
        super().__init__()
        self._staging, self._output, self._features = staging, output, features

    def expand(self, elements: Any) -> Any:
        """Adds the steps."""
        records = elements | "Encode" >> beam.Map(self._encoded)
        empty = (
            elements.pipeline
            | "Shards" >> beam.Create(range(self._output.num_shards))
            | "Seeds" >> beam.Map(lambda number: (number, None))
        )
        return (
            (records, empty)
            | "With empty shards" >> beam.Flatten()
            | "By shard" >> beam.GroupByKey()
            | "Write" >> beam.Map(self._write)
        )

    def _encoded(self, element: Element) -> tuple[int, Any]:
        place, part = element
        shard = zlib.crc32(repr(place).encode()) % self._output.num_shards
        if isinstance(part, ExamplesPart):
            return shard, (place, tfrecord.frame(part.records)[0], 1, None)
        assert self._features is not None
        records, counts = writing.encoded(part.lists, self._features)
        return shard, (place, records[0], part.lists.num_documents, counts)

    def _write(self, shard: tuple[int, Iterable[Any]]) -> None:
        number, found = shard
        staged.check_wanted(self._staging)
        names = output_folder.shard_names(self._output.split, self._output.num_shards)
        place = index.Writing(os.path.join(self._staging, names[number]))
        total: Statistics | None = None
        with open(f"{place.path}.part", "wb") as file:
            records = [record for record in found if record is not None]
            for _, record, length, counts in sorted(records, key=lambda one: one[0]):
                file.write(record)
                place.add(length, len(record))
                total = _sum(total, counts)
        os.replace(f"{place.path}.part", place.path)
        staged.save(self._staging, names[number], (total, place.index()))

    def commit(self) -> None:
        """Moves what workers wrote to its place."""
        names = output_folder.shard_names(self._output.split, self._output.num_shards)
        found = [staged.load(self._staging, name) for name in names]
        if self._features is None:
            writing.commit_examples(self._staging, self._output)
            return
        total: Statistics | None = None
        for counts, _ in found:
            total = _sum(total, counts)
        indices = [shard for _, shard in found]
        writing.commit_lists(
            self._staging, self._features, self._output, total, indices
        )


def _sum(total: Statistics | None, counts: Statistics | None) -> Statistics | None:
    if total is None or counts is None:
        return total or counts
    total.add(counts)
    return total


class Job:
    """A pipeline that is being made, in a folder that is gone afterwards.

    Args:
      chosen: Which runner.
      staging: The folder.
    """

    def __init__(self, chosen: Chosen, staging: str) -> None:
        self.staging, self._chosen = os.path.abspath(staging), chosen
        here = FnApiRunner() if chosen.in_process else None
        self.pipeline = chosen.pipeline(chosen.options(), here)

    def keep(self, name: str, values: Any) -> None:
        """Adds a step that leaves the only value of a collection in the folder."""
        folder = self.staging
        values | f"Keep {name}" >> beam.Map(lambda v: staged.save(folder, name, v))

    def run(self) -> None:
        """Runs the pipeline; raises what a worker left, or a RunError."""
        self._chosen.run(self.pipeline, self.staging)


@contextlib.contextmanager
def _job(chosen: Chosen, folder: str, split: str) -> Iterator[Job]:
    with output_folder.staging_folder(folder, split) as staging:
        yield Job(chosen, staging)


def _checked(chosen: Chosen, *sets: DataSet) -> None:
    """Refuses URLs, of which there are copies on this machine alone."""
    for path in (path for data in sets for path in data.paths):
        if not chosen.in_process and urls.origin(path) != path:
            raise ConfigError(
                f"{urls.origin(path)}: workers of {chosen.name} read a file system "
                "that they share, but a URL is fetched to this one. Mount the store "
                "on all of them, and name the folder."
            )


def _absolute(data: DataSet) -> list[str]:
    return [os.path.abspath(path) for path in data.paths]


def _folder_of(output: Output) -> str:
    return os.path.dirname(output.folder) or "." if output.is_file else output.folder


def identify(
    paths: str | list[str],
    output: str,
    *,
    chosen: Chosen,
    split: str = "train",
    num_shards: int = 1,
    output_format: str | None = None,
    reading: Reading | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Report:
    """Does what `identification.identify` does, with the same arguments.

    Args:
      chosen: Which runner.
    """
    reading = reading or Reading()
    data = DataSet(paths, reading)
    _checked(chosen, data)
    place = Output(output, split, num_shards, tuple(data.paths))
    place.check()
    features = data.features and writing.format_of(output_format, data.features)
    if features is not None:
        writing.check_folder(features, place)
    with _job(chosen, _folder_of(place), split) as job:
        read = job.pipeline | Read(_absolute(data), reading, staging=job.staging)
        found = read | Identify()
        write = Write(job.staging, place, features)
        found["elements"] | "Shards" >> write
        job.keep(_COUNTS, found["report"])
        job.run()
        result: Report = staged.load(job.staging, _COUNTS)
        write.commit()
    identification.finish(result, place, report)
    return result


def build(
    paths: str | list[str],
    output: str,
    *,
    chosen: Chosen,
    wanted: Wanted,
    encoder: Encoder | None = None,
    kind: str | None = None,
    reading: Reading | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Does what `building.build` does exactly, with the same arguments.

    Args:
      chosen: Which runner.
    """
    reading, encoder = reading or Reading(), encoder or Encoder()
    data = DataSet(paths, reading)
    _checked(chosen, data)
    kind = data.kind(kind)
    outputs.check_output(output, data.paths, what="--output")
    with _job(chosen, os.path.dirname(output) or ".", "graph") as job:
        read = job.pipeline | Read(_absolute(data), reading, staging=job.staging)
        found = read | Build(wanted, encoder, kind, staging=job.staging)
        lines = found | "Lines" >> beam.Map(_line, wanted)
        lines | "Graph" >> beam.io.WriteToText(
            os.path.join(job.staging, _GRAPH), num_shards=1, shard_name_template=""
        )
        job.keep("fingerprint", read | Describe(kind))
        job.keep(_COUNTS, found | "Edges" >> beam.combiners.Count.Globally())
        job.run()
        fingerprint = staged.load(job.staging, "fingerprint")
        described = {
            **building.description([], kind, wanted, encoder),
            "nodes": fingerprint.count,
            "fingerprint": str(fingerprint),
            "method": "exact",
            "recall": 1.0,
            "edges": staged.load(job.staging, _COUNTS),
        }
        with files.replacing(output) as temporary:
            os.replace(os.path.join(job.staging, _GRAPH), temporary)
    building.finish(described, output, report)
    return described


def _line(edge: Edge, wanted: Wanted) -> str:
    source, target, weight = edge
    return f"{source}\t{target}\t{wanted.written(weight)}"


def pack(
    paths: str | list[str],
    output: str,
    *,
    chosen: Chosen,
    graph: str,
    unlabelled: str | list[str] = "",
    with_unlabelled: bool = False,
    rules: Rules | None = None,
    kind: str | None = None,
    split: str = "train",
    num_shards: int = 1,
    output_format: str | None = None,
    reading: Reading | None = None,
) -> None:
    """Does what `packing.pack` does, with the same arguments.

    Args:
      chosen: Which runner.
    """
    rules, reading = rules or Rules(), reading or Reading()
    data = DataSet(paths, reading)
    kind = data.kind(kind)
    sets = [data]
    if unlabelled:
        sets.append(data.like(unlabelled, "--unlabelled"))
    _checked(chosen, *sets)
    inputs = tuple(path for one in sets for path in one.paths)
    place = Output(output, split, num_shards, inputs)
    place.check()
    features = None
    if data.features is not None:
        made = Packing(data.features, rules.max_nbrs or 0, kind).features
        features = writing.format_of(output_format, made)
        writing.check_folder(features, place)
    graphs = [os.path.abspath(path) for path in files.expand(graph, "--graph")]
    with _job(chosen, _folder_of(place), split) as job:
        seeds = job.pipeline | Read(_absolute(data), reading, staging=job.staging)
        given = {"seeds": seeds}
        if unlabelled:
            given["others"] = job.pipeline | "Read unlabelled" >> Read(
                _absolute(data), reading, _absolute(sets[1]), job.staging
            )
        if unlabelled and with_unlabelled:
            both = (given.pop("seeds"), given.pop("others"))
            given["seeds"] = both | "Both" >> beam.Flatten()
        lines = (
            job.pipeline
            | "Graphs" >> beam.Create(graphs)
            | "Spread graphs" >> beam.Reshuffle()
            | "Edges" >> beam.FlatMap(edge_lines.read_lines)
        )
        packed = {**given, "edges": lines} | Pack(rules, kind, job.staging)
        write = Write(job.staging, place, features)
        packed | "Shards" >> write
        described = [path for path in graphs if edges.is_described(path)]
        if rules.unknown == "error" and described:
            everything = list(given.values()) | "Everything" >> beam.Flatten()
            job.keep("fingerprint", everything | Describe(kind))
        job.run()
        if rules.unknown == "error" and described:
            found = staged.load(job.staging, "fingerprint")
            for path in described:
                edges.check_fingerprint(path, str(found), found.count)
        write.commit()
