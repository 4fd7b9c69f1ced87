"""All tasks of a job on this machine: `launch/local.sh`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from tfr_pipeline.cluster.supervisor import Supervisor
from tfr_pipeline.cluster.tf_config import Task, compose, free_ports


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Reads the command line: flags, `--`, and the command of each task."""
    parser = argparse.ArgumentParser(
        prog="launch/local.sh",
        description="Runs a command as several workers on this machine.",
        usage="%(prog)s --workers=N [flags] -- COMMAND ...",
        allow_abbrev=False,
    )
    parser.add_argument("--workers", type=_positive, required=True, metavar="N")
    parser.add_argument("--log_dir", help="folder of a log file a task")
    parser.add_argument(
        "--max_restarts", type=int, default=3, help="after failures (%(default)s)"
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=60.0,
        help="seconds between SIGTERM and SIGKILL (%(default)s)",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="print what would be started"
    )
    words = list(words)
    if "--" not in words or words[-1] == "--":
        if {"-h", "--help"} & set(words):
            parser.print_help()
            raise SystemExit(0)
        parser.error("expected -- and the command that each worker runs")
    cut = words.index("--")
    arguments = parser.parse_args(words[:cut])
    arguments.command = words[cut + 1 :]
    return arguments


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {number}")
    return number


def main(words: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code."""
    arguments = parse(sys.argv[1:] if words is None else words)

    def make_tasks() -> list[Task]:
        ports = free_ports(arguments.workers)
        return compose({"worker": [f"localhost:{port}" for port in ports]})

    if arguments.dry_run:
        for task in make_tasks():
            print(f"# {task.name}")
            command = shlex.join(arguments.command)
            print(f"TF_CONFIG={shlex.quote(task.tf_config)} {command}")
        return 0
    return Supervisor(
        arguments.command,
        make_tasks,
        arguments.log_dir,
        arguments.max_restarts,
        arguments.grace,
    ).run()


if __name__ == "__main__":
    sys.exit(main())
