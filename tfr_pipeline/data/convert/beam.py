"""`convert --runner`: a conversion as an Apache Beam pipeline, on many machines.

Here the pipeline is started, watched, and its end understood; its steps are in
`beam_steps`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import shlex
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.runner import create_runner

from tfr_pipeline import urls
from tfr_pipeline.data.convert import beam_worker, output_folder, shard, staged
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

IN_PROCESS = "in_process"
# Beam's DirectRunner looks for another runner in the internet first.
_IN_PROCESS = (IN_PROCESS, "direct", "directrunner", "fnapirunner")


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
        self.in_process = runner.lower() in _IN_PROCESS
        self.name = "the in-process runner" if self.in_process else runner
        if self.in_process:
            _check_flags(flags)
        self._flags = list(flags)
        self._runner: Any = None
        try:
            if not self.in_process:
                self._runner = create_runner(runner)
        except (ValueError, ImportError, AttributeError) as error:
            raise ConfigError(f"--runner={runner}: {error}") from error

    def __call__(self, job: Job) -> Result:
        """Writes the shards of a job into its staging folder.

        Raises:
          DataError: The input is malformed.
          ConfigError: Workers cannot read the input.
          RunError: The pipeline failed.
        """
        if job.streams and not self.in_process:
            raise ConfigError(
                f"--input: {', '.join(job.streams)} is read by this machine alone, "
                f"not by the workers of {self.name}. Write it to a file they all see."
            )
        self._check_shared(job)
        job = dataclasses.replace(job, staging=os.path.abspath(job.staging))
        reader, planner = self._prepared(job)
        options = PipelineOptions(self._flags)
        runner = self._runner or _in_process(options, job)
        try:
            pipeline = beam.Pipeline(runner=runner, options=options)
        except ValueError as error:  # options that a runner cannot do without
            text = " ".join(str(error).split())
            raise ConfigError(f"--runner_args: {text}") from error
        build(pipeline, job, reader, planner)
        files, title = len(job.source.paths), f"converting {job.split}"
        job.report(f"{title} with {self.name}: {files} file{'s' if files > 1 else ''}")
        is_shard = functools.partial(output_folder.is_shard, split=job.split)
        with staged.watching(job.staging, title, files, job.num_shards, is_shard):
            self._run(pipeline, job.staging)
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

    def _run(self, pipeline: Any, staging: str) -> None:
        run = _Run(pipeline)
        try:
            with _quiet():
                state = run.wait()
        except Exception as error:  # one of ours, too, with Beam's additions
            if found := staged.failure(staging):
                raise found from error
            lines = str(error).strip().splitlines() or [type(error).__name__]
            advice = (
                "If a worker was killed, memory may be short: try fewer --workers. "
                if self.in_process
                else ""
            )
            raise RunError(
                f"{self.name} failed: {lines[-1][:500]} (--debug shows all of it). "
                f"{advice}Nothing was changed."
            ) from error
        if state != "DONE":
            raise staged.failure(staging) or RunError(
                f"{self.name} ended in the state {state}, expected DONE. Nothing was "
                "changed."
            )


class _Run:
    """A pipeline that runs while the main thread can take signals.

    Beam's own waiting ends by waiting for workers, which a signal has not reached.
    """

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        try:
            self._result = self._pipeline.run()
            self._result.wait_until_finish()
        except BaseException as error:
            self._error = error

    def wait(self) -> str:
        """Returns the state in which the pipeline ended."""
        self._thread.start()
        try:
            while self._thread.is_alive():
                self._thread.join(0.2)
        except (KeyboardInterrupt, SystemExit):
            if self._result is not None:  # or a cluster would go on for nobody
                with contextlib.suppress(Exception):
                    self._result.cancel()
            raise
        if self._error is not None:
            raise self._error
        return str(self._result.state)


def _result(job: Job, reader: Reader, planner: Planner) -> Result:
    """Returns description, counts and index of what the workers wrote."""
    names = output_folder.shard_names(job.split, job.num_shards)
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
    written.statistics.unnamed = plan.unnamed
    return plan.target.features, written.statistics, indices


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


def _check_flags(flags: Sequence[str]) -> None:
    """Refuses flags that no part of Beam knows, which it would leave out in silence.

    Runners of a cluster may know more of them.
    """
    options = PipelineOptions(list(flags))
    unknown = [
        name
        for name in options.get_all_options(
            drop_default=True, retain_unknown_options=True
        )
        if name not in PipelineOptions([]).get_all_options()
    ]
    if unknown:
        raise ConfigError(
            f"--runner_args: expected flags of Apache Beam, found "
            f"{', '.join('--' + name for name in unknown)}."
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what Beam says of an error to itself: the cause is told in one line."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":  # as with --debug
        yield
        return
    hook, level = threading.excepthook, logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    threading.excepthook = lambda _: None
    stopped = False
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        stopped = True  # and threads of Beam have yet to notice
        raise
    finally:
        if not stopped:
            logging.disable(level)
            threading.excepthook = hook
