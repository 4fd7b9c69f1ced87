"""TF_CONFIG: whether it is sound, and whether it fits the strategy.

Nothing here needs TensorFlow, so that a job that cannot work ends before it starts.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tfr_pipeline.errors import ConfigError

TASK_TYPES = ("chief", "worker", "ps", "evaluator")
TF_CONFIG_EXAMPLE = (
    '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
# How many tasks of this host read, in one that has left its cluster; see `leave`.
READERS = "TFR_PIPELINE_READERS"
_MULTI_WORKER = "MultiWorkerMirroredStrategy"
_PARAMETER_SERVER = "ParameterServerStrategy"
# Jobs whose tasks train.
_TRAINERS = ("chief", "worker")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The jobs of a cluster and this process's place in it.

    Attributes:
      jobs: Number of tasks by job.
      job: The job of this process.
      index: Its number among the tasks of that job.
    """

    jobs: Mapping[str, int]
    job: str
    index: int

    @property
    def trainers(self) -> int:
        """Number of tasks that train."""
        return sum(self.jobs.get(job, 0) for job in _TRAINERS)

    def __str__(self) -> str:
        jobs = ", ".join(f"{count} {job}" for job, count in self.jobs.items())
        return f"{jobs}; this is {self.job} {self.index}"


def read(text: str | None) -> Cluster | None:
    """Reads TF_CONFIG.

    Args:
      text: Its value.

    Returns:
      The cluster, or None where there is none: one process.

    Raises:
      ConfigError: It is malformed.

    Example:
      >>> print(read(TF_CONFIG_EXAMPLE))
      2 worker; this is worker 0
    """
    config, problems = parse(text)
    # Some platforms set it for every process, with a cluster or without.
    if config is not None and not config.get("cluster"):
        return None
    if config is None or problems:
        found = "; ".join(f"{found} ({advice})" for found, advice in problems)
        raise ConfigError(f"TF_CONFIG: {found}.")
    jobs = {job: len(tasks) for job, tasks in config["cluster"].items()}
    return Cluster(jobs, config["task"]["type"], int(config["task"]["index"]))


def readers_here(text: str | None) -> int:
    """Returns how many tasks on the host of this one read training data, 1 at least.

    Args:
      text: Value of TF_CONFIG; where there is none, what `leave` has noted counts.

    Example:
      >>> readers_here(TF_CONFIG_EXAMPLE)
      1
    """
    if not text:
        noted = os.environ.get(READERS, "")
        return max(1, int(noted)) if noted.isdecimal() else 1
    config, problems = parse(text)
    if not config or problems or "ps" in config["cluster"]:
        return 1  # of those with parameter servers the chief reads
    jobs = {job: _addresses(tasks) for job, tasks in config["cluster"].items()}
    own = jobs.get(config["task"]["type"], [])[int(config["task"]["index"]) :][:1]
    if not own:
        return 1
    host = own[0].rpartition(":")[0]
    addresses = [a for job in _TRAINERS for a in jobs.get(job, [])]
    return max(1, sum(a.rpartition(":")[0] == host for a in addresses))


def leave() -> None:
    """Makes this task work alone from now on: its process has no TF_CONFIG any more.

    What it shares with the others of its host it still does, see `readers_here`.
    """
    os.environ[READERS] = str(readers_here(os.environ.get("TF_CONFIG")))
    os.environ.pop("TF_CONFIG", None)


def parse(text: str | None) -> tuple[dict[str, Any] | None, list[tuple[str, str]]]:
    """Returns the content of TF_CONFIG, and pairs of what is wrong and what to do.

    The content is None where it is no JSON object, and empty where nothing is set.
    """
    if not text:
        return {}, []
    expected = f"expected {TF_CONFIG_EXAMPLE}"
    try:
        config = json.loads(text)
    # Also a number of thousands of digits, or a list in a list and so on.
    except (ValueError, RecursionError) as error:
        return None, [(f"not JSON: {error}", expected)]
    if not isinstance(config, dict):
        return None, [(f"a JSON {type(config).__name__}, not an object", expected)]
    return config, [*_cluster_problems(config), *_task_problems(config)]


def check(strategy: str | None, cluster_resolver: Any = None) -> None:
    """Checks the cluster against the strategy, before anything is built.

    Args:
      strategy: Name of the strategy, or None.
      cluster_resolver: The resolver to ask in place of TF_CONFIG, or None.

    Raises:
      ConfigError: TF_CONFIG is malformed, or the strategy cannot do with the cluster.
    """
    if cluster_resolver is None:
        cluster = read(os.environ.get("TF_CONFIG"))
    else:
        cluster = _of_resolver(cluster_resolver)
    if cluster is not None:
        _CHECKS.get(strategy or "", _one_process)(str(strategy), cluster)


def _of_resolver(resolver: Any) -> Cluster | None:
    jobs = {job: len(tasks) for job, tasks in resolver.cluster_spec().as_dict().items()}
    job = getattr(resolver, "task_type", None)
    if not jobs or not job:
        return None
    return Cluster(jobs, job, int(getattr(resolver, "task_id", None) or 0))


def _one_process(strategy: str, cluster: Cluster) -> None:
    if cluster.trainers < 2 and "ps" not in cluster.jobs:
        return
    right = _PARAMETER_SERVER if "ps" in cluster.jobs else _MULTI_WORKER
    raise ConfigError(
        f"strategy: {strategy} trains in one process, but TF_CONFIG has {cluster}. "
        "Each task would train alone into the same run directory. Set "
        f"pipeline.strategy to {right!r}, or unset TF_CONFIG."
    )


def _multi_worker(strategy: str, cluster: Cluster) -> None:
    if "ps" in cluster.jobs:
        raise ConfigError(
            f"strategy: {strategy} has no parameter servers, but TF_CONFIG has "
            f"{cluster}. Start the job without 'ps' tasks, or set pipeline.strategy to "
            f"{_PARAMETER_SERVER!r}."
        )


def _parameter_server(strategy: str, cluster: Cluster) -> None:
    for job in ("chief", "worker", "ps"):
        if not cluster.jobs.get(job):
            raise ConfigError(
                f"strategy: {strategy} needs a chief, workers and servers, but the "
                f"cluster has no {job!r} task: {cluster}. Start the job with a "
                "launcher and --ps=N."
            )


# What a strategy asks of a cluster of several tasks; one process for all others.
_CHECKS: dict[str, Callable[[str, Cluster], None]] = {
    _MULTI_WORKER: _multi_worker,
    _PARAMETER_SERVER: _parameter_server,
}


def _addresses(tasks: Any) -> list[Any]:
    """The addresses of a job, given as a list or as a map from index to address."""
    return list(tasks.values()) if isinstance(tasks, dict) else list(tasks)


def _cluster_problems(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    cluster = config.get("cluster")
    if not isinstance(cluster, dict) or not cluster:
        yield "no 'cluster' with tasks", f"expected {TF_CONFIG_EXAMPLE}"
        return
    seen: dict[str, str] = {}
    for job, tasks in cluster.items():
        if job not in TASK_TYPES:
            yield f"cluster has the job {job!r}", f"use one of {', '.join(TASK_TYPES)}"
        if not isinstance(tasks, list | dict) or not tasks:
            yield f"cluster.{job} is {tasks!r}", 'list its addresses: ["host:port"]'
            continue
        for index, address in enumerate(_addresses(tasks)):
            place = f"cluster.{job}[{index}]"
            if not isinstance(address, str) or not _is_address(address):
                yield f"{place} is {address!r}", "write host:port, port 1 to 65535"
            elif address in seen:
                advice = "give each task a port of its own"
                yield f"{place} is {address}, as is {seen[address]}", advice
            else:
                seen[address] = place
    if isinstance(cluster.get("chief"), list) and len(cluster["chief"]) > 1:
        yield f"{len(cluster['chief'])} chiefs", "keep one; make the others workers"
    if "ps" in cluster and "chief" not in cluster:
        advice = "add cluster.chief: the coordinator that runs the training loop"
        yield "parameter servers without a chief", advice


def _is_address(address: str) -> bool:
    match = re.fullmatch(r"(?:[^\s:/\[\]]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})", address)
    return bool(match) and 1 <= int(match[1]) <= 65535  # type: ignore[index]


def _task_problems(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    task, cluster = config.get("task"), config.get("cluster")
    if not isinstance(task, dict) or not {"type", "index"} <= set(task):
        advice = 'add "task": {"type": "worker", "index": 0}'
        yield f"task is {task!r}", advice
        return
    job, index = task["type"], task["index"]
    if job not in TASK_TYPES:
        yield f"task.type is {job!r}", f"use one of {', '.join(TASK_TYPES)}"
        return
    # Templates of job schedulers often leave quotes around the number; TensorFlow
    # takes it.
    number = index if isinstance(index, int) and not isinstance(index, bool) else None
    if isinstance(index, str) and index.isdecimal():
        number = int(index)
    if number is None or number < 0:
        yield f"task.index is {index!r}", "write a whole number from 0"
        return
    if not isinstance(cluster, dict):
        return
    tasks = cluster.get(job)
    if tasks is None and job != "evaluator":
        known = ", ".join(cluster) or "none"
        yield (
            f"task.type is {job!r}, but the cluster has only {known}",
            ("list this process's address in the cluster, or mend task.type"),
        )
    elif isinstance(tasks, dict) and str(number) not in tasks:
        yield f"task.index is {number}, not among {', '.join(tasks)}", "mend task.index"
    elif isinstance(tasks, list) and number >= len(tasks):
        advice = f"use 0 to {len(tasks) - 1}, or list more addresses"
        yield f"task.index is {number}, but cluster.{job} has {len(tasks)}", advice
