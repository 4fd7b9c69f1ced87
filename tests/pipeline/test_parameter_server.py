"""ParameterServerStrategy: with servers in the same process, and as real processes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.pipeline.test_multi_worker import free_ports
from tests.pipeline.test_resume import exported
from tests.pipeline.training_helpers import (
    changed,
    environment,
    make_config,
    read_history,
    read_json,
    scalars,
)
from tfr_pipeline.compat import tf
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.pipeline.run import template
from tfr_pipeline.serving.versions import numbers

# Trains with servers that live in the same process.
TRAIN = """
import dataclasses, json, shutil, sys
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import RunError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.pipeline.run.progress import Progress
from tfr_pipeline.pipeline.simple import SimplePipeline

served, ports, workers = map(json.loads, sys.argv[1:])
jobs = {"worker": ports[:workers], "ps": ports[workers:]}
spec = tf.train.ClusterSpec(
    {job: [f"localhost:{port}" for port in own] for job, own in jobs.items()}
)
servers = [
    tf.distribute.Server(spec, job_name=job, task_index=index, protocol="grpc")
    for job, own in jobs.items()
    for index in range(len(own))
]
resolvers = tf.distribute.cluster_resolver
resolver = resolvers.SimpleClusterResolver(spec, rpc_layer="grpc")
partitioners = tf.distribute.experimental.partitioners


class Talkative(SimplePipeline):
    def build_callbacks(self):
        callbacks = super().build_callbacks()
        for callback in callbacks:
            if isinstance(callback, Progress):
                callback._every = 0.0
        return callbacks


pipeline = build_pipeline(served)
for epochs in (2, 3):  # The second run resumes.
    shutil.rmtree(served["model_dir"] + "/export", ignore_errors=True)
    hparams = dataclasses.replace(
        pipeline._hparams,
        num_epochs=epochs,
        strategy="ParameterServerStrategy",
        cluster_resolver=resolver,
        variable_partitioner=partitioners.MinSizePartitioner(64, max_shards=2),
    )
    again = Talkative(
        pipeline._model_builder, pipeline._dataset_builder, hparams, config=served
    )
    whole = again.train_and_validate(verbose=1)
    print("variables", len(again._checkpoints._model.weights), len(whole.weights))

hparams = dataclasses.replace(
    hparams, learning_rate=1e38, model_dir=served["model_dir"] + "-broken"
)
try:
    SimplePipeline(
        pipeline._model_builder, pipeline._dataset_builder, hparams
    ).train_and_validate()
except RunError as error:
    print(error)
"""


def train_both(tmp_path, data, workers, **pipeline):
    configs = []
    for name in ("alone", "served"):
        config = make_config(
            data,
            tmp_path / name,
            optimizer="sgd",
            learning_rate=0.1,
            metrics=["ndcg_10", "mrr"],
            steps_per_execution=1,
            export_best_model=True,
            best_exporter_metric="ndcg_10",
            best_exporter_metric_higher_better=True,
            **pipeline,
        )
        config["model"]["scorer_args"].update(use_batch_norm=False, dropout=0.0)
        configs.append(config)
    ports = free_ports(workers + 2)
    build_pipeline(configs[0]).train_and_validate()
    words = [json.dumps(value) for value in (configs[1], ports, workers)]
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, *words],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return tmp_path / "alone", tmp_path / "served", done.stdout


def test_one_worker_trains_as_one_process_does(data, tmp_path):
    # Steps of one worker come one after the other: nothing is asynchronous.
    averaging = {"name": "ema", "momentum": 0.9}
    alone, served, out = train_both(
        tmp_path, data, workers=1, weight_averaging=averaging
    )
    here, there = read_history(alone), read_history(served)
    assert [row["step"] for row in there] == [10, 20, 30]
    for one, other in zip(here, there, strict=True):
        for key in ("loss", "val_loss", "val_metric/ndcg_10", "val_metric/mrr"):
            assert other[key] == pytest.approx(one[key], rel=1e-4), key
    # Large variables stand in parts on both servers; exports have them whole.
    *_, variables, broken = out.splitlines()
    split, whole = map(int, variables.split()[1:])
    assert split > whole
    assert "the loss is NaN or infinite in one of the steps" in broken
    assert "epoch 3/3, step 5/10: " in out
    mine, theirs = exported(alone), exported(served)
    assert mine.keys() == theirs.keys()
    for name in mine:
        for one, other in zip(mine[name], theirs[name], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    # What `tfr-pipeline export` does, where no server is left.
    config = changed(read_json(served / "config.json"), pipeline__strategy="")
    path = build_pipeline(config).export_checkpoint(str(tmp_path / "later"))
    later = tf.train.load_checkpoint(f"{path}/variables/variables")
    # And where there is no config either.
    path = template.export(str(served), str(tmp_path / "bare"))
    bare = tf.train.load_checkpoint(f"{path}/variables/variables")
    latest = tf.train.load_checkpoint(
        f"{served}/export/latest_model/30/variables/variables"
    )
    keys = [k for k in latest.get_variable_to_shape_map() if k.startswith("weights/")]
    assert keys
    for key in keys:
        np.testing.assert_array_equal(later.get_tensor(key), latest.get_tensor(key))
        np.testing.assert_array_equal(bare.get_tensor(key), latest.get_tensor(key))
    metrics = [read_json(run / "metrics.json")["test"] for run in (alone, served)]
    assert metrics[0]["ndcg@10"]["skip"] == pytest.approx(
        metrics[1]["ndcg@10"]["skip"], rel=1e-4
    )


def places(jobs):
    """Returns what TF_CONFIG says to each task of a job, by task name."""
    ports = iter(free_ports(sum(jobs.values())))
    cluster = {
        job: [f"localhost:{next(ports)}" for _ in range(count)]
        for job, count in jobs.items()
    }
    evaluator = cluster.pop("evaluator", [])
    return {
        f"{job}-{index}": json.dumps(
            {"cluster": cluster, "task": {"type": job, "index": index}}
        )
        for job, addresses in {**cluster, "evaluator": evaluator}.items()
        for index in range(len(addresses))
    }


def start_task(name, place, folder, *words):
    """Starts Python as a task of a job; its output is in `NAME.log`."""
    with open(folder / f"{name}.log", "a") as log:
        return subprocess.Popen(
            [sys.executable, *map(str, words)],
            env=environment(
                TF_CONFIG=place,
                GRPC_FAIL_FAST="use_caller",
                TMPDIR=str(folder),
                PYTHONUNBUFFERED="1",
            ),
            stdout=log,
            stderr=log,
        )


def start_job(config, folder, jobs):
    """Starts `tfr-pipeline`'s pipeline in each task of a job, by task name."""
    script = """
import json, sys
from tfr_pipeline.compat import tf
from tfr_pipeline.experiment.build import build_pipeline
build_pipeline(json.loads(sys.argv[1])).train_and_validate(verbose=2)
"""
    folder.mkdir(exist_ok=True)
    return {
        name: start_task(name, place, folder, "-c", script, json.dumps(config))
        for name, place in places(jobs).items()
    }


def end_job(tasks):
    """Tells all tasks to end; returns their exit codes."""
    for task in tasks.values():
        task.send_signal(signal.SIGTERM)
    return {name: task.wait(timeout=90) for name, task in tasks.items()}


@pytest.mark.slow
def test_a_job_of_processes_trains_stops_and_goes_on(data, tmp_path):
    config = make_config(
        data,
        tmp_path / "run",
        num_epochs=200,
        strategy="ParameterServerStrategy",
    )
    jobs = {"chief": 1, "worker": 2, "ps": 1, "evaluator": 1}
    tasks = start_job(config, tmp_path / "tasks", jobs)
    log = tmp_path / "tasks" / "evaluator-0.log"
    try:
        while not re.search(r"^step \d+:", log.read_text(), re.MULTILINE):
            time.sleep(0.2)
            codes = {name: task.poll() for name, task in tasks.items()}
            assert not any(codes.values()), codes
    finally:
        # All at once: servers stay until the chief has saved.
        codes = end_job(tasks)
    ended = dict.fromkeys(["chief-0", "worker-0", "worker-1", "ps-0"], 143)
    assert codes == {**ended, "evaluator-0": 0}
    done = int(read_history(tmp_path / "run")[-1]["step"])
    assert 0 < done < 2000
    config["pipeline"]["num_epochs"] = done // 10 + 1
    tasks = start_job(config, tmp_path / "again", jobs)
    assert tasks["chief-0"].wait(timeout=240) == 0
    end_job(tasks)
    history = read_history(tmp_path / "run")
    assert [row["step"] for row in history] == list(range(10, done + 11, 10))
    assert f"step {done + 10}:" in (tmp_path / "again" / "evaluator-0.log").read_text()
    latest = tmp_path / "run" / "export" / "latest_model"
    assert numbers(str(latest)) == [str(done + 10)]
    # Each worker's share of an epoch: whichever batches it got, all together.
    shares = [
        scalars(tmp_path / "run" / "logs" / f"worker-{index}") for index in (0, 1)
    ]
    for name in ("lists", "documents"):
        last = [share[f"epoch_{name}"][-1] for share in shares]
        assert sum(last) == history[-1][name]
    assert 0 <= history[-1]["input_wait"] <= 1
    events = list((tmp_path / "run" / "logs" / "evaluator").iterdir())
    assert all(path.name.startswith("events") for path in events)
    # Tasks other than the chief leave nothing behind.
    assert {path.suffix for path in (tmp_path / "again").iterdir()} == {".log"}
