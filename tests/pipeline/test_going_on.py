"""What a run that goes on must share with its beginning, and what it need not."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import types

import pytest

from tests.pipeline.training_helpers import changed, make_config, read_json, tree
from tfr_pipeline.compat import tf
from tfr_pipeline.data.batching import windowed
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.features import DEFAULT_MASK, Features
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.scorers import DNNScorer
from tfr_pipeline.pipeline import checks
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.run import data_fingerprint, peers
from tfr_pipeline.pipeline.run.directory import RunDirectory
from tfr_pipeline.pipeline.run.loop import go_on
from tfr_pipeline.pipeline.run.state import RunState
from tfr_pipeline.pipeline.simple import SimplePipeline


def claim_both(folder, before, after):
    """Claims a run directory as one config, then as another."""
    RunDirectory(str(folder)).claim(before)
    RunDirectory(str(folder)).claim(after)


@pytest.mark.parametrize(
    "free",
    [
        {"pipeline__num_epochs": 9},
        {"pipeline__checkpoint_every_steps": 5},
        {"pipeline__checkpoint_every_seconds": 60.0},
        {"pipeline__steps_per_execution": 1},
        {"data__dir": "./elsewhere"},
        {"data__cache": "/tmp/cache"},
        {"data__keep_document_ids": True},
        # A later version, or its config file, knows more settings.
        {"pipeline__optimizer_args": {}},
        {"pipeline__precision": None},
        {"pipeline__early_stopping_patience": 0},
        {"data__truncation": "first"},
        {"data__documents_per_batch": None},
        {"model__name": None},
    ],
)
def test_what_does_not_change_the_result_may_change(tmp_path, free):
    config = make_config("data", tmp_path / "run")
    claim_both(tmp_path / "a", config, changed(config, **free))
    claim_both(tmp_path / "b", changed(config, **free), config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pipeline.learning_rate", 0.5),
        ("pipeline.precision", "mixed_bfloat16"),
        ("pipeline.early_stopping_patience", 3),
        ("data.train_batch_size", 8),
        ("data.truncation", "sample"),
        ("model.scorer_args.dropout", 0.0),
        ("seed", 8),
    ],
)
def test_what_changes_the_result_is_refused_by_name(tmp_path, key, value):
    config = make_config("data", tmp_path / "run")
    other = changed(config, **{key.replace(".", "__"): value})
    for number, pair in enumerate([(config, other), (other, config)]):
        with pytest.raises(ConfigError, match=f"{key} is .* there and .* here"):
            claim_both(tmp_path / str(number), *pair)


@pytest.mark.slow
def test_a_script_with_another_batch_size_is_refused(data, tmp_path):
    features = Features.load(str(data))

    def pipeline(batch_size):
        return SimplePipeline(
            ModelBuilder(
                FeatureSpecInputCreator(features.context_spec, features.example_spec),
                {},
                DNNScorer(hidden_layer_dims=[8]),
                DEFAULT_MASK,
            ),
            SimpleDatasetBuilder.from_features(
                features,
                DatasetHparams(f"{data}/train-*", f"{data}/valid-*", batch_size, 8),
            ),
            PipelineHparams(
                model_dir=str(tmp_path / "run"),
                num_epochs=1,
                steps_per_epoch=1,
                validation_steps=1,
                learning_rate=0.1,
                loss="softmax_loss",
                seed=1,
            ),
        )

    first = pipeline(8)
    told = checks.described(first._hparams, first._dataset_builder)
    RunDirectory(str(tmp_path / "run")).claim(told)
    with pytest.raises(ConfigError, match=r"data\.train_batch_size is 8 there and 4"):
        pipeline(4).train_and_validate()


@pytest.fixture
def copies(data, finished, tmp_path):
    """A copy of the data, one of the run trained on it, and the run's config."""
    shutil.copytree(data, tmp_path / "data")
    shutil.copytree(finished[0]["model_dir"], tmp_path / "run")
    config = changed(
        finished[0], data__dir=str(tmp_path / "data"), model_dir=str(tmp_path / "run")
    )
    return tmp_path / "data", tmp_path / "run", config


def refused(run, config):
    before = tree(run)
    with pytest.raises(ConfigError) as error:
        build_pipeline(config).train_and_validate()
    assert tree(run) == before
    return str(error.value)


def test_a_run_does_not_go_on_with_other_data_unless_it_is_told_to(copies, capsys):
    data, run, config = copies
    shutil.copy(data / "train-00000-of-00002.tfrecord", data / "train-more.tfrecord")
    more = changed(config, pipeline__num_epochs=5)
    said = refused(run, more)
    assert "train: new train-more.tfrecord" in said
    assert "--accept_changed_data" in said
    with pytest.warns(UserWarning, match="train-more"):
        build_pipeline(more).train_and_validate(2, accept_changed_data=True)
    assert "going on from step 40 of 75" in capsys.readouterr().out
    assert read_json(run / "metrics.json")["step"] == 75
    # From now on that is the data of the run.
    (data / "train-more.tfrecord").unlink()
    assert "train: gone train-more.tfrecord" in refused(run, more)


def test_fewer_epochs_than_the_run_has_had_are_refused(copies):
    _, run, config = copies
    said = refused(run, changed(config, pipeline__num_epochs=3))
    assert "num_epochs: expected at least 4, found 3" in said
    assert "40 steps" in said


def test_an_evaluator_with_another_config_is_refused(copies, monkeypatch):
    """It would measure the checkpoints of a model that it does not know."""
    _, run, config = copies
    task = {"type": "evaluator", "index": 0}
    cluster = {"chief": ["a:1"], "worker": ["b:1"], "ps": ["c:1"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    other = changed(
        config,
        model__scorer_args__dropout=0.0,
        pipeline__strategy="ParameterServerStrategy",
    )
    (run / "config.json").write_text(
        json.dumps(changed(config, pipeline__strategy="ParameterServerStrategy"))
    )
    assert "model.scorer_args.dropout is 0.3 there" in refused(run, other)


class Interrupt(tf.keras.callbacks.Callback):
    """Presses Ctrl-C at a step."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 45:
            raise KeyboardInterrupt


def test_an_interrupted_run_says_how_to_go_on_even_without_its_best_weights(copies):
    _, run, config = copies
    for path in (run / "checkpoints").glob("best-*.index"):
        path.unlink()
    pipeline = build_pipeline(changed(config, pipeline__num_epochs=5))
    ours = pipeline.build_callbacks
    pipeline.build_callbacks = lambda: [Interrupt(), *ours()]
    with pytest.warns(UserWarning, match=r"best-.*cannot be exported"):
        with pytest.raises(KeyboardInterrupt, match=r"ckpt-40.* from step 40"):
            pipeline.train_and_validate()


def spoil_byte(data):
    path = data / "valid-00000-of-00001.tfrecord"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def swap(data):
    first, second = sorted(data.glob("train-*"))
    first.rename(data / "x")
    second.rename(first)
    (data / "x").rename(second)


def rename_features(data):
    described = json.loads((data / "features.json").read_text())
    (name,) = described["example"]
    described["example"][name]["columns"] = list("abcdefgh")
    (data / "features.json").write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: None, "^$"),
        (lambda data: [os.utime(path, (1, 1)) for path in data.iterdir()], "^$"),
        (lambda data: (data / "test-00000-of-00001.tfrecord").unlink(), "^$"),
        (spoil_byte, "valid: valid-00000-of-00001.tfrecord was"),
        (swap, "train: train-00000-of-00002.tfrecord was .* and 1 more"),
        (rename_features, r"features\.json: example\..*columns was"),
    ],
)
def test_data_is_told_by_what_is_in_it(data, tmp_path, change, message):
    config = make_config(data, tmp_path / "run")
    before = data_fingerprint.of_builder(build_pipeline(config)._dataset_builder)
    copy = pathlib.Path(shutil.copytree(data, tmp_path / "copy"))
    change(copy)
    config["data"]["dir"] = os.path.relpath(copy)
    after = data_fingerprint.of_builder(build_pipeline(config)._dataset_builder)
    found = data_fingerprint.difference(before, json.loads(json.dumps(after)))
    assert re.search(message, found), found


def worker(index, config, data=None):
    return {
        "task": f"worker {index}",
        "versions": {"tfr_pipeline": "1"},
        "settings": config,
        "data": data or {},
    }


def test_workers_that_were_told_the_same_agree(tmp_path):
    config = make_config("data", tmp_path / "run")
    other = changed(config, data__dir="/elsewhere", model_dir="other")
    assert peers.difference([worker(0, config), worker(1, other)]) == ""


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"settings": {"pipeline": {"num_epochs": 9}}}, "num_epochs is None"),
        ({"versions": {"tfr_pipeline": "2"}}, "tfr_pipeline is '1' for worker 0 and"),
        ({"data": {"train": {"a": "1 bytes, 0"}}}, "data of worker 2 .*train: new a"),
    ],
)
def test_the_worker_that_differs_is_named(other, message):
    base = {"pipeline": {"num_epochs": None}}
    workers = [worker(0, base), worker(1, base), {**worker(2, base), **other}]
    found = peers.difference(workers)
    assert "worker 2" in found
    assert re.search(message, found), found


@pytest.mark.parametrize(
    "content", ["5", "{", '{"data": 5}', '{"data": {"train": 5}}', '{"data": null}']
)
def test_notes_of_the_data_that_are_none_are_named(tmp_path, content):
    path = tmp_path / "environment.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=f"{path}: .*another model_dir"):
        RunDirectory(str(tmp_path)).check_data({"train": {"a": "7 bytes"}})


def test_a_run_whose_lists_would_come_in_another_order_is_refused(
    data, tmp_path, monkeypatch
):
    def training(epochs):
        config = make_config(data, tmp_path / "run", num_epochs=epochs)
        return build_pipeline(config).train()

    with monkeypatch.context() as patch:
        patch.setattr(windowed, "WINDOW", 1000)
        training(1)
        training(2)  # goes on
    # As with a number of workers that does not divide the shares.
    with pytest.raises(
        ConfigError, match=r"dealt .* into \d shares, .* there are none"
    ):
        training(3)


@pytest.mark.parametrize(("before", "after"), [(-2, 2), (2, -2), (-2, -4), (0, -2)])
def test_shares_of_whole_files_are_not_those_of_lists(before, after):
    stopped = types.SimpleNamespace(step=3, state=RunState(shares=before))
    hparams = PipelineHparams("run", 2, 10, 1, 0.1, "softmax_loss")
    with pytest.raises(ConfigError, match="2 shares of whole files"):
        go_on(stopped, 10, hparams, after)
