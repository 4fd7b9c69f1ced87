"""A saved model goes on training in a process that imports nothing but the package."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tests.model import saving_helpers
from tests.model.saving_helpers import EXAMPLE
from tests.pipeline.training_helpers import environment
from tfr_pipeline import losses
from tfr_pipeline.compat import tf
from tfr_pipeline.model.keras_models import KerasModelBuilder

# All are loaded before anything else of the package is imported.
GO_ON = """
import sys
import tfr_pipeline
import tensorflow as tf
models = []
for path in sys.argv[1:]:
    if "own" in path:
        from tests.model import own_objects
    models.append(tf.keras.models.load_model(path))
import numpy as np
from tests.model import saving_helpers
for path, model in zip(sys.argv[1:], models):
    np.savez(path + ".loaded.npz", *saving_helpers.state(model))
    saving_helpers.train(model, 2)
    np.savez(path + ".trained.npz", *saving_helpers.state(model))
"""
# HDF5 writes each weight under its name: the models with weights in layers in layers.
CASES = [
    ("dnn", ""),
    ("dnn", ".keras"),
    ("dnn", ".h5"),
    ("gam", ".h5"),
    ("dasalc", ".keras"),
    ("tabm", ""),
    ("tabm", ".h5"),
    ("own", ""),
]


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """States of each case when saved and when trained on, here and elsewhere."""
    folder = tmp_path_factory.mktemp("saved")
    saved, trained = {}, {}
    paths = {case: str(folder / (case[0] + case[1])) for case in CASES}
    for name in saving_helpers.MODELS:
        model = saving_helpers.make(name)
        saving_helpers.train(model, 1)
        for case, path in paths.items():
            if case[0] == name:
                model.save(path)
        saved[name] = saving_helpers.state(model)
        saving_helpers.train(model, 2)
        trained[name] = saving_helpers.state(model)
    # Own objects last: the others are loaded without their module.
    done = subprocess.run(
        [sys.executable, "-c", GO_ON, *paths.values()],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]

    def read(path):
        with np.load(path) as arrays:
            return [arrays[name] for name in arrays.files]

    return {
        case: {
            "saved": saved[case[0]],
            "loaded": read(path + ".loaded.npz"),
            "trained": trained[case[0]],
            "trained elsewhere": read(path + ".trained.npz"),
        }
        for case, path in paths.items()
    }


@pytest.mark.parametrize("case", CASES, ids="".join)
def test_another_process_loads_weights_and_slots(states, case):
    for found, wanted in zip(
        states[case]["loaded"], states[case]["saved"], strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("case", CASES, ids="".join)
def test_another_process_trains_on_to_the_same_weights(states, case):
    here, elsewhere = states[case]["trained"], states[case]["trained elsewhere"]
    for found, wanted in zip(elsewhere, here, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert any((a != b).any() for a, b in zip(here, states[case]["saved"], strict=True))


def test_settings_of_the_training_step_are_saved(tmp_path):
    model = saving_helpers.make("dnn")
    model.training_metrics, model.check_loss = True, False
    copy = type(model).from_config(model.get_config())
    assert copy.training_metrics
    assert not copy.check_loss
    assert copy.name == "dnn"


def test_a_users_class_of_the_same_bare_name_comes_first(tmp_path):
    class Schedule(tf.keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.5

        def get_config(self):
            return {}

    model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(2,))])
    model.compile(tf.keras.optimizers.SGD(Schedule()), "mse")
    path = str(tmp_path / "model.h5")
    model.save(path)
    loaded = tf.keras.models.load_model(path, {"Schedule": Schedule})
    assert type(loaded.optimizer._learning_rate) is Schedule


def test_a_model_of_two_tasks_and_its_preprocessing_are_saved(tmp_path):
    example = {f"x{i}": EXAMPLE["x"] for i in range(3)}

    def make_model():
        inputs = tf.keras.Input((3,))
        outputs = {"click": inputs[:, :1], "buy": tf.keras.layers.Dense(1)(inputs)}
        return tf.keras.Model(inputs, outputs)

    model = KerasModelBuilder(
        make_model,
        {},
        example,
        # Two of three: their columns are gathered.
        preprocess={
            name: lambda t: tf.math.log1p(t * tf.sign(t)) * tf.sign(t)
            for name in ("x0", "x2")
        },
    ).build_packed()
    documents = tf.random.stateless_normal([10, 3], [1, 2])
    ragged = tf.RaggedTensor.from_row_lengths(documents, [4, 6])
    labels = tf.RaggedTensor.from_row_lengths(tf.range(10.0), [4, 6])
    losses_ = {task: losses.get("softmax_loss") for task in ("click", "buy")}
    weights = {"click": 2.0, "buy": 1.0}
    model.compile("adam", losses_, loss_weights=weights, run_eagerly=True)
    batch = {"documents_float32": ragged}, {"click": labels, "buy": labels}
    model.train_on_batch(*batch)
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = tf.keras.models.load_model(path)
    assert loaded.test_on_batch(*batch) == model.test_on_batch(*batch)
    model.train_on_batch(*batch)
    loaded.train_on_batch(*batch)
    for found, wanted in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, wanted)
