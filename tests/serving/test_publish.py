"""What is published was compared, and predicts whatever its features and scores are."""

from __future__ import annotations

import numpy as np
import pytest

from tests import ranking_data
from tests.pipeline.training_helpers import tree
from tests.ranking_data import LABEL_SPEC, MASK, random_lists
from tests.serving.serving_helpers import make_builder, randomize
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import RunError
from tfr_pipeline.metrics.evaluation import evaluate_lists
from tfr_pipeline.model.scorers import Scorer, UnivariateScorer
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder
from tfr_pipeline.pipeline.run.finish import Exporter
from tfr_pipeline.pipeline.run.measuring import evaluate
from tfr_pipeline.serving.predictor import Predictor
from tfr_pipeline.serving.signatures import PREDICT, RANK
from tfr_pipeline.serving.versions import find_export

LENGTHS = [3, 1, 5, 2]
FLOAT = tf.io.FixedLenFeature((1,), tf.float32, 0.0)


def make_datasets(folder, lists, context, example):
    path = ranking_data.write_elwc(folder / "valid-0.tfrecord", lists)
    return SimpleDatasetBuilder(
        context, example, MASK, LABEL_SPEC, DatasetHparams("", path, 1, 1)
    )


class Noisy(UnivariateScorer):
    """Adds noise to its scores, when it is asked to."""

    def __init__(self, noise):
        self.noise = noise

    def _score_flattened(self, context_features, example_features):
        x = example_features["x"]
        return tf.keras.layers.Dense(1)(x) + self.noise * tf.random.normal(tf.shape(x))


def test_an_export_that_scores_differently_is_never_there(tmp_path):
    tf.random.set_seed(None)  # else model and export may draw the same noise
    lists = random_lists(0, LENGTHS, {}, {"x": FLOAT})
    datasets = make_datasets(tmp_path, lists, {}, {"x": FLOAT})
    folder = tmp_path / "export"

    def publish(step, noise):
        model = make_builder({}, {"x": FLOAT}, {}, Noisy(noise)).build_packed()
        Exporter(datasets, model).publish(str(folder), step)

    with pytest.raises(RunError, match=r"export/1: nothing was .*scores differently"):
        publish(1, 1.0)
    assert not tree(folder)
    publish(1, 0.0)
    before = tree(folder)
    for step in (1, 2):
        with pytest.raises(RunError, match="scores differently"):
            publish(step, 1.0)
        assert tree(folder) == before
    assert find_export(str(folder)) == str(folder / "1")


TEXTS = {
    "tokens": tf.io.RaggedFeature(tf.string),
    "word": tf.io.FixedLenFeature((1,), tf.string, ""),
    "sparse": tf.io.VarLenFeature(tf.int64),
    "x": FLOAT,
    "n": tf.io.FixedLenFeature((1,), tf.int64, 0),
}
QUERY = {"query_tokens": tf.io.RaggedFeature(tf.string), "length": FLOAT}


def texts():
    """Lists with features of every kind."""
    random = np.random.default_rng(1)
    words = np.array(["a", "b", "c", "d"], object)
    lists = random_lists(2, LENGTHS, {"length": FLOAT}, {"x": FLOAT})
    for ranked in lists:
        ranked.context["query_tokens"] = random.choice(words, random.integers(0, 3))
        for document in ranked.documents:
            document["tokens"] = random.choice(words, random.integers(0, 4))
            document["word"] = random.choice(words, 1)
            document["sparse"] = random.integers(0, 9, random.integers(0, 3))
            document["n"] = random.integers(0, 9, 1)
    return lists


class OfTexts(Scorer):
    """A sum of what there is, one number or several for each document."""

    def __init__(self, numbers):
        self.numbers = numbers

    def __call__(self, context_features, example_features, mask):
        def number(tensor):
            if tensor.dtype == tf.string:
                hashes = tf.strings.to_hash_bucket_fast(tensor, 17)
                tensor = tf.where(tensor == "", tf.zeros_like(hashes), hashes)
            return tf.reduce_sum(tf.cast(tensor, tf.float32), -1)

        documents = tf.add_n([number(t) for t in example_features.values()])
        query = tf.add_n([number(t) for t in context_features.values()])
        total = documents + query[:, tf.newaxis]
        scores = tf.keras.layers.Dense(self.numbers)(total[:, :, tf.newaxis])
        return scores if self.numbers > 1 else scores[:, :, 0]


@pytest.mark.parametrize("numbers", [1, 2])
def test_exports_of_texts_are_compared_evaluated_and_predict(tmp_path, numbers):
    lists = texts()
    datasets = make_datasets(tmp_path, lists, QUERY, TEXTS)
    model = randomize(make_builder(QUERY, TEXTS, {}, OfTexts(numbers)).build())
    found = Exporter(datasets, model).publish(str(tmp_path / "export"), 3)
    loaded = tf.saved_model.load(str(tmp_path / "export")).signatures
    # It gives one score a document.
    assert (RANK in loaded) == (numbers == 1)
    serialized = tf.constant([ranking_data.elwc(ranked) for ranked in lists])
    scores = loaded[PREDICT](serialized)["outputs"].numpy()
    real = np.arange(5) < np.array(LENGTHS)[:, None]
    wanted = scores[real].reshape(11, numbers)
    packed = datasets.lists("valid", "packed")
    names = [f"outputs[{i}]" for i in range(2)] if numbers == 2 else ["scores"]
    for predictor in (found, Predictor(str(tmp_path / "export"))):
        assert predictor.tasks == tuple(names)
        by_name = predictor.score_tasks(packed)
        assert list(by_name) == names
        for name, column in zip(names, wanted.T, strict=True):
            np.testing.assert_allclose(by_name[name], column, rtol=1e-5)
    results = evaluate(found, packed)
    for name, column in zip(names, wanted.T, strict=True):
        result = results[name] if numbers > 1 else results
        expected = evaluate_lists(packed.labels, column, packed.row_splits)
        assert result["ndcg@10"] == expected["ndcg@10"]
