"""Workers of ParameterServerStrategy that read what they train on."""

from __future__ import annotations

import collections
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.pipeline.test_multi_worker import free_ports
from tests.pipeline.test_parameter_server import end_job
from tests.pipeline.training_helpers import (
    environment,
    make_config,
    read_history,
    read_json,
)
from tfr_pipeline import files
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.synthesize import Size, synthesize

# Any task of a job. Windows are small, and lists that are read are written down.
TASK = """
import json, os, sys
from tfr_pipeline.data.batching import windowed
windowed.WINDOW, windowed.BLOCK = 9000, 400
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import PipelineError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.pipeline.datasets.batches import WindowReader

config, log, kill = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
read = WindowReader.read
count = 0

def told(self, order):
    global count
    split = self._request.split
    count += split == "train"
    if count == kill:
        os.kill(os.getpid(), 9)
    found = read(self, order)
    with open(f"{log}-{split}", "a") as file:
        print(*order.tolist(), file=file)
    return found

WindowReader.read = told
try:
    build_pipeline(config).train_and_validate(verbose=2)
except PipelineError as error:
    print("ERROR", type(error).__name__, error)
    sys.exit(2)
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """160 lists for training, in three packed shards."""
    folder = tmp_path_factory.mktemp("packed")
    synthesize(str(folder / "text"), Size(queries=160, documents=8, features=8))
    for split, shards in (("train", 3), ("valid", 1)):
        convert(
            str(folder / "text" / f"{split}.txt"),
            str(folder / "data"),
            split=split,
            num_shards=shards,
            output_format="packed",
            report=lambda line: None,
        )
    return folder / "data"


def config_of(data, run, **pipeline):
    config = make_config(
        data,
        run,
        optimizer="sgd",
        learning_rate=0.1,
        num_epochs=2,
        metrics=["ndcg_10"],
        steps_per_execution=1,
        **pipeline,
    )
    config["model"]["scorer_args"].update(use_batch_norm=False, dropout=0.0)
    return config


class Job:
    """Processes of a job with one chief and one server."""

    def __init__(self, config, folder, workers, kills=(), configs=None):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir()
        ports = iter(free_ports(workers + 2))
        jobs = {"chief": 1, "worker": workers, "ps": 1}
        self.cluster = {
            job: [f"localhost:{next(ports)}" for _ in range(count)]
            for job, count in jobs.items()
        }
        self.config, self.configs = config, configs or {}
        self.tasks = {}
        for job, count in jobs.items():
            for index in range(count):
                self.start(job, index, dict(kills).get(index, 0))

    def start(self, job, index, kill=0):
        where = {"cluster": self.cluster, "task": {"type": job, "index": index}}
        name = f"{job}-{index}"
        config = self.configs.get(name, self.config)
        words = [json.dumps(config), f"{self.folder}/{name}.read"]
        words.append(str(kill if job == "worker" else 0))
        with open(self.folder / f"{name}.log", "a") as log:
            self.tasks[name] = subprocess.Popen(
                [sys.executable, "-c", TASK, *words],
                env=environment(
                    TF_CONFIG=json.dumps(where),
                    GRPC_FAIL_FAST="use_caller",
                    PYTHONUNBUFFERED="1",
                ),
                stdout=log,
                stderr=log,
            )

    def read(self, name, split="train"):
        """Returns the numbers of lists of each batch that a task has read."""
        path = self.folder / f"{name}.read-{split}"
        lines = path.read_text().splitlines() if path.exists() else []
        return [tuple(map(int, line.split())) for line in lines]

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()


@pytest.mark.slow
def test_workers_read_each_list_once_an_epoch_and_the_chief_none(packed, tmp_path):
    alone, served = tmp_path / "alone", tmp_path / "served"
    one = subprocess.run(
        [
            sys.executable,
            "-c",
            TASK,
            json.dumps(config_of(packed, alone)),
            str(tmp_path / "alone.read"),
            "0",
        ],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert one.returncode == 0, one.stderr[-2000:]
    config = config_of(packed, served, strategy="ParameterServerStrategy")
    job = Job(config, tmp_path / "job", workers=2)
    try:
        assert job.tasks["chief-0"].wait(timeout=240) == 0, job.log("chief-0")[-2000:]
    finally:
        end_job(job.tasks)
    assert not job.read("chief-0")
    assert not job.read("chief-0", "valid")
    seen = [n for i in (0, 1) for b in job.read(f"worker-{i}", "valid") for n in b]
    assert sorted(seen) == sorted(2 * list(range(40)))
    each = [job.read(f"worker-{index}") for index in (0, 1)]
    assert min(map(len, each)) >= 10  # of 80: none of them does it all
    found = collections.Counter(n for batches in each for b in batches for n in b)
    here, there = read_history(alone), read_history(served)
    lists = int(here[-1]["lists"])
    assert len(found) == lists
    assert set(found.values()) == {2}  # epochs
    for a, b in zip(here, there, strict=True):
        for key in ("step", "lists", "documents"):
            assert a[key] == b[key], key


@pytest.mark.slow
def test_one_worker_that_reads_trains_as_one_process_does(packed, tmp_path):
    runs = []
    for name, sharding in (("sent", "none"), ("read", "auto")):
        run = tmp_path / name
        config = config_of(packed, run, strategy="ParameterServerStrategy")
        config["data"]["sharding"] = sharding
        job = Job(config, tmp_path / f"job-{name}", workers=1)
        try:
            chief = job.tasks["chief-0"]
            assert chief.wait(timeout=240) == 0, job.log("chief-0")[-2000:]
        finally:
            end_job(job.tasks)
        assert bool(job.read("worker-0")) == (sharding == "auto")
        runs.append(run)
    one, other = map(read_history, runs)
    for a, b in zip(one, other, strict=True):
        for key in ("loss", "val_loss", "val_metric/ndcg_10"):
            assert b[key] == pytest.approx(a[key], rel=1e-5), key
    metrics = [read_json(run / "metrics.json")["valid"] for run in runs]
    assert metrics[0]["ndcg@10"]["skip"] == pytest.approx(
        metrics[1]["ndcg@10"]["skip"], rel=1e-5
    )


@pytest.mark.slow
def test_the_batch_of_a_killed_worker_is_read_by_another(packed, tmp_path):
    config = config_of(packed, tmp_path / "run", strategy="ParameterServerStrategy")
    job = Job(config, tmp_path / "job", workers=2, kills={1: 6})
    try:
        worker = job.tasks["worker-1"]
        assert worker.wait(timeout=120) == -signal.SIGKILL
        job.start("worker", 1)
        assert job.tasks["chief-0"].wait(timeout=240) == 0, job.log("chief-0")[-2000:]
    finally:
        end_job(job.tasks)
    batches = [b for index in (0, 1) for b in job.read(f"worker-{index}")]
    found = collections.Counter(n for batch in batches for n in batch)
    history = read_history(tmp_path / "run")
    assert [row["step"] for row in history] == [40, 80]
    assert {row["lists"] for row in history} == {len(found)}
    # What was under way when the worker died may have been read a second time.
    again = sum(found.values()) - 2 * len(found)
    assert 0 <= again <= 2 * 4
    assert min(found.values()) == 2


def spoil(data: pathlib.Path) -> str:
    """Spoils a record of each shard, and has the index know these very files."""
    paths = sorted(data.glob("train-*"))
    for path in paths:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    content = dict(np.load(data / "train.index.npz"))
    content["probes"] = np.array([files.probe(str(path)) for path in paths])
    np.savez(data / "train.index.npz", **content)
    return "is corrupt"


def lose(data: pathlib.Path) -> str:
    """Leaves out a shard, with an index that knows nothing of it."""
    content = dict(np.load(data / "train.index.npz"))
    first = int(content["lists"][0])
    for name in ("documents", "bytes"):
        content[name] = content[name][first:]
    for name in ("names", "probes", "lists"):
        content[name] = content[name][1:]
    np.savez(data / "train.index.npz", **content)
    os.remove(data / "train-00000-of-00003.tfrecord")
    return "other train files than the chief"


@pytest.mark.slow
@pytest.mark.parametrize("change", [spoil, lose])
def test_a_worker_that_has_other_data_ends_the_job_and_says_so(
    packed, tmp_path, change
):
    other = tmp_path / "other"
    other.mkdir()
    for path in packed.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    message = change(other)
    run = tmp_path / "run"
    config = config_of(packed, run, strategy="ParameterServerStrategy")
    theirs = config_of(other, run, strategy="ParameterServerStrategy")
    job = Job(config, tmp_path / "job", 2, configs={"worker-1": theirs})
    try:
        assert job.tasks["chief-0"].wait(timeout=120) == 2
    finally:
        end_job(job.tasks)
    # TensorFlow may have something to say after it.
    found = [x for x in job.log("chief-0").splitlines() if x.startswith("ERROR ")]
    assert len(found) == 1
    assert found[0].startswith("ERROR DataError worker 1: ")
    assert message in found[0]
