"""A run that is killed, or told to stop, ends as one that nobody disturbed."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import time

import numpy as np
import pytest

from tests.pipeline.training_helpers import make_config, read_history, read_json, start
from tfr_pipeline.compat import tf
from tfr_pipeline.experiment.build import build_pipeline

# Trains with a short pause after each step, so that a signal finds it in the middle;
# writes the final weights.
TRAIN = """
import json, sys, time
import numpy as np
from tfr_pipeline.compat import tf
from tfr_pipeline.experiment import build

class Slow(tf.keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print("step", int(self.model.optimizer.iterations.numpy()), flush=True)
        time.sleep(float(sys.argv[3]))

pipeline = build.build_pipeline(json.loads(sys.argv[1]))
theirs = pipeline.build_callbacks
pipeline.build_callbacks = lambda: [Slow(), *theirs()]
model = pipeline.train_and_validate()
np.savez(sys.argv[2], *model.get_weights())
"""


def run_config(data, model_dir, **pipeline):
    return make_config(
        data,
        model_dir,
        num_epochs=4,
        steps_per_execution=2,
        export_best_model=True,
        best_exporter_metric="ndcg_10",
        best_exporter_metric_higher_better=True,
        **pipeline,
    )


def train(config, weights, pause=0.0):
    return start(TRAIN, json.dumps(config), weights, pause)


def goes_on(config, weights):
    """Trains here to the end, as a process would; returns the steps taken."""
    steps = []

    class Note(tf.keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps.append(int(self.model.optimizer.iterations))

    pipeline = build_pipeline(config)
    theirs = pipeline.build_callbacks
    pipeline.build_callbacks = lambda: [Note(), *theirs()]
    np.savez(weights, *pipeline.train_and_validate().get_weights())
    return steps


def wait_for(process, config, step):
    """Returns once the process has taken so many steps and saved a checkpoint."""
    for line in process.stdout:
        if int(line.split()[1]) >= step:
            break
    else:
        raise AssertionError(process.stderr.read()[-3000:])
    assert os.path.exists(os.path.join(config["model_dir"], "checkpoints/checkpoint"))


def load(path):
    with np.load(path) as arrays:
        return [arrays[name] for name in arrays.files]


def exported(model_dir):
    """Returns the weights of both exports, read without this package's help."""
    result = {}
    for name in ("latest_model", "best_model_by_metric"):
        (version,) = (pathlib.Path(model_dir) / "export" / name).glob("[0-9]*")
        reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
        result[name, version.name] = [
            reader.get_tensor(key)
            for key in sorted(reader.get_variable_to_shape_map())
            if key.startswith("weights/")
        ]
    return result


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    config = run_config(data, folder / "run")
    goes_on(config, folder / "weights.npz")
    return folder


def assert_same_end(folder, undisturbed):
    for left, right in zip(
        load(folder / "weights.npz"), load(undisturbed / "weights.npz"), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    found, wanted = exported(folder / "run"), exported(undisturbed / "run")
    assert found.keys() == wanted.keys()
    for key, arrays in found.items():
        for left, right in zip(arrays, wanted[key], strict=True):
            np.testing.assert_array_equal(left, right)
    rows = read_history(folder / "run"), read_history(undisturbed / "run")
    for row, other in zip(*rows, strict=True):
        assert row["step"] == other["step"]
        assert row["val_metric/ndcg_10"] == other["val_metric/ndcg_10"]
    metrics = [read_json(path / "run/metrics.json") for path in (folder, undisturbed)]
    assert metrics[0]["test"] == metrics[1]["test"]
    assert metrics[0]["step"] == metrics[1]["step"] == 40


@pytest.mark.parametrize(
    ("extra", "resumes_after"),
    [
        pytest.param({}, 20, marks=pytest.mark.slow),
        ({"checkpoint_every_steps": 4}, 24),
    ],
)
def test_a_killed_run_goes_on_to_the_same_weights(
    data, tmp_path, undisturbed, extra, resumes_after
):
    config = run_config(data, tmp_path / "run", **extra)
    process = train(config, tmp_path / "weights.npz", pause=0.2)
    wait_for(process, config, 26)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "weights.npz").exists()
    leave_halves(tmp_path / "run/checkpoints")
    steps = goes_on(config, tmp_path / "weights.npz")
    assert steps[0] == resumes_after + 2
    assert steps[-1] == 40
    assert_same_end(tmp_path, undisturbed)
    names = os.listdir(tmp_path / "run/checkpoints")
    assert not [name for name in names if re.search("te?mp([^l]|$)|-(25|19)", name)]


def leave_halves(checkpoints):
    """Leaves what TensorFlow does when it is killed while it saves."""
    for name in ("ckpt-25_temp", "best-19_temp"):
        (checkpoints / name).mkdir()
        (checkpoints / name / "part-00000-of-00001.index").touch()
    for name in ("checkpoint.tmp01ab", "ckpt-25.data-00000-of-00001", "best-19.index"):
        (checkpoints / name).touch()


@pytest.mark.slow  # test_stopping has it within one process
@pytest.mark.parametrize("step", [14, 20])  # within an epoch, and at its end
def test_sigterm_saves_the_step_and_exits_with_143(data, tmp_path, undisturbed, step):
    config = run_config(data, tmp_path / "run")
    process = train(config, tmp_path / "weights.npz", pause=0.2)
    wait_for(process, config, step)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 143
    last = max([step] + [int(line.split()[1]) for line in out.splitlines()])
    assert last < 40
    steps = goes_on(config, tmp_path / "weights.npz")
    assert steps[0] == last + 2
    assert_same_end(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_exports_completes_the_export(
    data, tmp_path, undisturbed
):
    config = run_config(data, tmp_path / "run")
    process = train(config, tmp_path / "weights.npz")
    export = tmp_path / "run" / "export"
    deadline = time.monotonic() + 120
    while not list(export.glob("*/.*.tmp*")) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for version in export.glob("*/[0-9]*"):  # whole, if there is one
        tf.saved_model.load(str(version))
    goes_on(config, tmp_path / "weights.npz")
    assert_same_end(tmp_path, undisturbed)
