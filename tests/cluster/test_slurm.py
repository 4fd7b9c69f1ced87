"""`launch/slurm.sbatch`, in a Slurm of three nodes on this machine."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys

import pytest

from tests.cluster.slurm_helpers import Lab, until
from tests.pipeline.training_helpers import (
    ROOT,
    environment,
    make_config,
    make_data,
    read_history,
)
from tfr_pipeline.cluster import slurm
from tfr_pipeline.cluster.node_list import expand


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


def launch(*words, **extra):
    """Runs the script outside an allocation."""
    clean = {k: v for k, v in environment().items() if not k.startswith("SLURM")}
    return subprocess.run(
        ["bash", ROOT / "launch/slurm.sbatch", *words],
        env={**clean, "PYTHON": sys.executable, **extra},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_dry_run_spreads_each_kind_of_task_over_the_nodes():
    words = ["--workers=2", "--ps=2", "--evaluator", "--dry_run", "--nodelist=n[1-2]"]
    done = launch(*words, "--", "touch", "a file")
    assert done.returncode == 0, done.stderr
    names = re.findall(r"^# (.*)$", done.stdout, re.M)
    assert names == ["chief 0", "worker 0", "worker 1", "ps 0", "ps 1", "evaluator 0"]
    nodes = re.findall(r"--nodelist=(\S+)", done.stdout)
    assert nodes == ["n1", "n2", "n1", "n2", "n1", "n2"]
    configs = [
        json.loads(text) for text in re.findall("TF_CONFIG='(.*?)'", done.stdout)
    ]
    ports = [20000 + rank for rank in range(5)]
    assert configs[0]["cluster"] == {
        "chief": [f"n1:{ports[0]}"],
        "worker": [f"n2:{ports[1]}", f"n1:{ports[2]}"],
        "ps": [f"n2:{ports[3]}", f"n1:{ports[4]}"],
    }
    assert configs[5]["task"] == {"type": "evaluator", "index": 0}
    assert done.stdout.count("-- touch 'a file'") == 6


@pytest.mark.parametrize(
    ("words", "extra", "message"),
    [
        ([], {}, "SLURM_JOB_ID and SLURM_JOB_NODELIST are not set"),
        ([], {"SLURM_JOB_ID": "7"}, "SLURM_JOB_NODELIST is not set"),
        (
            [],
            {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-"},
            "node list 'n[1-': expected names",
        ),
        (["--nodelist=n1"], {}, "--nodelist is for --dry_run"),
    ],
)
def test_what_is_no_allocation_is_said_to_miss(words, extra, message):
    done = launch("--workers=1", *words, "--", "true", **extra)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("squeue", "restarts", "told"),
    [
        # The signal came 300 + 60 s before the limit, and saving took 20 s.
        ("echo RUNNING 5:40", 0, "at the time limit; requeue 1 of 2"),
        ("echo RUNNING 1:00:00", 0, "no requeue: time left is 1:00:00"),
        ("echo COMPLETING 5:00", 0, "no requeue: the job is COMPLETING"),
        ("echo no controller >&2; exit 1", 0, "no requeue: squeue: no controller"),
        ("echo RUNNING 0:10", 2, "not again after 2 requeues"),
    ],
)
def test_a_job_that_was_told_to_end_says_whether_it_goes_on_and_why(
    squeue, restarts, told, tmp_path, monkeypatch, capsys
):
    for name, script in (("squeue", squeue), ("scontrol", f"touch {tmp_path}/asked")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    environ = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n1",
        "SLURM_RESTART_COUNT": str(restarts),
    }
    arguments = argparse.Namespace(base_port=None)
    slurm.Job(environ, arguments).requeue_at_the_time_limit(2)
    assert told in capsys.readouterr().out
    assert (tmp_path / "asked").exists() == ("no requeue" not in told and restarts == 0)


def read(log):
    """The output of a job so far."""
    return log.read_text() if log.exists() else ""


def test_slurm_writes_the_same_names_out(lab):
    for text in (
        "n[1-3,07]",
        "rack[1-2]node[01-10]",
        "a,b[2-4],login-1.x",
        "n[8-11],n[08-110,7]",
        "r[1-2][3-4],x[08-9],y[8-09]",
    ):
        assert expand(text) == lab.run("scontrol", "show", "hostnames", text).split()


@pytest.mark.slow
def test_tasks_run_side_by_side_on_the_nodes_and_are_heard_through_srun(lab, tmp_path):
    log = tmp_path / "log"
    # Three tasks on two nodes, one of which stops dead the first time.
    script = """
import json, os, signal, sys, time
from tfr_pipeline.cluster import heartbeat
heartbeat.start()
task = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
sys.stdout.write(f"on {os.environ['SLURMD_NODENAME']} {os.environ['TF_CONFIG']}\\n")
time.sleep(1)
if task == 1 and not os.path.exists(sys.argv[1]):
    open(sys.argv[1], "w").close()
    os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(6)
"""
    words = ["--workers=3", "--hang_timeout=4", "--max_restarts=1"]
    command = [sys.executable, "-u", "-c", script, tmp_path / "mark"]
    job = lab.submit(log, *words, "--", *command)
    assert lab.wait(job, "COMPLETED", "FAILED", seconds=60) == "COMPLETED", (
        log.read_text()
    )
    out = log.read_text()
    assert "\0" not in out
    assert re.search(r"worker 1 \(n2:\d+\) has not been heard for 4 s; killing it", out)
    assert out.count("restart 1 of 1") == 1
    found = re.findall(r"\[(worker \d)\] on (n\d) (.*)", out)
    nodes = [(name, node) for name, node, _ in found]
    assert sorted(nodes) == sorted(
        2 * [("worker 0", "n1"), ("worker 1", "n2"), ("worker 2", "n1")]
    )
    first, second = (
        json.loads(next(text for _, _, text in part))["cluster"]["worker"]
        for part in (found[:3], found[3:])
    )
    base = 20000 + int(job) % 100 * 100
    assert first == [f"n1:{base}", f"n2:{base + 1}", f"n1:{base + 2}"]
    assert second == [f"n1:{base + 3}", f"n2:{base + 4}", f"n1:{base + 5}"]


SAVE = """
import os, signal, sys, time
def end(*_):
    print("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print("pid", os.getpid())
time.sleep(300)
"""


def test_a_cancelled_job_saves_and_leaves_no_process(lab, tmp_path):
    log = tmp_path / "log"
    words = ["--workers=2", "--", sys.executable, "-u", "-c", SAVE, "left_over"]
    job = lab.submit(log, *words)
    until(lambda: read(log).count("pid ") == 2)
    lab.run("scancel", job)
    assert lab.wait(job, "CANCELLED", "COMPLETED", "FAILED") == "CANCELLED"
    out = until(lambda: (t := read(log)).count("saved\n") == 2 and t)
    assert "restart" not in out and "at the time limit" not in out
    until(lambda: "left_over" not in lab.run("ps", "-e", "-o", "args"), 20)


@pytest.mark.slow
def test_a_job_at_its_time_limit_saves_and_goes_back_into_the_queue(lab, tmp_path):
    log = tmp_path / "log"
    words = ["--workers=2", "--max_requeues=1", "--", sys.executable, "-u", "-c", SAVE]
    # A minute is the least that Slurm limits, and less than the 90 s of the script.
    job = lab.submit(log, *words, sbatch=["--time=1"])
    out = until(lambda: (t := read(log)).count("saved\n") == 4 and t, 90)
    assert "[job] at the time limit; requeue 1 of 1" in out
    assert lab.wait(job, "COMPLETED", "FAILED", "CANCELLED") == "FAILED"
    assert "no requeue: at the time limit, but not again after 1" in log.read_text()


TRAIN = """
import json, sys, time
from tfr_pipeline.compat import tf
from tfr_pipeline.experiment import build

config, pause = json.loads(sys.argv[1]), float(sys.argv[2])

class Show(tf.keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print("step", int(self.model.optimizer.iterations.numpy()), flush=True)
        time.sleep(pause)

pipeline = build.build_pipeline(config)
theirs = pipeline.build_callbacks
pipeline.build_callbacks = lambda: [Show(), *theirs()]
pipeline.train_and_validate()
"""


@pytest.mark.slow
def test_a_job_trains_on_two_nodes_and_goes_on_after_a_requeue(lab, tmp_path):
    config = make_config(
        make_data(tmp_path / "data"),
        tmp_path / "run",
        num_epochs=8,
        steps_per_execution=2,
        strategy="MultiWorkerMirroredStrategy",
    )
    log = tmp_path / "log"
    command = [sys.executable, "-u", "-c", TRAIN, json.dumps(config), 0.2]
    job = lab.submit(log, "--workers=2", "--", *command)
    until(lambda: "[worker 1] step 20\n" in read(log), 120)
    lab.run("scontrol", "requeue", job)
    assert lab.wait(job, "COMPLETED", "FAILED", seconds=420) == "COMPLETED"
    out = log.read_text()
    steps = [int(step) for step in re.findall(r"\[worker 0\] step (\d+)\n", out)]
    assert steps[-1] == 80
    # From the checkpoint: no step is run twice.
    assert steps == list(range(2, 81, 2))
    assert out.count("[job] stopping") == 1 and "restart" not in out
    assert [row["step"] for row in read_history(tmp_path / "run")] == [
        *range(10, 81, 10)
    ]
    (export,) = (tmp_path / "run/export/latest_model").glob("[0-9]*")
    assert export.name == "80"
