"""Averages of weights against a NumPy loop."""

from __future__ import annotations

import numpy as np
import pytest

from tests.replicas import run_on_devices
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.optimizers.averaging import Averages, WeightAveraging


def expected(values, momentum, start):
    """The mean of the first steps from `start` on, then an exponential one."""
    average = values[0]
    for step, value in enumerate(values, 1):
        count = max(step - start, 1)
        share = max(1 - momentum, 1 / count)
        average = (1 - share) * average + share * value
    return average


@pytest.mark.parametrize(
    ("setting", "momentum", "start"),
    [
        ("ema", 0.99, 0),
        ({"name": "ema", "momentum": 0.8}, 0.8, 0),
        ({"name": "ema", "momentum": 0.8, "start_epoch": 2}, 0.8, 20),
        ({"name": "swa", "start_epoch": 2}, 1.0, 20),
    ],
)
def test_averages_are_those_of_a_loop(setting, momentum, start):
    values = np.random.default_rng(0).normal(size=[30, 4]).astype(np.float32)
    weight = tf.Variable(values[0])
    averages = Averages([weight], WeightAveraging.of(setting), 10)
    for step, value in enumerate(values, 1):
        weight.assign(value)
        averages.update(tf.constant(step, tf.int64))
        if step <= start + 1:
            np.testing.assert_array_equal(averages.variables[0].numpy(), value)
    averages.put_in()
    averages.put_in()  # they are already
    np.testing.assert_allclose(
        weight.numpy(), expected(values, momentum, start), rtol=1e-4, atol=1e-5
    )
    averages.take_out()
    np.testing.assert_array_equal(weight.numpy(), values[-1])


def test_the_mean_of_all_steps_is_the_mean():
    values = np.random.default_rng(0).normal(size=[30]).astype(np.float32)
    weight = tf.Variable(0.0)
    averages = Averages([weight], WeightAveraging.of({"name": "swa"}), 10)
    for step, value in enumerate(values, 1):
        weight.assign(value)
        averages.update(step)
    assert float(averages.variables[0]) == pytest.approx(values.mean(), abs=1e-5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("emma", "unknown name 'emma' in weight_averaging; did you mean 'ema'"),
        (
            {"name": "swa", "momentum": 0.9},
            "unknown argument 'momentum' in weight_averaging 'swa'",
        ),
        ({"momentum": 0.9}, "unknown name 'None'"),
        ({"name": "ema", "momentum": 1}, "between 0 and 1, found 1"),
        ({"name": "ema", "momentum": "x"}, "between 0 and 1, found 'x'"),
        ({"name": "swa", "start_epoch": -1}, "an epoch, from 0, found -1"),
        (0.9, "expected a name or a dict, found 0.9"),
    ],
)
def test_a_setting_that_cannot_be_is_named(setting, message):
    with pytest.raises(ConfigError, match=message):
        WeightAveraging.of(setting)


REPLICAS = """
import numpy as np
from tfr_pipeline.optimizers.averaging import Averages, WeightAveraging

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    weight = tf.Variable([1.0, 2.0])
    # As the moving statistics of batch normalisation: of each replica its own.
    moving = tf.Variable(
        0.0,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.MEAN,
    )
    optimizer = tf.keras.optimizers.SGD(1.0)
    optimizer.build([weight])
    averages = Averages([weight, moving], WeightAveraging.of("swa"), 10)

    @tf.function
    def train():
        def step():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            moving.assign_add(1.0 + 2.0 * tf.cast(replica, tf.float32))
            optimizer.apply_gradients([(tf.constant([1.0, 0.5]), weight)])
            averages.update(optimizer.iterations)
        strategy.run(step)

    for _ in range(3):
        train()
    raw = weight.numpy().tolist(), float(moving.numpy())
    averages.put_in()
    mean = weight.numpy().tolist(), float(moving.numpy())
    copies = [x.numpy().tolist() for x in strategy.experimental_local_results(weight)]
    averages.take_out()
    back = weight.numpy().tolist(), float(moving.numpy())
print(repr((raw, mean, copies, back)))
"""


def test_replicas_average_alike():
    raw, mean, copies, back = eval(run_on_devices(2, REPLICAS).splitlines()[-1])
    # Both replicas' gradients add up: -2 and -1 a step; statistics grow by 1 and 3.
    assert raw == back == ([-5.0, -1.0], 6.0)
    np.testing.assert_allclose(mean[0], [-3.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(mean[1], 4.0, atol=1e-6)
    assert copies[0] == copies[1] == mean[0]
