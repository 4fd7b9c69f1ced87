"""A Slurm of three nodes, see `slurm_lab.sh`, for as long as tests need it."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

from tests.pipeline.training_helpers import ROOT, environment

_NEEDED = ("apt-get", "dpkg", "unshare", "nsenter", "ip")


class Lab:
    """Nodes n1, n2 and n3; skips the test where they cannot be had."""

    def __init__(self, folder: pathlib.Path):
        missing = [name for name in _NEEDED if shutil.which(name) is None]
        if os.geteuid() != 0 or missing:
            pytest.skip(f"needs root and {', '.join(missing or _NEEDED)}")
        unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "true"]
        if subprocess.run(unshare, capture_output=True, check=False).returncode:
            pytest.skip("needs to be allowed to make namespaces")
        self._folder = folder
        self._process = subprocess.Popen(
            [ROOT / "tests/cluster/slurm_lab.sh", folder, *shell("echo ready; cat")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if not k.startswith("SLURM")},
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            code, said = self._process.wait(), self._process.communicate()[1]
            assert code == 69, said
            pytest.skip(f"apt has no Slurm for this machine: {said.strip()[-300:]}")
        me = self._process.pid
        children = pathlib.Path(f"/proc/{me}/task/{me}/children").read_text()
        self._inside = children.strip()

    def close(self) -> None:
        """Ends Slurm and all of its jobs."""
        self._process.communicate()

    def run(self, *words, **extra: str) -> str:
        """Runs a command inside; returns what it says."""
        enter = f". {self._folder}/run/environment; cd {ROOT}; "
        enter += "".join(f"export {key}='{text}'; " for key, text in extra.items())
        done = subprocess.run(
            [
                *("nsenter", "-t", self._inside, "-m", "-n", "-p"),
                *shell(enter + 'exec "$@"'),
                "shell",
                *map(str, words),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(PYTHON=sys.executable, PYTHONUNBUFFERED="1"),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, log: pathlib.Path, *words, sbatch=(), **extra: str) -> str:
        """Submits `launch/slurm.sbatch` to two nodes; returns the job's number."""
        flags = ["--parsable", "--nodes=2", f"--output={log}", *sbatch]
        script = ROOT / "launch/slurm.sbatch"
        return self.run("sbatch", *flags, script, *words, **extra).strip()

    def state(self, job: str) -> str:
        """Returns the state of a job, such as RUNNING."""
        text = self.run("scontrol", "show", "job", "-o", job)
        return text.partition("JobState=")[2].split()[0]

    def wait(self, job: str, *states: str, seconds: float = 60) -> str:
        """Waits until a job is in one of some states; returns which."""
        return until(lambda: (s := self.state(job)) in states and s, seconds)


def shell(command: str) -> list[str]:
    return ["bash", "-c", command]


def until(true, seconds: float = 60):
    """Waits until a function returns something; returns that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = true()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError("waited for too long")
