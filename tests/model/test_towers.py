"""Fused normalisation and stacked towers against Keras's layers, one by one."""

from __future__ import annotations

import numpy as np
import pytest

from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.layers.normalization import BatchNormalization, CenteredDense
from tfr_pipeline.model.layers.towers import StackedTowers, create_tower

keras = tf.keras.layers


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(1.0, 2.0, shape).astype(np.float32)


def run(function, x, variables):
    """Returns the output, and the gradients of a sum that weighs its elements."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
        loss = tf.reduce_sum(y * normal(*y.shape, seed=9))
    return [y, *tape.gradient(loss, [x, *variables])]


@pytest.mark.parametrize("dims", [5, "64", [0], [8, -1], [2.5], [None]])
def test_units_that_are_no_list_of_numbers_are_refused(dims):
    for tower in (lambda: create_tower(dims, 1), lambda: StackedTowers(dims)):
        with pytest.raises(ConfigError, match="hidden_layer_dims: expected numbers"):
            tower()


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("documents", [1, 50])
def test_the_fused_normalisation_is_that_of_keras(documents, scale):
    x = normal(documents, 6)
    results = []
    for cls in (BatchNormalization, keras.BatchNormalization):
        layer = cls(momentum=0.8, scale=scale, center=scale)
        layer.build((None, 6))
        if scale:
            layer.gamma.assign(normal(6, seed=1))
            layer.beta.assign(normal(6, seed=2))
        function = tf.function(lambda x, layer=layer: layer(x, training=True))
        found = run(function, x, layer.trainable_variables)
        found += [layer.moving_mean, layer.moving_variance, layer(x, training=False)]
        results.append(found)
    assert_close(*results)


def test_a_frozen_normalisation_uses_its_moving_statistics():
    layer = BatchNormalization()
    layer.build((None, 3))
    layer.trainable = False
    x = normal(20, 3)
    np.testing.assert_allclose(layer(x, training=True), x / np.sqrt(1.001), rtol=1e-5)
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(3))


def test_the_bias_before_a_normalisation_stays_where_it_is():
    tower = create_tower([5], 1, activation="relu", dropout=0.0)
    tower(normal(4, 3))
    dense = tower.layers[0]
    assert isinstance(dense, CenteredDense)
    dense.bias.assign(normal(5))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tower(normal(30, 3), training=True) ** 2)
    gradients = tape.gradient(loss, [dense.bias, dense.kernel])
    np.testing.assert_array_equal(gradients[0], np.zeros(5))
    assert np.abs(gradients[1]).max() > 0
    # It counts at inference, where the moving statistics contain it.
    expected = normal(4, 3) @ dense.kernel.numpy() + dense.bias.numpy()
    np.testing.assert_allclose(dense(normal(4, 3)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("features", [1, 7, 40])
def test_stacked_towers_train_as_towers_of_keras(features, width):
    dims = [16, 8]
    x = normal(60, features, width)
    stacked = StackedTowers(dims, "relu", batch_norm_moment=0.8, dropout=0.0)
    stacked.build((None, features, width))
    for norm in stacked._norms:
        norm.gamma.assign(normal(*norm.gamma.shape, seed=4))
        norm.beta.assign(normal(*norm.beta.shape, seed=5))
    function = tf.function(lambda x: stacked(x, training=True))
    found = run(function, x, stacked._kernels)

    towers, kernels = [], []
    for number in range(features):
        layers = []
        for i, units in enumerate([*dims, 1]):
            layers.append(keras.Dense(units))
            if i < len(dims):
                layers.append(keras.BatchNormalization(momentum=0.8))
                layers.append(keras.Activation("relu"))
        tower = tf.keras.Sequential(layers)
        tower.build((None, width))
        for i, kernel in enumerate(stacked._kernels):
            layers[3 * i].kernel.assign(kernel[number])
        for i, norm in enumerate(stacked._norms):
            part = slice(number * dims[i], (number + 1) * dims[i])
            layers[3 * i + 1].gamma.assign(norm.gamma[part])
            layers[3 * i + 1].beta.assign(norm.beta[part])
        towers.append(tower)
        kernels.append([layers[3 * i].kernel for i in range(3)])

    def side_by_side(x, training=True):
        parts = [tower(x[:, i], training=training) for i, tower in enumerate(towers)]
        return tf.concat(parts, axis=1)

    flat = [kernel for tower in kernels for kernel in tower]
    y, dx, *rest = run(side_by_side, x, flat)
    stacks = [tf.stack(rest[i::3]) for i in range(3)]
    assert_close(found, [y, dx, *stacks])
    # The moving statistics agree too: inference gives the same.
    assert_close([stacked(x, training=False)], [side_by_side(x, training=False)])


def test_stacked_towers_come_back_from_their_config():
    layer = StackedTowers([4, 3], "relu", use_batch_norm=False, dropout=0.1)
    again = StackedTowers.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
