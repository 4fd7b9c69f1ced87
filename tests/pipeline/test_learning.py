"""Preprocessing learns of the training split alone, once a run, and is exported."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.pipeline.test_multi_worker import free_ports, start_workers
from tests.pipeline.training_helpers import (
    changed,
    environment,
    make_config,
    read_json,
    start,
)
from tests.ranking_data import RankedList, write_elwc
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError, DataError, RunError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.features import Feature, Features
from tfr_pipeline.model.steps import fitting
from tfr_pipeline.serving.predictor import Predictor

FEATURES = Features(
    context={"qid": Feature("string", (1,), ""), "query": Feature("string", (1,), "")},
    example={
        "price": Feature("float32", (1,), 0.0),
        "rank": Feature("float32", (1,), 0.0),
        "year": Feature("int64", (1,), 0),
        "kind": Feature("string", (1,), ""),
        "title": Feature("string", (1,), ""),
    },
    label=("label", Feature("float32", (1,), -1.0)),
    document_id=None,
)
WORDS = ["red", "white", "wine", "cheese", "bread"]
STEPS = {
    "*": ["log1p", "standardize"],
    "price": ["quantile_normal"],
    "year": {"discretize": 3},
    "kind": {"embedding": 2, "oov": 2},
    "title": {"tf_idf": 20},
    "query": ["tokens", {"embedding": 3}],
    "qid": {"hashing": 4},
}


def make_lists(seed, count=30, scale=1.0):
    random = np.random.default_rng(seed)

    def document(label):
        return {
            "price": np.float32([random.exponential() * scale + label]),
            "rank": np.float32([random.normal() * scale]),
            "year": np.int64([random.integers(1990, 2020)]),
            "kind": np.array([random.choice(["a", "b", f"only{seed}"])]),
            "title": np.array([" ".join(random.choice(WORDS, 3))]),
            "label": np.float32([label]),
        }

    return [
        RankedList(
            {"qid": np.array([f"q{i}"]), "query": np.array([random.choice(WORDS)])},
            [document(label) for label in random.integers(0, 3, random.integers(2, 9))],
        )
        for i in range(count)
    ]


def write_data(folder, others=1, scale=1.0):
    """Writes three splits, of which training is the same for all `others`."""
    folder.mkdir()
    lists = {"train": make_lists(0)}
    for number, split in enumerate(("valid", "test")):
        lists[split] = make_lists(others + number, 8, scale)
    for split, some in lists.items():
        write_elwc(folder / f"{split}-00000-of-00001.tfrecord", some)
    (folder / "features.json").write_text(json.dumps(FEATURES.to_json()))
    return lists["train"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps") / "data"
    return folder, write_data(folder)


def config(folder, model_dir, preprocess=STEPS, **pipeline):
    made = make_config(folder, model_dir, **{"num_epochs": 1, **pipeline})
    made["model"]["preprocess"] = preprocess
    return made


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run of `STEPS`, and the lists that it was trained on."""
    folder, lists = data
    place = tmp_path_factory.mktemp("run") / "run"
    pipeline = build_pipeline(config(folder, place))
    model = pipeline.train_and_validate()
    return place, lists, pipeline, model


def column(lists, name):
    return np.concatenate([d[name] for one in lists for d in one.documents])


def test_statistics_are_those_of_the_training_split(run):
    place, lists, _, _ = run
    learnt = read_json(place / "preprocessing.json")["learnt"]
    logs = column(lists, "rank").astype(float)
    logs = np.sign(logs) * np.log1p(np.abs(logs))
    mean = learnt["rank"]["1 Standardize"]["mean"]
    np.testing.assert_allclose(mean, [logs.mean()], rtol=1e-5)
    price = column(lists, "price").astype(float)
    found = learnt["price"]["0 QuantileNormal"]["quantiles"][0]
    ranks = np.linspace(0, 1, min(1000, len(price)))
    np.testing.assert_allclose(found, np.quantile(price, ranks), rtol=1e-6)
    kinds, counts = np.unique(column(lists, "kind"), return_counts=True)
    kind = learnt["kind"]["0 Embedding"]
    assert dict(zip(kind["vocabulary"], kind["counts"], strict=True)) == dict(
        zip(kinds.tolist(), counts.tolist(), strict=True)
    )
    assert learnt["title"]["0 TfIdf"]["documents"] == len(price)


def test_nothing_is_learnt_of_validation_and_test_data(run, tmp_path):
    place, _, _, _ = run
    write_data(tmp_path / "data", others=7, scale=1e6)
    pipeline = build_pipeline(config(tmp_path / "data", tmp_path / "run"))
    pipeline.train()
    expected = (place / "preprocessing.json").read_bytes()
    assert (tmp_path / "run" / "preprocessing.json").read_bytes() == expected


# A process that has TensorFlow, and neither this package nor those that it needs.
SCORE = """
import sys
for name in ("tfr_pipeline", "tensorflow_ranking", "datasketches", "tf_keras"):
    sys.modules[name] = None
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
records = [r.numpy() for r in tf.data.TFRecordDataset(sys.argv[2])]
scores = model.signatures["tensorflow/serving/predict"](tf.constant(records))
np.save(sys.argv[3], next(iter(scores.values())).numpy())
"""


def test_an_export_preprocesses_in_a_process_without_this_package(run, data, tmp_path):
    place, _, pipeline, model = run
    folder, _ = data
    (export,) = (place / "export" / "latest_model").glob("[0-9]*")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            SCORE,
            export,
            folder / "valid-00000-of-00001.tfrecord",
            tmp_path / "scores.npy",
        ],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / "scores.npy")
    batches = pipeline._dataset_builder.make_dataset("valid", "packed")
    scores = [model(batch[0], training=False) for batch in batches]
    expected = tf.concat(scores, axis=0)
    real = tf.sequence_mask(expected.row_lengths())
    np.testing.assert_allclose(found[real], expected.values, atol=1e-5)


def test_a_run_that_goes_on_has_what_it_has_learnt(run, monkeypatch):
    place, _, _, _ = run
    monkeypatch.setattr(fitting, "fit", lambda *_: pytest.fail("it learnt again"))
    again = build_pipeline(read_json(place / "config.json"))
    again.train()
    again.finish()
    path = build_pipeline(read_json(place / "config.json")).export_checkpoint(
        str(place) + "-exported"
    )
    assert Predictor(path)


def test_a_run_that_lost_what_it_has_learnt_says_so(run, tmp_path):
    place, _, _, _ = run
    shutil.copytree(place, tmp_path / "run")
    (tmp_path / "run" / "preprocessing.json").unlink()
    told = changed(read_json(place / "config.json"), model_dir=str(tmp_path / "run"))
    with pytest.raises(RunError, match=r"preprocessing.json is missing"):
        build_pipeline(told).export_checkpoint(str(tmp_path / "export"))
    with pytest.warns(UserWarning, match="preprocessing learns anew"):
        build_pipeline(told).train()
    assert (tmp_path / "run" / "preprocessing.json").exists()


def test_what_no_checkpoint_was_trained_with_is_learnt_anew(run, data, tmp_path):
    place, _, _, _ = run
    content = read_json(place / "preprocessing.json")
    learnt = {**content["learnt"], "rank": {"1 Standardize": {"mean": [7.0]}}}
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / "preprocessing.json"
    file.write_text(json.dumps({**content, "learnt": learnt}))
    pipeline = build_pipeline(config(data[0], tmp_path / "run"))
    pipeline._learning.learn(pipeline._run, 1, None)
    assert pipeline._model_builder._preprocessor.learnt == content["learnt"]


def test_what_is_given_is_kept_and_the_rest_is_learnt(run, data, tmp_path):
    place, _, _, _ = run
    content = read_json(place / "preprocessing.json")
    given = {"1 Standardize": {"mean": [5.0], "deviation": [2.0]}}
    other = {"0 QuantileNormal": {"quantiles": [[0.0, 1.0]]}}
    elsewhere = {
        "steps": {**content["steps"], "price": ["of another kind"]},
        "learnt": {"rank": given, "price": other},
    }
    pipeline = build_pipeline(config(data[0], tmp_path / "run"))
    pipeline._learning.learn(pipeline._run, 1, None, lambda: elsewhere)
    found = pipeline._model_builder._preprocessor.learnt
    assert found == {**content["learnt"], "rank": given}
    assert pipeline._learning.kept == ["rank"]


@pytest.fixture(scope="module")
def later(tmp_path_factory):
    """Data of another day, with another value of `kind` and larger numbers."""
    folder = tmp_path_factory.mktemp("later") / "data"
    write_data(folder)
    write_elwc(folder / "train-00000-of-00001.tfrecord", make_lists(5, scale=3.0))
    return folder


def test_a_warm_start_may_keep_what_an_export_has_learnt(run, later, tmp_path, capsys):
    (version,) = (run[0] / "export" / "latest_model").glob("[0-9]*")
    place = shutil.copytree(version, tmp_path / version.name)
    warm = {"from": str(place), "statistics": "keep"}
    made = config(later, tmp_path / "run", warm_start=warm)
    build_pipeline(made).train(verbose=1)
    learnt = [read_json(p / "preprocessing.json") for p in (run[0], tmp_path / "run")]
    assert learnt[0] == learnt[1]
    assert "statistics kept of " in capsys.readouterr().out


def test_a_warm_start_refuses_weights_of_another_vocabulary(run, later, tmp_path):
    made = config(later, tmp_path / "run", warm_start={"from": str(run[0])})
    with pytest.raises(ConfigError, match=r"other vocabulary: .*kind.*'keep'"):
        build_pipeline(made).train()


def test_a_warm_start_learns_numbers_anew(data, later, tmp_path):
    texts = ("qid", "query", "kind", "title")
    steps = {"*": "standardize", **{name: {"hashing": 4} for name in texts}}
    build_pipeline(config(data[0], tmp_path / "first", steps)).train()
    warm = {"from": str(tmp_path / "first")}
    build_pipeline(config(later, tmp_path / "run", steps, warm_start=warm)).train()
    scales = [
        read_json(tmp_path / name / "preprocessing.json")["learnt"]["rank"]
        for name in ("first", "run")
    ]
    scales = [of_run["0 Standardize"]["deviation"][0] for of_run in scales]
    assert scales[1] > 2 * scales[0]


def test_a_dry_run_learns_and_writes_nothing(data, tmp_path):
    lines = build_pipeline(config(data[0], tmp_path / "run")).dry_run()
    assert "loss of the first step" in lines[-1] and not (tmp_path / "run").exists()


def test_steps_that_learn_need_lists(data, tmp_path):
    from tfr_pipeline.pipeline.datasets.abstract import NullDatasetBuilder
    from tfr_pipeline.pipeline.run.learning import Learning

    pipeline = build_pipeline(config(data[0], tmp_path / "run"))
    learning = Learning(pipeline._model_builder, NullDatasetBuilder(None, None))
    assert learning.learns
    with pytest.raises(ConfigError, match="reads lists"):
        learning.learn(pipeline._run, 1, None)


def test_a_feature_without_values_is_named(data, tmp_path):
    made = config(data[0], tmp_path / "run", {"kind": {"one_hot": 5, "min_count": 999}})
    with pytest.raises(DataError, match=r"'kind'.*none that occurs 999 times"):
        build_pipeline(made).train()
    assert not pathlib.Path(tmp_path / "run").exists()


def test_nan_is_a_missing_value_in_data_that_keeps_it(tmp_path):
    write_data(tmp_path / "data")
    lists = make_lists(0)
    for one in lists[::3]:
        one.documents[0]["price"][0] = np.nan
    write_elwc(tmp_path / "data" / "train-00000-of-00001.tfrecord", lists)
    made = config(
        tmp_path / "data",
        tmp_path / "run",
        {**STEPS, "price": ["standardize", "missing"]},
    )
    with pytest.raises(DataError, match=r"'price'.*is nan.*--nan=keep"):
        build_pipeline(made).train()
    kept = {**FEATURES.to_json(), "reading": {"nan": "keep"}}
    (tmp_path / "data" / "features.json").write_text(json.dumps(kept))
    forgotten = changed(made, model__preprocess__price="standardize")
    with pytest.raises(DataError, match=r"'price' is missing \(NaN\) in 10 places"):
        build_pipeline(forgotten).train()
    model = build_pipeline(made).train()
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    learnt = read_json(tmp_path / "run" / "preprocessing.json")["learnt"]["price"]
    price = column(lists, "price").astype(float)
    mean = learnt["0 Standardize"]["mean"]
    np.testing.assert_allclose(mean, [np.nanmean(price)], rtol=1e-6)


@pytest.mark.slow
def test_workers_learn_together_what_one_learns(run, data, tmp_path):
    place, _, _, _ = run
    made = config(data[0], tmp_path / "run", strategy="MultiWorkerMirroredStrategy")
    for worker in start_workers(made, tmp_path / "workers"):
        worker.communicate(timeout=400)
        assert worker.returncode == 0, (tmp_path / "workers" / "0.log").read_text()
    one, two = (
        read_json(folder / "preprocessing.json")["learnt"]
        for folder in (place, tmp_path / "run")
    )
    assert one.keys() == two.keys()
    for owner in one:
        for key, statistics in one[owner].items():
            for name, value in statistics.items():
                other = two[owner][key][name]
                if name in ("mean", "deviation"):  # of float32 logarithms
                    np.testing.assert_allclose(other, value, rtol=1e-7)
                else:
                    assert other == value


# Trains with servers that live in the same process.
SERVERS = """
import dataclasses, json, sys
from tfr_pipeline.compat import tf
from tfr_pipeline.experiment.build import build_pipeline

config, ports = map(json.loads, sys.argv[1:])
hosts = [f"localhost:{port}" for port in ports]
jobs = {"worker": hosts[:1], "ps": hosts[1:]}
spec = tf.train.ClusterSpec(jobs)
servers = [
    tf.distribute.Server(spec, job_name=job, task_index=index, protocol="grpc")
    for job, own in jobs.items()
    for index in range(len(own))
]
resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(spec, rpc_layer="grpc")
pipeline = build_pipeline(config)
hparams = dataclasses.replace(
    pipeline._hparams, strategy="ParameterServerStrategy", cluster_resolver=resolver
)
again = type(pipeline)(
    pipeline._model_builder, pipeline._dataset_builder, hparams, config=config
)
again.train_and_validate()
"""


@pytest.mark.slow
def test_the_chief_of_parameter_servers_learns(run, data, tmp_path):
    place, _, _, _ = run
    made = config(data[0], tmp_path / "run")
    done = start(SERVERS, json.dumps(made), json.dumps(free_ports(3)))
    _, errors = done.communicate(timeout=400)
    assert done.returncode == 0, errors[-3000:]
    expected = (place / "preprocessing.json").read_bytes()
    assert (tmp_path / "run" / "preprocessing.json").read_bytes() == expected
    assert list((tmp_path / "run" / "export" / "latest_model").glob("[0-9]*"))
