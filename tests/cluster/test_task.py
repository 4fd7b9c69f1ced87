"""`tfr_pipeline.cluster.task` and the pods that run it, without any launcher."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys

import pytest

from tests.cluster.launching import ROOT, gone
from tests.cluster.test_supervisor import SAVE
from tests.pipeline.training_helpers import environment
from tfr_pipeline.cluster.ports import free_ports


@pytest.fixture
def start(tmp_path):
    """Starts Python with some arguments; ends what is left."""
    started = []

    def start(*words):
        process = subprocess.Popen(
            [sys.executable, "-u", *map(str, words)],
            cwd=ROOT,
            env={**environment(), "TMPDIR": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        # What it had started may hold the pipe, and ends when nobody reads it.
        process.stdin.close()
        process.stdout.close()
        process.wait()


@pytest.mark.parametrize("over", ["signal", "input"])
def test_what_a_shell_has_started_there_saves_though_the_shell_ends(start, over):
    line = shlex.join([sys.executable, "-c", SAVE, "1"])
    words = ["--supervised", "--", "sh", "-c", f"{line}; true"]
    task = start("-m", "tfr_pipeline.cluster.task", *words)
    assert task.stdout.readline().startswith("pid ")
    if over == "signal":
        task.send_signal(signal.SIGTERM)
    else:
        task.stdin.write("TERM\n")
        task.stdin.flush()
    assert task.stdout.readline() == "saved\n"
    assert task.wait(20) == 143


# A task that waits for ever.
WAIT = """
import threading
from tfr_pipeline.cluster import heartbeat
heartbeat.start()
print("up", flush=True)
threading.Event().wait()
"""


def test_who_waits_for_ever_there_says_where_when_it_is_asked(start):
    words = ["--supervised", "--", "sh", "-c"]
    words.append(f"{shlex.join([sys.executable, '-c', WAIT])} 2>&1")
    task = start("-m", "tfr_pipeline.cluster.task", *words)
    # There may be more beats, and one may come between "up" and the end of its line.
    text = ""
    while not ("\0rest -1 -1 0" in text and "up" in text):
        line = task.stdout.readline()
        assert line, text
        text += line
    task.stdin.write("WHERE\n")
    task.stdin.flush()
    # The shell ends by the question, and with it the task.
    assert re.search(r'  File "<string>", line \d in <module>\n', task.stdout.read())


def test_who_does_not_end_there_is_killed_after_the_grace(start):
    script = "trap '' TERM; echo up; while true; do sleep 0.1; done"
    words = ["--grace=0.3", "--", "sh", "-c", script]
    task = start("-m", "tfr_pipeline.cluster.task", *words)
    assert task.stdout.readline() == "up\n"
    task.send_signal(signal.SIGTERM)
    assert task.wait(20) == 137


POD = """
import sys
from tfr_pipeline.cluster import pod
script = "sleep 300 & echo pid $!; wait"
sys.exit(pod.wait_for_tasks(int(sys.argv[1]), lambda tf_config: [
    sys.executable, "-m", "tfr_pipeline.cluster.task", "--supervised",
    f"--tf_config={tf_config}", "--", "sh", "-c", script]))
"""


def test_a_pod_leaves_nothing_of_a_task_whose_supervisor_is_replaced(start, tmp_path):
    (port,) = free_ports(1)
    pod = start("-c", POD, port)
    assert "waiting" in pod.stdout.readline()

    def run():
        """Takes the part of a supervisor; returns a process id below the task."""
        supervisor = socket.create_connection(("localhost", port))
        supervisor.sendall(b'{"task": {"type": "worker", "index": 0}}\n')
        word, pid = supervisor.makefile().readline().split()
        assert word == "pid"
        return supervisor, int(pid)

    first, pid = run()
    (folder,) = os.listdir(tmp_path)
    second, other = run()
    assert gone(pid) and other != pid
    (now,) = os.listdir(tmp_path)
    assert now != folder
    first.close()
    second.close()
    assert gone(other)
