"""Warm starts and frozen layers in jobs of processes; one process is the oracle.

The first layer of the model is frozen for two of three or four epochs of 10 steps.
"""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest

from tests.cluster.launching import finished, launch
from tests.pipeline.kept_weights import kept, train
from tests.pipeline.test_parameter_server import end_job, places, start_task
from tests.pipeline.training_helpers import make_config, read_json
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.pipeline.run import initial_weights

pytestmark = pytest.mark.slow

FROZEN = "sequential/dense/"
UNFROZEN = 20  # the step after which it trains
RATE = 0.1
KILLED = 14
MOMENTUM = {
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "optimizer_args": {"momentum": 0.9, "weight_decay": 0.01},
}
# Whatever the gradients, and in which order they come: a step is that long, or 0.
LION = {"optimizer": "lion", "learning_rate": 0.01, "num_epochs": 4}


def base(data, run, **pipeline):
    config = make_config(data, run, steps_per_execution=1, **pipeline)
    config["model"]["scorer_args"].update(use_batch_norm=False, dropout=0.0)
    return config


@pytest.fixture(scope="module")
def began(data, tmp_path_factory):
    """A run of one epoch to begin with, and its weights."""
    run = tmp_path_factory.mktemp("began") / "run"
    model = build_pipeline(base(data, run, num_epochs=1, learning_rate=0.1)).train()
    return run, _values(model)


def _values(model):
    return {name: v.numpy() for name, v in initial_weights._variables(model).items()}


@pytest.fixture
def warm(data, began, tmp_path):
    """Makes the config of a run that begins with a copy of `began`."""
    shutil.copytree(began[0], tmp_path / "began")

    def make(name="run", rate=RATE, **pipeline):
        told = {
            "from": str(tmp_path / "began"),
            "frozen": FROZEN.rstrip("/"),
            "unfreeze_epoch": 2,
            "unfreeze_rate": rate,
        }
        return base(data, tmp_path / name, warm_start=told, **pipeline)

    return make


def job(config, folder, killed=0, **flags):
    """Runs a job to its end, which keeps weights in `folder`; returns what it said."""
    script = "tests.pipeline.kept_weights"
    words = [sys.executable, "-m", script, json.dumps(config), folder, killed]
    folder.mkdir()
    environ = {"TF_NUM_INTRAOP_THREADS": "1", "TMPDIR": str(folder)}
    code, out = finished(launch(*words, environ=environ, **flags), timeout=300)
    assert code == 0, out[-5000:]
    return out


def assert_frozen_then_trained(steps, start):
    """Checks that a layer stays what it was at the start to the bit, and no longer.

    The last bias is left out: it moves the scores of a list together, so that there is
    no gradient but of rounding.
    """
    assert steps[0].keys() == start.keys()
    for name, first in start.items():
        if name == "sequential/dense_1/bias":
            continue
        for step, weights in steps.items():
            same = np.array_equal(weights[name], first)
            still = step <= UNFROZEN if name.startswith(FROZEN) else step == 0
            assert same == still, (name, step)


def assert_close(found, wanted):
    assert found.keys() == wanted.keys()
    for step in wanted:
        for name, value in wanted[step].items():
            np.testing.assert_allclose(
                found[step][name], value, rtol=1e-4, atol=1e-5, err_msg=f"{step} {name}"
            )


def moved(steps, first, last):
    """Returns how far weights have moved: those that were frozen, and the others."""
    moves = {name: steps[last][name] - steps[first][name] for name in steps[first]}
    return tuple(
        np.concatenate(
            [m.ravel() for n, m in moves.items() if n.startswith(FROZEN) is f]
        )
        for f in (True, False)
    )


def assert_as_told(run, out=None):
    """Checks that a run took weights once, and remembers it."""
    told = read_json(run / "environment.json")["warm_start"]
    assert told.startswith("warm start: 4 of 4 weights from ")
    if out is not None:
        assert out.count("warm start: ") == 1


@pytest.mark.parametrize("killed", [0, KILLED])
def test_two_workers_train_what_one_process_does(warm, began, tmp_path, killed):
    for name, rate in (("one", RATE), ("fast", 1.0)):
        train(warm(name, rate, **MOMENTUM), tmp_path / name / "weights")
    one, fast = (kept(tmp_path / name / "weights") for name in ("one", "fast"))
    config = warm(strategy="MultiWorkerMirroredStrategy", **MOMENTUM)
    out = job(config, tmp_path / "weights", killed)
    assert ("restart 1 of 3" in out) == bool(killed)
    for worker in ("worker-0", "worker-1"):
        steps = kept(tmp_path / "weights" / worker)
        assert list(steps) == list(range(31))
        assert_frozen_then_trained(steps, began[1])
        assert_close(steps, one)
        # The first step of the layer, which has no momentum yet, and that of others.
        for ours, theirs, factor in zip(
            moved(steps, UNFROZEN, UNFROZEN + 1),
            moved(fast, UNFROZEN, UNFROZEN + 1),
            (RATE, 1.0),
            strict=True,
        ):
            np.testing.assert_allclose(ours, factor * theirs, rtol=1e-3, atol=1e-6)
    assert_as_told(tmp_path / "run", out)


def test_normalisation_that_is_frozen_is_the_same_on_two_workers(data, tmp_path):
    """Else each would normalise by its own half of the batch."""

    def make(name, **pipeline):
        config = make_config(data, tmp_path / name, steps_per_execution=1, **pipeline)
        config["model"]["scorer_args"]["dropout"] = 0.0
        return config

    build_pipeline(make("began", learning_rate=0.1)).train()
    told = {"from": str(tmp_path / "began"), "frozen": "*batch_normalization"}
    train(make("one", warm_start=told, **MOMENTUM), tmp_path / "one" / "weights")
    several = make(
        "run", warm_start=told, strategy="MultiWorkerMirroredStrategy", **MOMENTUM
    )
    job(several, tmp_path / "weights")
    steps = kept(tmp_path / "weights" / "worker-1")
    assert_close(steps, kept(tmp_path / "one" / "weights"))
    for name, first in steps[0].items():
        frozen = "batch_normalization" in name
        assert np.array_equal(steps[30][name], first) == frozen, name


def assert_steps_of_lion(steps, start):
    """Checks epochs of a job with parameter servers, where steps have no order."""
    assert list(steps) == [0, 10, 20, 30, 40]
    assert_frozen_then_trained(steps, start)
    most = 10 * LION["learning_rate"] * 1.001
    for first in (20, 30):
        late, others = (np.abs(part).max() for part in moved(steps, first, first + 10))
        assert 0 < late <= RATE * most < others <= most


def test_a_job_with_servers_that_starts_again_does_not_warm_start_again(
    warm, began, tmp_path
):
    config = warm(strategy="ParameterServerStrategy", **LION)
    out = job(config, tmp_path / "weights", KILLED, workers=2, ps=2)
    assert "restart 1 of 3" in out
    assert_steps_of_lion(kept(tmp_path / "weights" / "chief-0"), began[1])
    assert_as_told(tmp_path / "run", out)


def test_a_worker_that_is_replaced_trains_what_the_others_do(warm, began, tmp_path):
    config = warm(strategy="ParameterServerStrategy", **LION)
    weights = tmp_path / "weights"
    weights.mkdir()
    words = ("-m", "tests.pipeline.kept_weights", json.dumps(config), weights, KILLED)
    where = places({"chief": 1, "worker": 2, "ps": 2})
    tasks = {name: start_task(name, at, weights, *words) for name, at in where.items()}
    try:
        assert tasks["worker-1"].wait(timeout=240) == -9
        tasks["worker-1"] = start_task("worker-1", where["worker-1"], weights, *words)
        assert tasks["chief-0"].wait(timeout=240) == 0
    finally:
        print(weights.joinpath("chief-0.log").read_text()[-5000:])
        end_job(tasks)
    assert_steps_of_lion(kept(weights / "chief-0"), began[1])
    assert_as_told(tmp_path / "run", (weights / "chief-0.log").read_text())
