"""Who is started again when somebody dies, and what else the supervisor notices.

Plain scripts take the place of training, so that each test takes a second or two.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.cluster.launching import SLEEP, finished, gone, launch, pids
from tests.cluster.slurm_helpers import until
from tests.pipeline.training_helpers import environment
from tfr_pipeline.cluster.ports import free_ports, is_free

# `who` dies once, some time after everybody else is there; then the chief ends. The
# others wait until they are told to end, as they do under ParameterServerStrategy.
DIE = """
import json, os, pathlib, signal, sys, time
task = json.loads(os.environ["TF_CONFIG"])
own, cluster = task["task"], task["cluster"]
name = own["type"] + str(own["index"])
folder, who, count = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
log = folder / name
with open(log, "a") as file:
    file.write(json.dumps(cluster) + "\\n")
while len(os.listdir(folder)) < count:
    time.sleep(0.02)
starts = len(log.read_text().splitlines())
if name == who and starts == 1:
    os.kill(os.getpid(), signal.SIGKILL)
def end(*_):
    print("told to end", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
if name == "chief0":
    while len((folder / who).read_text().splitlines()) < 2:
        time.sleep(0.02)
    time.sleep(0.5)
    sys.exit(0)
time.sleep(300)
"""


@pytest.mark.parametrize(
    ("who", "alone"),
    [
        ("worker1", True),
        pytest.param("evaluator0", True, marks=pytest.mark.slow),
        ("ps0", False),
        pytest.param("chief0", False, marks=pytest.mark.slow),
    ],
)
def test_with_servers_workers_and_evaluator_restart_alone(tmp_path, who, alone):
    code, out = finished(
        launch(tmp_path, who, 6, script=DIE, ps=2, evaluator=True, log_dir=None)
    )
    assert code == 0, out
    starts = {
        name: (tmp_path / name).read_text().splitlines()
        for name in os.listdir(tmp_path)
    }
    assert set(starts) == {"chief0", "worker0", "worker1", "ps0", "ps1", "evaluator0"}
    again = {name for name, lines in starts.items() if len(lines) == 2}
    # The evaluator only reads checkpoints: it goes on whoever restarts.
    assert again == ({who} if alone else set(starts) - {"evaluator0"})
    # Alone at its own address, where the others know it; all together elsewhere.
    assert (len(set(starts[who])) == 1) == alone
    assert all(line == starts["ps1"][-1] for line in starts["worker0"][-1:])
    assert "[job] restart 1 of 3 in 1 s" in out
    assert "[evaluator 0] told to end" in out


def test_the_evaluator_is_no_member_of_the_cluster(tmp_path):
    # The worker waits for it: when all workers have ended it is told to.
    script = """
import json, os, pathlib, sys, time
print(os.environ["TF_CONFIG"], flush=True)
seen = pathlib.Path(sys.argv[1])
if json.loads(os.environ["TF_CONFIG"])["task"]["type"] == "evaluator":
    seen.touch()
while not seen.exists():
    time.sleep(0.02)
"""
    seen = tmp_path / "seen"
    code, out = finished(launch(seen, script=script, evaluator=True, workers=1))
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith("[evaluator 0]"))
    assert '"type": "evaluator"' in line and '"evaluator": [' not in line


BEAT = """
import os, sys, time
from tfr_pipeline.cluster import heartbeat
heartbeat.start()
print("pid", os.getpid())
sys.stdout.write("half")
sys.stdout.flush()
time.sleep(1.5)
print(" a line")
"""


def test_signs_of_life_leave_no_trace_in_the_output(tmp_path):
    code, out = finished(launch(script=BEAT, workers=1, log_dir=tmp_path))
    assert code == 0
    assert out.splitlines()[1:] == ["[worker 0] half a line"]
    assert b"\0" not in (tmp_path / "worker-0.log").read_bytes()


def test_without_a_supervisor_there_are_no_signs_of_life(tmp_path):
    from tests.pipeline.training_helpers import start

    out, _ = start(BEAT).communicate(timeout=60)
    assert "\0" not in out


def test_a_task_that_hangs_is_killed_and_all_start_again():
    process = launch(script=BEAT, hang_timeout=1.5)
    stopped = pids(process)["worker 1"]
    time.sleep(0.5)  # for a beat
    os.kill(stopped, signal.SIGSTOP)
    code, out = finished(process)
    assert code == 0
    assert "worker 1 (localhost:" in out and "has not been heard for" in out
    assert "restart 1 of 3" in out
    assert gone(stopped)


# Worker 0 opens its port; worker 1 does at its second start.
OPEN = """
import json, os, pathlib, socket, sys, time
task = json.loads(os.environ["TF_CONFIG"])
index = task["task"]["index"]
mark = pathlib.Path(sys.argv[1]) / str(index)
first = not mark.exists()
mark.touch()
if first and index == 1:
    time.sleep(300)
server = socket.create_server(("", int(task["cluster"]["worker"][index].split(":")[1])))
time.sleep(2 if first else 1)
time.sleep(300 if first else 0)
"""


def test_who_is_missing_at_the_start_is_named_and_all_start_again(tmp_path):
    code, out = finished(launch(tmp_path, script=OPEN, start_timeout=2))
    assert code == 0, out
    line = next(line for line in out.splitlines() if "missing" in line)
    assert "worker 1 (localhost:" in line and "worker 0" not in line
    assert "restart 1 of 3" in out


def test_a_command_without_port_or_beats_is_never_missing():
    script = "import time; time.sleep(2)"
    code, out = finished(launch(script=script, start_timeout=0.5))
    assert code == 0 and not out


def test_a_taken_port_is_named_and_others_are_used():
    port = next(port for port in iter(lambda: free_ports(1)[0], 0) if is_free(port + 1))
    with socket.socket() as one:
        # As gRPC does: the next one to do so is let in as well.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(("localhost", port))
        one.listen()
        script = "import os; print(os.environ['TF_CONFIG'])"
        process = launch(script=script, workers=1, base_port=port)
        code, out = finished(process)
    assert code == 0
    assert f"[job] worker 0: port {port} of localhost:{port} is taken" in out
    assert "[worker 0] " in out and f"localhost:{port + 1}" in out
    assert "restart 1 of 3" in out


def test_all_of_a_task_is_gone_with_it(tmp_path):
    script = """
import os, subprocess, sys, tempfile
print("pid", subprocess.Popen(["sleep", "300"]).pid)
print("folder", tempfile.mkdtemp())
"""
    process = launch(script=script, workers=1, environ={"TMPDIR": str(tmp_path)})
    child = pids(process, 1)["worker 0"]
    code, out = finished(process)
    assert code == 0 and f"folder {tmp_path}" in out
    assert gone(child)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("command", [["/no/such/command"], ["sh", "-c", "nothing"]])
def test_a_command_that_does_not_exist_is_not_tried_again(command):
    code, out = finished(launch(*command))
    assert code == 2
    assert "restart 1" not in out
    assert "No such file" in out or "not found" in out


def test_a_log_folder_that_cannot_be_written_is_told_before_anything_starts(tmp_path):
    (tmp_path / "file").touch()
    code, out = finished(launch("echo", "started", log_dir=tmp_path / "file"))
    assert code == 2
    assert "--log_dir" in out and "started" not in out


def test_sigterm_between_restarts_ends_the_job():
    process = launch("false", max_restarts=9)
    for line in process.stdout:
        if "restart 2 of 9 in 2 s" in line:
            break
    process.send_signal(signal.SIGTERM)
    code, out = finished(process, timeout=10)
    assert code == 143
    assert "restart 3" not in out


def test_a_second_signal_kills_at_once():
    process = launch("deaf", script=SLEEP, grace=60)
    tasks = pids(process)
    process.send_signal(signal.SIGTERM)
    for line in process.stdout:
        if "stopping" in line:
            break
    process.send_signal(signal.SIGINT)
    code, _ = finished(process, timeout=20)
    assert code == 143
    assert all(gone(pid) for pid in tasks.values())


# Takes its time to save, as its first argument says.
SAVE = """
import os, signal, sys, time
def end(*_):
    time.sleep(float(sys.argv[1]))
    print("saved", flush=True)
    os._exit(143)
signal.signal(signal.SIGTERM, end)
print("pid", os.getpid(), flush=True)
time.sleep(300)
"""


def test_a_terminal_that_is_closed_and_hangs_up_twice_lets_tasks_save():
    process = launch(1, script=SAVE)
    pids(process)
    process.send_signal(signal.SIGHUP)
    for line in process.stdout:
        if "stopping" in line:
            break
    process.send_signal(signal.SIGHUP)
    code, out = finished(process)
    assert code == 143
    assert out.count("saved") == 2


def test_what_a_shell_has_started_saves_though_the_shell_ends_at_once():
    line = shlex.join([sys.executable, "-c", SAVE, "1"])
    process = launch("sh", "-c", f"{line}; true")
    pids(process)
    process.terminate()
    code, out = finished(process)
    assert code == 143
    assert out.count("saved") == 2 and "killing" not in out


def test_tasks_are_told_to_end_though_nobody_reads_what_they_say(tmp_path):
    script = """
import pathlib, signal, sys
told = False
def end(*_):
    global told
    told = True
signal.signal(signal.SIGTERM, end)
while not told:
    print("x" * 1000, flush=True)
pathlib.Path(sys.argv[1]).touch()
"""
    process = launch(tmp_path / "saved", script=script, workers=1, grace=20)
    assert process.stdout.readline()
    time.sleep(1)  # the pipe is full
    process.terminate()
    until((tmp_path / "saved").exists, 15)
    # All was told, so it does not wait for a reader either.
    assert process.wait(15) == 0


# Worker 0 fails when the evaluator has failed twice, and is done the second time.
TWO_FAIL = """
import json, os, pathlib, sys, time
folder, name = pathlib.Path(sys.argv[1]), json.loads(os.environ["TF_CONFIG"])["task"]
with open(folder / name["type"], "a") as file:
    file.write("x")
starts = lambda job: len((folder / job).read_text()) if (folder / job).exists() else 0
while name["type"] == "worker" and starts("evaluator") < 2:
    time.sleep(0.02)
sys.exit(name["type"] == "evaluator" or starts("worker") == 1)
"""


def test_failures_of_the_evaluator_take_no_restart_from_the_others(tmp_path):
    flags = {"workers": 1, "evaluator": True, "max_restarts": 1}
    code, out = finished(launch(tmp_path, script=TWO_FAIL, **flags))
    assert code == 0, out
    assert "restart 1 of 1 in 1 s, evaluator 0 alone" in out
    assert "evaluator 0 stays away" in out
    assert "restart 1 of 1 in 1 s\n" in out


@pytest.mark.slow  # waits for longer than peers of a failed task have
def test_who_is_told_to_end_by_others_costs_no_restart_and_its_peers_save(tmp_path):
    script = SAVE.replace(
        'print("pid"',
        """
import json, pathlib
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
mark = pathlib.Path(sys.argv[2]) / str(index)
if mark.exists():
    sys.exit(0)
mark.touch()
while index and not (pathlib.Path(sys.argv[2]) / "0").exists():
    time.sleep(0.02)
if index:
    sys.exit(143)
print("pid\"""",
    )
    code, out = finished(launch(11, tmp_path, script=script, max_restarts=0))
    assert code == 0, out
    assert "restart (not counted) in 1 s" in out
    assert "[worker 0] saved" in out


def test_the_folder_of_a_launcher_that_was_killed_goes_with_the_next(tmp_path):
    environ = {"TMPDIR": str(tmp_path)}
    killed = launch(script=SLEEP, environ=environ)
    pids(killed)
    killed.kill()
    killed.wait()
    (left,) = os.listdir(tmp_path)
    running = launch(script=SLEEP, environ=environ)
    pids(running)
    (held,) = os.listdir(tmp_path)
    assert held != left
    assert finished(launch("true", environ=environ))[0] == 0
    assert os.listdir(tmp_path) == [held]


@pytest.mark.parametrize(
    ("launcher", "flags", "told"),
    [
        ("local.sh", {"base_port": 65535}, "last port of the job to be 65535"),
        ("local.sh", {"base_port": 70000}, "expected 1 to 65535, found 70000"),
        ("ssh.sh", {"hosts": "a", "base_port": 65535}, "last port of the job"),
        (
            "slurm.sbatch",
            {"base_port": 0, "inside": ["bash"]},
            "expected 1 to 65535, found 0",
        ),
        ("ssh.sh", {"hosts": "a:22,b:22"}, "a port of ssh goes into"),
    ],
)
def test_ports_that_cannot_be_are_explained(launcher, flags, told):
    code, out = finished(launch("true", launcher=launcher, **flags))
    assert code == 2
    assert told in out and "Traceback" not in out


def test_a_command_that_cannot_be_started_now_is_tried_again(tmp_path):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho started\n")
    program.chmod(0o755)
    with open(program, "a"):  # which Linux does not start: "text file busy"
        process = launch(program, workers=1)
        for line in process.stdout:
            if "restart 1 of 3" in line:
                break
        else:
            raise AssertionError("not tried again")
    code, out = finished(process)
    assert code == 0, out
    assert "[worker 0] started" in out


def test_no_restarts_means_none():
    code, out = finished(launch("false", max_restarts=0))
    assert code == 1
    assert "given up after 0 restarts" in out


@pytest.mark.slow
def test_who_is_not_listened_to_does_not_hang():
    script = BEAT.replace("time.sleep(1.5)", "print('x\\n' * 200_000)\ntime.sleep(1.5)")
    process = launch(script=script, workers=1, hang_timeout=3)
    time.sleep(5)  # nobody reads, as after Ctrl-S, and the pipe is full
    code, out = finished(process)
    assert code == 0 and "heard" not in out


# A user's own script: nothing of it catches our errors.
ESCAPES = """
import atexit, sys
import tfr_pipeline
from tfr_pipeline import errors
atexit.register(print, "exits", flush=True)
raise getattr(errors, sys.argv[1])("first line\\nsecond line")
"""


@pytest.mark.parametrize(
    ("error", "code", "restarts"),
    [("ConfigError", 2, 0), ("DataError", 1, 0), ("RunError", 1, 1)],
)
def test_errors_that_no_restart_mends_end_the_job(error, code, restarts):
    found, out = finished(
        launch(error, script=ESCAPES, workers=1, max_restarts=1, log_dir=None)
    )
    assert found == code, out
    assert out.count("restart 1 of 1") == restarts
    assert out.count("exits") == 1 + restarts
    assert ("Traceback" in out) == (error == "RunError")
    if not restarts:
        assert out.count("error: first line second line (<string>:6)") == 1


def test_without_a_supervisor_python_ends_as_ever():
    environ = environment()
    environ.pop("TFR_PIPELINE_HEARTBEAT", None)
    done = subprocess.run(
        [sys.executable, "-c", ESCAPES, "DataError"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and "Traceback" in done.stderr
