"""The fused Adam takes Keras's steps."""

from __future__ import annotations

import numpy as np
import pytest

from tests.replicas import run_on_devices
from tfr_pipeline.compat import tf
from tfr_pipeline.optimizers.adam import Adam


def train(optimizer, steps=20):
    rng = np.random.default_rng(3)
    variables = [
        tf.Variable(rng.normal(size=s).astype(np.float32)) for s in ((4, 3), 5)
    ]
    for _ in range(steps):
        gradients = [
            tf.constant(rng.normal(size=v.shape).astype(np.float32)) for v in variables
        ]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return [v.numpy() for v in variables]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 0.1},
        {"amsgrad": True},
        {"weight_decay": 0.1, "global_clipnorm": 0.5},
        {"use_ema": True, "ema_momentum": 0.9},
    ],
)
def test_its_steps_are_those_of_keras(arguments):
    schedule = tf.keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.5)
    ours, theirs = (
        train(cls(learning_rate=schedule, **arguments))
        for cls in (Adam, tf.keras.optimizers.Adam)
    )
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_rows_of_an_embedding_are_updated():
    table = tf.Variable(tf.ones([3, 2]))
    optimizer = Adam(0.1)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.gather(table, [1]))
    optimizer.apply_gradients([(tape.gradient(loss, table), table)])
    assert (table.numpy()[1] < 1).all()
    assert (table.numpy()[[0, 2]] == 1).all()


REPLICAS = """
import numpy as np
from tfr_pipeline.compat import tf
from tfr_pipeline.optimizers.adam import Adam

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(1, kernel_initializer="ones")])
    model.build((None, 2))
    optimizers = [Adam(0.1), tf.keras.optimizers.Adam(0.1)]
    results = []
    for optimizer in optimizers:
        model.set_weights([np.ones([2, 1]), np.zeros([1])])
        model.compile(optimizer, "mse")
        model.fit(tf.eye(4, 2), tf.zeros([4, 1]), batch_size=2, epochs=3, shuffle=False)
        results.append(model.get_weights())
for ours, theirs in zip(*results):
    assert abs(ours - theirs).max() < 1e-5, results
print("same")
"""


def test_replicas_take_the_same_steps():
    assert "same" in run_on_devices(2, REPLICAS)
