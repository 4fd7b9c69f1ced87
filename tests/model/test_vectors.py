"""Numbers as vectors, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from tests.model.test_models import MASK, batch, make
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.scorers import DNNScorer
from tfr_pipeline.model.steps.numeric import NothingToLearnError
from tfr_pipeline.model.steps.vectors import Periodic, PiecewiseLinear

SPEC = {f"x{i}": tf.io.FixedLenFeature((2,), tf.float32, [0.0] * 2) for i in range(2)}


def learnt(step, values):
    sketch = step.new_sketch()
    step.observe(sketch, tf.constant(values, tf.float32))
    return step.with_statistics(step.learn(sketch))


def test_bins_are_between_quantiles_and_linear_within():
    random = np.random.default_rng(0)
    train = np.stack([random.normal(size=501), random.exponential(size=501)], axis=1)
    values = np.stack([random.normal(size=40), random.normal(size=40)], axis=1)
    found = learnt(PiecewiseLinear(4), train)(tf.constant(values, tf.float32)).numpy()
    for column in range(2):
        edges = np.quantile(np.float32(train[:, column]), np.linspace(0, 1, 5))
        for i in range(4):
            wanted = np.interp(values[:, column], edges[i : i + 2], [0.0, 1.0])
            got = found[:, 4 * column + i]
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_equal_quantiles_leave_columns_without_a_bin():
    train = np.array([[0.0]] * 8 + [[1.0], [2.0]])
    step = learnt(PiecewiseLinear(4), train)
    found = step(tf.constant([[-1.0], [0.0], [0.5], [2.0], [np.inf]])).numpy()
    assert np.isfinite(found).all() and (found[:, -1] == 0.0).all()
    np.testing.assert_allclose(found.sum(axis=1)[:2], 0.0)
    assert found[2].sum() > 0.0
    np.testing.assert_array_equal(found[3], found[4])
    constant = learnt(PiecewiseLinear(3), np.ones([5, 1]))
    np.testing.assert_array_equal(constant(tf.constant([[7.0]])), [[0.0] * 3])


def test_missing_values_stay_missing_and_a_column_of_them_teaches_nothing():
    step = learnt(PiecewiseLinear(2), np.array([[1.0], [np.nan], [3.0]]))
    assert np.isnan(step(tf.constant([[np.nan]]))).all()
    assert np.isnan(Periodic(2)(tf.constant([[np.nan]]))).all()
    with pytest.raises(NothingToLearnError):
        learnt(PiecewiseLinear(2), np.full([3, 1], np.nan))


@pytest.mark.parametrize("dim", [None, 3])
def test_waves_have_the_frequencies_of_their_column(dim):
    step = Periodic(2, sigma=0.5, dim=dim)
    x = np.random.default_rng(1).normal(size=(6, 3))
    found = step(tf.constant(x, tf.float32)).numpy()
    weights = [weight.numpy() for weight in step.weights]
    for column in range(3):
        phase = 2 * np.pi * x[:, column, None] * weights[0][column]
        wanted = np.concatenate([np.sin(phase), np.cos(phase)], axis=1)
        if dim:
            wanted = np.maximum(wanted @ weights[1][column] + weights[2][column], 0.0)
        k = wanted.shape[1]
        got = found[:, column * k : (column + 1) * k]
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_frequencies_begin_with_their_deviation():
    step = Periodic(500, sigma=0.3)
    step(tf.ones([1, 20]))
    assert np.std(step.weights[0]) == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_models_train_frequencies_in_both_layouts(layout):
    steps = {"x0": Periodic(3, dim=4), "x1": Periodic(3, dim=4)}
    builder = make(DNNScorer(hidden_layer_dims=[4]), {}, SPEC, steps)
    assert "packed" in builder.layouts
    model = builder.build_packed() if layout == "packed" else builder.build()
    packed, padded = batch({}, SPEC)
    features = packed if layout == "packed" else padded
    (frequencies,) = [w for w in model.trainable_weights if "frequencies" in w.name]
    assert frequencies.shape == (4, 3)
    with tf.GradientTape() as tape:
        scores = model(features, training=True)
        scores = scores.values if layout == "packed" else scores[features[MASK]]
        total = tf.reduce_sum(scores**2)
    assert np.abs(tape.gradient(total, frequencies)).max() > 0.0


@pytest.mark.parametrize(
    ("make_step", "words"),
    [
        (lambda: PiecewiseLinear(0), "piecewise_linear: expected a whole number"),
        (lambda: Periodic(2.5), "periodic: expected a whole number"),
        (lambda: Periodic(sigma=0.0), "periodic: expected sigma > 0, found 0.0"),
        (lambda: Periodic(dim=0), "periodic: dim: expected a whole number"),
    ],
)
def test_arguments_that_cannot_be_are_errors(make_step, words):
    with pytest.raises(ConfigError, match=words):
        make_step()
