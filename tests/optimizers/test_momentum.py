"""1cycle with a momentum that cycles, against loops in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.optimizers.factory import build_optimizer
from tfr_pipeline.optimizers.late import Terms, set_terms
from tfr_pipeline.optimizers.schedules import Schedule

TOTAL, LEAST, MOST = 20, 0.8, 0.95
CYCLE = {"name": "1cycle", "momentum": [LEAST, MOST]}
GRADIENTS = np.random.default_rng(0).normal(size=[TOTAL, 3]).astype(np.float32)


def momentum(step):
    progress = step / TOTAL
    if progress < 0.3:
        start, end, share = MOST, LEAST, progress / 0.3
    else:
        start, end, share = LEAST, MOST, (progress - 0.3) / 0.7
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def train(optimizer, weight):
    @tf.function
    def step(gradient):
        optimizer.apply_gradients([(gradient, weight)])

    optimizer.build([weight])
    for gradient in GRADIENTS:
        step(tf.constant(gradient))
    return weight.numpy()


def rates():
    schedule = Schedule("1cycle", 0.1, TOTAL)
    return [float(schedule(step)) for step in range(TOTAL)]


def test_it_is_least_where_the_rate_is_highest():
    schedule = Schedule("1cycle", 0.1, TOTAL, momentum=[LEAST, MOST])
    found = [float(schedule.momentum(step)) for step in range(TOTAL + 1)]
    np.testing.assert_allclose(found, [momentum(s) for s in range(TOTAL + 1)], 1e-5)
    assert np.argmin(found) == np.argmax(rates())
    assert found[0] == pytest.approx(MOST) and found[-1] == pytest.approx(MOST)
    again = Schedule.from_config(schedule.get_config())
    assert float(again.momentum(7)) == found[7]


def test_gradient_descent_takes_the_momentum_of_the_step():
    args = {"momentum": 0.9}
    found = train(
        build_optimizer("sgd", 0.1, TOTAL, CYCLE, args), tf.Variable(np.zeros(3, "f4"))
    )
    weight = velocity = np.zeros(3)
    for step, (gradient, rate) in enumerate(zip(GRADIENTS, rates(), strict=True)):
        velocity = momentum(step) * velocity - rate * gradient
        weight = weight + velocity
    np.testing.assert_allclose(found, weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_takes_the_momentum_of_the_step(name):
    optimizer = build_optimizer(name, 0.1, TOTAL, CYCLE, {"weight_decay": 0.0})
    before = optimizer.get_config()["beta_1"]
    found = train(optimizer, tf.Variable(np.zeros(3, "f4")))
    assert optimizer.get_config()["beta_1"] == before
    weight = first = second = np.zeros(3)
    for step, (gradient, rate) in enumerate(zip(GRADIENTS, rates(), strict=True)):
        beta = momentum(step)
        first = beta * first + (1 - beta) * gradient
        second = 0.999 * second + 0.001 * gradient**2
        scale = rate * math.sqrt(1 - 0.999 ** (step + 1)) / (1 - beta ** (step + 1))
        weight = weight - scale * first / (np.sqrt(second) + 1e-7)
    np.testing.assert_allclose(found, weight, rtol=1e-3, atol=1e-5)


def test_variables_on_terms_of_their_own_cycle_with_the_others():
    weights = []
    for terms in ([], [(Terms(rate=1.0, start=0), [0])]):
        weight = tf.Variable(np.zeros(3, "f4"))
        optimizer = build_optimizer("sgd", 0.1, TOTAL, CYCLE, {"momentum": 0.9})
        set_terms(optimizer, [(own, [weight]) for own, _ in terms])
        weights.append(train(optimizer, weight))
    np.testing.assert_array_equal(*weights)


@pytest.mark.parametrize(
    ("name", "told", "message"),
    [
        ("adam", [0.9], r"such as \[0.85, 0.95\], found \[0.9\]"),
        ("adam", [0.95, 0.85], "its least and its highest value"),
        ("sgd", [0.85, 0.95], "expected an optimizer with beta_1, or SGD with a mom"),
        ("adagrad", [0.85, 0.95], "found Adagrad"),
        ("rmsprop", [0.85, 0.95], "found RMSprop"),
    ],
)
def test_what_cannot_cycle_is_named(name, told, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer(name, 0.1, TOTAL, {"name": "1cycle", "momentum": told})
