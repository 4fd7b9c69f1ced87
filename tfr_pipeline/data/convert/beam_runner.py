"""Which runner of Apache Beam works, and how its end is waited for."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import create_runner

from tfr_pipeline.data.convert import staged
from tfr_pipeline.errors import ConfigError, RunError

IN_PROCESS = "in_process"
# Beam's DirectRunner looks for another runner in the internet first.
_IN_PROCESS = (IN_PROCESS, "direct", "directrunner", "fnapirunner")


class Chosen:
    """A runner, and the flags that it is given.

    Args:
      runner: `in_process`, or what Beam calls a runner: `FlinkRunner`, `SparkRunner`,
        `DataflowRunner`, `PortableRunner`, or in short `flink` and so on.
      flags: Flags for Beam, such as `--flink_master=HOST:PORT`.

    Attributes:
      in_process: Whether it is the one of this machine.
      name: How messages call it.

    Raises:
      ConfigError: There is no such runner, or a flag is unknown.
    """

    def __init__(self, runner: str, flags: Sequence[str] = ()) -> None:
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

    def options(self) -> PipelineOptions:
        """Returns the flags as Beam's options."""
        return PipelineOptions(self._flags)

    def pipeline(self, options: PipelineOptions, in_process: Any) -> Any:
        """Returns an empty pipeline.

        Args:
          options: Its options.
          in_process: The runner of this machine, if that is the one.

        Raises:
          ConfigError: The runner needs other flags.
        """
        try:
            return beam.Pipeline(runner=self._runner or in_process, options=options)
        except ValueError as error:  # options that a runner cannot do without
            text = " ".join(str(error).split())
            raise ConfigError(f"--runner_args: {text}") from error

    def run(self, pipeline: Any, staging: str) -> None:
        """Runs a pipeline to its end.

        Args:
          pipeline: What `pipeline` returned, filled.
          staging: Folder in which workers leave what went wrong, see `staged.failing`.

        Raises:
          RunError: It failed.
          PipelineError: What a worker left.
        """
        try:
            with _quiet():
                state = _Run(pipeline).wait()
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
