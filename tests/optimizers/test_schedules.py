"""Schedules and optimizers by name, against formulas in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.pipeline.training_helpers import changed, fit, make_config
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.optimizers.factory import build_optimizer
from tfr_pipeline.optimizers.schedules import Schedule
from tfr_pipeline.pipeline.checks import check_warmup
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.run.callbacks import ReduceOnPlateau
from tfr_pipeline.pipeline.run.state import RunState

PEAK, TOTAL = 0.3, 100


def cosine_reference(step, warmup, final):
    progress = min(1.0, (step - warmup) / (TOTAL - warmup))
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def one_cycle_reference(step, rise, final):
    progress = step / TOTAL
    if progress < rise:
        return 1 - (1 - 1 / 25) * (1 + math.cos(math.pi * progress / rise)) / 2
    down = (progress - rise) / (1 - rise)
    return final + (1 - final) * (1 + math.cos(math.pi * down)) / 2


CURVES = {
    "constant": ({}, lambda step: 1.0),
    "cosine": ({}, lambda step: cosine_reference(step, 0, 0.0)),
    "cosine_with_end": (
        {"name": "cosine", "final": 0.1},
        lambda step: cosine_reference(step, 0, 0.1),
    ),
    "exponential": (
        {"decay_rate": 0.5, "decay_steps": 20},
        lambda step: 0.5 ** (step / 20),
    ),
    "piecewise": (
        {"boundaries": [10, 60], "values": [1.0, 0.5, 0.1]},
        lambda step: 1.0 if step <= 10 else 0.5 if step <= 60 else 0.1,
    ),
    "power": (
        {"decay_steps": 20, "power": 0.5},
        lambda step: (1 + step / 20) ** -0.5,
    ),
    "1cycle": ({}, lambda step: one_cycle_reference(step, 0.3, 1e-4)),
    "1cycle_late": (
        {"name": "1cycle", "rise": 0.6, "final": 0.01},
        lambda step: one_cycle_reference(step, 0.6, 0.01),
    ),
}


def rates(schedule, steps):
    return np.array([float(schedule(tf.constant(step, tf.int64))) for step in steps])


@pytest.mark.parametrize("case", CURVES)
def test_a_schedule_follows_its_formula(case):
    args, reference = CURVES[case]
    schedule = Schedule(args.get("name", case), PEAK, TOTAL, **_without_name(args))
    steps = [0, 1, 9, 10, 11, 29, 30, 31, 59, 60, 61, 99, 100]
    expected = [PEAK * reference(step) for step in steps]
    np.testing.assert_allclose(rates(schedule, steps), expected, rtol=1e-5, atol=1e-7)


def _without_name(args):
    return {key: value for key, value in args.items() if key != "name"}


@pytest.mark.parametrize("name", ["constant", "cosine"])
def test_warm_up_rises_linearly_and_the_curve_begins_after_it(name):
    schedule = Schedule(name, PEAK, TOTAL, warmup_steps=20)
    np.testing.assert_allclose(
        rates(schedule, range(20)), PEAK * np.arange(1, 21) / 20, rtol=1e-6
    )
    assert rates(schedule, [20])[0] == pytest.approx(PEAK)
    if name == "cosine":
        expected = [PEAK * cosine_reference(step, 20, 0.0) for step in (40, 60, 100)]
        np.testing.assert_allclose(
            rates(schedule, (40, 60, 100)), expected, rtol=1e-5, atol=1e-7
        )


def test_a_step_past_the_end_keeps_the_last_rate():
    schedule = Schedule("cosine", PEAK, TOTAL, final=0.1)
    assert rates(schedule, [TOTAL * 3])[0] == pytest.approx(0.1 * PEAK)


@pytest.mark.parametrize("case", CURVES)
def test_a_schedule_survives_serialisation(case):
    args = {"name": case, **CURVES[case][0]}
    schedule = Schedule(peak=PEAK, total_steps=TOTAL, warmup_steps=5, **args)
    serialized = tf.keras.optimizers.schedules.serialize(schedule)
    copy = tf.keras.optimizers.schedules.deserialize(serialized)
    steps = range(0, 101, 7)
    np.testing.assert_array_equal(rates(copy, steps), rates(schedule, steps))


def test_the_rate_of_a_schedule_arrives_in_the_steps_of_the_optimizer():
    schedule = {"name": "piecewise", "boundaries": [0, 2], "values": [1.0, 0.5, 0.0]}
    optimizer = build_optimizer("sgd", PEAK, TOTAL, schedule)
    variable = tf.Variable(0.0)
    moved = []
    for _ in range(5):
        before = float(variable)
        optimizer.apply_gradients([(tf.constant(1.0), variable)])
        moved.append(before - float(variable))
    np.testing.assert_allclose(
        moved, [PEAK, PEAK / 2, PEAK / 2, 0, 0], rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        ("adam", {"beta_1": 0.8, "amsgrad": True}),
        ("Adagrad", {"initial_accumulator_value": 0.5}),
        ("adamw", {"weight_decay": 0.1}),
        ("rmsprop", {"rho": 0.5}),
        ("ftrl", {"beta": 0.1}),
        ("Nadam", {}),
        ("adamax", {"epsilon": 0.1}),
        ("lion", {"beta_2": 0.9}),
    ],
)
def test_any_keras_optimizer_is_made_with_its_arguments(name, args):
    optimizer = build_optimizer(name, 0.25, TOTAL, args=args)
    assert type(optimizer).__name__.lower() == name.lower()
    config = optimizer.get_config()
    assert config["learning_rate"] == pytest.approx(0.25)
    assert {key: config[key] for key in args} == args


def _step(args, gradient):
    optimizer = build_optimizer("sgd", 1.0, TOTAL, args=args)
    variable = tf.Variable([1.0, 1.0])
    optimizer.build([variable])
    optimizer.apply_gradients([(tf.constant(gradient), variable)])
    return (1.0 - variable).numpy()


def test_clipping_by_norm_bounds_the_step():
    np.testing.assert_allclose(_step({}, [3.0, 4.0]), [3.0, 4.0])
    for key in ("clipnorm", "global_clipnorm"):
        np.testing.assert_allclose(_step({key: 1.0}, [3.0, 4.0]), [0.6, 0.8], 1e-6)


def test_clipping_by_value_bounds_each_number():
    np.testing.assert_allclose(_step({"clipvalue": 3.5}, [3.0, 4.0]), [3.0, 3.5])


def test_weight_decay_shrinks_weights_that_have_no_gradient():
    moved = _step({"weight_decay": 0.1}, [0.0, 0.0])
    np.testing.assert_allclose(moved, [0.1, 0.1], rtol=1e-6)


@pytest.mark.slow
def test_optimizer_settings_of_a_config_change_the_training(data, tmp_path):
    """A step of SGD moves the weights by rate times gradient, and no further."""

    def moved(**args):
        config = make_config(
            data,
            tmp_path / "unused",
            num_epochs=1,
            steps_per_epoch=1,
            optimizer="sgd",
            learning_rate=1.0,
            optimizer_args=args,
        )
        config = changed(config, model__scorer_args__use_batch_norm=False)
        pipeline = build_pipeline(config)
        tf.keras.utils.set_random_seed(7)
        first = pipeline._model_builder.build_packed().trainable_variables
        model, _ = fit(pipeline)
        pairs = zip(first, model.trainable_variables, strict=True)
        squares = [np.sum(np.square(a.numpy() - b.numpy())) for a, b in pairs]
        return math.sqrt(sum(squares))

    free = moved()
    assert free > 0.1
    assert moved(global_clipnorm=0.05) == pytest.approx(0.05, rel=1e-3)
    assert moved(weight_decay=0.5) != pytest.approx(free, rel=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_optimizer("adm", 1.0, 1), "did you mean 'adam'"),
        (lambda: build_optimizer(None, 1.0, 1), "unknown optimizer None"),
        (
            lambda: build_optimizer("sgd", 1.0, 1, args={"momentun": 0.9}),
            "unknown argument 'momentun' in optimizer sgd; did you mean 'momentum'",
        ),
        (lambda: build_optimizer("sgd", 1.0, 1, "cosin"), "did you mean 'cosine'"),
        (lambda: build_optimizer("sgd", 1.0, 1, "platau"), "did you mean 'plateau'"),
        (
            lambda: build_optimizer("sgd", 1.0, 1, {"name": "cosine", "finl": 0.1}),
            "unknown argument 'finl' in schedule 'cosine'; did you mean 'final'",
        ),
        (
            lambda: build_optimizer("sgd", 1.0, 1, {"name": "plateau", "factr": 0.1}),
            "unknown argument 'factr' in schedule 'plateau'; did you mean 'factor'",
        ),
        (
            lambda: build_optimizer("sgd", 1.0, 1, "exponential"),
            "'exponential': decay_steps is required",
        ),
        (
            lambda: build_optimizer(
                "sgd",
                1.0,
                1,
                {"name": "piecewise", "boundaries": [1], "values": [1.0]},
            ),
            "one value more than boundaries",
        ),
        (lambda: build_optimizer("sgd", 1.0, 1, {"final": 1.0}), "expected a 'name'"),
        (
            lambda: build_optimizer(
                "sgd", 1.0, 1, {"name": "plateau", "warmup_steps": 3}
            ),
            "cannot be combined with warm-up",
        ),
    ],
)
def test_an_unknown_or_missing_name_is_an_error_with_the_nearest(call, message):
    with pytest.raises(ConfigError) as caught:
        call()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"name": "cosine", "final": 1.5}, "final: expected a share of"),
        ({"name": "1cycle", "final": -5}, "final: .* from 0 to 1, found -5"),
        ({"name": "1cycle", "rise": 0}, "rise: .*above 0 and below 1, found 0"),
        ({"name": "1cycle", "rise": 1.5}, "rise: .*above 0 and below 1, found 1.5"),
        ({"name": "1cycle", "momentum": 0.9}, "momentum: .*0.95.*, found 0.9"),
        ({"name": "power", "decay_steps": 0}, "decay_steps: .*above 0, found 0"),
        ({"name": "power", "decay_steps": 5, "power": -1}, "power: .*from 0 on"),
        ({"name": "exponential", "decay_steps": -2}, "decay_steps: .*found -2"),
        ({"name": "exponential", "decay_steps": "x"}, "decay_steps: .*found 'x'"),
        (
            {"name": "exponential", "decay_steps": 2, "decay_rate": math.nan},
            "decay_rate: .*above 0, found nan",
        ),
        *(
            (
                {"name": "piecewise", "boundaries": steps, "values": [1, 1, 1]},
                r"boundaries: .*\[100, 200\], found",
            )
            for steps in ([4, 2], [2, 2], [-1, 2], 5, ["a", "b"])
        ),
        (
            {"name": "piecewise", "boundaries": [2], "values": [1, -1]},
            r"values: .*found \[1, -1\]",
        ),
        ({"name": "constant", "warmup_steps": -5}, "warmup_steps: .*found -5"),
        ({"name": "cosine", "warmup_steps": 2.5}, "warmup_steps: .*found 2.5"),
        ({"name": "cosine", "warmup_steps": True}, "warmup_steps: .*found True"),
        ({"name": "plateau", "factor": 2}, "factor: .*above 0 and below 1, found 2"),
        ({"name": "plateau", "patience": -1}, "patience: .*found -1"),
        ({"name": "plateau", "min_delta": -0.1}, "min_delta: .*found -0.1"),
        ({"name": "plateau", "min_rate": 0.5}, "min_rate: .*learning rate, 0.3, found"),
    ],
)
def test_an_argument_out_of_its_range_is_named(told, words):
    with pytest.raises(ConfigError, match=f"^schedule '{told['name']}': {words}"):
        build_optimizer("sgd", PEAK, TOTAL, told)


@pytest.mark.parametrize(
    "told",
    [
        {"name": "1cycle", "final": 0, "rise": 0.999, "warmup_steps": 2.0},
        {"name": "cosine", "final": 1},
        {"name": "exponential", "decay_rate": 1.1, "decay_steps": 0.5},
        {"name": "piecewise", "boundaries": (), "values": (0.0,)},
        {"name": "plateau", "factor": 0.999, "patience": 0, "min_rate": PEAK},
    ],
)
def test_the_ends_of_the_ranges_are_taken(told):
    rate = build_optimizer("sgd", PEAK, TOTAL, told).learning_rate
    assert np.isfinite(float(rate))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"weight_decay": "abc"}, "weight_decay: .*from 0 on, found 'abc'"),
        ({"weight_decay": -1}, "weight_decay: .*from 0 on, found -1"),
        ({"global_clipnorm": 0}, "global_clipnorm: .*above 0, found 0"),
        ({"clipnorm": -1.0}, "clipnorm: .*above 0, found -1.0"),
        ({"clipvalue": math.inf}, "clipvalue: .*above 0, found inf"),
        ({"beta_1": "x"}, "beta_1: expected a number, found 'x'"),
    ],
)
def test_an_argument_of_an_optimizer_that_cannot_be_is_named(args, words):
    with pytest.raises(ConfigError, match=rf"^optimizer_args\.{words}"):
        build_optimizer("adam", PEAK, TOTAL, args=args)


def test_none_is_taken_where_an_optimizer_takes_it():
    args = {"weight_decay": None, "clipnorm": None, "ema_overwrite_frequency": None}
    assert build_optimizer("rmsprop", PEAK, TOTAL, args=args).clipnorm is None


def test_a_warm_up_of_all_steps_is_warned_of_once_where_it_stands(recwarn):
    def said(total, **settings):
        hparams = PipelineHparams(
            model_dir="",
            num_epochs=1,
            steps_per_epoch=1,
            validation_steps=1,
            learning_rate=PEAK,
            loss="softmax_loss",
            **settings,
        )
        recwarn.clear()
        check_warmup(hparams, total)
        return [str(warning.message) for warning in recwarn]

    warm = {"name": "cosine", "warmup_steps": 20}
    for total, count in ((19, 1), (20, 1), (21, 0)):
        # The others have that schedule, too, and it is not named again.
        found = said(total, schedule=warm, optimizers={"a*": {"optimizer": "sgd"}})
        assert len(found) == count
    assert said(5, schedule="cosine") == said(5) == []
    (found,) = said(5, optimizers={"a*": {"schedule": warm}})
    assert found.startswith("optimizers['a*'].schedule.warmup_steps=20: training ends")


def test_plateau_reduces_the_rate_after_patience_epochs_and_not_below_the_least():
    model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(1,))])
    model.compile(tf.keras.optimizers.SGD(1.0), "mse")
    callback = ReduceOnPlateau(RunState(), factor=0.1, patience=2, min_rate=0.05)
    callback.set_model(model)
    seen = []
    for epoch, loss in enumerate([1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.5, 0.5, 0.5]):
        callback.on_epoch_end(epoch, {"val_loss": loss})
        seen.append(float(model.optimizer.learning_rate.numpy()))
    assert seen == pytest.approx([1, 1, 1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05])


def test_a_plateau_schedule_reduces_the_rate_of_a_run(data, tmp_path):
    config = make_config(
        data,
        tmp_path / "run",
        num_epochs=3,
        # No epoch is better by so much, so each one stalls.
        schedule={
            "name": "plateau",
            "warmup_steps": 0,
            "factor": 0.5,
            "patience": 1,
            "min_delta": 1e6,
        },
    )
    model = build_pipeline(config).train_and_validate()
    assert float(model.optimizer.learning_rate.numpy()) == pytest.approx(0.01 / 4)


def test_reduction_on_a_plateau_beside_a_schedule_is_refused_before_training(
    data, tmp_path
):
    config = make_config(
        data, tmp_path / "run", automatic_reduce_lr=True, schedule="cosine"
    )
    with pytest.raises(ConfigError, match=r"automatic_reduce_lr.*'cosine'"):
        build_pipeline(config).train_and_validate()
    assert not (tmp_path / "run").exists()
