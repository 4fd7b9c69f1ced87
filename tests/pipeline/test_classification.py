"""Classification from a table to a served model, and what is refused on the way."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

from tests.pipeline.training_helpers import changed, fit, read_history, read_json
from tfr_pipeline.cli.main import main
from tfr_pipeline.compat import tf
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.arrays import from_arrays
from tfr_pipeline.pipeline.datasets.frames import from_dataframe
from tfr_pipeline.serving.predictor import Predictor

CLASSES = ("cat", "dog", "owl")
COUNTS = {"train": 200, "valid": 90, "test": 80}
LOSS = "categorical_cross_entropy_loss"


def animals(count, seed):
    """Returns features `[examples, 4]` and names of classes, some of them missing."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 3, count)
    features = rng.normal(size=(count, 4)) + 1.5 * np.eye(3, 4)[numbers]
    names = np.array(CLASSES, object)[numbers]
    names[rng.random(count) < 0.2] = ""
    return features.astype(np.float32), names


def write_table(path, features, names):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "a", "b", "c", "d", "weight", "kind"])
        for number, (row, name) in enumerate(zip(features, names, strict=True)):
            writer.writerow([f"pet{number}", *row.tolist(), 1 + number % 3, name])


def make_config(folder, run, **pipeline):
    return {
        "model_dir": str(run),
        "seed": 5,
        "data": {"dir": str(folder), "train_batch_size": 16, "valid_batch_size": 90},
        "model": {"scorer_args": {"hidden_layer_dims": [8], "use_batch_norm": False}},
        "pipeline": {
            "num_epochs": 3,
            "loss": LOSS,
            "learning_rate": 0.03,
            "metrics": ["accuracy", "accuracy_2"],
            "use_weighted_metrics": True,
            "export_best_model": True,
            "best_exporter_metric": "accuracy",
            "best_exporter_metric_higher_better": True,
            **pipeline,
        },
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tables `train.csv` and so on, and `data` made of them."""
    path = tmp_path_factory.mktemp("animals")
    for seed, (split, count) in enumerate(COUNTS.items()):
        write_table(path / f"{split}.csv", *animals(count, seed))
        convert(
            str(path / f"{split}.csv"),
            str(path / "data"),
            input_format="csv",
            split=split,
            options=Options(
                classes=CLASSES,
                label_column="kind",
                docid_column="name",
                weight_column="weight",
            ),
            report=lambda line: None,
        )
    return path


@pytest.fixture(scope="module")
def trained(folder):
    """The pipeline of a run that has ended, in `run`."""
    pipeline = build_pipeline(make_config(folder / "data", folder / "run"))
    pipeline.train_and_validate()
    return pipeline


@pytest.fixture(scope="module")
def predicted(folder, trained):
    """Rows that `predict` wrote for the test, with the names of their columns."""
    path = folder / "predicted.tsv"
    words = [f"--model={folder / 'run'}", f"--input={folder / 'test.csv'}"]
    assert main(["predict", *words, f"--output={path}"]) == 0
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_metrics_are_those_of_what_predict_wrote(folder, predicted):
    _, names = animals(COUNTS["test"], 2)
    assert [row["id"] for row in predicted] == [f"pet{i}" for i in range(len(names))]
    shares = np.array([[float(row[name]) for name in CLASSES] for row in predicted])
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-4)
    best = [row["class"] for row in predicted]
    assert best == [CLASSES[number] for number in shares.argmax(axis=1)]
    some = names != ""
    known, found = names[some].tolist(), np.array(best)[some].tolist()
    metrics = read_json(folder / "run" / "metrics.json")["test"]
    assert metrics["accuracy"]["skip"] == accuracy_score(known, found)
    assert metrics["macro_f1"]["skip"] == pytest.approx(
        f1_score(known, found, average="macro")
    )
    # What is written has six digits.
    shares /= shares.sum(axis=1, keepdims=True)
    wanted = log_loss(known, shares[some], labels=CLASSES)
    assert metrics["log_loss"]["skip"] == pytest.approx(wanted, rel=1e-4)
    assert metrics["classes"]["owl"]["examples"] == known.count("owl")
    assert metrics["unlabelled"] == (~some).sum()


def test_it_has_learnt(folder, trained):
    metrics = read_json(folder / "run" / "metrics.json")
    assert metrics["test"]["accuracy"]["skip_ci"][0] > 0.45  # a third by chance


def test_the_history_has_accuracy_and_the_best_epoch_is_by_it(folder, trained):
    rows = read_history(folder / "run")
    values = [row["val_metric/accuracy"] for row in rows]
    metrics = read_json(folder / "run" / "metrics.json")
    assert metrics["best_value"] == max(values)
    assert metrics["valid"]["accuracy"]["skip"] == pytest.approx(max(values))
    for row in rows:
        assert row["val_metric/accuracy_2"] >= row["val_metric/accuracy"]
        assert "val_weighted_metric/accuracy" in row


def test_evaluate_gives_the_numbers_of_the_run(folder, trained, capsys):
    output = folder / "evaluated.json"
    words = [f"--model={folder / 'run'}", f"--data={folder / 'data' / 'test-*'}"]
    assert main(["evaluate", *words, f"--output={output}", "--baselines"]) == 0
    found = read_json(output)
    baselines = found.pop("baselines")
    assert found == read_json(folder / "run" / "metrics.json")["test"]
    _, names = animals(COUNTS["test"], 2)
    most = max((names == name).sum() for name in CLASSES) / (names != "").sum()
    assert baselines["most frequent"]["accuracy"]["skip"] == pytest.approx(most)
    out = capsys.readouterr().out
    for text in ("macro_f1", "most frequent", "precision", "accuracy 95% interval"):
        assert text in out


def test_a_model_is_compared_with_another_by_accuracy(folder, trained, capsys):
    run = folder / "run"
    words = [f"--model={run}", f"--data={folder / 'data' / 'test-*'}"]
    assert main(["evaluate", *words, f"--against={run}"]) == 4
    assert "accuracy: model less against 0.0000" in capsys.readouterr().out


def serialized(features):
    """Examples as a client of TensorFlow Serving sends them."""
    return [
        tf.train.Example(
            features=tf.train.Features(
                feature={
                    "features": tf.train.Feature(
                        float_list=tf.train.FloatList(value=row)
                    )
                }
            )
        ).SerializeToString()
        for row in features
    ]


def test_signatures_give_classes_and_probabilities(folder, predicted):
    features, _ = animals(COUNTS["test"], 2)
    export = folder / "run" / "export" / "best_model_by_metric"
    signatures = tf.saved_model.load(str(export)).signatures
    assert "rank" not in signatures
    assert "tensorflow/serving/regress" not in signatures
    wanted = np.array([[float(row[name]) for name in CLASSES] for row in predicted])
    ids = tf.constant([row["id"] for row in predicted])
    raw = signatures["classify"](features=tf.constant(features), ids=ids)
    assert [name.decode() for name in raw["class"].numpy()] == [
        row["class"] for row in predicted
    ]
    assert raw["ids"].numpy().tolist() == ids.numpy().tolist()
    for key in ("tensorflow/serving/classify", "serving_default"):
        found = signatures[key](tf.constant(serialized(features)))
        assert found["classes"].shape == (len(features), 3)
        assert found["classes"].numpy()[7].tolist() == [b"cat", b"dog", b"owl"]
        np.testing.assert_allclose(found["scores"], raw["scores"], atol=1e-6)
    np.testing.assert_allclose(raw["scores"], wanted, atol=1e-5)
    nothing = tf.constant([], tf.string)
    without = signatures["classify"](features=tf.constant(features[:2]), ids=nothing)
    assert without["ids"].numpy().tolist() == [b"0", b"1"]


@pytest.mark.slow
def test_padded_batches_train_as_packed_ones_do(folder, tmp_path):
    rows = []
    for layout in ("packed", "padded"):
        config = make_config(folder / "data", tmp_path / layout, layout=layout)
        config = changed(config, model__scorer_args__dropout=0.0)
        _, found = fit(build_pipeline(config))
        rows.append(found[-1])
    for name, value in rows[0].items():
        assert rows[1][name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.slow
def test_two_classes_need_one_score_only(tmp_path):
    features, names = animals(120, 0)
    labels = np.where(names == "owl", "yes", np.where(names == "", None, "no"))
    results = []
    for units in (1, 2):
        data = from_arrays(features, labels, classes="auto", valid=(features, labels))
        pipeline = of_arrays(data, tmp_path / str(units), output_units=units)
        pipeline.train_and_validate()
        predictor = Predictor(str(tmp_path / str(units)))
        assert predictor.classes == ("no", "yes")
        shares = predictor.probabilities(data.lists("valid", "packed"))
        assert shares.shape == (120, 2)
        results.append(read_json(tmp_path / str(units) / "metrics.json")["valid"])
    for result in results:
        assert result["accuracy"]["skip"] > 0.7


def of_arrays(data, run, output_units=3, **hparams):
    """Returns a pipeline of builders, as a script has it."""
    import tfr_pipeline as tfr

    features = data.features
    scorer = tfr.keras.model.DNNScorer(
        hidden_layer_dims=[8], output_units=output_units, use_batch_norm=False
    )
    model = tfr.keras.model.ModelBuilder(
        tfr.keras.model.FeatureSpecInputCreator({}, features.example_spec),
        {},
        scorer,
        "__list_mask__",
        "animals",
    )
    settings = {
        "model_dir": str(run),
        "num_epochs": 3,
        "steps_per_epoch": None,
        "validation_steps": None,
        "learning_rate": 0.03,
        "loss": LOSS,
        "seed": 1,
        **hparams,
    }
    settings = tfr.keras.pipeline.PipelineHparams(**settings)
    return tfr.keras.pipeline.SimplePipeline(model, data, settings)


def test_accuracy_is_what_is_reported_unless_something_else_is_asked_for(tmp_path):
    features, names = animals(60, 0)
    data = from_arrays(features, names, classes=CLASSES)
    names = [metric.name for metric in of_arrays(data, tmp_path).build_metrics()]
    assert names == ["metric/accuracy"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"pipeline__loss": "softmax_loss"}, "SoftmaxLoss .*ranks documents"),
        ({"pipeline__metrics": ["ndcg_5"]}, "NDCGMetric .*'accuracy'"),
        ({"pipeline__loss_args": {"class_weights": [1.0, 2.0]}}, "each of the 3"),
        ({"model__scorer_args__output_units": 2}, "each of 3 classes, found 2"),
        ({"model__scorer": "gam"}, "each of 3 classes, found 1"),
        ({"data__list_size": 5}, "list_size"),
        ({"data__convert_labels_to_binary": True}, "convert_labels_to_binary"),
    ],
)
def test_what_ranks_is_not_for_classes(folder, tmp_path, change, error):
    config = changed(make_config(folder / "data", tmp_path / "run"), **change)
    if change.get("model__scorer") == "gam":
        config["model"]["scorer_args"] = {"example_hidden_layer_dims": [4]}
    with pytest.raises(ConfigError, match=error):
        build_pipeline(config).dry_run()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"loss": LOSS}, "CategoricalCrossEntropyLoss .*relevance"),
        ({"loss": "softmax_loss", "metrics": ("accuracy",)}, "AccuracyMetric"),
    ],
)
def test_what_is_for_classes_is_not_for_relevance(tmp_path, change, error):
    features, _ = animals(20, 0)
    data = from_arrays(features, np.arange(20) % 2, np.arange(20) // 5)
    with pytest.raises(ConfigError, match=error):
        of_arrays(data, tmp_path, 1, **change).dry_run()


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        ([0, 1, 3, 0], r"expected as label a whole number from 0 to 2.*found 3"),
        ([0, 1, 0.5, 0], r"found 0\.5"),
        ([1, 1, -1, 1], r"two classes or more.*found 'dog' only"),
        ([-1, -1, -1, -1], r"two classes or more.*found none"),
    ],
)
def test_labels_that_cannot_be_are_errors(folder, tmp_path, labels, error):
    """Those of files of others, which `convert` has not looked at."""
    from tfr_pipeline.data.records import encode, tfrecord
    from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
    from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder

    features, _ = animals(4, 0)
    lists = from_arrays(features, np.zeros(4), range(4)).lists("train")
    lists.labels = np.float32(labels)
    described = Features.load(str(folder / "data"))
    path = tmp_path / "train-00000-of-00001.tfrecord"
    path.write_bytes(b"".join(tfrecord.frame(encode.elwc(lists, described))))
    hparams = DatasetHparams(str(path), "", 2, 2)
    builder = SimpleDatasetBuilder.from_features(described, hparams)
    with pytest.raises(DataError, match=error):
        builder.lists("train", "packed")


def test_lists_of_several_documents_have_no_classes():
    features, _ = animals(4, 0)
    ranking = from_arrays(features, np.zeros(4), [1, 1, 2, 2])
    ranking._classes = CLASSES
    with pytest.raises(DataError, match="lists of one document"):
        ranking.lists("train", "packed")


@pytest.mark.parametrize(
    ("flags", "error"),
    [(["--task=cat"], "--task"), (["--format=trec"], "--format=trec")],
)
def test_a_classifier_ranks_nothing(folder, trained, flags, error, capsys):
    words = [f"--model={folder / 'run'}", f"--input={folder / 'test.csv'}"]
    assert main(["predict", *words, "--output=-", *flags]) == 2
    assert error in capsys.readouterr().err
    predictor = Predictor(str(folder / "run"))
    with pytest.raises(ConfigError, match="no scores to rank by"):
        predictor.score(trained._dataset_builder.lists("test", "packed"))


def test_arrays_and_frames_name_classes_alike():
    import pyarrow as pa

    features, names = animals(30, 0)
    frame = {name: features[:, i] for i, name in enumerate("abcd")}
    texts = [name or None for name in names]
    builders = [
        from_arrays(features, texts, classes="auto"),
        from_arrays(features, names, classes=CLASSES),
        from_dataframe(pa.table({**frame, "label": texts}), classes="auto"),
    ]
    wanted = [CLASSES.index(name) if name else -1 for name in names]
    for builder in builders:
        assert builder.classes == CLASSES
        assert builder.lists("train", "packed").labels.tolist() == wanted
    numbers = from_arrays(features, np.float64(wanted), classes=3)
    assert numbers.lists("train", "packed").labels.tolist() == wanted


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"y": ["a", "b"]}, "neither"),
        ({"y": ["a", "b"], "qid": [1, 2], "classes": "auto"}, "both"),
        ({"y": ["a", "b"], "classes": ["a", "c"]}, r"y\[1\]: .*'a', 'c'.*'b'"),
        ({"y": ["a", "a"], "classes": "auto"}, "two or more classes"),
        ({"y": [0, 2], "classes": 2}, r"y\[1\]: .*'2'"),
        ({"y": ["a", "b"], "classes": "a,b"}, "'auto'"),
        ({"y": ["a", "b"], "classes": ["a"]}, "2 to"),
        ({"y": ["a", "b"], "classes": "auto", "docid": ["x", "x"]}, "'x' 2 times"),
    ],
)
def test_arrays_that_cannot_be_are_errors(arguments, error):
    with pytest.raises((ConfigError, DataError), match=error):
        from_arrays(np.eye(2), **arguments)


def test_the_description_of_an_export_has_the_classes(folder, trained):
    path = folder / "run" / "export" / "best_model_by_metric"
    found = json.loads((path / "assets.extra" / "features.json").read_text())
    assert tuple(found["classes"]) == CLASSES
