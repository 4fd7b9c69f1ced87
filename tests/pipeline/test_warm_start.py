"""Runs that begin with weights of another; its checkpoint, by hand, is the oracle."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal

import numpy as np
import pytest

from tests.pipeline.training_helpers import (
    changed,
    make_config,
    read_history,
    read_json,
)
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError, DataError, RunError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.features import Feature
from tfr_pipeline.pipeline.run import initial_weights
from tfr_pipeline.pipeline.warm_start import WarmStart

TOWER = "model/layer_with_weights-0"
# Of the model of `make_config`, by hand: the layers of its tower, in order.
LAYERS = {
    "centered_dense": (0, "kernel bias"),
    "batch_normalization": (1, "gamma beta moving_mean moving_variance"),
    "dense": (3, "kernel bias"),
}
KEYS = {
    f"sequential/{layer}/{weight}": f"layer_with_weights-{number}/{weight}"
    for layer, (number, weights) in LAYERS.items()
    for weight in weights.split()
}
HEAD = [name for name in KEYS if "/dense/" in name]


def build(config):
    """Returns the model of a config, and the features of its data, without a run."""
    pipeline = build_pipeline(config)
    layout = pipeline._layout()
    return pipeline._compile(layout, 1), pipeline._dataset_builder.features


def values(model) -> dict[str, np.ndarray]:
    return {name: v.numpy() for name, v in initial_weights._variables(model).items()}


def of_checkpoint(path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(path))
    return {
        name: reader.get_tensor(f"{TOWER}/{key}/.ATTRIBUTES/VARIABLE_VALUE")
        for name, key in KEYS.items()
    }


def take(config, model=None, features=None, **told):
    """Takes weights into a model; returns them and what was said."""
    found, described = build(config)
    model = model or found
    taken = initial_weights.take(model, WarmStart.of(told), features or described)
    return values(model), taken


def assert_same(found, wanted) -> None:
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


@pytest.fixture(scope="module")
def run(finished):
    config, _ = finished
    return config["model_dir"]


@pytest.fixture
def fresh(data, tmp_path):
    return make_config(data, tmp_path / "warm")


def best_step(run) -> int:
    metrics = read_json(f"{run}/metrics.json")
    assert metrics["best_step"] != metrics["step"]
    return metrics["best_step"]


@pytest.mark.parametrize("kind", ["checkpoint", "latest export", "version"])
def test_weights_are_those_of_the_checkpoint(run, fresh, kind) -> None:
    step = read_json(f"{run}/metrics.json")["step"]
    place = {
        "checkpoint": f"{run}/checkpoints/ckpt-{step}",
        "latest export": f"{run}/export/latest_model",
        "version": f"{run}/export/latest_model/{step}",
    }[kind]
    found, taken = take(fresh, **{"from": place})
    assert_same(found, of_checkpoint(f"{run}/checkpoints/ckpt-{step}"))
    assert (taken.names, taken.anew, taken.left) == (list(KEYS), [], [])


def test_a_run_stands_for_its_best_epoch(run, fresh) -> None:
    found, taken = take(fresh, **{"from": run})
    assert taken.path == f"{run}/checkpoints/best-{best_step(run)}"
    exported, _ = take(fresh, **{"from": f"{run}/export/best_model_by_metric"})
    assert_same(found, exported)


def test_a_run_that_kept_no_best_epoch_stands_for_its_last(run, fresh, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    for path in (copy / "checkpoints").glob("best-*"):
        path.unlink()
    step = read_json(f"{run}/metrics.json")["step"]
    found, _ = take(fresh, **{"from": str(copy)})
    assert_same(found, of_checkpoint(copy / "checkpoints" / f"ckpt-{step}"))


def test_layers_without_names_are_known_in_any_process(run, fresh) -> None:
    for _ in range(3):  # Keras now counts from another number
        build(fresh)
    step = read_json(f"{run}/metrics.json")["step"]
    found, _ = take(fresh, **{"from": f"{run}/checkpoints/ckpt-{step}"})
    assert_same(found, of_checkpoint(f"{run}/checkpoints/ckpt-{step}"))


def test_another_head_begins_anew_where_it_is_excluded(run, fresh) -> None:
    config = changed(fresh, model__scorer_args__hidden_layer_dims=[8, 4])
    with pytest.raises(ConfigError, match="other numbers of layers without a name"):
        take(config, **{"from": run})
    excluded = ["*", "!*dense_1", "!*normalization_1", "!*/dense"]
    model, _ = build(config)
    before = values(model)
    found, taken = take(config, model, **{"from": run, "layers": excluded})
    wanted, _ = take(fresh, **{"from": run})
    for name in found:
        same = wanted if name in taken.names else before
        np.testing.assert_array_equal(found[name], same[name])
    assert taken.names == [name for name in KEYS if name not in HEAD]
    assert set(taken.anew) == found.keys() - set(taken.names)
    assert "anew: " in str(taken) and "6 of 14 weights" in str(taken)


def test_what_does_not_fit_is_named(run, fresh) -> None:
    config = changed(fresh, model__scorer_args__hidden_layer_dims=[9])
    with pytest.raises(ConfigError) as error:
        take(config, **{"from": run})
    assert "centered_dense/kernel is (8, 9) here and (8, 8) there" in str(error.value)
    assert "'!sequential/centered_dense/kernel'" in str(error.value)


def test_what_is_not_there_and_what_is_left_is_named(run, fresh) -> None:
    inputs = tf.keras.Input((8,))
    named = tf.keras.layers.Dense(1, name="head")(inputs)
    model = tf.keras.Model(
        inputs, tf.keras.layers.Dense(8, name="centered_dense")(inputs) + named
    )
    with pytest.raises(ConfigError, match="head/kernel is not there"):
        take(fresh, model, **{"from": run})
    _, taken = take(fresh, model, **{"from": run, "layers": "!head"})
    assert taken.names == ["centered_dense/kernel", "centered_dense/bias"]
    assert "dense/kernel" in taken.left and "left there: " in str(taken)


@pytest.mark.parametrize("change", ["new", "gone", "other columns or types"])
def test_other_features_are_named_unless_their_readers_begin_anew(run, fresh, change):
    _, features = build(fresh)
    example = dict(features.example)
    if change == "new":
        example["zz"] = Feature()
    elif change == "gone":
        example.pop(next(iter(example)))
    else:
        name = next(iter(example))
        example[name] = dataclasses.replace(example[name], columns=("other",))
    features = dataclasses.replace(features, example=example)
    with pytest.raises(ConfigError) as error:
        take(fresh, features=features, **{"from": run})
    name = "zz" if change == "new" else next(iter(build(fresh)[1].example))
    assert f"{change}: {name}" in str(error.value)
    assert "sequential/centered_dense would read" in str(error.value)
    told = {"from": run, "layers": ["*", "!sequential/centered_dense"]}
    _, taken = take(fresh, features=features, **told)
    assert len(taken.names) == len(KEYS) - 2


def test_normalised_columns_are_still_those_columns(run, fresh) -> None:
    """What normalises each column leaves them to the next layer."""
    from tfr_pipeline.pipeline.run import reading

    inputs = tf.keras.Input((8,), name="documents_float32")
    tower = tf.keras.Sequential(name="tower")
    tower.add(tf.keras.layers.BatchNormalization(name="norm"))
    tower.add(tf.keras.layers.Dense(2, name="first"))
    tower.add(tf.keras.layers.Dense(2, name="second"))
    other = tf.keras.Input((2,), name="other")
    both = tf.concat([tower(inputs), tf.keras.layers.Dense(1, name="apart")(other)], 1)
    model = tf.keras.Model([inputs, other], tf.keras.layers.Dense(1, name="head")(both))
    found = list(reading._readers(model, {"documents_float32"}))
    assert found == ["tower/norm", "tower/first"]
    assert list(reading._readers(model, {"other"})) == ["apart"]


@pytest.mark.parametrize(
    ("told", "kind", "text"),
    [
        ({"from": "nowhere"}, DataError, "nowhere"),
        ({"layers": "encoder"}, ConfigError, "'encoder' names no weight"),
        ({"layers": ["*", "!sequential"]}, ConfigError, "exclude all weights"),
    ],
)
def test_bad_places_and_names_are_errors(run, fresh, told, kind, text) -> None:
    with pytest.raises(kind, match=text):
        take(fresh, **{"from": run, **told})


def test_weights_of_one_name_are_not_mixed_up(run, fresh) -> None:
    class Pair(tf.keras.layers.Layer):
        def build(self, shape):
            names = ("centered_dense/kernel", "centered_dense/kernel")
            self.both = [self.add_weight(name, shape=(8, 8)) for name in names]

        def call(self, inputs):
            return inputs @ self.both[0] @ self.both[1]

    inputs = tf.keras.Input((8,))
    model = tf.keras.Model(inputs, Pair(name="pair")(inputs))
    for variable in model.weights:
        variable._handle_name = "centered_dense/kernel:0"
    with pytest.raises(ConfigError, match="not the only one of its name"):
        take(fresh, model, **{"from": run})


def test_frozen_layers_that_begin_anew_are_warned_of(run, fresh) -> None:
    told = {"from": run, "layers": ["*", "!*dense"], "frozen": "*dense"}
    with pytest.warns(UserWarning, match="sequential/dense/kernel.* begin anew"):
        take(fresh, **told)


def test_weights_that_are_not_finite_are_refused(fresh, tmp_path) -> None:
    model, _ = build(fresh)
    model.weights[0].assign(tf.fill(model.weights[0].shape, np.nan))
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "broken"))
    with pytest.raises(DataError, match="not finite"):
        take(fresh, **{"from": path})


def test_checkpoints_of_other_kinds_are_errors(fresh, tmp_path) -> None:
    path = str(tmp_path / "names")
    tf.raw_ops.SaveV2(
        prefix=path, tensor_names=["a"], shape_and_slices=[""], tensors=[tf.ones([1])]
    )
    with pytest.raises(DataError, match="expected a checkpoint of TensorFlow 2"):
        take(fresh, **{"from": path})


def test_workers_that_find_other_weights_are_told(run, fresh) -> None:
    model, features = build(fresh)
    with pytest.raises(RunError, match="another worker"):
        initial_weights.take(
            model, WarmStart.of({"from": run}), features, lambda value: value + 1
        )


def warm_config(data, folder, run, **pipeline):
    told = {
        "from": str(run),
        "frozen": "*batch_normalization",
        "unfreeze_epoch": 2,
        "unfreeze_rate": 0.1,
    }
    return make_config(data, folder, warm_start=told, **pipeline)


class Interrupt(tf.keras.callbacks.Callback):
    """Sends SIGTERM to this process after a step."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("step", [15, pytest.param(25, marks=pytest.mark.slow)])
def test_an_interrupted_run_goes_on_from_its_own_checkpoint(run, data, tmp_path, step):
    whole = build_pipeline(warm_config(data, tmp_path / "whole", run)).train()
    gone = tmp_path / "gone"
    shutil.copytree(run, gone)
    config = warm_config(data, tmp_path / "parts", gone)
    pipeline = build_pipeline(config)
    ours = pipeline.build_callbacks
    pipeline.build_callbacks = lambda: [Interrupt(step), *ours()]
    with pytest.raises(SystemExit) as end:
        pipeline.train()
    assert end.value.code == 143
    shutil.rmtree(gone)
    model = build_pipeline(config).train()
    for one, other in zip(whole.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    began = read_json(tmp_path / "parts" / "environment.json")["warm_start"]
    assert began == f"warm start: 8 of 8 weights from {gone}/checkpoints/best-" + str(
        best_step(run)
    )
    assert len(read_history(tmp_path / "parts")) == 3


def test_another_warm_start_is_another_run(run, data, tmp_path) -> None:
    config = warm_config(data, tmp_path / "run", run, num_epochs=1)
    with pytest.warns(UserWarning, match="unfreeze_epoch=2 has no effect"):
        build_pipeline(config).train()
    other = changed(config, pipeline__warm_start__frozen="*dense")
    with pytest.raises(ConfigError, match=r"holds another run: .*frozen"):
        build_pipeline(other).train()


def test_a_dry_run_says_what_would_be_taken(run, data, tmp_path) -> None:
    lines = build_pipeline(warm_config(data, tmp_path / "run", run)).dry_run()
    assert any(line.startswith("warm start: 8 of 8 weights") for line in lines)
    assert any(
        line.startswith("layers: sequential, sequential/centered_dense")
        for line in lines
    )
    assert not (tmp_path / "run").exists()


def test_a_failed_warm_start_leaves_no_run_behind(data, tmp_path) -> None:
    config = warm_config(data, tmp_path / "run", tmp_path / "nowhere")
    with pytest.raises(DataError):
        build_pipeline(config).train()
    assert not (tmp_path / "run" / "config.json").exists()


def test_optimizers_that_would_lose_the_weights_are_refused(run, data, tmp_path):
    config = make_config(
        data, tmp_path / "run", optimizer="ftrl", warm_start={"from": run}
    )
    with pytest.raises(ConfigError, match="ftrl"):
        build_pipeline(config).train()
