"""Frozen layers: bit-equal for every optimizer, in every epoch in which they are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.layers.towers import create_tower
from tfr_pipeline.model.ranking_model import RankingModel
from tfr_pipeline.optimizers.factory import optimizer_classes
from tfr_pipeline.pipeline.compilation import compile_model
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.run.freezing import Freezing
from tfr_pipeline.pipeline.warm_start import WarmStart

STEPS = 3
# With every kind of state that could move a weight whose gradient is 0.
ARGS = {
    "adadelta": {},
    "adafactor": {},
    "adagrad": {},
    "adam": {"weight_decay": 0.1},
    "adamax": {},
    "adamw": {"weight_decay": 0.1},
    "ftrl": {},
    "lion": {"weight_decay": 0.1},
    "nadam": {},
    "rmsprop": {"momentum": 0.9, "centered": True},
    "sgd": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
}


def make_hparams(**values) -> PipelineHparams:
    told = {"num_epochs": 4, "learning_rate": 0.1, "steps_per_execution": 2, **values}
    return PipelineHparams(
        "unused", steps_per_epoch=STEPS, validation_steps=None, loss="x", **told
    )


def make_model(kind=RankingModel, **layer) -> tf.keras.Model:
    tf.keras.utils.set_random_seed(5)
    inputs = tf.keras.Input((3,))
    encoder = create_tower([4], 4, "relu", name="encoder")
    hidden = tf.keras.layers.Dense(4, name="middle")
    for name, value in layer.items():
        setattr(hidden, name, value)
    head = tf.keras.layers.Dense(1, name="head")
    return kind(inputs, head(hidden(encoder(inputs))))


class Remember(tf.keras.callbacks.Callback):
    """Keeps the weights before each epoch and at the end, by name."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def keep(self):
        weights = self.model.weights
        assert all(v.trainable for v in self.model.layers[1].trainable_variables)
        self.epochs.append({v.name: v.numpy() for v in weights})

    def on_epoch_begin(self, epoch, logs=None):
        self.keep()

    def on_train_end(self, logs=None):
        self.keep()


def train(model, hparams, loss="mse") -> list[dict[str, np.ndarray]]:
    compile_model(
        model, hparams, STEPS * hparams.num_epochs, loss, None, None, check_loss=True
    )
    random = np.random.default_rng(0)
    x, y = random.normal(size=(24, 3)) + 2.0, random.normal(size=(24, 1))
    remember = Remember()
    freezing = Freezing(model, WarmStart.of(hparams.warm_start))
    model.fit(
        x,
        y,
        batch_size=8,
        shuffle=False,
        epochs=hparams.num_epochs,
        callbacks=[*freezing.callbacks(None), remember],
        verbose=0,
    )
    return remember.epochs


def moved(before, after, part) -> bool:
    """Whether a weight of a layer, counters aside, is another one; all or none are."""
    found = {
        not np.array_equal(before[name], after[name])
        for name in before
        if name.startswith(part) and "step" not in name and "bias" not in name
    }
    assert len(found) == 1, part
    return found.pop()


def parts(frozen: str) -> list[str]:
    return (
        ["centered_dense", "batch_norm", "dense"] if frozen == "encoder" else [frozen]
    )


def test_all_optimizers_are_looked_at() -> None:
    assert ARGS.keys() == optimizer_classes().keys()


@pytest.mark.parametrize("name", ARGS)
def test_frozen_layers_are_bit_equal(name: str) -> None:
    told = {"frozen": "encoder*"}
    hparams = make_hparams(
        optimizer=name, optimizer_args=ARGS[name], warm_start=told, num_epochs=2
    )
    if name == "ftrl":
        with pytest.raises(ConfigError, match="ftrl"):
            train(make_model(), hparams)
        return
    epochs = train(make_model(), hparams)
    for part in parts("encoder"):
        assert not moved(epochs[0], epochs[-1], part)
    assert moved(epochs[0], epochs[-1], "head")
    assert moved(epochs[0], epochs[-1], "middle")


@pytest.mark.parametrize("kind", [RankingModel, tf.keras.Model])
def test_layers_train_from_the_epoch_that_was_asked_for(kind) -> None:
    told = {"frozen": "encoder", "unfreeze_epoch": 2}
    epochs = train(make_model(kind), make_hparams(warm_start=told))
    for part in parts("encoder"):
        pairs = itertools.pairwise(epochs)
        assert [moved(*pair, part) for pair in pairs] == [False, False, True, True]
    assert moved(epochs[0], epochs[1], "head")


@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_the_first_step_is_as_large_as_the_rate_says(name: str, epoch: int) -> None:
    steps = {}
    for rate in (1.0, 0.1):
        told = {"frozen": "middle", "unfreeze_epoch": epoch, "unfreeze_rate": rate}
        # One step an execution: the callback looks at weights after each.
        hparams = make_hparams(
            optimizer=name, warm_start=told, num_epochs=epoch + 1, steps_per_execution=1
        )
        model, kept = make_model(), []
        kernel = model.get_layer("middle").kernel
        watch = tf.keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda *_, k=kernel, kept=kept: kept.append(k.numpy())
        )
        compile_model(model, hparams, STEPS * (epoch + 1), "mse", None, None, True)
        freezing = Freezing(model, WarmStart.of(told))
        x = np.random.default_rng(0).normal(size=(24, 3)) + 2.0
        model.fit(
            x,
            x[:, :1],
            batch_size=8,
            shuffle=False,
            epochs=epoch + 1,
            callbacks=[*freezing.callbacks(None), watch],
            verbose=0,
        )
        first = epoch * STEPS
        assert all(np.array_equal(kept[0], value) for value in kept[: first + 1])
        steps[rate] = kept[first + 1] - kept[first]
    assert np.abs(steps[1.0]).max() > 0
    np.testing.assert_allclose(steps[0.1], 0.1 * steps[1.0], rtol=1e-3, atol=1e-7)
    if name == "adam":  # its first step has the size of the learning rate
        assert np.abs(steps[1.0]).max() == pytest.approx(0.1, rel=1e-3)


def test_a_layer_may_ask_for_itself() -> None:
    model = make_model(unfreeze_epoch=1, unfreeze_rate=0.5)
    epochs = train(model, make_hparams(num_epochs=2))
    assert not moved(epochs[0], epochs[1], "middle")
    assert moved(epochs[1], epochs[2], "middle")
    assert moved(epochs[0], epochs[1], "head")


def test_the_setting_counts_more_than_the_layer() -> None:
    model = make_model(unfreeze_epoch=0, unfreeze_rate=0.5)
    epochs = train(model, make_hparams(num_epochs=1, warm_start={"frozen": "middle"}))
    assert not moved(epochs[0], epochs[1], "middle")


@pytest.mark.parametrize("frozen", [False, True])
def test_a_bias_trains_in_front_of_a_frozen_normalisation(frozen: bool) -> None:
    # One that trains subtracts the bias with the mean, and there is no gradient.
    told = {"frozen": "encoder/batch_normalization" if frozen else "middle"}
    epochs = train(make_model(), make_hparams(num_epochs=1, warm_start=told))
    (name,) = (n for n in epochs[0] if n.startswith("centered") and "bias" in n)
    assert np.any(epochs[0][name] != epochs[1][name]) == frozen


def test_layers_that_a_user_froze_stay_so() -> None:
    model = make_model()
    inner = model.get_layer("encoder").layers[0]
    inner.trainable = False
    told = {"frozen": "encoder", "unfreeze_epoch": 1}
    compile_model(model, make_hparams(warm_start=told), 12, "mse", None, None, True)
    (freeze,) = Freezing(model, WarmStart.of(told)).callbacks(None)
    freeze.set_model(model)
    model.make_train_function()
    freeze.on_epoch_begin(0)
    model.train_function(
        iter(tf.data.Dataset.from_tensors(([[1.0] * 3], [1.0])).repeat())
    )
    assert not inner.trainable
    assert model.get_layer("encoder").layers[-1].trainable


def test_what_never_trains_takes_no_room_in_the_optimizer() -> None:
    sizes = {}
    for epoch in (None, 1):
        told = {"frozen": "encoder", "unfreeze_epoch": epoch}
        model = make_model()
        compile_model(model, make_hparams(warm_start=told), 12, "mse", None, None, True)
        sizes[epoch] = sum(v.shape.num_elements() for v in model.optimizer.variables)
    frozen = sum(
        v.shape.num_elements() for v in model.get_layer("encoder").trainable_variables
    )
    assert sizes[1] - sizes[None] == 2 * frozen


def test_without_the_setting_nothing_is_added() -> None:
    model = make_model()
    compile_model(model, make_hparams(), 12, "mse", None, None, True)
    assert type(model.optimizer).__mro__[0].__module__ == "tfr_pipeline.optimizers.adam"
    assert Freezing(model, WarmStart()).callbacks(None) == []


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ({"frozen": "encodre*"}, "unknown layers 'encodre\\*'.*Known: .*encoder"),
        ({"frozen": "*"}, "all layers"),
        ({"frozen": ["encoder", "!hed"]}, "unknown layers '!hed'"),
    ],
)
def test_bad_names_are_named(told, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        train(make_model(), make_hparams(warm_start=told))


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ("run", "expected a dict"),
        ({"form": "run"}, "unknown key 'form'.*'from'"),
        ({"from": 3}, "warm_start.from: expected the path"),
        ({"from": "run", "layers": 3}, "warm_start.layers: expected a glob"),
        ({"from": "run", "layers": ["!"]}, "warm_start.layers: expected a glob"),
        ({"frozen": "a", "unfreeze_epoch": -1}, "unfreeze_epoch: expected a number"),
        ({"frozen": "a", "unfreeze_epoch": 1.5}, "unfreeze_epoch: expected a number"),
        (
            {"frozen": "a", "unfreeze_epoch": 1, "unfreeze_rate": 0.0},
            "unfreeze_rate: expected a positive",
        ),
        ({"layers": "a"}, "layers: it has no effect without warm_start.from"),
        ({"unfreeze_epoch": 1}, "no effect without warm_start.frozen"),
        ({"frozen": "a", "unfreeze_rate": 0.1}, "without warm_start.unfreeze_epoch"),
    ],
)
def test_settings_that_cannot_be_are_errors(told, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make_hparams(warm_start=told)


def test_a_warm_start_from_nowhere_is_none() -> None:
    # As a config has it whose `from` is given on the command line.
    assert WarmStart.of({"from": None, "frozen": ()}) == WarmStart()
