"""Flags that all launchers have, and the supervisor that they ask for."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from typing import TypeVar

from tfr_pipeline.cluster.supervisor import Supervisor
from tfr_pipeline.cluster.tf_config import Task

_Number = TypeVar("_Number", int, float)


def make_parser(
    prog: str, description: str, one_task: bool = False
) -> argparse.ArgumentParser:
    """Returns a parser with the common flags, for `parse`.

    Args:
      prog: The launcher, such as `launch/local.sh`.
      description: What it does.
      one_task: Leaves out the flags that say how many tasks there are.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        usage=f"%(prog)s {'' if one_task else '--workers=N '}[flags] -- COMMAND ...",
        allow_abbrev=False,
    )
    add = parser.add_argument
    if not one_task:
        add("--workers", type=_positive, required=True, metavar="N", help="workers")
        add(
            "--ps",
            type=_natural,
            default=0,
            metavar="M",
            help="parameter servers; with any, there is a chief beside the workers",
        )
        text = "one more task evaluates checkpoints"
        add("--evaluator", action="store_true", help=text)
    add("--log_dir", metavar="DIR", help="folder of a log file a task")
    add(
        "--max_restarts",
        type=_natural,
        default=3,
        metavar="N",
        help="after failures (%(default)s)",
    )
    for name, default, text in (
        ("grace", 60.0, "between SIGTERM and SIGKILL"),
        ("start_timeout", 300.0, "until all tasks have to be there; 0 for no limit"),
        ("hang_timeout", 120.0, "of silence until a task is killed; 0 for no limit"),
    ):
        add(
            f"--{name}",
            type=_seconds,
            default=default,
            metavar="SECONDS",
            help=f"{text} (%(default)s)",
        )
    add("--dry_run", action="store_true", help="print what would be started")
    return parser


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Reads flags, `--`, and the command of each task, as `arguments.command`."""
    words = list(words)
    if "--" not in words or words[-1] == "--":
        if {"-h", "--help"} & set(words):
            parser.print_help()
            raise SystemExit(0)
        parser.error("expected -- and the command that each task runs")
    cut = words.index("--")
    arguments = parser.parse_args(words[:cut])
    arguments.command = words[cut + 1 :]
    return arguments


def num_addresses(arguments: argparse.Namespace) -> int:
    """Returns how many tasks listen: a chief, workers, servers; not the evaluator."""
    return arguments.workers + (1 + arguments.ps if arguments.ps else 0)


def num_tasks(arguments: argparse.Namespace) -> int:
    """Returns how many tasks there are."""
    return num_addresses(arguments) + arguments.evaluator


def make_supervisor(
    arguments: argparse.Namespace,
    start: Callable[[Task], Sequence[str]],
    make_tasks: Callable[[int], list[Task]],
    remote: bool = False,
) -> Supervisor:
    """Returns the supervisor that the flags ask for; see there."""
    return Supervisor(
        start,
        make_tasks,
        remote=remote,
        log_dir=arguments.log_dir,
        max_restarts=arguments.max_restarts,
        grace=arguments.grace,
        start_timeout=arguments.start_timeout,
        hang_timeout=arguments.hang_timeout,
    )


def show(
    tasks: Sequence[Task],
    start: Callable[[Task], Sequence[str]],
    with_environment: bool = True,
) -> None:
    """Prints what would be started, for `--dry_run`."""
    for task in tasks:
        print(f"# {task.name}")
        before = f"TF_CONFIG={shlex.quote(task.tf_config)} " if with_environment else ""
        print(before + shlex.join(start(task)))


def _natural(text: str) -> int:
    return _at_least(0, int(text))


def _positive(text: str) -> int:
    return _at_least(1, int(text))


def _seconds(text: str) -> float:
    return _at_least(0.0, float(text))


def _at_least(least: _Number, number: _Number) -> _Number:
    if not number >= least:
        raise argparse.ArgumentTypeError(f"expected {least} or more, found {number}")
    return number
