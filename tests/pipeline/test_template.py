"""Runs are exported without their code, their config and their data."""

from __future__ import annotations

import pathlib
import shutil

import numpy as np
import pytest

from tests.pipeline.training_helpers import read_json
from tfr_pipeline.cli.main import main
from tfr_pipeline.compat import tf
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.features import DEFAULT_MASK, Features
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.scorers import UnivariateScorer
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.run import template
from tfr_pipeline.pipeline.run.actions import every_epoch
from tfr_pipeline.pipeline.simple import SimplePipeline
from tfr_pipeline.serving.predictor import Predictor


class Steps(tf.keras.layers.Layer):
    """A table of one's own: which step of a stair a value stands on has a height."""

    def build(self, shape):
        self.height = self.add_weight("height", (16,), initializer="uniform")
        keys, values = tf.range(8, dtype=tf.int64), tf.range(15, 7, -1, tf.int64)
        table = tf.lookup.KeyValueTensorInitializer(keys, values)
        self.table = tf.lookup.StaticHashTable(table, 0)

    def call(self, value):
        step = self.table.lookup(tf.cast(tf.abs(value) * 4, tf.int64))
        return tf.gather(self.height, step)


class MyScorer(UnivariateScorer):
    def _score_flattened(self, context_features, example_features):
        rest = [example_features[name] for name in sorted(example_features)]
        rest = tf.keras.layers.Concatenate()([*rest, Steps()(rest[0])])
        hidden = tf.keras.layers.Dense(6, "relu")(rest)
        hidden = tf.keras.layers.BatchNormalization(momentum=0.5)(hidden)
        return tf.cast(tf.keras.layers.Dense(1)(hidden), tf.float32)


class MyBuilder(ModelBuilder):
    """Puts a weight of its own beside what scorers make."""

    def preprocess(self, context_inputs, example_inputs, mask):
        context, example = super().preprocess(context_inputs, example_inputs, mask)
        scale = tf.keras.layers.Dense(1, use_bias=False, name="scale")
        return context, {**example, "first": scale(next(iter(example.values())))}


class Stop(Exception):
    pass


def pipeline_in(folder, data, stop_in=None, **hparams):
    """Returns a pipeline of parts that no config names."""
    features = Features.load(str(data))

    def stop(epoch, logs):
        if epoch == stop_in:
            raise Stop

    return SimplePipeline(
        MyBuilder(
            FeatureSpecInputCreator(features.context_spec, features.example_spec),
            dict.fromkeys(list(features.example)[:3], tf.math.asinh),
            MyScorer(),
            DEFAULT_MASK,
        ),
        SimpleDatasetBuilder.from_features(
            features, DatasetHparams(f"{data}/train-*", f"{data}/valid-*", 8, 8)
        ),
        PipelineHparams(
            model_dir=str(folder),
            num_epochs=3,
            steps_per_epoch=None,
            validation_steps=None,
            learning_rate=0.1,
            loss="softmax_loss",
            metrics=("ndcg_10",),
            seed=3,
            export_best_model=True,
            callbacks=(lambda: every_epoch(stop),),
            **hparams,
        ),
    )


def last_step(run):
    """Returns the number of steps of the newest checkpoint."""
    found = (run / "checkpoints").glob("ckpt-*.index")
    return max(int(index.stem.removeprefix("ckpt-")) for index in found)


def scores(path, lists):
    return Predictor(str(path)).score(lists)


HPARAMS = {"precision": "mixed_bfloat16"}


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
    """A run of ones own parts that had one epoch."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Stop):
        pipeline_in(run, data, stop_in=1, **HPARAMS).train_and_validate()
    return run


def test_a_stopped_run_of_ones_own_parts_is_exported_when_its_data_has_gone(
    stopped, data, tmp_path, capsys
):
    again = pipeline_in(stopped, data, **HPARAMS)
    lists = again._dataset_builder.lists("valid", "packed")
    # The oracle: the code of the run makes the model, and exports it by itself.
    again.export_checkpoint(str(tmp_path / "wanted"))
    again.export_checkpoint(str(tmp_path / "wanted_best"), best=True)
    # What is left of the run: no config that tells of code and data.
    run = tmp_path / "run"
    shutil.copytree(stopped / "checkpoints", run / "checkpoints")

    evaluate = f"--data={data}/test-*"
    assert main(["evaluate", f"--model={run}", evaluate]) == 1
    assert f"tfr-pipeline export --run={run}" in capsys.readouterr().err
    for name, flags in (("", []), ("_best", ["--best"])):
        output = tmp_path / f"found{name}"
        assert main(["export", f"--run={run}", f"--output={output}", *flags]) == 0
        assert (output / str(last_step(run)) / "saved_model.pb").exists()
        wanted = scores(tmp_path / f"wanted{name}", lists)
        np.testing.assert_allclose(scores(output, lists), wanted, rtol=1e-6)
        assert not list(output.rglob("places.json"))
    assert main(["evaluate", f"--model={output}", evaluate]) == 0
    assert "ndcg@10" in capsys.readouterr().out


def test_a_run_that_goes_on_exports_what_it_has_become(stopped, data, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    pipeline = pipeline_in(run, data, **HPARAMS)
    pipeline.train_and_validate()
    lists = pipeline._dataset_builder.lists("valid", "packed")
    path = template.export(str(run), str(tmp_path / "found"))
    assert pathlib.Path(path).name == str(read_json(run / "metrics.json")["step"])
    latest = scores(run / "export" / "latest_model", lists)
    np.testing.assert_array_equal(scores(path, lists), latest)
    assert last_step(run) > last_step(stopped)


@pytest.mark.parametrize(
    ("spoilt", "content"),
    [
        ("saved_model.pb", "[[1"),
        ("assets.extra/places.json", "[[1"),
        # With no place, or one for two, a weight would be that of the template.
        ("assets.extra/places.json", "[]"),
        ("assets.extra/places.json", "{}"),
        ("assets.extra/places.json", '[["a"], ["a"]]'),
    ],
)
def test_a_damaged_template_is_named(finished, tmp_path, capsys, spoilt, content):
    shutil.copytree(finished[0]["model_dir"], tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints" / "template"
    (folder / spoilt).write_text(content)
    flags = [f"--run={tmp_path}/run", f"--output={tmp_path}/out"]
    assert main(["export", *flags]) == 1
    folder = folder if spoilt == "assets.extra/places.json" else tmp_path / "out"
    assert f"error: {folder}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["index", "data-00000-of-00001"])
def test_a_cut_template_is_named(finished, tmp_path, capsys, name):
    shutil.copytree(finished[0]["model_dir"], tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints" / "template"
    path = folder / "variables" / f"variables.{name}"
    path.write_bytes(path.read_bytes()[:-1])
    flags = [f"--run={tmp_path}/run", f"--output={tmp_path}/out"]
    assert main(["export", *flags]) == 1
    assert f"error: {folder}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_latest_and_best_checkpoint_give_what_the_run_exported(finished, tmp_path):
    config, _ = finished
    for best, name in ((False, "latest_model"), (True, "best_model_by_metric")):
        path = template.export(config["model_dir"], str(tmp_path / name), best)
        lists = build_pipeline(config)._dataset_builder.lists("valid", "packed")
        export = pathlib.Path(config["model_dir"]) / "export" / name
        np.testing.assert_array_equal(scores(path, lists), scores(export, lists))
