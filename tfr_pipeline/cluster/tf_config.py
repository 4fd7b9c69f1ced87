"""TF_CONFIG: which tasks a job has, where they listen, and which one a process is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

EVALUATOR = "evaluator"


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

    @property
    def address(self) -> str | None:
        """`host:port` where the task listens; None for the evaluator, which does not.

        Example:
          >>> compose({"worker": ["a:1", "b:1"]})[1].address
          'b:1'
        """
        return address_of(self.tf_config)


def address_of(tf_config: str) -> str | None:
    """Returns the address that a TF_CONFIG gives its own task, or None."""
    config = json.loads(tf_config)
    own = config.get("task", {})
    addresses = config.get("cluster", {}).get(own.get("type"), [])
    index = int(own.get("index", 0))
    return addresses[index] if index < len(addresses) else None


def make_cluster(addresses: Sequence[str], ps: int = 0) -> dict[str, list[str]]:
    """Gives addresses, in the order of their global ranks, to the jobs of a cluster.

    Args:
      addresses: `host:port` of each task that listens.
      ps: Number of parameter servers. Without any, all are workers, of which the first
        is the chief; else the first is a chief that only coordinates, and the last
        ones are the servers.

    Raises:
      ValueError: There are not enough addresses for a chief and a worker.

    Example:
      >>> make_cluster(["a:1", "b:1"])
      {'worker': ['a:1', 'b:1']}
      >>> make_cluster(["a:1", "b:1", "c:1", "a:2"], ps=1)
      {'chief': ['a:1'], 'worker': ['b:1', 'c:1'], 'ps': ['a:2']}
    """
    addresses = list(addresses)
    least = ps + 2 if ps else 1
    if len(addresses) < least:
        raise ValueError(f"expected {least} or more addresses, found {addresses}")
    if not ps:
        return {"worker": addresses}
    return {"chief": addresses[:1], "worker": addresses[1:-ps], "ps": addresses[-ps:]}


def compose(cluster: Mapping[str, list[str]], evaluator: bool = False) -> list[Task]:
    """Returns the tasks of a cluster, in its order.

    Args:
      cluster: Maps jobs to the addresses `host:port` of their tasks.
      evaluator: Adds an evaluator at the end. As TensorFlow wants it, the cluster does
        not name it: nobody talks to it, and it only reads checkpoints.

    Example:
      >>> [task.name for task in compose({"worker": ["a:1", "b:1"]}, evaluator=True)]
      ['worker 0', 'worker 1', 'evaluator 0']
      >>> compose({"worker": ["a:1"]})[0].tf_config
      '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}'
    """
    whole = {job: list(addresses) for job, addresses in cluster.items()}
    members = [
        (job, index)
        for job, addresses in whole.items()
        for index in range(len(addresses))
    ]
    if evaluator:
        members.append((EVALUATOR, 0))
    return [
        Task(
            job,
            index,
            json.dumps({"cluster": whole, "task": {"type": job, "index": index}}),
        )
        for job, index in members
    ]
