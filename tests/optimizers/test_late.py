"""Variables on terms of their own: NumPy and a second optimizer are the oracles."""

from __future__ import annotations

import numpy as np
import pytest

from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.optimizers.factory import build_optimizer, optimizer_classes
from tfr_pipeline.optimizers.late import Terms, check_start, set_terms

NAMES = sorted(optimizer_classes())


def gradients(steps: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(steps, 4)).astype(np.float32)


def after(optimizer, variable, steps) -> np.ndarray:
    for gradient in steps:
        optimizer.apply_gradients([(tf.constant(gradient), variable)])
    return variable.numpy()


@pytest.mark.parametrize("name", NAMES)
def test_a_rate_is_that_of_an_optimizer_with_it(name: str) -> None:
    args = {} if name == "ftrl" else {"weight_decay": 0.1}
    one, other = (tf.Variable([1.0, -2.0, 3.0, 0.5]) for _ in range(2))
    optimizer = build_optimizer(name, 0.1, 10, args=args)
    set_terms(optimizer, [(Terms(rate=0.25), [one])])
    optimizer.build([one])
    plain = build_optimizer(name, 0.025, 10, args=args)
    plain.build([other])
    found, wanted = (
        after(optimizer, one, gradients(5)),
        after(plain, other, gradients(5)),
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


# Nadam counts in Python when it is traced, and so is not the same twice.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "nadam"])
def test_who_starts_late_starts_as_anew(name: str) -> None:
    # Adam's bias correction is for moments that begin with the variable.
    early, late, fresh = (tf.Variable([1.0, -2.0, 3.0, 0.5]) for _ in range(3))
    optimizer = build_optimizer(name, 0.1, 10)
    set_terms(optimizer, [(Terms(start=50), [late])])
    optimizer.build([early, late])
    after(optimizer, early, gradients(50))
    plain = build_optimizer(name, 0.1, 10)
    plain.build([fresh])
    found = after(optimizer, late, gradients(3))
    np.testing.assert_allclose(found, after(plain, fresh, gradients(3)), rtol=1e-6)


def test_the_rate_follows_a_schedule_and_the_plateau() -> None:
    schedule = {"name": "piecewise", "boundaries": [0], "values": [1.0, 0.5]}
    for optimizer in (
        build_optimizer("sgd", 1.0, 10, schedule),
        build_optimizer("sgd", 1.0, 10),
    ):
        variable = tf.Variable([0.0])
        set_terms(optimizer, [(Terms(rate=0.1), [variable])])
        optimizer.build([variable])
        optimizer.apply_gradients([(tf.constant([1.0]), variable)])
        assert variable.numpy() == pytest.approx([-0.1])
        if not isinstance(
            optimizer._learning_rate, tf.keras.optimizers.schedules.LearningRateSchedule
        ):
            optimizer.learning_rate = 0.5
        optimizer.apply_gradients([(tf.constant([1.0]), variable)])
        assert variable.numpy() == pytest.approx([-0.15])


def test_replicas_decay_at_the_rate_of_the_variable() -> None:
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        one, other = tf.Variable(1.0), tf.Variable(1.0)
        optimizer = build_optimizer("sgd", 0.1, 10, args={"weight_decay": 0.5})
        set_terms(optimizer, [(Terms(rate=0.1), [other])])
        optimizer.build([one, other])

    @tf.function
    def step():
        zero = tf.constant(0.0)
        strategy.run(lambda: optimizer.apply_gradients([(zero, one), (zero, other)]))

    step()
    assert float(one.numpy()) == pytest.approx(0.95)
    assert float(other.numpy()) == pytest.approx(0.995)


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_an_optimizer_on_terms_is_saved_as_what_it_was(name: str) -> None:
    optimizer = build_optimizer(name, 0.1, 10)
    before, kind = optimizer.get_config(), type(optimizer)
    set_terms(optimizer, [(Terms(rate=0.1), [tf.Variable(1.0)])])
    saved = tf.keras.optimizers.serialize(optimizer)
    loaded = tf.keras.optimizers.deserialize(saved)
    assert issubclass(kind, type(loaded))
    assert loaded.get_config() == before


def test_legacy_optimizers_have_one_rate() -> None:
    with pytest.raises(ConfigError, match="one rate for all"):
        set_terms(tf.keras.optimizers.legacy.SGD(0.1), [])


def test_optimizers_that_would_lose_weights_are_refused() -> None:
    # What ftrl makes of a weight has little to do with it.
    weight = tf.Variable([5.0])
    ftrl = build_optimizer("ftrl", 1e-6, 10)
    ftrl.build([weight])
    assert abs(after(ftrl, weight, [np.float32([1.0])])[0]) < 5 * 0.8
    with pytest.raises(ConfigError, match="ftrl"):
        check_start(ftrl)
