"""Pods of a manifest as processes: own addresses, names, and process tables."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from tests.pipeline.training_helpers import ROOT, environment

MANIFESTS = ROOT / "launch" / "kubernetes"


def read_manifest(name):
    """Returns the resources of a manifest by kind."""
    text = (MANIFESTS / name).read_text(encoding="utf-8")
    return {item["kind"]: item for item in yaml.safe_load_all(text)}


def container_environment(job, index):
    """Returns what Kubernetes puts into the environment of a pod of an Indexed Job."""
    name = job["metadata"]["name"]
    labels = {
        "batch.kubernetes.io/job-name": name,
        "batch.kubernetes.io/job-completion-index": str(index),
    }
    fields = {f"metadata.labels['{key}']": value for key, value in labels.items()}
    (container,) = job["spec"]["template"]["spec"]["containers"]
    result = {"JOB_COMPLETION_INDEX": str(index)}
    for variable in container.get("env", []):
        source = variable.get("valueFrom")
        result[variable["name"]] = (
            fields[source["fieldRef"]["fieldPath"]] if source else variable["value"]
        )
    return result


def container_command(job, *more):
    """Returns command and arguments of a container."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return [*container["command"], *container["args"], *more]


class IndexedJob:
    """The pods of a manifest's Indexed Job."""

    def __init__(self, manifest: str, folder: pathlib.Path):
        self._job = read_manifest(manifest)["Job"]
        spec, name = self._job["spec"], self._job["metadata"]["name"]
        service = spec["template"]["spec"]["subdomain"]
        names = [f"{name}-{index}.{service}" for index in range(spec["completions"])]
        self._pods = Pods(names, folder / "mnt", make_image(folder / "bin"))
        self.close, self.size = self._pods.close, len(names)

    def start(self, index, log, *more, command=None):
        """Starts the container of a pod, with more arguments than its own."""
        return self._pods.start(
            index,
            log,
            command or container_command(self._job, *more),
            container_environment(self._job, index),
        )


class Pods:
    """Pods with names; skips the test where they cannot be had.

    Args:
      names: Their names.
      folder: What their volume holds.
      bin: Folder with the programs of the image.
    """

    def __init__(self, names: list[str], folder: pathlib.Path, bin: pathlib.Path):
        if os.geteuid() != 0 or not all(
            map(shutil.which, ("unshare", "nsenter", "ip"))
        ):
            pytest.skip("needs root, util-linux and iproute2, for namespaces")
        self.names, self._bin = names, bin
        self._host = subprocess.Popen(
            [
                *(ROOT / "tests/cluster/pods.sh", folder, ",".join(self.names)),
                *("sh", "-c", "echo ready; cat"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._host.stdout is not None
        if self._host.stdout.readline() != "ready\n":
            said = self._host.communicate()[1]
            pytest.skip(f"needs to be allowed to make namespaces: {said.strip()}")

    def close(self):
        """Ends all that runs."""
        self._host.communicate()

    def start(self, index, log, command, variables):
        """Starts the container of a pod."""
        inherited = {
            key: value
            for key, value in environment().items()
            if key in ("PYTHONPATH", "TF_CPP_MIN_LOG_LEVEL", "HOME", "LANG")
        }
        variables = {
            **inherited,
            "PATH": f"{self._bin}:/usr/bin:/bin",
            "PYTHONUNBUFFERED": "1",
            **variables,
        }
        with open(log, "ab") as file:
            return subprocess.Popen(
                [
                    *("nsenter", "-t", child(self._host.pid), "-m", "-n", "-p"),
                    f"--wd={ROOT}",
                    *("ip", "netns", "exec", self.names[index]),
                    *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
                    *("env", "-i", *(f"{k}={v}" for k, v in variables.items())),
                    *map(str, command),
                ],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )


def signal_container(process, number=signal.SIGTERM):
    """Signals the first process of a container, as Kubernetes does."""
    os.kill(int(child(int(child(process.pid)))), number)


def child(pid):
    """The child of a process."""
    return pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]


def make_image(folder: pathlib.Path):
    """Makes a folder with the programs that the commands of manifests call."""
    folder.mkdir()
    (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / "tfr-pipeline").write_text(
        f'#!/bin/sh\nexec {sys.executable} -m tfr_pipeline "$@"\n'
    )
    for path in folder.iterdir():
        path.chmod(0o755)
    return folder
