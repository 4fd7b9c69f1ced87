"""`launch/ssh.sh` with a real ssh server on the loopback."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.cluster.launching import ROOT, SLEEP, finished, gone, launch, pids
from tests.cluster.sshd import Sshd
from tfr_pipeline.cluster.ports import free_ports
from tfr_pipeline.cluster.ssh import read_hosts


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    server = Sshd(tmp_path_factory.mktemp("sshd"), *free_ports(1))
    try:
        server.wait("127.0.0.1")
        yield server
    finally:
        server.close()


def launch_ssh(sshd, *words, **flags):
    flags = {
        "hosts": "127.0.0.1",
        "ssh": sshd.client,
        "dir": ROOT,
        "base_port": free_ports(1)[0],
        **flags,
    }
    return launch(*words, launcher="ssh.sh", **flags)


def plan(*flags):
    """Returns host and TF_CONFIG of each task of a dry run."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tfr_pipeline.cluster.ssh", *flags, "--dry_run"),
            *("--ssh=echo", "--", "true"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    result = {}
    name = None
    for line in done.stdout.splitlines():
        if line.startswith("# "):
            name = line[2:]
            continue
        _, host, script = shlex.split(line)
        words = shlex.split(script)
        (config,) = (w for w in words if w.startswith("--tf_config="))
        result[name] = host, json.loads(config.partition("=")[2])
    return result


def test_roles_go_round_the_hosts_and_each_task_has_a_port_of_its_own(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_bytes(b"# rack 1\r\n\r\nme@a\r\nb:2 # twice\r\n")
    found = plan(f"--hosts_file={hosts}", "--workers=2", "--ps=2", "--evaluator")
    assert {name: host for name, (host, _) in found.items()} == {
        "chief 0": "me@a",
        "worker 0": "b",
        "worker 1": "b",
        "ps 0": "me@a",
        "ps 1": "b",
        "evaluator 0": "b",
    }
    for name, (_, config) in found.items():
        assert config["cluster"] == {
            "chief": ["a:2222"],
            "worker": ["b:2223", "b:2224"],
            "ps": ["a:2225", "b:2226"],
        }
        job, index = name.split()
        assert config["task"] == {"type": job, "index": int(index)}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "found none"),
        ("# a\n", "found none"),
        ("a:x", "'a:x'"),
        ("a:0", "'a:0'"),
        ("-oProxyCommand=x", "-oProxyCommand"),
        ("fd00::1", "'fd00::1'"),
        ("a,localhost", "localhost is another machine"),
    ],
)
def test_a_list_of_hosts_that_cannot_work_is_explained(text, told):
    with pytest.raises(ValueError, match=told):
        read_hosts(text)


def test_what_is_run_arrives_word_by_word_and_lines_come_back_whole(sshd):
    odd = 'it\'s "odd" $HOME `id` \\ * ü\n!'
    script = """
import json, os, sys, tempfile, time
from tfr_pipeline.cluster import heartbeat
heartbeat.start()
task = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
time.sleep(1.2)
text = json.dumps([task, sys.argv[1], os.environ["GRPC_FAIL_FAST"], tempfile.mkdtemp()])
sys.stdout.write(text + "\\n")  # in one piece
"""
    code, out = finished(launch_ssh(sshd, odd, script=script))
    assert code == 0, out
    found = {}
    for line in out.splitlines():
        name, _, text = line[1:].partition("] ")
        index, word, fail_fast, folder = json.loads(text)
        found[name] = index, word, fail_fast
        assert not os.path.exists(folder)
    assert found == {f"worker {i}": (i, odd, "use_caller") for i in range(2)}


def test_sigterm_reaches_the_other_side_and_its_exit_code_comes_back(sshd):
    script = """
import os, signal, sys, time
def end(*_):
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print("pid", os.getpid(), flush=True)
time.sleep(300)
"""
    process = launch_ssh(sshd, script=script)
    tasks = pids(process)
    process.send_signal(signal.SIGTERM)
    code, out = finished(process)
    assert code == 143
    assert out.count("saved") == 2
    assert all(gone(pid) for pid in tasks.values())


FLUSHED = SLEEP.replace("os.getpid())", "os.getpid(), flush=True)")


def test_who_dies_there_is_noticed_here_and_nobody_is_left(sshd):
    process = launch_ssh(sshd, "deaf", script=FLUSHED, grace=0.5, max_restarts=1)
    first = pids(process)
    os.kill(first["worker 1"], signal.SIGKILL)
    second = pids(process)
    assert all(gone(pid) for pid in first.values())
    process.send_signal(signal.SIGTERM)
    assert finished(process)[0] == 143
    assert all(gone(pid) for pid in second.values())


# The first time, worker 1 waits for ever.
STALL = """
import json, os, pathlib, sys, threading, time
from tfr_pipeline.cluster import beat, heartbeat
heartbeat.start()
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
mark = pathlib.Path(sys.argv[1]) / str(index)
if mark.exists():
    sys.exit(0)
mark.touch()
heartbeat.moves(beat.BETWEEN if index else beat.STEP, 5)
heartbeat.keeps(4)
threading.Event().wait()
"""


def test_who_waits_for_ever_there_says_where_and_is_noticed_here(sshd, tmp_path):
    code, out = finished(launch_ssh(sshd, tmp_path, script=STALL, stall_timeout=2))
    assert code == 0, out
    (line,) = [line for line in out.splitlines() if "has not moved for" in line]
    assert line.startswith("[job] worker 1 (127.0.0.1:")
    assert re.search(r'\[worker 1\]   File "<string>", line \d+ in <module>', out)
    assert "restart 1 of 3" in out


def test_nobody_over_there_outlives_a_launcher_that_is_killed(sshd):
    process = launch_ssh(sshd, "deaf", script=FLUSHED)
    tasks = pids(process)
    process.kill()
    assert all(gone(pid) for pid in tasks.values())
    process.wait()


def test_a_port_that_is_taken_over_there_is_named_and_others_are_used(sshd):
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(("127.0.0.1", 0))
        one.listen()
        port = one.getsockname()[1]
        code, out = finished(launch_ssh(sshd, "true", workers=1, base_port=port))
    assert code == 0, out
    assert f"port {port} of 127.0.0.1:{port} is taken" in out
    assert "restart 1 of 3" in out


@pytest.mark.parametrize(
    ("flags", "words", "told"),
    [
        ({}, ["/no/such/command"], "cannot start '/no/such/command'"),
        ({"dir": "/no/such/dir"}, ["true"], "/no/such/dir"),
        ({"python": "/no/such/python"}, ["true"], "/no/such/python"),
        ({"ssh": "/no/such/ssh"}, ["true"], "cannot start '/no/such/ssh'"),
    ],
)
def test_what_does_not_exist_over_there_is_not_tried_again(sshd, flags, words, told):
    code, out = finished(launch_ssh(sshd, *words, workers=1, **flags))
    assert code == 2, out
    assert told in out and "restart" not in out


def test_a_host_that_is_away_is_tried_again_and_given_up(sshd):
    (port,) = free_ports(1)
    ssh = re.sub(r"-p \d+", f"-p {port}", sshd.client)
    code, out = finished(launch_ssh(sshd, "true", workers=1, max_restarts=1, ssh=ssh))
    assert code == 1
    assert "Connection refused" in out and "given up after 1 restarts" in out


def test_a_task_whose_supervisor_is_silent_ends():
    task = subprocess.Popen(
        [
            *(sys.executable, "-m", "tfr_pipeline.cluster.task", "--supervised"),
            *("--silence=1", "--", sys.executable, "-c", FLUSHED, "deaf"),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    pid = int(task.stdout.readline().split()[1])
    for _ in range(15):
        task.stdin.write("\n")
        task.stdin.flush()
        time.sleep(0.1)
    assert task.poll() is None
    assert task.wait(timeout=30) == 137
    assert gone(pid)
    task.communicate()
