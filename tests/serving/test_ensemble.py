"""Ensembles score as their members do on average, by every signature, anywhere."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from tests.pipeline.training_helpers import environment
from tests.ranking_data import CONTEXT_SPEC, EXAMPLE_SPEC, elwc, example, random_lists
from tests.serving.serving_helpers import (
    as_lists,
    export_untrained,
    make_builder,
    make_signatures,
    randomize,
    rank_inputs,
)
from tests.serving.test_rank import TwoTasks
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.features import FILE_NAME, Feature, Features
from tfr_pipeline.model.scorers import DNNScorer
from tfr_pipeline.serving.class_signatures import CLASSIFY_EXAMPLES, ClassSignatures
from tfr_pipeline.serving.ensemble import export_ensemble
from tfr_pipeline.serving.export import export_saved_model
from tfr_pipeline.serving.predictor import Predictor
from tfr_pipeline.serving.signatures import CLASSIFY, PREDICT, RANK, REGRESS

LISTS = random_lists(3, [3, 1, 5, 2], missing=0.2)
FLOAT = tf.io.FixedLenFeature((1,), tf.float32, 0.0)
# Runs without this package: asks each signature of some models.
ELSEWHERE = """
import json, sys
import numpy as np
import tensorflow as tf

given = dict(np.load("in.npz"))
lists, documents = (
    tf.constant([bytes.fromhex(text) for text in given[name].tolist()])
    for name in ("lists", "documents"))
found = {}
for number, path in enumerate(sys.argv[1:]):
    model = tf.saved_model.load(path)
    signatures = model.signatures
    of = {
        "predict": signatures["tensorflow/serving/predict"](lists),
        "regress": signatures["tensorflow/serving/regress"](documents),
        "default": signatures["serving_default"](documents),
        "rank": signatures["rank"](ids=tf.constant([], tf.string), **{
            name: tf.constant(value) for name, value in given.items()
            if name not in ("lists", "documents")}),
    }
    for key, outputs in of.items():
        for name, value in outputs.items():
            if value.dtype.is_floating:
                found[f"{number} {key} {name}"] = value.numpy()
np.savez("out.npz", **found)
assert not [name for name in sys.modules if name.startswith("tfr_pipeline")]
"""


def described(context=None, document=None, **more) -> Features:
    return Features(
        context={n: Feature.from_spec(s) for n, s in (context or {}).items()},
        example={n: Feature.from_spec(s) for n, s in (document or {}).items()},
        **more,
    )


def export(model, path, features, signatures=None):
    specs = features.context_spec, features.example_spec
    signatures = signatures or make_signatures(model, *specs)
    text = json.dumps(features.to_json())
    return export_saved_model(model, signatures(), str(path), {FILE_NAME: text})


def combined(paths, path) -> Predictor:
    members = [Predictor(one) for one in paths]
    return Predictor(export_ensemble(members, str(path)))


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Exports of models with other weights, scorers and layouts."""
    folder = tmp_path_factory.mktemp("members")
    features = described(CONTEXT_SPEC, EXAMPLE_SPEC)
    scorers = [
        DNNScorer(hidden_layer_dims=[6], activation="tanh"),
        DNNScorer(hidden_layer_dims=[3, 2], use_batch_norm=True),
    ]
    models = [make_builder(scorer=scorers[0]).build_packed()]
    models.append(make_builder(scorer=scorers[1]).build())
    paths = [str(folder / str(number)) for number in range(3)]
    for seed, model in enumerate(models):
        export(randomize(model, seed), paths[seed], features)
    return [*paths[:2], export_untrained(features, paths[2], seed=9)]


@pytest.fixture(scope="module")
def ensemble(members, tmp_path_factory):
    """What `members` are on average."""
    return combined(members, tmp_path_factory.mktemp("ensemble") / "all")


def test_every_signature_gives_the_mean_in_a_process_without_this_package(
    members, ensemble, tmp_path
):
    raw = {k: v.numpy() for k, v in rank_inputs(LISTS).items() if k != "ids"}
    documents = [
        example({**ranked.context, **document}).SerializeToString()
        for ranked in LISTS
        for document in ranked.documents
    ]
    records = {
        # As text: arrays of bytes lose the zeros at their ends.
        "lists": np.array([elwc(ranked).hex() for ranked in LISTS]),
        "documents": np.array([document.hex() for document in documents]),
    }
    np.savez(tmp_path / "in.npz", **records, **raw)
    hidden = ("PYTHONPATH", "TF_USE_LEGACY_KERAS")
    subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *members, ensemble.path],
        cwd=tmp_path,
        env={k: v for k, v in environment().items() if k not in hidden},
        check=True,
    )
    found = dict(np.load(tmp_path / "out.npz"))
    names = [name[2:] for name in found if name.startswith("3 ")]
    assert len(names) == 4
    for name in names:
        mean = np.mean([found[f"{i} {name}"] for i in range(3)], axis=0)
        assert np.ptp(mean) > 0.01
        np.testing.assert_allclose(found[f"3 {name}"], mean, rtol=0, atol=2e-6)


def test_a_predictor_scores_matrices_as_its_members_do_on_average(members, ensemble):
    lists = as_lists(LISTS)
    mean = np.mean([Predictor(path).score(lists) for path in members], axis=0)
    np.testing.assert_allclose(ensemble.score(lists), mean, rtol=0, atol=2e-6)
    assert ensemble.features == Predictor(members[0]).features


def test_an_ensemble_may_be_a_member(members, ensemble, tmp_path):
    predictor = combined([ensemble.path, members[2]], tmp_path / "outer")
    lists = as_lists(LISTS)
    parts = [ensemble.score(lists), Predictor(members[2]).score(lists)]
    mean = np.mean(parts, axis=0)
    np.testing.assert_allclose(predictor.score(lists), mean, rtol=0, atol=2e-6)


def test_each_task_has_its_mean(tmp_path):
    spec = {"x": FLOAT}
    labels = {task: (task, Feature()) for task in ("click", "buy")}
    features = described({}, spec, labels=labels)
    paths = []
    for factor in (1.0, 4.0):
        functions = {"x": lambda x, factor=factor: factor * x}
        model = make_builder({}, spec, functions, TwoTasks()).build_packed()
        paths.append(export(model, tmp_path / str(factor), features))
    predictor = combined(paths, tmp_path / "all")
    assert predictor.tasks == ("click", "buy")
    lists = random_lists(1, [3, 2], {}, spec, with_context=False)
    inputs = rank_inputs(lists, {}, spec)
    found = predictor.function(**inputs, task=tf.constant("buy"))
    wanted = -2.5 * inputs["x"][:, 0]
    np.testing.assert_allclose(found["buy"], wanted, rtol=1e-6)
    np.testing.assert_allclose(found["click"], -wanted, rtol=1e-6)


def test_probabilities_of_classes_are_averaged(tmp_path):
    spec = {"x": FLOAT, "y": FLOAT}
    features = described({}, spec, classes=("a", "b", "c"))
    paths = []
    for seed in range(2):
        scorer = DNNScorer(hidden_layer_dims=[4], output_units=3)
        model = randomize(make_builder({}, spec, {}, scorer).build_packed(), seed)
        signatures = ClassSignatures(model, {}, spec, "mask", features.classes)
        paths.append(export(model, tmp_path / str(seed), features, signatures))
    predictor = combined(paths, tmp_path / "all")
    lists = random_lists(1, [1] * 5, {}, spec, with_context=False)
    records = [
        example(document).SerializeToString()
        for ranked in lists
        for document in ranked.documents
    ]
    inputs = {
        name: value
        for name, value in rank_inputs(lists, {}, spec).items()
        if name != "row_splits"
    }
    loaded = [Predictor(path).module.signatures for path in (*paths, predictor.path)]
    for key, given in (
        (CLASSIFY_EXAMPLES, {"inputs": tf.constant(records)}),
        (CLASSIFY, inputs),
    ):
        one, other, both = [of[key](**given)["scores"].numpy() for of in loaded]
        assert np.abs(one - other).max() > 0.01
        np.testing.assert_allclose(both, (one + other) / 2, rtol=0, atol=1e-6)
    assert set(loaded[2]) == set(loaded[0])
    serialized = tf.constant([elwc(ranked) for ranked in lists])
    logits = loaded[2][PREDICT](serialized)["outputs"]
    np.testing.assert_allclose(tf.nn.softmax(logits)[:, 0], both, rtol=0, atol=1e-6)


def test_texts_and_ragged_features_reach_every_member(tmp_path):
    spec = {
        "word": tf.io.FixedLenFeature((1,), tf.string, ""),
        "numbers": tf.io.RaggedFeature(tf.float32),
    }
    functions = {
        "word": lambda x: tf.cast(tf.strings.length(x), tf.float32),
        "numbers": lambda x: tf.reduce_sum(x, axis=-1, keepdims=True),
    }
    features = described({}, spec)
    paths = []
    for seed in range(2):
        builder = make_builder({}, spec, functions, DNNScorer(hidden_layer_dims=[3]))
        model = randomize(builder.build(), seed)
        paths.append(export(model, tmp_path / str(seed), features))
    predictor = combined(paths, tmp_path / "all")
    assert {RANK, PREDICT, REGRESS} < set(predictor.module.signatures)
    documents = [
        {"word": np.array([b"abc"], object), "numbers": np.float32([1.5, 2])},
        {"word": np.array([b"b"], object)},
    ]
    records = tf.constant([example(one).SerializeToString() for one in documents])
    one, other, both = [
        Predictor(path).module.signatures[REGRESS](records)["outputs"].numpy()
        for path in (*paths, predictor.path)
    ]
    assert np.ptp(both) > 0.01
    np.testing.assert_allclose(both, (one + other) / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda f: {"example": {**f.example, "z": Feature()}},
            r"example\.z\.default is 'nothing' in .* and None in",
        ),
        (
            lambda f: {"context": {**f.context, "query_length": Feature(shape=(2,))}},
            r"context\.query_length\.default is",
        ),
        (
            lambda f: {"reading": {"nan": "keep"}},
            r"reading\.nan is 'error' in .* and 'keep' in",
        ),
    ],
    ids=["names", "shape", "nan"],
)
def test_models_on_other_features_are_refused_with_the_difference(
    members, tmp_path, change, told
):
    first, second = [Predictor(path) for path in members[:2]]
    second.features = dataclasses.replace(second.features, **change(second.features))
    with pytest.raises(ConfigError, match=told):
        export_ensemble([first, second], str(tmp_path / "all"))
    assert not (tmp_path / "all").exists()
