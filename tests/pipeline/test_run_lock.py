"""One job at a time in a run directory, and at once when its holder is dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.pipeline.training_helpers import environment
from tfr_pipeline.errors import ConfigError, RunError
from tfr_pipeline.pipeline.run import lock
from tfr_pipeline.pipeline.run.directory import RunDirectory

HOLD = """
import sys
from tfr_pipeline.pipeline.run import lock
lock.PATIENCE_SECONDS = float(sys.argv[2])
try:
    with lock.held(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.read()
except Exception as error:
    print(f"{type(error).__name__}: {error}", flush=True)
"""


def other(folder, patience=0.0, **variables):
    """Starts another process that holds the lock until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(patience)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**environment(), **variables},
    )


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.0)


def test_a_second_job_is_refused_and_told_by_whom(tmp_path, hurried):
    process = other(tmp_path / "run")
    assert process.stdout.readline() == "held\n"
    with pytest.raises(RunError, match=f":{process.pid}:") as refused:
        with RunDirectory(str(tmp_path / "run")).held():
            pass
    assert str(tmp_path / "run") in str(refused.value)
    # Other tasks of the job write elsewhere.
    with RunDirectory(str(tmp_path / "run"), chief=False).held():
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with RunDirectory(str(tmp_path / "run")).held():
        process = other(tmp_path / "run", SLURM_NTASKS="2", SLURM_PROCID="1")
        said, _ = process.communicate()
        assert f":{os.getpid()}:" in said
        assert "no TF_CONFIG, but SLURM_NTASKS=2 (SLURM_PROCID=1)" in said
    assert os.listdir(tmp_path / "run") == []


def test_a_chief_that_is_started_again_waits_for_the_old_one(tmp_path):
    with RunDirectory(str(tmp_path)).held():
        process = other(tmp_path, patience=60.0)
        assert "waiting for" in process.stdout.readline()
    assert process.stdout.readline() == "held\n"
    process.communicate()


def test_two_pipelines_of_one_process_do_not_share_a_directory_either(tmp_path):
    run = RunDirectory(str(tmp_path / "run"))
    with run.held():
        with pytest.raises(RunError, match="in use"):
            with RunDirectory(f"{tmp_path}/./run").held():
                pass
        process = other(tmp_path / "run")  # the refusal has not given the lock up
        assert "InUseError" in process.communicate()[0]
    with run.held():
        pass


def test_of_many_who_wait_one_holds_it_at_a_time(tmp_path):
    processes = [other(tmp_path, patience=60.0) for _ in range(4)]
    first = threading.Event()
    inside, most, lock = 0, 0, threading.Lock()

    def follow(process):
        nonlocal inside, most
        for line in process.stdout:
            if line == "held\n":
                with lock:
                    inside += 1
                    most = max(most, inside)
                first.set()
                time.sleep(0.05)
                with lock:
                    inside -= 1
                process.stdin.close()

    threads = [threading.Thread(target=follow, args=(each,)) for each in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert first.is_set() and most == 1
    assert [process.wait() for process in processes] == [0] * 4


def test_a_run_that_loses_its_lock_writes_nothing_more(tmp_path):
    run = RunDirectory(str(tmp_path / "run"))
    with run.held():
        run.claim({"seed": 1})
        os.remove(tmp_path / "run" / lock.NAME)
        with RunDirectory(str(tmp_path / "elsewhere")).held():
            pass
        with pytest.raises(RunError, match=r"run/lock is gone"):
            run.write_json("metrics.json", {})
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_model_dir_that_is_a_file_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="run: expected a folder, found a file"):
        with RunDirectory(str(tmp_path / "run")).held():
            pass
