"""`convert --runner`: a conversion as an Apache Beam pipeline, on many machines.

Here the pipeline is started, watched, and its end understood; its steps are in
`beam_steps`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions

from tfr_pipeline import urls
from tfr_pipeline.data.convert import beam_worker, output_folder, shard, staged
from tfr_pipeline.data.convert.beam_runner import IN_PROCESS, Chosen
from tfr_pipeline.data.convert.beam_steps import Plan, Planner, build
from tfr_pipeline.data.convert.description import (
    agreed_transform,
    first_width,
    report_thresholds,
)
from tfr_pipeline.data.convert.job import Job, Result
from tfr_pipeline.data.convert.pieces import Reader
from tfr_pipeline.data.convert.remarks import hint_at_width, report_columns
from tfr_pipeline.data.convert.shard import Rules, Written
from tfr_pipeline.errors import ConfigError, RunError


class BeamEngine:
    """Runs conversions as pipelines; an `Engine` for `convert`.

    Args:
      runner: `in_process`, or what Beam calls a runner: `FlinkRunner`, `SparkRunner`,
        `DataflowRunner`, `PortableRunner`, or in short `flink` and so on.
      flags: Flags for Beam, such as `--flink_master=HOST:PORT`.

    Raises:
      ConfigError: There is no such runner, or a flag is unknown.
    """

    def __init__(self, runner: str = IN_PROCESS, flags: Sequence[str] = ()) -> None:
        self._chosen = Chosen(runner, flags)
        self.in_process, self.name = self._chosen.in_process, self._chosen.name

    def __call__(self, job: Job) -> Result:
        """Writes the shards of a job into its staging folder.

        Raises:
          DataError: The input is malformed.
          ConfigError: Workers cannot read the input.
          RunError: The pipeline failed.
        """
        if job.embeds:
            raise ConfigError(
                "--embed: expected no --runner, whose workers would load the module "
                "for each shard. Leave out --runner."
            )
        if job.cut is not None:
            raise ConfigError(
                "--splits: expected no --runner, which writes one split at a time. "
                "Leave out --runner, or convert the files of each split with --split."
            )
        if job.streams and not self.in_process:
            raise ConfigError(
                f"--input: {', '.join(job.streams)} is read by this machine alone, "
                f"not by the workers of {self.name}. Write it to a file they all see."
            )
        self._check_shared(job)
        job = dataclasses.replace(job, staging=os.path.abspath(job.staging))
        reader, planner = self._prepared(job)
        options = self._chosen.options()
        here = _in_process(options, job) if self.in_process else None
        pipeline = self._chosen.pipeline(options, here)
        build(pipeline, job, reader, planner)
        files, title = len(job.source.paths), job.title
        job.report(f"{title} with {self.name}: {files} file{'s' if files > 1 else ''}")
        is_shard = functools.partial(output_folder.is_shard, split=job.splits[0])
        with staged.watching(job.staging, title, files, job.num_shards, is_shard):
            self._chosen.run(pipeline, job.staging)
        return _result(job, reader, planner)

    def _check_shared(self, job: Job) -> None:
        """Refuses URLs, of which there are copies on this machine alone."""
        for path in (*job.source.paths, job.staging):
            if not self.in_process and (url := urls.origin(path)) != path:
                raise ConfigError(
                    f"{url}: workers of {self.name} read and write a file system that "
                    "they share, but a URL is fetched to, and published from, this "
                    "machine. Mount the store on all of them, and name the folder."
                )

    def _prepared(self, job: Job) -> tuple[Reader, Planner]:
        """Looks at the input, as far as it must be known before the pipeline begins."""
        source = job.source
        # The pipeline brings queries together anyway.
        source.options = dataclasses.replace(source.options, group_by_query=False)
        transform = agreed_transform(job.label_transform, job.before, job.report)
        width, certain = 0, True
        if source.is_text:
            # Looks at query files too, even where the width is known.
            next(source.texts(), None)
            width, certain = first_width(source, job.before)
            hint_at_width(width, job.report)
        elif not source.is_records:
            report_columns(source, job.report)
        job.describe(width, transform=transform)  # raises what can be known by now
        if not self.in_process:
            source = source.absolute()
        count_labels = transform is not None and transform.needs_labels
        reader = Reader(source, job.num_shards, width, certain, count_labels)
        rules = Rules(source.paths, source.joins_queries)
        counted = source.is_records or source.counts_queries
        nan = source.options.nan
        planner = Planner(job.describe, transform, nan, rules, counted, job.staging)
        return reader, planner


def _result(job: Job, reader: Reader, planner: Planner) -> Result:
    """Returns description, counts and index of what the workers wrote."""
    names = output_folder.shard_names(job.splits[0], job.num_shards)
    shards: list[Written] = [staged.load(job.staging, name) for name in names]
    # Before they are added up, into the first.
    indices = [one.index for one in shards if one.index is not None]
    written = shard.total(shards)
    for name in names:
        if not os.path.exists(os.path.join(job.staging, name)):
            raise RunError(f"{job.staging}: expected {name}, found no such file.")
    plan: Plan = staged.load(job.staging, "plan")
    if written.statistics is None:
        raise job.source.empty()
    transform = plan.target.transform
    asked = planner.transform
    if transform is not None and asked is not None and asked.needs_labels:
        report_thresholds(transform, job.report)
    if plan.target.num_features > reader.width:
        hint_at_width(plan.target.num_features, job.report)
    count, query = written.gathered
    if count:
        job.report(
            f"warning: {count} {'queries' if count > 1 else 'query'} had rows in "
            f"several places, which were brought together, e.g. query {query!r}"
        )
    written.statistics.oddities = plan.oddities
    return plan.target.features, [(written.statistics, indices)]


def _in_process(options: PipelineOptions, job: Job) -> Any:
    """Returns the runner that needs no other program, with its processes."""
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    direct = options.view_as(DirectOptions)
    if direct.direct_running_mode == "in_memory" and direct.direct_num_workers == 1:
        direct.direct_num_workers = job.num_workers
    elif direct.direct_running_mode == "multi_threading":
        return FnApiRunner()
    if direct.direct_num_workers == 1:
        return FnApiRunner()
    direct.direct_running_mode = "in_memory"  # or Beam would start its own workers
    words = [sys.executable, "-m", beam_worker.__name__, os.path.abspath(job.staging)]
    command = f"exec {shlex.join(words)}"
    return FnApiRunner(SubprocessSDKEnvironment.from_command_string(command))
