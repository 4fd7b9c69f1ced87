"""Layers of a trained model as modules, used by a process without this package."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tfr_pipeline.compat import hub, tf
from tfr_pipeline.errors import ConfigError, RunError
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.layers.hub import HubEncoder
from tfr_pipeline.model.scorers import DNNScorer
from tfr_pipeline.serving.module import export_module, parts

TEXTS = ["the cat", "", "a dog"]
# Runs without this package: fine-tunes a module and prints what it finds.
ELSEWHERE = """
import json, sys
import tensorflow as tf
import tensorflow_hub as hub

module = hub.load(sys.argv[1])
texts = tf.constant(json.loads(sys.argv[2]))
layer = hub.KerasLayer(sys.argv[1], trainable=True, input_shape=[], dtype=tf.string)
model = tf.keras.Sequential([layer, tf.keras.layers.Dense(1)])
model.compile(tf.keras.optimizers.SGD(0.1), "mse")
before = layer.get_weights()[0]
model.fit(texts, tf.ones([len(texts), 1]), verbose=0)
print(json.dumps({
    "vectors": module(texts).numpy().tolist(),
    "trained": float(abs(layer.get_weights()[0] - before).max()),
    "losses": len(layer.losses),
    "package": any(name.startswith("tfr_pipeline") for name in sys.modules),
}))
"""


def make_model(encoder):
    spec = {"title": tf.io.FixedLenFeature((1,), tf.string, "")}
    return ModelBuilder(
        FeatureSpecInputCreator({}, spec),
        {"title": encoder},
        DNNScorer(hidden_layer_dims=[4], use_batch_norm=True),
        "mask",
    ).build()


def test_an_encoder_is_fine_tuned_by_a_process_without_this_package(
    text_module, tmp_path
):
    encoder = HubEncoder(text_module)
    model = make_model(encoder)
    changed = encoder.weights[0] * 2.0
    encoder.weights[0].assign(changed)
    path = export_module(model, "hub_encoder", str(tmp_path / "module"))
    assert not encoder.module.trainable  # as it was
    done = subprocess.run(
        [sys.executable, "-P", "-c", ELSEWHERE, path, json.dumps(TEXTS)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": "", "TF_USE_LEGACY_KERAS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(found["vectors"], encoder(tf.constant(TEXTS)), rtol=1e-5)
    assert found["trained"] > 0 and found["losses"] == 1
    assert not found["package"]


def test_the_module_of_a_module_is_one(text_module, tmp_path):
    model = make_model(HubEncoder(text_module, trainable=True))
    path = export_module(model, "hub_encoder", str(tmp_path / "module"))
    again = HubEncoder(path, trainable=True)
    texts = tf.constant(TEXTS)
    np.testing.assert_allclose(again(texts), HubEncoder(text_module)(texts), rtol=1e-5)
    assert len(again.trainable_weights) == 1 and len(again.losses) == 1


def test_other_layers_are_modules_too(text_module, tmp_path):
    model = make_model(HubEncoder(text_module))
    path = export_module(model, "sequential", str(tmp_path / "module"))
    layer, _ = parts(model)["sequential"]
    vectors = tf.random.normal([3, 512], seed=1)
    module = hub.load(path)
    for training in (False, True):
        found = module(vectors, training=training)
        np.testing.assert_allclose(
            found, layer(vectors, training=training), rtol=1e-5, atol=1e-6
        )
    assert len(module.trainable_variables) < len(module.variables)


def test_layers_have_the_same_names_in_every_process(text_module):
    for _ in range(2):
        known = parts(make_model(HubEncoder(text_module)))
        assert {"hub_encoder", "sequential"} <= {*known}
    named = parts(make_model(HubEncoder(text_module, name="title_2")))
    assert "title_2" in named  # what somebody chose stays


def test_an_unknown_layer_is_an_error_that_names_the_known_ones(text_module, tmp_path):
    model = make_model(HubEncoder(text_module))
    with pytest.raises(ConfigError, match=r"did you mean 'hub_encoder'\?.*sequential"):
        export_module(model, "encoder", str(tmp_path / "module"))
    assert not list(tmp_path.iterdir())


def test_what_is_no_module_is_not_replaced(text_module, tmp_path):
    model = make_model(HubEncoder(text_module))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError):
        export_module(model, "hub_encoder", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
