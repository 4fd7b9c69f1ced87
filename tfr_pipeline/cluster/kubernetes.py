"""The tasks of a job in the pods of an Indexed Job of Kubernetes: `launch/kubernetes/`.

Every pod of the Job runs `python -m tfr_pipeline.cluster.kubernetes --workers=N ...`.
The first one supervises, and runs the first task; the others wait to be told which task
they are. So a job that loses a pod is restarted by somebody who knows all of it: pods
that only looked after themselves would meet each other's tasks of different attempts.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from tfr_pipeline.cluster import flags, pod
from tfr_pipeline.cluster.ports import of_attempt
from tfr_pipeline.cluster.supervisor import DONE
from tfr_pipeline.cluster.tf_config import Task, compose, make_cluster
from tfr_pipeline.errors import ConfigError

# Set by Kubernetes itself, and by the manifest.
_INDEX, _JOB, _SERVICE = "JOB_COMPLETION_INDEX", "JOB_NAME", "JOB_SERVICE"


def main(words: Sequence[str] | None = None) -> int:
    """Runs what this pod has to; returns its exit code."""
    parser = flags.make_parser(
        "python -m tfr_pipeline.cluster.kubernetes",
        "Runs a command as all tasks of a job, in the pods of an Indexed Job.",
    )
    parser.add_argument(
        "--port",
        type=flags.port,
        default=2222,
        help="where pods wait for the supervisor (%(default)s); TensorFlow takes the "
        "ones above, another for each attempt",
    )
    arguments = flags.parse(parser, sys.argv[1:] if words is None else words)
    flags.check_ports(parser, "--port", arguments.port, 2)
    environ = dict(os.environ)
    if arguments.dry_run:
        for name, value in ((_INDEX, "0"), (_JOB, "JOB"), (_SERVICE, "SERVICE")):
            environ.setdefault(name, value)
    try:
        job = Job(environ, arguments)
    except ConfigError as error:
        parser.error(str(error))
    if arguments.dry_run:
        flags.show(job.make_tasks(0), job.start)
        return 0
    if job.index > 0:
        return pod.wait_for_tasks(
            arguments.port, lambda tf_config: flags.task_words(arguments, tf_config)
        )
    code = flags.make_supervisor(
        arguments, job.start, job.make_tasks, remote=True
    ).run()
    if code == DONE:
        job.end()
    return code


class Job:
    """What the environment of a pod makes of the flags.

    Attributes:
      index: Number of the pod, which is the global rank of its task: the chief, then
        workers, then servers, then the evaluator.

    Args:
      environ: The environment of the pod.
      arguments: The flags.

    Raises:
      ConfigError: This is no pod of an Indexed Job, or one too many.
    """

    def __init__(self, environ: Mapping[str, str], arguments: argparse.Namespace):
        missing = [name for name in (_INDEX, _JOB, _SERVICE) if not environ.get(name)]
        if missing:
            raise ConfigError(
                f"expected a pod of an Indexed Job. Not set: {', '.join(missing)}. "
                "Kubernetes sets the first where completionMode is Indexed, the "
                "manifests in launch/kubernetes set the others."
            )
        self.index = int(environ[_INDEX])
        self._arguments = arguments
        self._hosts = [
            f"{environ[_JOB]}-{index}.{environ[_SERVICE]}"
            for index in range(flags.num_tasks(arguments))
        ]
        if self.index >= len(self._hosts):
            raise ConfigError(
                f"{_INDEX}: expected a number below {len(self._hosts)}, one for each "
                f"task. Found: {self.index}. Set completions and parallelism of the "
                f"Job to {len(self._hosts)}, or change --workers."
            )
        self._ranks: dict[str, int] = {}

    def make_tasks(self, attempt: int) -> list[Task]:
        """Returns the tasks of an attempt, which has a port of its own."""
        (port,) = of_attempt(self._arguments.port + 1, 1, attempt)
        count = flags.num_addresses(self._arguments)
        addresses = [f"{host}:{port}" for host in self._hosts[:count]]
        cluster = make_cluster(addresses, self._arguments.ps)
        tasks = compose(cluster, self._arguments.evaluator)
        self._ranks = {task.name: rank for rank, task in enumerate(tasks)}
        return tasks

    def start(self, task: Task) -> list[str]:
        """Returns the local command of a task: itself here, a client for others."""
        rank = self._ranks[task.name]
        if rank == 0:
            return flags.task_words(self._arguments)
        return [sys.executable, "-m", "tfr_pipeline.cluster.pod", self._address(rank)]

    def end(self) -> None:
        """Lets the other pods end well."""
        for rank in range(1, len(self._hosts)):
            problem = pod.end(self._address(rank))
            if problem:
                print(f"[job] {self._address(rank)}: {problem}", flush=True)

    def _address(self, rank: int) -> str:
        return f"{self._hosts[rank]}:{self._arguments.port}"


if __name__ == "__main__":
    sys.exit(main())
