"""The steps of a conversion as an Apache Beam pipeline.

Files are read where the runner sends them, each by itself, and cut into pieces; the
pieces of a shard come together by a group-by; whoever gets a shard brings the documents
of each query together, encodes and writes it. What has to be known of all files before
the first list can be written (the number of features, the thresholds of labels, numbers
that stand for ids) is a side input. A list goes to a shard by a hash of its query id
and stands there in the order of the input, so the shards depend on the input alone.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam

from tfr_pipeline.data.convert import output_folder, shard, staged
from tfr_pipeline.data.convert.job import Job, Target
from tfr_pipeline.data.convert.label_transform import LabelTransform
from tfr_pipeline.data.convert.pieces import Findings, Reader
from tfr_pipeline.data.convert.shard import Rules
from tfr_pipeline.data.oddities import Oddities
from tfr_pipeline.features import Features


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a shard is written by."""

    target: Target
    rules: Rules
    oddities: Oddities


@dataclasses.dataclass(frozen=True)
class Planner:
    """Makes a plan of what was found in all files; picklable.

    Attributes:
      describe: See `Job.describe`.
      transform: The label transform, perhaps to be fitted.
      nan: What to do with NaN and infinite features.
      rules: The rules but for what is counted.
      counted: Whether ids may be numbers among all of the input.
      staging: Where failures are told.
    """

    describe: Callable[..., Features]
    transform: LabelTransform | None
    nan: str
    rules: Rules
    counted: bool
    staging: str

    def __call__(self, findings: Findings) -> Plan:
        """Returns the plan."""
        with staged.failing(self.staging, "2"):
            return self._plan(findings)

    def _plan(self, findings: Findings) -> Plan:
        transform = self.transform
        if transform is not None and transform.needs_labels:
            transform = transform.fitted(findings.labels)
        features = self.describe(findings.width, transform=transform)
        target = Target(features, findings.width, self.nan, transform)
        before = findings.before() if self.counted else None
        rules = dataclasses.replace(self.rules, before=before)
        return Plan(target, rules, findings.oddities)


class ReadFile(beam.DoFn):
    """Number of a file -> pairs of a shard and a pickled piece; aside, `Findings`."""

    def __init__(self, reader: Reader, staging: str) -> None:
        self._reader = reader
        self._staging = staging

    def process(self, file: int) -> Iterator[Any]:
        """Reads a file."""
        findings = Findings()
        with staged.failing(self._staging, f"1-{file:09d}"):
            for number, piece in self._reader.read(file, findings):
                staged.check_wanted(self._staging)
                yield number, pickle.dumps(piece, pickle.HIGHEST_PROTOCOL)
        staged.mark_read(self._staging, file)
        yield beam.pvalue.TaggedOutput("findings", findings)


class WriteShard(beam.DoFn):
    """Number of a shard and its pieces -> a file in the staging folder."""

    def __init__(self, staging: str, split: str, num_shards: int) -> None:
        self._staging = staging
        self._names = output_folder.shard_names(split, num_shards)

    def process(self, element: tuple[int, Iterable[bytes]], plan: Plan) -> None:
        """Writes a shard."""
        number, pieces = element
        name = self._names[number]
        with staged.failing(self._staging, f"3-{number:09d}"):
            written = shard.write_shard(
                os.path.join(self._staging, name),
                self._wanted(pieces),
                plan.target,
                plan.rules,
            )
            staged.save(self._staging, name, written)
            if number == 0:
                staged.save(self._staging, "plan", plan)

    def _wanted(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            staged.check_wanted(self._staging)
            if piece:  # nothing stands for a shard that may have no list
                yield piece


def sum_of(findings: Iterable[Findings]) -> Findings:
    """Returns what was found in all files."""
    result = Findings()
    for found in findings:
        result.add(found)
    return result


def seed(number: int) -> tuple[int, bytes]:
    """Returns an empty piece, so that a shard without lists is written, too."""
    return number, b""


def build(pipeline: Any, job: Job, reader: Reader, planner: Planner) -> None:
    """Adds the steps of a job to a pipeline."""
    files = (
        pipeline
        | "Files" >> beam.Create(range(len(job.source.paths)))
        | "Spread files" >> beam.Reshuffle()
    )
    read = files | "Read" >> beam.ParDo(ReadFile(reader, job.staging)).with_outputs(
        "findings", main="pieces"
    )
    plan = (
        read.findings
        | "All findings" >> beam.CombineGlobally(sum_of)
        | "Plan" >> beam.Map(planner)
    )
    shards = (
        pipeline
        | "Shards" >> beam.Create(range(job.num_shards))
        | "Seeds" >> beam.Map(seed)
    )
    (
        (read.pieces, shards)
        | "With empty shards" >> beam.Flatten()
        | "By shard" >> beam.GroupByKey()
        | "Write"
        >> beam.ParDo(
            WriteShard(job.staging, job.splits[0], job.num_shards),
            beam.pvalue.AsSingleton(plan),
        )
    )
