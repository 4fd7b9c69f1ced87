"""One task of an array job, which needs no other one: `launch/sweep_slurm.sbatch`.

Nothing is supervised here: of workers that join a study, each goes on where another one
was lost.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import FrameType

from tfr_pipeline.cluster import flags, slurm
from tfr_pipeline.cluster.supervisor import STOPPED


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command of a task; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="launch/sweep_slurm.sbatch",
        description="Runs a command in each task of an array job of Slurm. SIGTERM is "
        "handed on; a command that ends with 143 at the time limit goes on later.",
        usage="%(prog)s [flags] -- COMMAND ...",
        allow_abbrev=False,
    )
    slurm.add_max_requeues(parser)
    parser.add_argument(
        "--dry_run", action="store_true", help="print what each task would run"
    )
    arguments = flags.parse(parser, sys.argv[1:] if words is None else words)
    if arguments.dry_run:
        print(shlex.join(arguments.command))
        return 0
    job = name_of(os.environ)
    if job is None:
        parser.error(
            "expected a job of Slurm. SLURM_JOB_ID is not set. Start with `sbatch "
            "--array=1-N launch/sweep_slurm.sbatch ...`, or look at what would be "
            "started with --dry_run."
        )
    code = _run(arguments.command)
    if code == STOPPED:
        restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        slurm.requeue_at_the_time_limit(job, restarts, arguments.max_requeues)
    return code


def name_of(environ: Mapping[str, str]) -> str | None:
    """Returns how Slurm calls the task, or None outside of a job.

    Example:
      >>> name_of({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7",
      ...          "SLURM_ARRAY_TASK_ID": "3"})
      '7_3'
    """
    array = environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{environ.get('SLURM_ARRAY_TASK_ID', '')}"
    return environ.get("SLURM_JOB_ID") or None


def _run(command: Sequence[str]) -> int:
    """Runs a command, handing SIGTERM on to it; returns its exit code."""
    process: subprocess.Popen[bytes] | None = None
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    try:
        process = subprocess.Popen(command)
    except OSError as error:
        print(f"error: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    if stopped:
        process.send_signal(signal.SIGTERM)
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
