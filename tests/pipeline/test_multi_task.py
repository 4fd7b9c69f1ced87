"""Several tasks: losses, weights, the best epoch by one task, exports by name."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import pathlib

import numpy as np
import pytest

import tfr_pipeline
from builders.multi_task import MultiTaskModelBuilder, SharedBottomScorer
from tests.metrics.query_files import means, read_rows
from tests.pipeline import training_helpers
from tests.pipeline.multi_task_data import FEATURES, LABEL, make_config, make_data
from tests.pipeline.training_helpers import (
    changed,
    read_history,
    read_json,
    untimed,
)
from tests.replicas import run_on_devices
from tfr_pipeline.cli.main import main
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.features import DEFAULT_MASK, Feature, Features
from tfr_pipeline.metrics.evaluation import evaluate_lists
from tfr_pipeline.model.builders import AbstractModelBuilder, ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.scorers import DNNScorer
from tfr_pipeline.pipeline.datasets.base import NullDatasetBuilder
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.multi_label import MultiLabelDatasetBuilder
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.multi_task import MultiTaskPipeline
from tfr_pipeline.pipeline.run import template
from tfr_pipeline.pipeline.simple import SimplePipeline
from tfr_pipeline.serving.predictor import Predictor
from tfr_pipeline.serving.versions import numbers

TASKS = ("relevance", "click")
LOSSES = {"relevance": "softmax_loss", "click": "sigmoid_cross_entropy_loss"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data") / "plain")


@pytest.fixture(scope="module")
def weighted_data(tmp_path_factory):
    """The same with weights of documents and of lists."""
    one = Feature("float32", (1,), 1.0)
    features = dataclasses.replace(
        FEATURES, weight=("weight", one), list_weight=("list_weight", one)
    )
    return make_data(tmp_path_factory.mktemp("data") / "weighted", features)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run of the example that has ended; its files must not be changed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    # So high that the last epoch is not the best one.
    config = make_config(data, folder, learning_rate=1.0, num_epochs=6)
    return config, build_pipeline(config).train_and_validate()


def make_scorer():
    return SharedBottomScorer(
        TASKS, [8, 4], activation="tanh", use_batch_norm=False, dropout=0.0
    )


def parts(data, model_dir, scorer=None, dataset=None, features=FEATURES, **hparams):
    """Returns the arguments of a small pipeline without anything random."""
    model = ModelBuilder(
        FeatureSpecInputCreator(features.context_spec, features.example_spec),
        {},
        scorer or make_scorer(),
        DEFAULT_MASK,
    )
    dataset = dataset or MultiLabelDatasetBuilder.from_features(
        features, DatasetHparams(f"{data}/train-*", f"{data}/valid-*", 24, 8)
    )
    settings = {
        "num_epochs": 2,
        "steps_per_epoch": None,
        "validation_steps": None,
        "learning_rate": 0.01,
        "loss": LOSSES,
        "metrics": ("ndcg_5",),
        "seed": 3,
        **hparams,
    }
    return model, dataset, PipelineHparams(model_dir=str(model_dir), **settings)


def run(*arguments, **keywords):
    """Trains; returns the rows of the history."""
    pipeline = MultiTaskPipeline(*parts(*arguments, **keywords))
    pipeline.train_and_validate()
    return read_history(pipeline._hparams.model_dir)


def fit(*arguments, **keywords):
    """Trains without a run directory; returns the model and the rows of the history."""
    return training_helpers.fit(MultiTaskPipeline(*parts(*arguments, **keywords)))


def test_checkpoints_of_several_tasks_are_exported_without_code_and_data(
    finished, tmp_path
):
    run = pathlib.Path(finished[0]["model_dir"])
    lists = build_pipeline(finished[0])._dataset_builder.lists("valid", "packed")
    found = Predictor(template.export(str(run), str(tmp_path))).score_tasks(lists)
    latest = Predictor(str(run / "export" / "latest_model")).score_tasks(lists)
    assert found.keys() == latest.keys() and len(found) > 1
    for task, scores in found.items():
        np.testing.assert_array_equal(scores, latest[task])


def test_the_best_epoch_is_that_of_one_task(finished):
    config, _ = finished
    history = read_history(config["model_dir"])
    key = "val_relevance_metric/ndcg_10"
    best = max(history, key=lambda row: row[key])
    # Neither the last epoch nor the one with the least loss.
    assert best["step"] != history[-1]["step"]
    assert best["step"] != min(history, key=lambda row: row["val_loss"])["step"]
    metrics = read_json(os.path.join(config["model_dir"], "metrics.json"))
    assert metrics["best_step"] == best["step"]
    assert metrics["best_value"] == pytest.approx(best[key], rel=1e-6)
    found = metrics["valid"]["relevance"]["ndcg@10"]["skip"]
    assert found == pytest.approx(best[key], rel=1e-4)


def test_the_export_scores_by_task_as_the_model_in_memory(finished):
    config, model = finished
    lists = build_pipeline(config)._dataset_builder.lists("valid", "packed")
    block = tf.RaggedTensor.from_row_splits(lists.values["float32"], lists.row_splits)
    wanted = model({"documents_float32": block}, training=False)
    predictor = Predictor(os.path.join(config["model_dir"], "export", "latest_model"))
    assert predictor.tasks == TASKS
    found = predictor.score_tasks(lists)
    for task in TASKS:
        np.testing.assert_allclose(
            found[task], wanted[task].values, rtol=1e-5, atol=1e-6
        )
        np.testing.assert_array_equal(found[task], predictor.score(lists, task=task))
    assert np.abs(found["click"] - found["relevance"]).max() > 1e-3
    with pytest.raises(ConfigError, match=r"several scores .*; expected one of relev"):
        predictor.score(lists)
    with pytest.raises(ConfigError, match="did you mean 'click'"):
        predictor.score(lists, task="clik")


def test_metrics_are_by_task(finished):
    config, _ = finished
    metrics = read_json(os.path.join(config["model_dir"], "metrics.json"))
    predictor = Predictor(config["model_dir"])
    for split in ("valid", "test"):
        assert set(metrics[split]) == set(TASKS)
        lists = build_pipeline(config)._dataset_builder.lists(split, "packed")
        for number, task in enumerate(TASKS):
            wanted = evaluate_lists(
                lists.labels[:, number],
                predictor.score(lists, task=task),
                lists.row_splits,
            )
            found = metrics[split][task]
            assert found["documents"] == wanted["documents"]
            assert found["ndcg@5"]["skip"] == pytest.approx(wanted["ndcg@5"]["skip"])
    rows = read_rows(os.path.join(config["model_dir"], "per_query.parquet"))
    for split, task in itertools.product(("valid", "test"), TASKS):
        some = [r for r in rows if (r["split"], r["task"]) == (split, task)]
        assert sum(r["documents"] for r in some) == metrics[split][task]["documents"]
        found = means(some)["ndcg@5"]["zero"]
        assert found == pytest.approx(metrics[split][task]["ndcg@5"]["zero"])
    documents = [metrics["valid"][task]["documents"] for task in TASKS]
    assert documents[1] < documents[0]  # not every document has a click label


def test_commands_know_tasks(finished, data, tmp_path, capsys):
    config, _ = finished
    words = [f"--model={config['model_dir']}", f"--data={data}/test-*"]
    output = tmp_path / "test.json"
    assert main(["evaluate", *words, "--baselines", f"--output={output}"]) == 0
    metrics = read_json(os.path.join(config["model_dir"], "metrics.json"))
    found = read_json(output)
    assert found["click"] == metrics["test"]["click"]
    assert set(found["baselines"]) == set(TASKS)
    assert "task click" in capsys.readouterr().out
    ranking = tmp_path / "ranking.tsv"
    words = [
        f"--model={config['model_dir']}",
        f"--input={data}/test-*",
        "--input_format=elwc",
        f"--output={ranking}",
    ]
    assert main(["predict", *words]) == 2
    assert "expected one of relevance, click" in capsys.readouterr().err
    assert not ranking.exists()
    assert main(["predict", *words, "--task=click"]) == 0
    lists = build_pipeline(config)._dataset_builder.lists("test", "packed")
    scores = Predictor(config["model_dir"]).score(lists, task="click")
    written = [row.split("\t") for row in ranking.read_text().splitlines()]
    np.testing.assert_allclose(
        np.sort([float(row[3]) for row in written]), np.sort(scores), rtol=1e-6
    )


@pytest.mark.slow  # as test_resume, with several tasks
def test_a_run_that_goes_on_later_ends_the_same(finished, data, tmp_path):
    whole, _ = finished
    config = changed(whole, model_dir=str(tmp_path), pipeline__num_epochs=3)
    build_pipeline(config).train_and_validate()
    build_pipeline(changed(config, pipeline__num_epochs=6)).train_and_validate()
    for row, other in zip(
        read_history(tmp_path), read_history(whole["model_dir"]), strict=True
    ):
        assert untimed(row) == untimed(other)
    found, wanted = (
        read_json(os.path.join(folder, "metrics.json"))
        for folder in (tmp_path, whole["model_dir"])
    )
    for key in ("valid", "test", "best_step", "best_value"):
        assert found[key] == wanted[key]


def test_training_stops_by_the_metric_of_a_task(data, tmp_path):
    config = make_config(
        data,
        tmp_path / "run",
        num_epochs=30,
        learning_rate=1e-9,
        early_stopping_patience=2,
        early_stopping_min_delta=0.01,
        best_exporter_metric="click/loss",
        best_exporter_metric_higher_better=False,
    )
    build_pipeline(config).train_and_validate()
    assert len(read_history(tmp_path / "run")) == 3
    stopped = read_json(tmp_path / "run/metrics.json")["stopped"]
    assert "no better val_click_loss" in stopped


def dense(value, fill):
    return value.to_tensor(fill) if isinstance(value, tf.RaggedTensor) else value


@pytest.mark.parametrize("loss_weights", [None, 0.5, {"click": 3.0}])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_the_loss_is_the_weighted_sum_of_tf_rankings(
    weighted_data, tmp_path, layout, loss_weights
):
    config = make_config(
        weighted_data, tmp_path, loss=LOSSES, loss_weights=loss_weights, layout=layout
    )
    pipeline = build_pipeline(config)
    model = pipeline._compile(layout, 1)
    batches = pipeline._dataset_builder.make_dataset("valid", layout)
    found = model.evaluate(batches, return_dict=True, verbose=0)
    ((features, labels, weights),) = batches
    scores = model(features, training=False)
    total = 0.0
    for task in TASKS:
        wanted = tfr.keras.losses.get(LOSSES[task])(
            dense(labels[task], -1.0), dense(scores[task], 0.0), dense(weights, 0.0)
        )
        assert found[f"{task}_loss"] == pytest.approx(float(wanted), rel=1e-5)
        weight = loss_weights or 1.0
        total += (
            weight.get(task, 1.0) if isinstance(weight, dict) else weight
        ) * float(wanted)
    assert found["loss"] == pytest.approx(total, rel=1e-5)


def test_packed_and_padded_batches_train_alike(weighted_data, tmp_path):
    rows = {}
    for layout in ("packed", "padded"):
        config = make_config(
            weighted_data, tmp_path / layout, layout=layout, num_epochs=2
        )
        # Batch normalisation would see the padding.
        config["model"]["builder"] = f"{__name__}:plain_builder"
        config["model"]["builder_args"] = {}
        pipeline = build_pipeline(config)
        rows[layout] = training_helpers.fit(pipeline)[1][-1]
        assert pipeline._layout() == layout
    for key, value in rows["packed"].items():
        assert rows["padded"][key] == pytest.approx(value, rel=1e-3), key


def plain_builder(features):
    return parts("", "", features=features, dataset=object())[0]


@pytest.mark.slow  # as test_global_batch, with a loss a task
def test_two_replicas_train_as_one(data, tmp_path):
    config = make_config(
        data,
        tmp_path / "two",
        num_epochs=2,
        loss="softmax_loss",  # a mean over lists, of which each replica has half
        strategy="MirroredStrategy",
    )
    config["model"].update(builder=f"{__name__}:plain_builder", builder_args={})
    code = """
import json, sys
from tfr_pipeline.experiment.build import build_pipeline
pipeline = build_pipeline(json.loads(sys.argv[1]))
print(pipeline._feed.replicas)
pipeline.train_and_validate()
"""
    assert run_on_devices(2, code, json.dumps(config)).split() == ["2"]
    one = build_pipeline(changed(config, pipeline__strategy=None))
    wanted, found = training_helpers.fit(one)[1][-1], read_history(tmp_path / "two")[-1]
    for key in ("loss", "click_loss", "val_loss", "val_relevance_metric/ndcg_10"):
        assert found[key] == pytest.approx(wanted[key], rel=1e-3), key


@pytest.mark.slow
def test_a_task_of_weight_zero_learns_nothing(data):
    starts, ends = (
        fit(data, "", loss_weights={"relevance": 0.0}, learning_rate=rate)[0]
        for rate in (1e-30, 0.01)
    )
    same = {
        before.name
        for before, after in zip(starts.weights, ends.weights, strict=True)
        if np.array_equal(before, after)
    }
    assert same == {"head_relevance/kernel:0", "head_relevance/bias:0"}


@pytest.mark.slow  # the sum itself is held against TF-Ranking's
def test_weights_shift_what_is_learned(data):
    ends = [
        fit(data, "", loss_weights=weights, num_epochs=20)[1][-1]
        for weights in ({"click": 0.01}, {"relevance": 0.01})
    ]
    assert ends[0]["relevance_loss"] < ends[1]["relevance_loss"]
    assert ends[0]["click_loss"] > ends[1]["click_loss"]


@pytest.mark.slow
def test_weights_of_documents_and_lists_reach_losses_and_metrics(data, weighted_data):
    (plain, *_), (weighted, *_) = (
        fit(folder, "", features=Features.load(str(folder)), use_weighted_metrics=True)[
            1
        ]
        for folder in (data, weighted_data)
    )
    for task in TASKS:
        assert weighted[f"{task}_loss"] != pytest.approx(plain[f"{task}_loss"], 1e-3)
        metric, key = f"val_{task}_metric/ndcg_5", f"val_{task}_weighted_metric/ndcg_5"
        assert 0 < weighted[key] < 1
        assert weighted[key] != pytest.approx(weighted[metric], rel=1e-3)
        assert plain[key] == pytest.approx(plain[metric], rel=1e-6)


class SetWeights(ModelBuilder):
    """Gives every weight a value that depends on nothing but its place."""

    def build(self):
        model = super().build()
        for number, weight in enumerate(model.weights):
            random = np.random.default_rng(number)
            weight.assign(random.normal(scale=0.3, size=weight.shape))
        return model


class InOrder(tfr.keras.pipeline.MultiLabelDatasetBuilder):
    """Trains on every list once an epoch; theirs shuffles several epochs into one."""

    def build_train_dataset(self):
        pattern = self._hparams.train_input_pattern
        return self._build_dataset(pattern, 24, randomize_input=False)


def counting_zero(build):
    """Returns the metrics that `build` makes, with the convention of TF-Ranking."""
    made = build()
    for metric in tf.nest.flatten(made):
        metric.without_relevant = "zero"
    return made


@pytest.mark.skipif(
    tuple(map(int, tf.__version__.split(".")[:2])) >= (2, 16),
    reason="TF-Ranking's own pipeline runs with TensorFlow 2.15",
)
def test_training_is_tf_rankings(data, tmp_path):
    one = tf.io.FixedLenFeature((1,), tf.float32, 1.0)
    logs = {}
    for name, keras, builder in (
        ("theirs", tfr.keras, InOrder),
        ("ours", tfr_pipeline.keras, MultiLabelDatasetBuilder),
    ):
        scorer = make_scorer()
        inputs = FeatureSpecInputCreator({}, FEATURES.example_spec)
        model = SetWeights(inputs, {}, scorer, DEFAULT_MASK)
        dataset = builder(
            {},
            FEATURES.example_spec,
            DEFAULT_MASK,
            FEATURES.labels_spec,
            keras.pipeline.DatasetHparams(f"{data}/train-*", f"{data}/valid-*", 24, 8),
            ("weight", one),
        )
        hparams = keras.pipeline.PipelineHparams(
            model_dir=str(tmp_path / name),
            num_epochs=3,
            steps_per_epoch=1,
            validation_steps=1,
            learning_rate=0.05,
            loss=LOSSES,
            loss_weights={"relevance": 0.5, "click": 2.0},
            steps_per_execution=1,
            use_weighted_metrics=True,
        )
        pipeline = keras.pipeline.MultiTaskPipeline(model, dataset, hparams)
        if name == "ours":
            # Of lists without relevant documents TF-Ranking knows one convention.
            for build in ("build_metrics", "build_weighted_metrics"):
                made = getattr(pipeline, build)
                setattr(pipeline, build, functools.partial(counting_zero, made))
        history = tf.keras.callbacks.History()
        pipeline.build_callbacks = lambda own=pipeline.build_callbacks, h=history: [
            h,
            *own(),
        ]
        pipeline.train_and_validate()
        logs[name] = history.history
    keys = set(logs["ours"])
    assert {"loss", "click_loss", "val_click_metric/ndcg_5"} <= keys
    assert keys <= set(logs["theirs"])
    for key in keys:
        # TF-Ranking breaks ties by chance; there are none here.
        np.testing.assert_allclose(
            logs["ours"][key], logs["theirs"][key], rtol=1e-4, err_msg=key
        )


def test_one_loss_serves_all_tasks(data):
    _, several = fit(data, "", loss="softmax_loss")
    _, by_name = fit(data, "", loss=dict.fromkeys(TASKS, "softmax_loss"))
    assert several == by_name


def test_the_simple_pipeline_takes_several_labels_too(data, tmp_path):
    arguments = parts(
        data,
        tmp_path / "run",
        loss="softmax_loss",
        export_best_model=True,
        best_exporter_metric="click/ndcg_5",
        best_exporter_metric_higher_better=True,
    )
    SimplePipeline(*arguments).train_and_validate()
    history = read_history(tmp_path / "run")
    best = max(row["val_click_metric/ndcg_5"] for row in history)
    found = read_json(tmp_path / "run/metrics.json")["best_value"]
    assert found == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "click/metric/ndcg_5",
        "click/ndcg_5",
        "click/ndcg@5",
        "click_metric/ndcg_5",
        "val_click_metric/ndcg_5",
    ],
)
def test_a_metric_of_a_task_has_several_names(data, tmp_path, name):
    pipeline = MultiTaskPipeline(
        *parts(
            data,
            tmp_path / "run",
            export_best_model=True,
            best_exporter_metric=name,
            best_exporter_metric_higher_better=True,
        )
    )
    pipeline._compile(pipeline._layout(), 1)
    assert pipeline._monitor() == "val_click_metric/ndcg_5"


def test_settings_may_be_by_task(data):
    _, (row,) = fit(
        data,
        "",
        num_epochs=1,
        metrics={"click": ("mrr",), "relevance": ("ndcg_3", "arp")},
        loss_args={"relevance": {"temperature": 0.5}},
    )
    found = {key for key in row if "metric" in key}
    assert found == {
        "val_click_metric/mrr",
        "val_relevance_metric/ndcg_3",
        "val_relevance_metric/arp",
    }
    _, (plain,) = fit(data, "", num_epochs=1)
    assert plain["relevance_loss"] != pytest.approx(row["relevance_loss"], rel=1e-3)
    assert plain["click_loss"] == pytest.approx(row["click_loss"], rel=1e-3)


class AcrossTheList(AbstractModelBuilder):
    """A plain Keras model of a user's, whose output layers are not called by task."""

    def build(self):
        features = tf.keras.Input((None, 6), name="features")
        mask = tf.keras.Input((None,), name=DEFAULT_MASK, dtype=tf.bool)
        scores = {
            task: tf.keras.layers.Dense(1)(features)[:, :, 0] + 0.0 for task in TASKS
        }
        return tf.keras.Model({"features": features, DEFAULT_MASK: mask}, scores)


def test_outputs_are_called_by_their_keys_not_by_their_layers(data, tmp_path):
    _, dataset, hparams = parts(data, tmp_path / "run")
    MultiTaskPipeline(AcrossTheList(), dataset, hparams).train_and_validate()
    row = read_history(tmp_path / "run")[0]
    assert {"click_loss", "val_relevance_metric/ndcg_5"} <= set(row)
    predictor = Predictor(str(tmp_path / "run"))
    assert predictor.tasks == TASKS


def test_datasets_made_elsewhere_train(data, tmp_path):
    _, made, _ = parts(data, tmp_path)
    dataset = NullDatasetBuilder(
        made.make_dataset("train", "padded"), made.make_dataset("valid", "padded")
    )
    row = run(
        data,
        tmp_path / "run",
        dataset=dataset,
        loss="softmax_loss",
        steps_per_epoch=1,
        num_epochs=1,
    )[0]
    assert {"click_loss", "relevance_loss"} <= set(row)


def test_tf_rankings_dataset_builder_is_taken(data, tmp_path):
    theirs = tfr.keras.pipeline
    dataset = theirs.MultiLabelDatasetBuilder(
        {},
        FEATURES.example_spec,
        DEFAULT_MASK,
        FEATURES.labels_spec,
        theirs.DatasetHparams(f"{data}/train-*", f"{data}/valid-*", 24, 8),
    )
    row = run(
        data,
        tmp_path / "run",
        dataset=dataset,
        steps_per_epoch=1,
        validation_steps=1,
        num_epochs=1,
        export_best_model=True,
        best_exporter_metric="click/metric/ndcg_5",
        best_exporter_metric_higher_better=True,
    )[0]
    assert {"click_loss", "val_relevance_metric/ndcg_5"} <= set(row)
    assert len(numbers(str(tmp_path / "run/export/best_model_by_metric"))) == 1


class OneScore(DNNScorer):
    """Scores one of the tasks, under its name."""

    def __init__(self, task):
        super().__init__(hidden_layer_dims=[4])
        self._task = task

    def _score_flattened(self, context_features, example_features):
        score = super()._score_flattened(context_features, example_features)
        return {self._task: score} if self._task else score


def test_one_task_is_enough(data, tmp_path):
    features = dataclasses.replace(FEATURES, labels={"click": ("clicked", LABEL)})
    rows = run(
        data,
        tmp_path / "run",
        OneScore("click"),
        features=features,
        loss={"click": "softmax_loss"},
        export_best_model=True,
        best_exporter_metric="click/ndcg_5",
        best_exporter_metric_higher_better=True,
    )
    best = read_json(tmp_path / "run/metrics.json")
    assert best["best_value"] == max(row["val_metric/ndcg_5"] for row in rows)
    assert set(best["valid"]) == {"click"}


CLICK = "did you mean 'click'"
SELECT = {"export_best_model": True, "best_exporter_metric_higher_better": True}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": {"clik": "softmax_loss"}}, rf"unknown task 'clik' in loss; {CLICK}"),
        ({"loss": {"click": "softmx_loss"}}, "did you mean 'softmax_loss'"),
        ({"loss": {}}, "empty dict"),
        ({"loss": {"a b": "softmax_loss"}}, "names of tasks made of letters"),
        ({"loss": {"ranks": "softmax_loss"}}, "cannot be the name of a task"),
        ({"loss_weights": {"clik": 1.0}}, rf"unknown task 'clik'.*weights; {CLICK}"),
        ({"loss_weights": {"click": -1.0}}, "at least 0 for 'click', found -1.0"),
        ({"loss_weights": {"click": "1"}}, "expected a number"),
        ({"loss_weights": 0.0}, "nothing would be trained"),
        ({"metrics": {"clik": ("mrr",)}}, rf"unknown task 'clik' in metrics; {CLICK}"),
        ({"loss_args": {"clik": {"temperature": 1.0}}}, rf"in loss_args; {CLICK}"),
        (
            {"best_exporter_metric": "clik/ndcg_5", **SELECT},
            r"unknown metric 'clik/ndcg_5' in .*; did you mean 'click/ndcg_5'.*"
            "Known: click/loss, click/ndcg_5, loss, relevance/loss, relevance/ndcg_5.$",
        ),
        (
            {"best_exporter_metric": "click/metric/ndcg_7", **SELECT},
            "did you mean 'click/ndcg",
        ),
        # Which task is meant?
        ({"best_exporter_metric": "ndcg_5", **SELECT}, "did you mean 'click/ndcg_5'"),
    ],
)
def test_wrong_names_are_found_before_data_is_read(tmp_path, settings, message):
    arguments = parts(tmp_path / "no-data", tmp_path / "run", **settings)
    with pytest.raises(ConfigError, match=message):
        MultiTaskPipeline(*arguments).train_and_validate()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("scorer", "loss", "message"),
    [
        (OneScore("click"), LOSSES, "unknown task 'relevance' in loss.* has scores"),
        (OneScore("click"), {"click": "softmax_loss"}, "'relevance' in label_spec"),
        (OneScore(None), LOSSES, "outputs relevance, click, found one without names"),
    ],
)
def test_a_model_that_does_not_score_a_task_is_an_error(
    data, tmp_path, scorer, loss, message
):
    with pytest.raises(ConfigError, match=message):
        run(data, tmp_path / "run", scorer, loss=loss)
    assert not (tmp_path / "run").exists()


def test_the_simple_pipeline_wants_a_score_for_each_label_too(data, tmp_path):
    arguments = parts(data, tmp_path / "run", OneScore(None), loss="softmax_loss")
    with pytest.raises(ConfigError, match="outputs relevance, click, found one"):
        SimplePipeline(*arguments).train_and_validate()


def test_one_loss_needs_data_that_names_its_tasks(tmp_path):
    dataset = NullDatasetBuilder(None, None)
    with pytest.raises(ConfigError, match="expected a dict of losses by task"):
        run("", tmp_path / "run", dataset=dataset, loss="softmax_loss")


def test_a_config_with_a_default_scorer_is_told_to_name_a_builder(data, tmp_path):
    config = make_config(data, tmp_path / "run")
    config["model"] = {"scorer": "dnn", "scorer_args": {"hidden_layer_dims": (4,)}}
    with pytest.raises(ConfigError, match="Let the scorer return a dict of scores"):
        build_pipeline(config).train_and_validate()


def test_the_example_learns_both_tasks(data, tmp_path):
    assert pathlib.Path(data).is_dir()
    config = make_config(data, tmp_path / "run", num_epochs=15)
    assert config["model"]["builder"].endswith(MultiTaskModelBuilder.__name__)
    config["pipeline"]["learning_rate"] = 0.02
    build_pipeline(config).train_and_validate()
    found = read_json(tmp_path / "run/metrics.json")["test"]
    history = read_history(tmp_path / "run")
    for task, least in (("relevance", 0.8), ("click", 0.7)):
        assert found[task]["ndcg@10"]["skip"] > least, found[task]["ndcg@10"]
        assert history[-1][f"val_{task}_loss"] < history[0][f"val_{task}_loss"]
