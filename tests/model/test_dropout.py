"""Dropout: the right share, scaled, another mask each step, the same when resumed."""

from __future__ import annotations

import numpy as np
import pytest

from tests.replicas import run_on_devices
from tfr_pipeline.compat import tf
from tfr_pipeline.model.layers.seeded import Dropout


def draw(layer, shape=(64, 32), dtype=tf.float32):
    return layer(tf.ones(shape, dtype), training=True).numpy()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_is_the_share_of_zeros(rate):
    values = draw(Dropout(rate, seed=1), (400, 250))
    deviation = np.sqrt(rate * (1 - rate) / values.size)
    assert abs((values == 0).mean() - rate) < 5 * deviation


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_what_is_kept_is_scaled(rate):
    values = draw(Dropout(rate, seed=1))
    kept = np.unique(values[values != 0])
    np.testing.assert_allclose(kept, 1 / (1 - rate), rtol=1e-4)


def test_elements_are_dropped_independently():
    values = draw(Dropout(0.5, seed=2), (4000, 8)) > 0
    pairs = np.corrcoef(values.T)
    np.fill_diagonal(pairs, 0)
    assert abs(pairs).max() < 0.1


def test_nothing_happens_at_inference():
    layer = Dropout(0.9, seed=1)
    inputs = tf.random.normal([5, 5])
    layer.build(inputs.shape)
    before = int(layer._step)
    for training in (False, None, 0, tf.constant(False)):
        np.testing.assert_array_equal(layer(inputs, training=training), inputs)
    assert int(layer._step) == before


def test_training_may_be_a_tensor():
    layer = Dropout(0.5, seed=1)
    found = tf.function(lambda t: layer(tf.ones([50, 50]), training=t))
    assert (found(tf.constant(True)).numpy() == 0).any()
    assert (found(tf.constant(False)).numpy() == 1).all()


def test_a_rate_of_zero_changes_nothing():
    assert (draw(Dropout(0.0)) == 1).all()


def test_each_step_and_each_seed_has_a_mask_of_its_own():
    layers = [Dropout(0.5, seed=seed) for seed in (1, 2)]
    masks = [draw(layer).tobytes() for layer in layers for _ in range(3)]
    assert len(set(masks)) == 6


def test_seeds_are_drawn_and_can_be_fixed():
    def seeds():
        tf.keras.utils.set_random_seed(3)
        return Dropout(0.5).seed, Dropout(0.5).seed

    first = seeds()
    assert first == seeds()
    assert first[0] != first[1]


def test_a_checkpoint_brings_the_masks_that_would_have_come(tmp_path):
    layer = Dropout(0.5, seed=7)
    for _ in range(3):
        draw(layer)
    path = tf.train.Checkpoint(layer=layer).save(str(tmp_path / "c"))
    wanted = [draw(layer) for _ in range(2)]
    fresh = Dropout(0.5, seed=7)
    fresh.build((None, 32))
    tf.train.Checkpoint(layer=fresh).restore(path).assert_existing_objects_matched()
    for expected in wanted:
        np.testing.assert_array_equal(draw(fresh), expected)


@pytest.mark.parametrize("shape", [(1,), (3, 5), (7,), (2, 3, 5), (0, 4)])
def test_any_number_of_elements_can_be_dropped(shape):
    assert draw(Dropout(0.5, seed=1), shape).shape == shape


def test_batches_of_other_sizes_share_one_function():
    layer = Dropout(0.5, seed=1)
    layer.build((None, 4))  # a function that makes variables is traced twice
    traces = []

    @tf.function(input_signature=[tf.TensorSpec([None, 4])])
    def call(inputs):
        traces.append(1)
        return layer(inputs, training=True)

    for size in (1, 6, 3):
        values = call(tf.ones([size, 4])).numpy()
        assert values.shape == (size, 4)
        assert set(np.unique(values)) <= {0.0, 2.0}
    assert len(traces) == 1


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float64])
def test_other_precisions_are_kept(dtype):
    layer = Dropout(0.5, seed=1, dtype=dtype)
    values = layer(tf.ones([20, 20], dtype), training=True)
    assert values.dtype == dtype
    assert set(np.unique(tf.cast(values, tf.float32))) == {0.0, 2.0}


def test_replicas_draw_masks_of_their_own():
    code = """
from tfr_pipeline.model.layers.seeded import Dropout
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    layer = Dropout(0.5, seed=1)
    layer.build((8, 8))

@tf.function
def step():
    return strategy.run(lambda: layer(tf.ones([8, 8]), training=True))

for _ in range(2):
    first, second = (value.numpy() for value in step().values)
    print((first != second).mean())
"""
    shares = [float(line) for line in run_on_devices(2, code).split()]
    assert len(shares) == 2
    assert all(0.2 < share < 0.8 for share in shares)


def test_gradients_pass_where_values_do():
    layer = Dropout(0.5, seed=1)
    inputs = tf.Variable(tf.ones([10, 10]))
    with tf.GradientTape() as tape:
        outputs = layer(inputs, training=True)
    np.testing.assert_array_equal(tape.gradient(outputs, inputs), outputs)


def test_it_compiles_with_xla():
    layer = Dropout(0.5, seed=1)
    layer.build((None, 7))
    before = int(layer._step)
    plain = Dropout(0.5, seed=1)

    @tf.function(jit_compile=True)
    def call(inputs):
        return layer(inputs, training=True)

    for size in (3, 5):
        found = call(tf.ones([size, 7])).numpy()
        assert found.shape == (size, 7)
        assert set(np.unique(found)) <= {0.0, 2.0}
        assert draw(plain, (size, 7)).shape == found.shape
    assert int(layer._step) == before + 2


def test_its_config_makes_an_equal_layer():
    layer = Dropout(0.25, seed=5, name="d")
    again = tf.keras.layers.deserialize(tf.keras.layers.serialize(layer))
    assert isinstance(again, Dropout)
    np.testing.assert_array_equal(draw(again), draw(layer))


def test_the_highest_rates_are_finite():
    values = draw(Dropout(1 - 1e-9, seed=1))
    assert np.isfinite(values).all()


@pytest.mark.parametrize("rate", [1.0, -0.1, 2])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match="expected 0 <= rate < 1, found"):
        Dropout(rate)
