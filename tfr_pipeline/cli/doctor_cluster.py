"""What `doctor` says about TF_CONFIG and about the ports of this machine."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from tfr_pipeline.cli.finding import FAIL, OK, WARN, Finding

TASK_TYPES = ("chief", "worker", "ps", "evaluator")
TF_CONFIG_EXAMPLE = (
    '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


def check_tf_config(text: str | None) -> Iterator[Finding]:
    """Whether TF_CONFIG describes a cluster and this process's place in it."""
    what = "TF_CONFIG"
    if not text:
        yield Finding(OK, what, "not set: one process")
        return
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        found = f"not JSON: {error}"
        yield Finding(FAIL, what, found, f"expected {TF_CONFIG_EXAMPLE}")
        return
    if not isinstance(config, dict):
        found = f"a JSON {type(config).__name__}, not an object"
        yield Finding(FAIL, what, found, f"expected {TF_CONFIG_EXAMPLE}")
        return
    problems = [*_cluster_problems(config), *_task_problems(config)]
    for found, advice in problems:
        yield Finding(FAIL, what, found, advice)
    if problems:
        return
    cluster, task = config["cluster"], config["task"]
    tasks = ", ".join(f"{len(cluster[job])} {job}" for job in cluster)
    yield Finding(OK, what, f"{tasks}; this is {task['type']} {int(task['index'])}")
    yield from _own_port(cluster, task)


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


def _own_port(cluster: Mapping[str, Any], task: Mapping[str, Any]) -> Iterator[Finding]:
    """Looks whether this process could listen where the cluster expects it."""
    tasks, index = cluster.get(task["type"]), int(task["index"])
    if tasks is None:
        return
    address = tasks[str(index)] if isinstance(tasks, dict) else tasks[index]
    port = int(address.rpartition(":")[2])
    if not port_is_free(port):
        advice = "end the process that holds it (`ss -ltnp`), or change the port"
        yield Finding(WARN, "TF_CONFIG port", f"{port} is in use here", advice)


def port_is_free(port: int) -> bool:
    """Whether a server could listen on `port` of this machine now."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("", port))
        except OSError:
            return False
    return True


def check_ports(ports: str) -> Iterator[Finding]:
    """That local clusters can get ports at all, and that the asked ones are free."""
    if port_is_free(0):
        yield Finding(OK, "ports", "a server can listen on this machine")
    else:
        advice = "allow it: local clusters talk over TCP"
        yield Finding(FAIL, "ports", "no server can listen on this machine", advice)
    for port in filter(None, ports.split(",")):
        what = f"port {port}"
        if not port.isdecimal() or not 1 <= int(port) <= 65535:
            yield Finding(FAIL, what, "not a port", "expected 1 to 65535")
        elif port_is_free(int(port)):
            yield Finding(OK, what, "free")
        else:
            advice = "end the process that holds it (`ss -ltnp`), or take another"
            yield Finding(FAIL, what, "in use or not allowed", advice)
