"""Two workers of MultiWorkerMirroredStrategy, as real processes on this machine."""

from __future__ import annotations

import gzip
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.pipeline.test_resume import TRAIN, exported, load
from tests.pipeline.training_helpers import (
    changed,
    environment,
    make_config,
    read_history,
    scalars,
)
from tfr_pipeline.compat import tf
from tfr_pipeline.pipeline.run import template

WORKERS = 2
STEPS = 40  # 4 epochs


def free_ports(count):
    """Returns ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start_workers(config, folder, pause=0.0, **others):
    """Starts the workers of a cluster; `folder` gets their weights and output.

    `others` are changes to the config of those that are not the chief.
    """
    folder.mkdir(exist_ok=True)
    hosts = [f"localhost:{port}" for port in free_ports(WORKERS)]
    workers = []
    for index in range(WORKERS):
        task = {"type": "worker", "index": index}
        cluster = json.dumps({"cluster": {"worker": hosts}, "task": task})
        (folder / f"tmp{index}").mkdir(exist_ok=True)
        weights = folder / f"{index}.npz"
        with open(folder / f"{index}.log", "w") as log:
            workers.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        "-c",
                        TRAIN,
                        json.dumps({**config, **(others if index else {})}),
                        weights,
                        str(pause),
                    ],
                    env=environment(
                        TF_CONFIG=cluster,
                        TF_NUM_INTRAOP_THREADS="1",
                        TMPDIR=str(folder / f"tmp{index}"),
                    ),
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
            )
    return workers


def run_config(data, model_dir):
    return make_config(
        data,
        model_dir,
        num_epochs=4,
        steps_per_execution=2,
        strategy="MultiWorkerMirroredStrategy",
        export_best_model=True,
        best_exporter_metric="ndcg_10",
        best_exporter_metric_higher_better=True,
    )


def wait(workers, folder):
    """Waits for the end of all; returns the steps that the first one took."""
    outputs = [worker.communicate(timeout=240)[0] for worker in workers]
    for index, worker in enumerate(workers):
        log = (folder / f"{index}.log").read_text()[-3000:]
        assert worker.returncode == 0, f"worker {index}: {log}"
    return [int(line.split()[1]) for line in outputs[0].splitlines()]


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """A run of two workers: its directory, their folder and the steps taken."""
    folder = tmp_path_factory.mktemp("workers")
    config = run_config(data, folder / "run")
    steps = wait(start_workers(config, folder / "workers"), folder / "workers")
    return folder / "run", folder / "workers", steps


def test_two_workers_leave_the_run_directory_of_one(undisturbed, finished):
    run, workers, steps = undisturbed
    assert steps[-1] == STEPS

    alone = pathlib.Path(finished[0]["model_dir"])
    assert {p.name for p in run.iterdir()} == {p.name for p in alone.iterdir()}
    shares = {f"worker-{index}" for index in range(WORKERS)}
    assert {p.name for p in (run / "logs").iterdir()} == {
        "train",
        "validation",
        *shares,
    }
    assert [row["step"] for row in read_history(run)] == [10, 20, 30, 40]
    for index in range(WORKERS):
        assert not list((workers / f"tmp{index}").glob("tfr_pipeline*"))


def test_the_shares_of_the_workers_are_logged_and_make_up_the_whole(undisturbed):
    run, _, _ = undisturbed
    shares = [scalars(run / "logs" / f"worker-{index}") for index in range(WORKERS)]
    history = read_history(run)
    for name in ("lists", "documents"):
        by_worker = np.array([share[f"epoch_{name}"] for share in shares])
        assert by_worker.min() > 0
        wanted = [row[name] for row in history]
        np.testing.assert_array_equal(by_worker.sum(axis=0), wanted)
    waits = np.array([share["epoch_input_wait"] for share in shares])
    np.testing.assert_allclose(
        waits.max(axis=0), [row["input_wait"] for row in history], atol=1e-4
    )


def test_workers_hold_the_same_weights_and_export_them(undisturbed, tmp_path):
    run, workers, _ = undisturbed
    first, second = (load(workers / f"{index}.npz") for index in range(WORKERS))
    trained = {array.tobytes() for array in first}
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    latest = exported(run)["latest_model", str(STEPS)]
    for array in latest:
        assert array.tobytes() in trained
    # A model of one process, as exports are, was made for the template.
    path = template.export(str(run), str(tmp_path / "bare"))
    reader = tf.train.load_checkpoint(f"{path}/variables/variables")
    names = [k for k in reader.get_variable_to_shape_map() if k.startswith("weights/")]
    assert {reader.get_tensor(name).tobytes() for name in names} == {
        array.tobytes() for array in latest
    }


@pytest.mark.slow
def test_a_killed_worker_ends_the_others_and_all_go_on_where_they_were(
    undisturbed, data, tmp_path
):
    _, workers, _ = undisturbed
    config = run_config(data, tmp_path / "run")
    running = start_workers(config, tmp_path / "workers", pause=0.2)
    for line in running[0].stdout:
        if int(line.split()[1]) >= 14:
            break
    running[1].send_signal(signal.SIGKILL)
    assert running[0].wait(timeout=120) != 0
    running[1].wait()
    steps = wait(start_workers(config, tmp_path / "workers"), tmp_path / "workers")
    assert steps[0] == 12 and steps[-1] == STEPS
    for index in range(WORKERS):
        found = load(tmp_path / "workers" / f"{index}.npz")
        wanted = load(workers / f"{index}.npz")
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert not os.listdir(tmp_path / "workers" / "tmp0")


@pytest.mark.slow
def test_workers_that_do_not_see_the_same_checkpoints_say_so(
    undisturbed, data, tmp_path
):
    run, _, _ = undisturbed
    shutil.copytree(run, tmp_path / "run")
    config = run_config(data, tmp_path / "run")
    config["pipeline"]["num_epochs"] = 5
    elsewhere = str(tmp_path / "elsewhere")
    running = start_workers(config, tmp_path / "workers", model_dir=elsewhere)
    codes = [worker.wait(timeout=120) for worker in running]
    assert 0 not in codes
    said = (tmp_path / "workers" / "1.log").read_text()
    assert f"found step 0, another one step {STEPS}. All workers need" in said


@pytest.mark.slow
def test_a_worker_with_another_config_is_named_before_anybody_trains(data, tmp_path):
    config = run_config(data, tmp_path / "run")
    other = changed(config, pipeline__learning_rate=0.03)["pipeline"]
    running = start_workers(config, tmp_path / "workers", pipeline=other)
    codes = [worker.wait(timeout=120) for worker in running]
    assert 0 not in codes
    for index in range(WORKERS):
        said = (tmp_path / "workers" / f"{index}.log").read_text()
        assert "pipeline.learning_rate is 0.01 for worker 0 and 0.03 for worker 1" in (
            said
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_workers_with_shares_go_on_where_they_were_after_one_was_killed(data, tmp_path):
    def config_of(name):
        config = run_config(data, tmp_path / name)
        return changed(
            config, data__sharding="lists", data__cache=str(tmp_path / "cache")
        )

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    wait(start_workers(config_of("one"), whole), whole)
    running = start_workers(config_of("two"), killed, pause=0.2)
    for line in running[0].stdout:
        if int(line.split()[1]) >= 14:
            break
    running[1].send_signal(signal.SIGKILL)
    assert running[0].wait(timeout=120) != 0
    running[1].wait()
    assert wait(start_workers(config_of("two"), killed), killed)[-1] == STEPS
    for index in range(WORKERS):
        for one, other in zip(
            load(killed / f"{index}.npz"), load(whole / f"{index}.npz"), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    rows = [read_history(tmp_path / name) for name in ("one", "two")]
    assert [(r["step"], r["documents"]) for r in rows[0]] == [
        (r["step"], r["documents"]) for r in rows[1]
    ]
    # What each has parsed, and keeps: a share of its own, and none all of it.
    parts = [json.loads(path.read_text()) for path in tmp_path.rglob("lists/meta.json")]
    train = [m for m in parts if "train-" in m["content"]["paths"][0]]
    sizes = [m["columns"]["labels"]["size"] // 4 for m in train]
    assert sum(sizes) == rows[0][0]["documents"]
    assert len(sizes) == WORKERS and max(sizes) < 0.6 * sum(sizes)


@pytest.mark.slow
def test_workers_share_whole_compressed_files(data, tmp_path):
    packed = tmp_path / "data"
    packed.mkdir()
    for path in data.iterdir():
        if path.suffix == ".tfrecord":
            (packed / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        elif path.name == "features.json":
            shutil.copy(path, packed)
    config = changed(
        run_config(packed, tmp_path / "run"),
        data__sharding="files",
        data__cache=str(tmp_path / "cache"),
    )
    workers = tmp_path / "workers"
    assert wait(start_workers(config, workers), workers)[-1] == STEPS
    parts = [json.loads(path.read_text()) for path in tmp_path.rglob("lists/meta.json")]
    paths = [meta["content"]["paths"] for meta in parts]
    train = sorted(some for some in paths if "/train-" in some[0])
    assert train == [[str(path)] for path in sorted(packed.glob("train-*"))]
    rows = read_history(tmp_path / "run")
    read = [meta["columns"]["labels"]["size"] // 4 for meta in parts]
    read = [n for n, some in zip(read, paths, strict=True) if some in train]
    assert {row["documents"] for row in rows} == {sum(read)}
