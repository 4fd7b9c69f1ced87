"""Texts that a frozen module encodes once, before training."""

from __future__ import annotations

import numpy as np
import pytest

from tests import ranking_data
from tests.model.hub_builder import MATCH, make_builder
from tests.pipeline.training_helpers import changed, fit
from tfr_pipeline.compat import tf
from tfr_pipeline.data import room
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.features import Feature, Features
from tfr_pipeline.model.layers.hub import HubEncoder

TOPICS = ("cat", "dog", "bird", "fish", "tree")
FILLERS = ("the", "a", "of", "and")


def text_list(random, query):
    """Returns a query of one topic; documents of that topic are relevant."""
    topic, other = (TOPICS[(query + i) % len(TOPICS)] for i in (0, 2))
    documents = []
    for i in range(random.integers(3, 7)):
        title = f"{random.choice(FILLERS)} {topic if i % 3 == 0 else other}"
        documents.append(
            {
                "title": np.array([title], object),
                "length": np.float32([len(title)]),
                "label": np.float32([float(i % 3 == 0)]),
                "docid": np.array([f"d{query}_{i}"], object),
            }
        )
    context = {
        "query": np.array([topic], object),
        "qid": np.array([f"q{query}"], object),
    }
    return ranking_data.RankedList(context, documents)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Folder of ELWC files with texts, and all texts that are in them."""
    folder = tmp_path_factory.mktemp("texts")
    random = np.random.default_rng(0)
    found = set()
    for split, count in (("train", 24), ("valid", 8)):
        lists = [text_list(random, query) for query in range(count)]
        for ranked in lists:
            parts = [ranked.context["query"], *(d["title"] for d in ranked.documents)]
            found |= {str(part[0]).encode() for part in parts}
        ranking_data.write_elwc(folder / f"{split}-00000-of-00001.tfrecord", lists)
    text = Feature("string", (1,), "")
    Features(
        context={"query": text}, example={"title": text, "length": Feature(default=0.0)}
    ).save(str(folder))
    return folder, found


@pytest.fixture
def pipeline(texts, text_module, tmp_path):
    """Makes a pipeline, given settings of its config."""

    def make(**settings):
        config = {
            "data": {
                "dir": str(texts[0]),
                "train_batch_size": 8,
                "valid_batch_size": 8,
            },
            "model": {
                "builder": f"{make_builder.__module__}:make_builder",
                "builder_args": {"handle": text_module},
            },
            "pipeline": {
                "loss": "softmax_loss",
                "num_epochs": 3,
                "learning_rate": 0.01,
                "metrics": ["ndcg_1"],
                "strategy": None,
            },
            "model_dir": str(tmp_path / "run"),
            "seed": 1,
        }
        return build_pipeline(changed(config, **settings))

    return make


@pytest.fixture
def counted(monkeypatch):
    """Texts that modules encode, in steps of training as well."""
    found = []
    encoded = HubEncoder._encoded

    def counting(self, items, training):
        def note(values):
            found.extend(values.numpy().tolist())
            return np.int32(0)

        noted = tf.py_function(note, [items], tf.int32)
        with tf.control_dependencies([noted]):
            return encoded(self, tf.identity(items), training)

    monkeypatch.setattr(HubEncoder, "_encoded", counting)
    return found


@pytest.fixture
def no_room(monkeypatch):
    monkeypatch.setattr(room, "memory", lambda processes=1: room.Room(0, "free"))


def test_each_text_of_the_data_is_encoded_once(pipeline, texts, counted):
    fit(pipeline())
    assert len(counted) == len({*counted})
    assert {*counted} - {b""} == texts[1]  # "" is the padding, where there is some


def test_features_of_a_config_share_a_module(pipeline, texts, text_module, counted):
    encoded = {"hub": text_module}
    steps = {"query": encoded, "title": [encoded, "log1p"], "length": "log1p"}
    made = pipeline(
        model__builder=None,
        model__builder_args=None,
        model__scorer_args={"hidden_layer_dims": [16]},
        model__preprocess=steps,
        model__interactions={"match": MATCH},
    )
    model, _ = fit(made)
    assert sum(isinstance(layer, HubEncoder) for layer in model.submodules) == 1
    assert len(counted) == len({*counted})
    assert {*counted} - {b""} == texts[1]


def test_training_is_that_of_texts_encoded_in_each_step(pipeline, monkeypatch):
    model, history = fit(pipeline())
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "encoding", None)
        other, expected = fit(pipeline())
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
    assert [row["val_metric/ndcg_1"] for row in history] == [
        row["val_metric/ndcg_1"] for row in expected
    ]


def test_without_room_texts_are_encoded_in_each_step(
    pipeline, texts, counted, no_room, capfd
):
    _, history = fit(pipeline())
    assert len(counted) > 2 * len(texts[1])
    assert np.isfinite(history[-1]["loss"])
    assert "more than there is (0 B free): texts are encoded" in capfd.readouterr().err


def test_a_trained_module_is_called_in_each_step(pipeline, texts, counted):
    made = pipeline(model__builder_args__trainable=True)
    model, _ = fit(made)
    assert model.encoding is None and len(counted) > 2 * len(texts[1])
    (encoder,) = (layer for layer in model.layers if isinstance(layer, HubEncoder))
    before = HubEncoder(encoder.handle)
    text = tf.constant(["the cat"])
    assert np.abs(encoder(text) - before(text)).max() > 0.001


@pytest.mark.slow
@pytest.mark.parametrize("trainable", [False, True])
def test_a_run_of_replicas_exports_what_takes_texts(pipeline, text_module, trainable):
    made = pipeline(
        pipeline__strategy="MirroredStrategy",
        model__builder_args__trainable=trainable,
    )
    # It compares the export with the model.
    made.train_and_validate()
    assert np.isfinite(made.finish()["valid"]["ndcg@1"]["skip"])
