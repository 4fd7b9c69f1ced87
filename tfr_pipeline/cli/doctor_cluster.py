"""What `doctor` says about TF_CONFIG and about the ports of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tfr_pipeline.cli.finding import FAIL, OK, WARN, Finding
from tfr_pipeline.cluster import cluster_spec
from tfr_pipeline.cluster.ports import is_free


def check_tf_config(text: str | None) -> Iterator[Finding]:
    """Whether TF_CONFIG describes a cluster and this process's place in it."""
    what = "TF_CONFIG"
    if not text:
        yield Finding(OK, what, "not set: one process")
        return
    config, problems = cluster_spec.parse(text)
    if config is not None and not config.get("cluster"):
        # As `train` sees it: some platforms set it for every process.
        yield Finding(OK, what, "no cluster in it: one process")
        return
    for found, advice in problems:
        yield Finding(FAIL, what, found, advice)
    if problems or not config:
        return
    cluster, task = config["cluster"], config["task"]
    tasks = ", ".join(f"{len(cluster[job])} {job}" for job in cluster)
    yield Finding(OK, what, f"{tasks}; this is {task['type']} {int(task['index'])}")
    yield from _own_port(cluster, task)


def _own_port(cluster: Mapping[str, Any], task: Mapping[str, Any]) -> Iterator[Finding]:
    """Looks whether this process could listen where the cluster expects it."""
    tasks, index = cluster.get(task["type"]), int(task["index"])
    if tasks is None:
        return
    address = tasks[str(index)] if isinstance(tasks, dict) else tasks[index]
    port = int(address.rpartition(":")[2])
    if not is_free(port):
        advice = "end the process that holds it (`ss -ltnp`), or change the port"
        yield Finding(WARN, "TF_CONFIG port", f"{port} is in use here", advice)


def check_ports(ports: str) -> Iterator[Finding]:
    """That local clusters can get ports at all, and that the asked ones are free."""
    if is_free(0):
        yield Finding(OK, "ports", "a server can listen on this machine")
    else:
        advice = "allow it: local clusters talk over TCP"
        yield Finding(FAIL, "ports", "no server can listen on this machine", advice)
    for port in filter(None, ports.split(",")):
        what = f"port {port}"
        if not port.isdecimal() or not 1 <= int(port) <= 65535:
            yield Finding(FAIL, what, "not a port", "expected 1 to 65535")
        elif is_free(int(port)):
            yield Finding(OK, what, "free")
        else:
            advice = "end the process that holds it (`ss -ltnp`), or take another"
            yield Finding(FAIL, what, "in use or not allowed", advice)
