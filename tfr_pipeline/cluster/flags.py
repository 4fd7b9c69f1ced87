"""Flags that all launchers have, and the supervisor that they ask for."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from tfr_pipeline.cluster.ports import HIGHEST
from tfr_pipeline.cluster.supervisor import Supervisor
from tfr_pipeline.cluster.tf_config import Task

_Number = TypeVar("_Number", int, float)
# The least seconds of silence after which a task takes its supervisor, who says
# something every second, for dead.
_LEAST_SILENCE = 3.0


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
            type=natural,
            default=0,
            metavar="M",
            help="parameter servers; with any, there is a chief beside the workers",
        )
        text = "one more task evaluates checkpoints"
        add("--evaluator", action="store_true", help=text)
    add("--log_dir", metavar="DIR", help="folder of a log file a task")
    add(
        "--max_restarts",
        type=natural,
        default=3,
        metavar="N",
        help="after failures, of all tasks but the evaluator, or of that, until there "
        "is a new checkpoint (%(default)s)",
    )
    for name, default, text in (
        ("grace", 60.0, "between SIGTERM and SIGKILL"),
        (
            "start_timeout",
            300.0,
            "until all tasks have to be there, once one but the evaluator is; 0 for no "
            "limit",
        ),
        ("hang_timeout", 120.0, "of silence until a task is killed; 0 for no limit"),
        (
            "stall_timeout",
            1800.0,
            "without a step, while tasks say that they train, until who holds them up "
            "is killed; 0 for no limit",
        ),
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


def port(text: str) -> int:
    """Reads a port, as a type of `add_argument`."""
    number = int(text)
    if not 1 <= number <= HIGHEST:
        raise argparse.ArgumentTypeError(f"expected 1 to {HIGHEST}, found {text}")
    return number


def add_base_port(
    parser: argparse.ArgumentParser, default: int | None, text: str
) -> None:
    """Adds `--base_port`, of the first task; `text` says what it is by default."""
    parser.add_argument(
        "--base_port",
        type=port,
        default=default,
        metavar="PORT",
        help=f"of the first task; others, and those of restarts, go on from it. {text}",
    )


def check_ports(
    parser: argparse.ArgumentParser, flag: str, first: int | None, count: int
) -> None:
    """Ends with an error when the ports after that of a flag go beyond the highest."""
    if first is not None and first + count - 1 > HIGHEST:
        parser.error(
            f"{flag}: expected the last port of the job to be {HIGHEST} at most, found "
            f"{first + count - 1}; choose a lower one"
        )


def num_addresses(arguments: argparse.Namespace) -> int:
    """Returns how many tasks listen: a chief, workers, servers; not the evaluator."""
    return arguments.workers + (1 + arguments.ps if arguments.ps else 0)


def num_tasks(arguments: argparse.Namespace) -> int:
    """Returns how many tasks there are."""
    return num_addresses(arguments) + arguments.evaluator


def task_words(
    arguments: argparse.Namespace,
    tf_config: str | None = None,
    python: str = sys.executable,
) -> list[str]:
    """Returns what runs the command below `tfr_pipeline.cluster.task`, supervised.

    Args:
      arguments: The flags.
      tf_config: TF_CONFIG, where no environment brings it.
      python: The interpreter.
    """
    silence = arguments.hang_timeout
    if silence:
        # It should be gone before somebody else is started in its place.
        silence = max(_LEAST_SILENCE, silence / 2)
    return [
        *(python, "-m", "tfr_pipeline.cluster.task", "--supervised"),
        *(f"--grace={arguments.grace:g}", f"--silence={silence:g}"),
        *(() if tf_config is None else (f"--tf_config={tf_config}",)),
        *("--", *arguments.command),
    ]


def in_folder(folder: str, words: Sequence[str]) -> str:
    """Returns the line for a shell that runs a command in a folder."""
    return f"cd {shlex.quote(folder)} || exit 2; exec {shlex.join(words)}"


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
        stall_timeout=arguments.stall_timeout,
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


def natural(text: str) -> int:
    """Reads 0 or more, as a type of `add_argument`."""
    return _at_least(0, int(text))


def _positive(text: str) -> int:
    return _at_least(1, int(text))


def _seconds(text: str) -> float:
    return _at_least(0.0, float(text))


def _at_least(least: _Number, number: _Number) -> _Number:
    if not number >= least:
        raise argparse.ArgumentTypeError(f"expected {least} or more, found {number}")
    return number
