"""`launch/local.sh` with real processes that end well, badly, or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.cluster.launching import ROOT, SLEEP, finished, gone, launch, pids
from tests.pipeline.training_helpers import (
    environment,
    make_config,
    make_data,
    read_history,
)


def test_each_worker_learns_who_it_is_and_output_says_whose_it_is(tmp_path):
    script = "import os; print(os.environ['TF_CONFIG'])"
    code, out = finished(launch(script=script, log_dir=tmp_path / "logs"))
    assert code == 0
    found = dict(line[1:].split("] ") for line in out.splitlines())
    configs = {name: json.loads(text) for name, text in found.items()}
    assert sorted(configs) == ["worker 0", "worker 1"]
    for index in range(2):
        config = configs[f"worker {index}"]
        assert config["task"] == {"type": "worker", "index": index}
        assert len(set(config["cluster"]["worker"])) == 2
        log = (tmp_path / "logs" / f"worker-{index}.log").read_text()
        assert json.loads(log) == config
    assert configs["worker 0"]["cluster"] == configs["worker 1"]["cluster"]


def test_all_start_again_when_one_dies(tmp_path):
    script = """
import json, os, pathlib, signal, sys, time
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
marks = pathlib.Path(sys.argv[1])
first = not (marks / f"{index}").exists()
(marks / f"{index}").touch()
if first and index == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if first:
    time.sleep(300)
print("done")
"""
    code, out = finished(launch(tmp_path, script=script))
    assert code == 0
    assert "[job] worker 1 ended with signal 9; stopping the others" in out
    assert "[job] restart 1 of 3 in 1 s" in out
    assert "[worker 0] done" in out and "[worker 1] done" in out


@pytest.mark.parametrize(("code", "starts", "ends"), [(1, 2, 1), (2, 1, 2)])
def test_what_fails_again_is_given_up_and_bad_usage_at_once(code, starts, ends):
    script = f"import sys; print('start'); sys.exit({code})"
    found, out = finished(launch(script=script, workers=1, max_restarts=1))
    assert found == ends
    assert out.count("start\n") == starts


def test_sigterm_is_passed_on_and_the_exit_code_is_143():
    script = """
import os, signal, sys, time
def end(*_):
    print("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print("pid", os.getpid())
time.sleep(300)
"""
    process = launch(script=script)
    tasks = pids(process)
    process.send_signal(signal.SIGTERM)
    code, out = finished(process)
    assert code == 143
    assert out.count("saved") == 2
    assert all(gone(pid) for pid in tasks.values())


def test_a_task_that_does_not_end_is_killed_after_the_grace():
    process = launch("deaf", script=SLEEP, grace=0.5)
    tasks = pids(process)
    process.send_signal(signal.SIGTERM)
    assert finished(process)[0] == 143
    assert all(gone(pid) for pid in tasks.values())


def test_no_task_outlives_a_launcher_that_is_killed():
    process = launch(script=SLEEP)
    tasks = pids(process)
    process.kill()
    assert all(gone(pid) for pid in tasks.values())
    process.wait()


@pytest.mark.parametrize("words", [["--workers=2"], ["--workers=0", "--", "true"]])
def test_wrong_usage_is_explained(words):
    done = subprocess.run(
        [ROOT / "launch" / "local.sh", *words],
        env=environment(PYTHON=sys.executable),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "expected" in done.stderr


def test_a_dry_run_starts_nothing(tmp_path):
    done = subprocess.run(
        [ROOT / "launch/local.sh", "--workers=3", "--dry_run", "--", "touch", "a file"],
        env=environment(PYTHON=sys.executable),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("touch 'a file'") == 3
    assert not os.listdir(tmp_path)


TRAIN = """
import json, os, signal, sys, threading
from tfr_pipeline.compat import tf
from tfr_pipeline.experiment import build

config = json.loads(sys.argv[1])
marks, task = sys.argv[2], json.loads(os.environ["TF_CONFIG"])["task"]["index"]
first = not os.path.exists(f"{marks}/{task}")
open(f"{marks}/{task}", "w").close()

class Die(tf.keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations.numpy())
        print("step", step, flush=True)
        if first and task == 1 and step >= 14:
            os.kill(os.getpid(), signal.SIGKILL)

pipeline = build.build_pipeline(config)
theirs = pipeline.build_callbacks
pipeline.build_callbacks = lambda: [Die(), *theirs()]
pipeline.train_and_validate()
"""


@pytest.mark.slow
def test_a_training_run_survives_the_loss_of_a_worker(tmp_path):
    config = make_config(
        make_data(tmp_path / "data"),
        tmp_path / "run",
        steps_per_execution=2,
        strategy="MultiWorkerMirroredStrategy",
    )
    (tmp_path / "marks").mkdir()
    process = launch(json.dumps(config), tmp_path / "marks", script=TRAIN)
    code, out = finished(process, timeout=240)
    assert code == 0, out[-3000:]
    assert "worker 1 ended with signal 9" in out
    assert [row["step"] for row in read_history(tmp_path / "run")] == [10, 20, 30]
    (export,) = (tmp_path / "run/export/latest_model").glob("[0-9]*")
    assert export.name == "30"
