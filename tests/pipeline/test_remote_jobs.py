# ruff: noqa: F811
"""Jobs of several tasks on a run directory in a store: one writes, the others read."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("s3fs")

from tests.pipeline.test_multi_worker import WORKERS, run_config, start_workers, wait
from tests.pipeline.training_helpers import changed, environment
from tests.remote_stores import object_storage, s3  # noqa: F401
from tfr_pipeline import remote

pytestmark = pytest.mark.slow

EVALUATE = """
import json, sys
from tfr_pipeline.experiment import build
build.build_pipeline(json.loads(sys.argv[1])).train_and_validate()
"""


def upload(folder, url):
    """Uploads what a conversion wrote, the markers last."""
    names = sorted(folder.iterdir(), key=lambda path: path.suffix == ".json")
    for path in names:
        remote.put(str(path), f"{url}/{path.name}")


@pytest.fixture
def place(s3, data, tmp_path):
    """A folder in the store, with the data in `data`."""
    place = f"s3://bucket/{tmp_path.name}"
    upload(data, f"{place}/data")
    return place


def test_two_workers_go_on_with_a_run_that_another_machine_began(
    place, data, tmp_path, monkeypatch
):
    def two_workers(config, folder):
        wait(start_workers(config, folder), folder)
        return [np.load(folder / f"{index}.npz") for index in range(WORKERS)]

    whole = two_workers(run_config(data, tmp_path / "run"), tmp_path / "local")
    config = run_config(f"{place}/data", f"{place}/run")
    two_workers(changed(config, pipeline__num_epochs=2), tmp_path / "first")
    monkeypatch.setenv("TFR_PIPELINE_CACHE", str(tmp_path / "elsewhere"))
    rest = two_workers(config, tmp_path / "second")
    for name in whole[0].files:
        np.testing.assert_allclose(rest[0][name], whole[0][name], atol=1e-6)
        np.testing.assert_array_equal(rest[1][name], rest[0][name])
    found = remote.find(f"{place}/run")
    assert "metrics.json" in found and "lock" not in found
    assert not [name for name in found if "worker_" in name or ".tmp" in name]


def test_an_evaluator_reads_checkpoints_and_shares_its_logs(place, tmp_path):
    config = run_config(f"{place}/data", f"{place}/run")
    config["pipeline"].update(strategy=None, num_epochs=1)
    run = [sys.executable, "-c", EVALUATE, json.dumps(config)]
    assert subprocess.run(run, env=environment(), timeout=200).returncode == 0
    before = remote.find(f"{place}/run")
    where = {
        "cluster": {"chief": ["localhost:1"]},
        "task": {"type": "evaluator", "index": 0},
    }
    with open(tmp_path / "log", "w") as log:
        task = subprocess.Popen(
            run,
            env=environment(TF_CONFIG=json.dumps(where), PYTHONUNBUFFERED="1"),
            stdout=log,
            stderr=log,
        )
    end = time.monotonic() + 120
    while "step 10: " not in (tmp_path / "log").read_text():
        assert task.poll() is None and time.monotonic() < end
        time.sleep(0.2)
    task.send_signal(signal.SIGTERM)
    assert task.wait(timeout=60) == 0
    after = remote.find(f"{place}/run")
    new = [name for name in after if name not in before]
    assert new and all(name.startswith("logs/evaluator/events") for name in new)
    assert {name: after[name] for name in before} == before
