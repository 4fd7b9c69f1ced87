"""TF_CONFIG: which tasks a job has, where they listen, and which one a process is."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Task:
    """One process of a job.

    Attributes:
      job: `chief`, `worker`, `ps` or `evaluator`.
      index: Number among the tasks of that job, from 0.
      tf_config: Value of TF_CONFIG for this process.
    """

    job: str
    index: int
    tf_config: str

    @property
    def name(self) -> str:
        """`worker 0`; how messages call the task."""
        return f"{self.job} {self.index}"


def compose(cluster: Mapping[str, list[str]]) -> list[Task]:
    """Returns the tasks of a cluster, in its order.

    Args:
      cluster: Maps jobs to the addresses `host:port` of their tasks.

    Example:
      >>> [task.name for task in compose({"worker": ["a:1", "b:1"]})]
      ['worker 0', 'worker 1']
      >>> compose({"worker": ["a:1"]})[0].tf_config
      '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}'
    """
    whole = {job: list(addresses) for job, addresses in cluster.items()}
    return [
        Task(
            job,
            index,
            json.dumps({"cluster": whole, "task": {"type": job, "index": index}}),
        )
        for job, addresses in whole.items()
        for index in range(len(addresses))
    ]


def free_ports(count: int) -> list[int]:
    """Returns ports of this machine that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in sockets]
