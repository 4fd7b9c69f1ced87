"""Jobs in which a random process is killed at a random time: all of them end well.

Each kind of cluster trains once undisturbed, which says how long that takes and what is
left afterwards, then with kills spread from the start of its processes to the export.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import re
import signal
import socket
import threading
import time

import numpy as np
import pytest

from tests.cluster.launching import finished, gone, launch
from tests.pipeline.training_helpers import (
    make_config,
    make_data,
    read_history,
    read_json,
)
from tfr_pipeline.cluster.ports import free_ports
from tfr_pipeline.experiment import build
from tfr_pipeline.serving.predictor import Predictor

KINDS = {
    "mirrored": ("MultiWorkerMirroredStrategy", {"workers": 2}),
    "servers": (
        "ParameterServerStrategy",
        {"workers": 2, "ps": 2, "evaluator": True},
    ),
}
STEPS = [10, 20, 30]
# What a run waits for before it is disturbed, and within how many seconds of that. A
# loaded machine is slow, so that times from the start would miss the end. After what
# they wait for, the job runs for `LAST` seconds or more.
LAST = 2.5
PHASES = [
    *[(None, 8.0)] * 3,  # imports, connections, the first checkpoint
    *[("checkpoints/checkpoint", 4.0)] * 4,  # training
    *[("checkpoints/ckpt-30.index", 1.0)] * 2,  # exports, evaluation
    ("metrics.json", 1.0),  # the end
]

TRAIN = f"""
import json, os, sys, time
from tfr_pipeline.compat import tf
from tfr_pipeline.cluster.ports import free_ports
from tfr_pipeline.experiment import build

class Slow(tf.keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self._supports_tf_logs = True  # or parameter servers refuse it

    def on_train_batch_end(self, batch, logs=None):
        print("trained", flush=True)
        time.sleep(0.2)

pipeline = build.build_pipeline(json.loads(sys.argv[1]))
theirs = pipeline.build_callbacks
pipeline.build_callbacks = lambda: [Slow(), *theirs()]
pipeline.train_and_validate()
if "evaluator" not in json.loads(os.environ["TF_CONFIG"])["task"]["type"]:
    time.sleep({LAST})
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def lists(data):
    pipeline = build.build_pipeline(make_config(data, "nowhere"))
    return pipeline._dataset_builder.lists("test", "packed")


def start(kind, data, folder, before="", **flags):
    """Starts a job that trains into `folder/run`, with `folder/tmp` for its tasks."""
    strategy, cluster = KINDS[kind]
    config = make_config(
        data,
        folder / "run",
        steps_per_execution=2,
        checkpoint_every_steps=4,
        strategy=strategy,
        export_best_model=True,
        best_exporter_metric="ndcg_10",
        best_exporter_metric_higher_better=True,
    )
    (folder / "tmp").mkdir(exist_ok=True)
    return launch(
        json.dumps(config),
        script=before + TRAIN,
        environ={"TMPDIR": str(folder / "tmp"), "TF_NUM_INTRAOP_THREADS": "1"},
        **cluster,
        **flags,
    )


def tasks(launcher):
    """Returns the process ids of the tasks that a launcher has now."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) != launcher.pid:
                continue
            environ = (folder / "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for variable in environ.split(b"\0"):
            if variable.startswith(b"TF_CONFIG="):
                task = json.loads(variable.partition(b"=")[2])["task"]
                found[f"{task['type']} {task['index']}"] = int(folder.name)
    return found


def left(folder):
    """Names of what a run leaves, without those that hold a time or a step."""
    names = set()
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if parts[0] == "export" and len(parts) > 2:
            names.add(("export", parts[1], *parts[3:]))
        elif not path.name.startswith("events."):
            names.add(parts)
    return names


def of_job(folder):
    """Process ids of what a job has running."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def assert_whole(folder, lists):
    """Checks that a job has left all it should, and nothing else."""
    run = folder / "run"
    assert [row["step"] for row in read_history(run)] == STEPS
    assert read_json(run / "metrics.json")["step"] == STEPS[-1]
    for name in ("latest_model", "best_model_by_metric"):
        (version,) = (run / "export" / name).glob("[0-9]*")
        scores = Predictor(str(version)).score(lists)
        assert scores.shape == (lists.num_documents,)
        assert np.isfinite(scores).all() and np.ptp(scores) > 0
    assert not os.listdir(folder / "tmp")
    assert not of_job(folder)


@pytest.fixture(scope="module", params=list(KINDS))
def undisturbed(request, data, lists, tmp_path_factory):
    """A kind of cluster, and what a job leaves that nobody disturbs."""
    folder = tmp_path_factory.mktemp(request.param)
    code, out = finished(start(request.param, data, folder), timeout=300)
    assert code == 0, out[-3000:]
    assert_whole(folder, lists)
    return request.param, left(folder / "run")


def later(process, path, seconds, do):
    """Does something so long after a file is there; returns the thread that does."""

    def run():
        while path is not None and not path.exists():
            if process.poll() is not None:
                return
            time.sleep(0.05)
        time.sleep(seconds)
        if process.poll() is None:
            do()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.parametrize("run", range(len(PHASES)))
def test_a_job_gets_over_the_loss_of_any_process_at_any_time(
    undisturbed, run, data, lists, tmp_path
):
    kind, wanted = undisturbed
    # With this seed, every task and every phase has its turn.
    choice = random.Random(f"{kind} {run} 155")
    after, most = PHASES[run]
    seconds = choice.uniform(0, most)
    process = start(kind, data, tmp_path)
    killed = []

    def kill():
        while process.poll() is None:
            running = tasks(process)
            if running:
                name = choice.choice(sorted(running))
                print(f"{kind}: SIGKILL to {name} {seconds:.1f} s after {after}")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(running[name], signal.SIGKILL)
                    killed.append(name)
                    return
            time.sleep(0.05)

    path = after and tmp_path / "run" / after
    killer = later(process, path, seconds, kill)
    code, out = finished(process, timeout=300)
    killer.join()
    print(out[-5000:])
    assert code == 0
    assert len(killed) == 1
    assert "restart 1 of 3" in out
    assert left(tmp_path / "run") == wanted
    assert_whole(tmp_path, lists)


# The second worker does not even import TensorFlow when it is first started.
ABSENT = """
import json, os, pathlib, sys, time
task = json.loads(os.environ["TF_CONFIG"])["task"]
mark = pathlib.Path(json.loads(sys.argv[1])["model_dir"] + ".mark")
if (task["type"], task["index"]) == ("worker", 1) and not mark.exists():
    mark.touch()
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_job_gets_over_a_taken_port_and_a_worker_that_never_starts(
    undisturbed, data, lists, tmp_path
):
    kind, wanted = undisturbed
    with socket.socket() as one:
        # As gRPC does: the next one to do so would be let in as well.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(("localhost", free_ports(1)[0]))
        one.listen()
        port = one.getsockname()[1]
        process = start(
            kind,
            data,
            tmp_path,
            before=ABSENT,
            start_timeout=40,
            base_port=port - 1,
        )
        code, out = finished(process, timeout=400)
    print(out[-5000:])
    assert code == 0
    assert f"port {port} of localhost:{port} is taken" in out
    assert "missing after 40 s: worker 1 (localhost:" in out
    assert "restart 2 of 3" in out
    assert left(tmp_path / "run") == wanted
    assert_whole(tmp_path, lists)


@pytest.mark.slow
def test_a_job_gets_over_a_process_that_is_stopped(undisturbed, data, lists, tmp_path):
    kind, wanted = undisturbed
    process = start(kind, data, tmp_path, hang_timeout=5)
    stopped = []

    def stop():
        stopped.append(tasks(process)["worker 1"])
        os.kill(stopped[0], signal.SIGSTOP)

    stopper = later(process, tmp_path / "run/checkpoints/checkpoint", 0, stop)
    code, out = finished(process, timeout=300)
    stopper.join()
    print(out[-5000:])
    assert code == 0
    # TensorFlow looks for its peers as well, and may be first on a busy machine.
    assert (
        re.search(r"worker 1 \(localhost:\d+\) has not been heard for", out)
        or "task:1 heartbeat timeout" in out
    )
    assert gone(stopped[0])
    assert left(tmp_path / "run") == wanted
    assert_whole(tmp_path, lists)


@pytest.mark.slow
@pytest.mark.parametrize("run", [0, 4, 8])
def test_a_job_that_is_told_to_end_goes_on_later(
    undisturbed, run, data, lists, tmp_path
):
    kind, wanted = undisturbed
    after, most = PHASES[run]
    seconds = random.Random(f"{run} {kind} stop").uniform(0, most)
    process = start(kind, data, tmp_path)
    path = after and tmp_path / "run" / after
    stopper = later(process, path, seconds, process.terminate)
    code, out = finished(process, timeout=300)
    stopper.join()
    print(f"{kind}: SIGTERM {seconds:.1f} s after {after}")
    print(out[-5000:])
    assert code in (0, 143)
    assert "restart" not in out and "killing" not in out
    assert not of_job(tmp_path)
    assert not os.listdir(tmp_path / "tmp")
    code, out = finished(start(kind, data, tmp_path), timeout=300)
    assert code == 0, out[-3000:]
    assert left(tmp_path / "run") == wanted
    assert_whole(tmp_path, lists)
