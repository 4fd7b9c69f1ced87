"""Launchers as processes, and what the tests of all of them look at."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from tests.pipeline.training_helpers import environment

ROOT = pathlib.Path(__file__).resolve().parents[2]
STARTED: list[subprocess.Popen[str]] = []


def launch(*words, script=None, launcher="local.sh", inside=(), environ=None, **flags):
    """Starts a launcher on a Python script, by default with two workers.

    Args:
      *words: Arguments of the script, or the command without a script.
      script: Python code.
      launcher: File name in `launch/`.
      inside: What comes before the launcher, such as `ip netns exec NAME`.
      environ: More environment variables.
      **flags: True stands for a flag without value, None for no such flag.
    """
    command = list(words) if script is None else [sys.executable, "-c", script, *words]
    flags = {"workers": 2, **flags}
    flags = [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in flags.items()
        if value is not None
    ]
    process = subprocess.Popen(
        [*inside, ROOT / "launch" / launcher, *flags, "--", *map(str, command)],
        env=environment(PYTHON=sys.executable, PYTHONUNBUFFERED="1", **(environ or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    STARTED.append(process)
    return process


def kill_what_is_left():
    """Ends launchers that a test which failed has left; the kernel ends their tasks."""
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()


def finished(process, timeout=60):
    """Waits for the end of a launcher; returns its exit code and output."""
    # Not `communicate`: it would leave out what was read ahead of the last line.
    killer = threading.Timer(timeout, process.kill)
    killer.start()
    out = process.stdout.read()
    killer.cancel()
    return process.wait(), out


def gone(pid):
    """Whether a process has ended; waits a little."""
    for _ in range(100):
        try:
            if pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    return False


def pids(process, count=2):
    """Reads the process ids that tasks print first."""
    found = {}
    while len(found) < count:
        line = process.stdout.readline()
        assert line, "the launcher has ended"
        name, _, text = line.partition("] ")
        if text.startswith("pid "):
            found[name.strip("[")] = int(text.split()[1])
    return found


SLEEP = """
import os, signal, sys, time
if len(sys.argv) > 1:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("pid", os.getpid())
time.sleep(300)
"""
