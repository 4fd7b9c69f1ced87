"""What a run does and leaves behind."""

from __future__ import annotations

import json
import os
import pathlib
import warnings

import numpy as np
import pytest

from tests.metrics.query_files import means, read_rows
from tests.pipeline.training_helpers import (
    changed,
    fit,
    make_config,
    read_history,
    read_json,
    tree,
)
from tfr_pipeline import losses, metrics
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.data.reading import loading
from tfr_pipeline.errors import ConfigError, DataError, RunError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.features import DEFAULT_MASK, Features
from tfr_pipeline.metrics.evaluation import evaluate_lists
from tfr_pipeline.model.builders import AbstractModelBuilder, ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.scorers import DNNScorer
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.simple import SimplePipeline
from tfr_pipeline.serving.predictor import Predictor
from tfr_pipeline.serving.versions import numbers


def parts(data, model_dir, **hparams):
    """Returns model builder, dataset builder and hyperparameters of a small run."""
    features = Features.load(str(data))
    model = ModelBuilder(
        FeatureSpecInputCreator(features.context_spec, features.example_spec),
        {},
        DNNScorer(hidden_layer_dims=[8], activation="relu", dropout=0.0),
        DEFAULT_MASK,
    )
    dataset = SimpleDatasetBuilder.from_features(
        features, DatasetHparams(f"{data}/train-*", f"{data}/valid-*", 8, 8)
    )
    settings = {
        "num_epochs": 2,
        "steps_per_epoch": None,
        "validation_steps": None,
        "learning_rate": 0.01,
        "loss": "softmax_loss",
        "seed": 3,
        **hparams,
    }
    return model, dataset, PipelineHparams(model_dir=str(model_dir), **settings)


def test_a_run_leaves_the_files_that_the_design_names(finished):
    config, _ = finished
    run = pathlib.Path(config["model_dir"])
    assert {path.name for path in run.iterdir()} == {
        "config.json",
        "environment.json",
        "metrics.json",
        "history.csv",
        "per_query.parquet",
        "logs",
        "checkpoints",
        "export",
    }
    assert {path.name for path in (run / "logs").iterdir()} == {"train", "validation"}
    for name in ("latest_model", "best_model_by_metric"):
        (version,) = (run / "export" / name).glob("[0-9]*")
        assert version.name.isdigit()
        assert (version / "saved_model.pb").exists()
    assert read_json(run / "config.json") == json.loads(json.dumps(config))
    assert read_json(run / "environment.json")["seed"] == 7


def test_metrics_are_those_of_the_exported_best_model(finished):
    config, _ = finished
    metrics = read_json(pathlib.Path(config["model_dir"]) / "metrics.json")
    predictor = Predictor(config["model_dir"])
    pipeline = build_pipeline(config)
    for split in ("valid", "test"):
        lists = pipeline._dataset_builder.lists(split, "packed")
        wanted = evaluate_lists(lists.labels, predictor.score(lists), lists.row_splits)
        for convention in ("skip", "zero", "one", "skip_ci"):
            found = metrics[split]["ndcg@10"][convention]
            assert found == pytest.approx(wanted["ndcg@10"][convention], rel=1e-6)
    assert metrics["step"] == 40
    assert metrics["documents_per_second"] > 0
    assert set(metrics["seconds"]) == {"training", "export", "evaluation"}


def test_the_queries_of_a_run_stand_in_order_and_have_its_means(finished):
    config, _ = finished
    folder = pathlib.Path(config["model_dir"])
    metrics = read_json(folder / "metrics.json")
    rows = read_rows(folder / "per_query.parquet")
    builder = build_pipeline(config)._dataset_builder
    splits = {split: builder.lists(split, "packed") for split in ("valid", "test")}
    assert [(row["split"], row["task"], row["query"]) for row in rows] == [
        (split, "", name) for split, lists in splits.items() for name in lists.query_ids
    ]
    for split, lists in splits.items():
        some = [row for row in rows if row["split"] == split]
        assert [row["documents"] for row in some] == lists.lengths.tolist()
        for name, by_convention in means(some).items():
            for convention, mean in by_convention.items():
                assert metrics[split][name][convention] == pytest.approx(mean)


def test_the_best_epoch_is_exported_beside_the_latest(finished):
    config, _ = finished
    history = read_history(config["model_dir"])
    assert [row["step"] for row in history] == [10, 20, 30, 40]
    best = max(history, key=lambda row: row["val_metric/ndcg_10"])
    metrics = read_json(os.path.join(config["model_dir"], "metrics.json"))
    assert metrics["best_step"] == best["step"] < 40
    assert metrics["best_value"] == pytest.approx(best["val_metric/ndcg_10"], rel=1e-6)
    assert metrics["valid"]["ndcg@10"]["skip"] == pytest.approx(
        best["val_metric/ndcg_10"], rel=1e-4
    )
    lists = build_pipeline(config)._dataset_builder.lists("valid", "packed")
    export = pathlib.Path(config["model_dir"]) / "export"
    latest = Predictor(str(export / "latest_model")).score(lists)
    chosen = Predictor(str(export / "best_model_by_metric")).score(lists)
    assert np.abs(latest - chosen).max() > 1e-3


def test_the_returned_model_is_the_latest_export(finished):
    config, model = finished
    lists = build_pipeline(config)._dataset_builder.lists("valid", "packed")
    block = tf.RaggedTensor.from_row_splits(lists.values["float32"], lists.row_splits)
    scores = model({"documents_float32": block}, training=False).values
    path = os.path.join(config["model_dir"], "export", "latest_model")
    np.testing.assert_allclose(Predictor(path).score(lists), scores, rtol=1e-5)


def checkpoints(run):
    """Returns the files of the checkpoints; the template is written at each start."""
    found = tree(os.path.join(run, "checkpoints"))
    return {k: v for k, v in found.items() if not k.startswith("template")}


def test_a_second_start_says_so_and_changes_neither_weights_nor_history(
    finished, capsys
):
    config, model = finished
    run = config["model_dir"]
    before = checkpoints(run)
    history = read_history(run)
    again = build_pipeline(config).train_and_validate(verbose=2)
    assert "this run has ended, at step 40 of 40" in capsys.readouterr().out
    for left, right in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert checkpoints(run) == before
    assert read_history(run) == history
    for name in ("latest_model", "best_model_by_metric"):
        assert len(numbers(os.path.join(run, "export", name))) == 1


def test_another_config_in_the_same_directory_is_an_error_that_names_the_key(finished):
    config, _ = finished
    before = tree(config["model_dir"])
    other = changed(config, pipeline__learning_rate=0.1)
    with pytest.raises(ConfigError, match=r"pipeline\.learning_rate is 2\.0 there"):
        build_pipeline(other).train_and_validate()
    assert tree(config["model_dir"]) == before


def test_more_epochs_go_on_from_where_the_run_ended(finished, tmp_path):
    whole, _ = finished
    config = changed(whole, model_dir=str(tmp_path / "run"), pipeline__num_epochs=1)
    build_pipeline(config).train_and_validate()
    build_pipeline(changed(config, pipeline__num_epochs=2)).train_and_validate()
    parted, together = read_history(tmp_path / "run"), read_history(whole["model_dir"])
    assert [row["step"] for row in parted] == [10, 20]
    assert parted[1]["loss"] == together[1]["loss"]


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("best_exporter_metric", "ndgc_10", "did you mean 'ndcg_10'"),
        ("optimizer", "adm", "did you mean 'adam'"),
        ("loss", "softmx_loss", "did you mean 'softmax_loss'"),
        ("strategy", "MiroredStrategy", "did you mean 'MirroredStrategy'"),
        ("schedule", "cosin", "did you mean 'cosine'"),
    ],
)
def test_a_wrong_name_is_found_before_anything_is_written(
    data, tmp_path, setting, value, message
):
    config = make_config(data, tmp_path / "run", export_best_model=True)
    config["pipeline"][setting] = value
    with pytest.raises(ConfigError, match=message):
        build_pipeline(config).train_and_validate()
    assert not (tmp_path / "run").exists()


def test_training_stops_when_nothing_gets_better(data, tmp_path):
    config = make_config(
        data,
        tmp_path / "run",
        num_epochs=30,
        learning_rate=1e-9,
        early_stopping_patience=2,
        early_stopping_min_delta=0.01,
    )
    build_pipeline(config).train_and_validate()
    assert len(read_history(tmp_path / "run")) == 3
    assert "no better val_loss" in read_json(tmp_path / "run/metrics.json")["stopped"]
    build_pipeline(config).train_and_validate()  # stays stopped
    assert len(read_history(tmp_path / "run")) == 3


@pytest.mark.slow
def test_document_budgets_train_every_list(data, tmp_path):
    config = make_config(data, tmp_path / "run", num_epochs=1)
    config["data"]["documents_per_batch"] = 60
    pipeline = build_pipeline(config)
    pipeline.train_and_validate()
    documents = pipeline._dataset_builder.lists("train", "packed").num_documents
    assert read_history(tmp_path / "run")[0]["step"] == -(-documents // 60)


def test_both_layouts_learn_the_same_without_batch_norm_and_dropout(data, tmp_path):
    losses = {}
    for layout in ("packed", "padded"):
        config = make_config(data, tmp_path / layout, layout=layout, num_epochs=2)
        config["model"]["scorer_args"].update(use_batch_norm=False, dropout=0.0)
        pipeline = build_pipeline(config)
        losses[layout] = [row["val_loss"] for row in fit(pipeline)[1]]
        assert pipeline._layout() == layout
    assert losses["packed"] == pytest.approx(losses["padded"], rel=1e-3)


@pytest.fixture(scope="module")
def overridden(data, tmp_path_factory):
    """A run with a metric and a callback of its own: history, and epochs seen."""
    seen = []

    class Count(tf.keras.metrics.Sum):
        layouts = ("packed",)

        def update_state(self, y_true, y_pred, sample_weight=None):
            return super().update_state(tf.cast(y_true.nrows(), tf.float32))

    class Watch(tf.keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(epoch)

    class Own(SimplePipeline):
        def build_metrics(self):
            return [*super().build_metrics(), Count(name="metric/count")]

        def build_callbacks(self):
            return [Watch(), *super().build_callbacks()]

    folder = tmp_path_factory.mktemp("overridden") / "run"
    Own(*parts(data, folder, steps_per_execution=3)).train_and_validate()
    return read_history(folder), seen


def test_validation_counts_every_list_once(overridden):
    rows, _ = overridden
    assert [row["val_metric/count"] for row in rows] == [10.0, 10.0]


def test_overridden_callbacks_are_called(overridden):
    assert overridden[1] == [0, 1]


def test_losses_and_metrics_of_ones_own_get_padded_batches_unless_they_declare(
    data, tmp_path
):
    class Loss(losses.ListMLELoss):
        def call(self, y_true, y_pred):
            return tf.square(y_true - y_pred)

    class Metric(metrics.NDCGMetric):
        def update_state(self, y_true, y_pred, sample_weight=None):
            return super().update_state(y_true, y_pred)

    class Declared(Loss):
        layouts = ("packed", "padded")

    def layout_of(loss, metric, **hparams):
        class Mine(SimplePipeline):
            def build_loss(self):
                return loss

            def build_metrics(self):
                return [metric]

        return Mine(*parts(data, tmp_path / "run", **hparams))._layout()

    ndcg = metrics.NDCGMetric()
    assert layout_of(losses.ListMLELoss(), ndcg) == "packed"
    assert layout_of(Declared(), ndcg) == "packed"
    assert layout_of(Loss(), ndcg) == "padded"
    assert layout_of(losses.ListMLELoss(), Metric()) == "padded"
    with pytest.raises(ConfigError, match=r"not possible here.* Loss: \('padded',\)"):
        layout_of(Loss(), ndcg, layout="packed")


@pytest.mark.parametrize("loss", ["click_em_loss", "mixture_em_loss"])
def test_scorers_of_several_numbers_a_document_train_alike_in_both_layouts(
    data, tmp_path, loss
):
    model, dataset, _ = parts(data, tmp_path / "run")
    builder = ModelBuilder(
        model._input_creator,
        {},
        DNNScorer(hidden_layer_dims=[8], output_units=2, use_batch_norm=False),
        DEFAULT_MASK,
    )
    found = {}
    for layout in builder.layouts:
        tf.keras.utils.set_random_seed(1)
        model = builder.build_packed() if layout == "packed" else builder.build()
        model.compile("sgd", losses.get(loss))
        batch = next(iter(dataset.make_dataset("valid", layout)))
        found[layout] = [model.train_on_batch(*batch) for _ in range(3)]
    assert found["packed"][-1] < found["packed"][0]
    assert found["packed"] == pytest.approx(found["padded"], rel=1e-4)


@pytest.mark.parametrize(
    ("units", "loss", "metrics", "words"),
    [
        (2, "softmax_loss", (), r"expected 1 .* SoftmaxLoss takes them, found 2"),
        (1, "click_em_loss", (), r"expected 2 .* ClickEMLoss takes them, found 1"),
        (2, "click_em_loss", ("ndcg_5",), "2 numbers a document, and metrics rank by"),
    ],
)
def test_a_scorer_of_another_number_than_the_loss_takes_is_named(
    data, tmp_path, units, loss, metrics, words
):
    _, dataset, hparams = parts(data, tmp_path / "run", loss=loss, metrics=metrics)
    features = Features.load(str(data))
    builder = ModelBuilder(
        FeatureSpecInputCreator(features.context_spec, features.example_spec),
        {},
        DNNScorer(hidden_layer_dims=[8], output_units=units),
        DEFAULT_MASK,
    )
    with pytest.raises(ConfigError, match=f"^DNNScorer: .*{words}"):
        SimplePipeline(builder, dataset, hparams).train_and_validate()


@pytest.mark.slow
def test_a_lambda_weight_among_the_loss_arguments_is_trained_with_and_recorded(
    data, tmp_path
):
    def pipeline(topn):
        weight = losses.NDCGLambdaWeight(topn)
        return SimplePipeline(
            *parts(
                data,
                tmp_path / "run",
                num_epochs=1,
                loss="pairwise_logistic_loss",
                loss_args={"lambda_weight": weight},
            )
        )

    pipeline(10).train_and_validate()
    written = read_json(tmp_path / "run/config.json")["loss_args"]
    loss = losses.get("pairwise_logistic_loss", **written)
    assert loss.get_config() == pipeline(10).build_loss().get_config()
    with pytest.raises(ConfigError, match=r"lambda_weight\.config\.topn is 10"):
        pipeline(5).train_and_validate()


def test_a_loss_of_tf_rankings_own_gets_padded_batches(data, finished, tmp_path):
    class Theirs(SimplePipeline):
        def build_loss(self):
            return tfr.keras.losses.get("softmax_loss")

    Theirs(*parts(data, tmp_path / "run")).train_and_validate()
    assert read_json(tmp_path / "run/environment.json")["layout"] == "padded"
    ours = pathlib.Path(finished[0]["model_dir"]) / "environment.json"
    assert read_json(ours)["layout"] == "packed"


@pytest.mark.slow
def test_tf_rankings_hyperparameters_are_taken(data, tmp_path):
    model, dataset, _ = parts(data, tmp_path / "run")
    hparams = tfr.keras.pipeline.PipelineHparams(
        model_dir=str(tmp_path / "run"),
        num_epochs=1,
        steps_per_epoch=4,
        validation_steps=2,
        learning_rate=0.1,
        loss="softmax_loss",
        export_best_model=True,
    )
    SimplePipeline(model, dataset, hparams).train_and_validate()
    assert read_history(tmp_path / "run")[0]["step"] == 4


class PlainModelBuilder(AbstractModelBuilder):
    """A Keras model that knows nothing of this package."""

    def __init__(self, scale=1.0):
        self.scale = scale

    def build(self):
        features = tf.keras.Input((None, 8), name="features")
        mask = tf.keras.Input((None,), name=DEFAULT_MASK, dtype=tf.bool)
        scores = tf.keras.layers.Dense(1)(features * self.scale)[:, :, 0]
        return tf.keras.Model({"features": features, DEFAULT_MASK: mask}, scores)


@pytest.mark.slow
def test_a_plain_keras_model_trains_and_exports(data, tmp_path):
    _, dataset, hparams = parts(data, tmp_path / "run")
    SimplePipeline(PlainModelBuilder(), dataset, hparams).train_and_validate()
    lists = dataset.lists("valid", "packed")
    assert np.isfinite(Predictor(str(tmp_path / "run")).score(lists)).all()


def test_a_plain_keras_model_that_diverges_is_stopped(data, tmp_path):
    _, dataset, hparams = parts(data, tmp_path / "run")
    with pytest.raises(RunError, match="the loss became nan"):
        SimplePipeline(
            PlainModelBuilder(scale=float("nan")), dataset, hparams
        ).train_and_validate()
    assert not (tmp_path / "run/export").exists()


# The loss of the first is not finite; that of the second is, but the gradient's square
# is not. With a value near the largest it would depend on the order of additions, and
# so on the processor, which of the two overflows.
@pytest.mark.parametrize(
    ("value", "steps_per_execution"), [(float("inf"), 5), (1e25, 1)]
)
def test_an_infinite_loss_names_step_and_queries(
    data, tmp_path, value, steps_per_execution
):
    config = make_config(
        data, tmp_path / "run", steps_per_execution=steps_per_execution
    )
    config["model"] |= {"preprocess": "none"}
    config["model"]["scorer_args"]["use_batch_norm"] = False
    pipeline = build_pipeline(config)
    builder = pipeline._dataset_builder
    lists = builder.lists("train", "packed")
    # The first list of the fourteenth batch gets a document that overflows.
    plan = builder.plan("train", "packed")
    culprit = plan.batch_of_step(13)[0]
    seen = [plan.batch_of_step(step) for step in range(10)]
    first = next(step for step, batch in enumerate(seen) if culprit in batch)
    lists.values["float32"][lists.row_splits[culprit]] = value
    with pytest.raises(RunError) as raised:
        pipeline.train_and_validate()
    message = str(raised.value)
    assert f"in step {first} " in message
    named = message.split("queries ")[1].split(";")[0].split(", ")
    assert sorted(named) == sorted(lists.query_ids[i] for i in seen[first])
    assert f"largest feature is {value:g}" in message
    assert not (tmp_path / "run/export").exists()


def test_statistics_that_overflow_stop_the_run_before_a_checkpoint(data, tmp_path):
    config = make_config(data, tmp_path / "run")
    config["model"] |= {"preprocess": "none"}
    pipeline = build_pipeline(config)
    # The loss stays finite: batch norm divides by an infinite deviation.
    pipeline._dataset_builder.lists("train", "packed").values["float32"][0] = 1e37
    with pytest.raises(RunError, match=r"validation loss is .* after step 10"):
        pipeline.train_and_validate()
    assert not list((tmp_path / "run/checkpoints").glob("*.index"))


def test_missing_data_is_found_before_anything_is_written(data, tmp_path):
    config = make_config(data, tmp_path / "run")
    config["data"]["test"] = str(tmp_path / "nothing-*")
    with pytest.raises(DataError, match="no file matches"):
        build_pipeline(config).train_and_validate()
    assert not (tmp_path / "run").exists()


def test_selecting_the_worst_epoch_warns(data, tmp_path):
    config = make_config(
        data, tmp_path / "run", export_best_model=True, best_exporter_metric="ndcg_10"
    )
    with pytest.warns(UserWarning, match="higher is better"):
        build_pipeline(config).dry_run()
    good = changed(config, pipeline__best_exporter_metric_higher_better=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        build_pipeline(good).dry_run()


@pytest.mark.parametrize("scorer", ["dnn", pytest.param("gam", marks=pytest.mark.slow)])
def test_mixed_precision_ranks_alike_and_serves_float32(data, tmp_path, scorer):
    results = {}
    for precision in (None, "mixed_bfloat16"):
        folder = tmp_path / str(precision)
        config = make_config(data, folder, num_epochs=6, precision=precision)
        if scorer == "gam":
            config["model"]["scorer"] = "gam"
            dims = config["model"]["scorer_args"].pop("hidden_layer_dims")
            config["model"]["scorer_args"]["example_hidden_layer_dims"] = dims
        model = build_pipeline(config).train_and_validate()
        assert {w.dtype for w in model.trainable_weights} == {tf.float32}
        assert model.output.dtype == tf.float32
        results[precision] = read_json(folder / "metrics.json")["valid"]["ndcg@10"]
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    low, high = sorted(result["skip"] for result in results.values())
    assert low > 0.5
    assert high - low < 0.1


def test_an_unknown_precision_is_named(tmp_path):
    with pytest.raises(ConfigError, match="mixed_bfloat16"):
        PipelineHparams(str(tmp_path), 1, 1, 1, 0.1, "softmax_loss", precision="bf16")


def test_preprocessing_ahead_of_training_trains_as_preprocessing_in_each_step(
    data, tmp_path, monkeypatch
):
    models, ndcg = [], []
    for name, limit in (("ahead", 1 << 31), ("in_step", 0)):
        monkeypatch.setattr("tfr_pipeline.pipeline.datasets.base.PREPARED_BYTES", limit)
        pipeline = build_pipeline(make_config(data, tmp_path / name, num_epochs=2))
        model, history = fit(pipeline)
        models.append(model)
        ndcg.append(history[-1]["val_metric/ndcg_10"])
        made = pipeline._dataset_builder._made
        assert (("prepared", "train") in made) == (name == "ahead")
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert ndcg[0] == pytest.approx(ndcg[1], 1e-3)


def test_pipelines_that_share_a_dataset_builder_read_once_and_train_as_if_alone(
    data, tmp_path, monkeypatch
):
    reads = []
    iterate = loading.iterate

    def counted(paths, *arguments):
        reads.append(paths)
        return iterate(paths, *arguments)

    monkeypatch.setattr(loading, "iterate", counted)
    features = Features.load(str(data)).example_spec
    shared = parts(data, tmp_path)[1]
    shared.hparams.seed = None  # each has that of its pipeline
    losses = {}
    for name, function, seed in (
        ("first", tf.math.tanh, 3),
        ("second", tf.math.square, 4),
        ("alone", tf.math.square, 4),
    ):
        model, dataset, hparams = parts(data, tmp_path / name, num_epochs=1, seed=seed)
        dataset.hparams.seed = None
        model = ModelBuilder(
            model._input_creator,
            dict.fromkeys(features, function),
            model._scorer,
            DEFAULT_MASK,
        )
        dataset = dataset if name == "alone" else shared
        SimplePipeline(model, dataset, hparams).train()
        losses[name] = read_history(tmp_path / name)[0]["loss"]
        assert len(reads) == (4 if name == "alone" else 2)  # training and validation
    assert losses["second"] == pytest.approx(losses["alone"], rel=1e-5)
    assert losses["first"] != pytest.approx(losses["alone"], rel=1e-3)
