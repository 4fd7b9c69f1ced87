"""All tasks of a job in a Slurm allocation: `launch/slurm.sbatch`."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence, Set

from tfr_pipeline.cluster import flags
from tfr_pipeline.cluster.node_list import expand
from tfr_pipeline.cluster.ports import of_attempt
from tfr_pipeline.cluster.supervisor import STOPPED
from tfr_pipeline.cluster.tf_config import EVALUATOR, Task, compose, make_cluster
from tfr_pipeline.errors import ConfigError

# Below the ports of outgoing connections; jobs with other numbers get other ports, for
# they may share nodes.
_FIRST_PORT, _PORTS_A_JOB, _JOBS = 20000, 100, 100
# Somebody may ask for the signal some minutes before the limit, as --signal=B:TERM@300
# does, for saving that takes long; and Slurm may send it a minute earlier.
_NEAR_THE_LIMIT = 900
# Seconds for the steps of an attempt to end, and for an answer of Slurm.
_PATIENCE, _ANSWER = 30.0, 20.0


def main(words: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code."""
    parser = flags.make_parser(
        "launch/slurm.sbatch",
        "Runs a command as all tasks of a job, in a Slurm allocation.",
    )
    flags.add_base_port(parser, None, "By default, by the job's number")
    parser.add_argument(
        "--srun",
        default="",
        metavar="FLAGS",
        help="more flags of srun for every task, such as '--container-image=IMAGE'",
    )
    add_max_requeues(parser)
    parser.add_argument(
        "--nodelist", metavar="NODES", help="for --dry_run outside an allocation"
    )
    arguments = flags.parse(parser, sys.argv[1:] if words is None else words)
    count = flags.num_addresses(arguments)
    flags.check_ports(parser, "--base_port", arguments.base_port, count)
    environ = dict(os.environ)
    if arguments.nodelist is not None:
        if not arguments.dry_run:
            parser.error("--nodelist is for --dry_run; Slurm chooses the nodes")
        environ.setdefault("SLURM_JOB_ID", "0")
        environ["SLURM_JOB_NODELIST"] = arguments.nodelist
    try:
        job = Job(environ, arguments)
    except ConfigError as error:
        parser.error(str(error))
    if arguments.dry_run:
        flags.show(job.make_tasks(0), job.start)
        return 0
    code = flags.make_supervisor(
        arguments, job.start, job.make_tasks, remote=True
    ).run()
    if code == STOPPED:
        job.requeue_at_the_time_limit(arguments.max_requeues)
    return code


def add_max_requeues(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that `requeue_at_the_time_limit` wants."""
    parser.add_argument(
        "--max_requeues",
        type=flags.natural,
        default=20,
        metavar="N",
        help="up to how many requeues to go on after the time limit (%(default)s); "
        "those after preemption or a lost node count, too (SLURM_RESTART_COUNT)",
    )


class Job:
    """What an allocation makes of the flags.

    Args:
      environ: The environment of the batch script.
      arguments: The flags.

    Raises:
      ConfigError: This is no allocation.
    """

    def __init__(self, environ: Mapping[str, str], arguments: argparse.Namespace):
        missing = [
            name
            for name in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST")
            if not environ.get(name)
        ]
        if missing:
            raise ConfigError(
                f"expected an allocation of Slurm. {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not set. Start with `sbatch "
                "--nodes=N launch/slurm.sbatch ...`, or look at what would be started "
                "with --dry_run --nodelist='n[1-2]'."
            )
        self._id = environ["SLURM_JOB_ID"]
        self._nodes = expand(environ["SLURM_JOB_NODELIST"])
        self._restarts = int(environ.get("SLURM_RESTART_COUNT") or 0)
        self._arguments = arguments
        self._places: dict[str, str] = {}
        self._started: set[str] = set()
        self._port = arguments.base_port
        if self._port is None:
            number = int(self._id) % _JOBS
            self._port = _FIRST_PORT + number * _PORTS_A_JOB

    def make_tasks(self, attempt: int) -> list[Task]:
        """Returns the tasks of an attempt: their addresses follow from their ranks.

        Rank r has port base + r, on node r modulo the number of nodes, so each kind of
        task is spread over the nodes; further attempts use further ports.
        """
        count = flags.num_addresses(self._arguments)
        ports = of_attempt(self._port, count, attempt)
        addresses = [f"{self._node(rank)}:{port}" for rank, port in enumerate(ports)]
        cluster = make_cluster(addresses, self._arguments.ps)
        tasks = compose(cluster, self._arguments.evaluator)
        self._places = {task.name: self._node(rank) for rank, task in enumerate(tasks)}
        # All at once, before the first starts, which would wait for the others.
        self._kill_steps(self._started - {_step(EVALUATOR, 0)})
        return tasks

    def _node(self, rank: int) -> str:
        return self._nodes[rank % len(self._nodes)]

    def start(self, task: Task) -> list[str]:
        """Returns the srun of a task; one that ran before is gone then."""
        name = _step(task.job, task.index)
        self._kill_steps(self._started & {name})
        if not self._arguments.dry_run:
            self._started.add(name)
        return [
            "srun",
            "--nodes=1",
            "--ntasks=1",
            f"--nodelist={self._places[task.name]}",
            # Tasks of one node share all that the job has there.
            "--overlap",
            "--cpu-bind=none",
            "--mpi=none",
            "--export=ALL",
            f"--job-name={name}",
            *shlex.split(self._arguments.srun),
            *flags.task_words(self._arguments),
        ]

    def _kill_steps(self, names: Set[str]) -> None:
        """Ends what Slurm still runs under the names of tasks.

        A step outlives its srun when that is killed.
        """
        end, problem = time.monotonic() + _PATIENCE, None
        while names and time.monotonic() < end:
            listed, problem = _ask("squeue", "-h", "-s", "-j", self._id, "-o", "%i %j")
            if listed is not None:
                pairs = [line.split(maxsplit=1) for line in listed]
                steps = [pair[0] for pair in pairs if pair[-1] in names]
                if not steps:
                    self._started -= names
                    return
                # Says "Kill job error: No error" of steps that it kills.
                _ask("scancel", "--signal=KILL", *steps)
            time.sleep(0.5)
        if names:
            what = "have not ended" if problem is None else f"may still run: {problem}"
            print(f"[job] tasks of the attempt before {what}", flush=True)

    def requeue_at_the_time_limit(self, most: int) -> None:
        """See the function."""
        requeue_at_the_time_limit(self._id, self._restarts, most)


def requeue_at_the_time_limit(job: str, restarts: int, most: int) -> None:
    """Puts a job into the queue again when SIGTERM announced its time limit.

    Not when somebody cancelled it or Slurm requeues it itself: then it is no longer
    running. And not when the limit is far: somebody wants it to stop.

    Args:
      job: Its number.
      restarts: How often it was requeued.
      most: How often it may be.
    """
    problem = _why_no_requeue(job, restarts, most)
    if problem is None:
        print(f"[job] at the time limit; requeue {restarts + 1} of {most}", flush=True)
        _, problem = _ask("scontrol", "requeue", job)
    if problem is not None:
        print(f"[job] no requeue: {problem}", flush=True)


def _why_no_requeue(job: str, restarts: int, most: int) -> str | None:
    lines, problem = _ask("squeue", "-h", "-j", job, "-o", "%T %L")
    if lines is None:
        return f"{problem}; submit it again to go on"
    state, _, left = (lines or ["gone"])[0].partition(" ")
    if state != "RUNNING":
        return f"the job is {state}: somebody else ends it, or requeues it"
    seconds = parse_time(left)
    if seconds is None or seconds > _NEAR_THE_LIMIT:
        return (
            f"time left is {left.strip()}, so this is not the time limit "
            f"({_NEAR_THE_LIMIT} s or less)"
        )
    if restarts >= most:
        return (
            f"at the time limit, but not again after {restarts} requeues "
            "(--max_requeues); submit it again to go on"
        )
    return None


def _step(job: str, index: int) -> str:
    """The name of a task's step."""
    return f"{job}-{index}"


def parse_time(text: str) -> int | None:
    """Returns the seconds of a time as squeue writes it, or None for UNLIMITED.

    Example:
      >>> [parse_time(text) for text in ("1:05", "2:00:00", "1-00:00:01", "UNLIMITED")]
      [65, 7200, 86401, None]
    """
    days, _, rest = text.strip().rpartition("-")
    parts = rest.split(":")
    if not all(part.isdecimal() for part in [*parts, days or "0"]):
        return None
    seconds = int(days or 0) * 24 * 3600
    for power, part in enumerate(reversed(parts)):
        seconds += int(part) * 60**power
    return seconds


def _ask(*words: str) -> tuple[list[str] | None, str | None]:
    """Returns the lines that a command of Slurm prints, or None and what went wrong."""
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=_ANSWER
        )
    except subprocess.TimeoutExpired:
        return None, f"{words[0]} has not answered for {_ANSWER:g} s"
    except OSError as error:
        return None, f"{words[0]}: {error.strerror}"
    if done.returncode != 0:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        return None, f"{words[0]}: {said}"
    return done.stdout.splitlines(), None


if __name__ == "__main__":
    sys.exit(main())
