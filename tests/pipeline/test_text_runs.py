"""Runs on texts, ragged and sparse features are exported, evaluated, and predict."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests import ranking_data, text_data
from tests.pipeline.training_helpers import read_json
from tfr_pipeline.cli.main import main
from tfr_pipeline.compat import tf
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.simple import SimplePipeline
from tfr_pipeline.serving.predictor import Predictor
from tfr_pipeline.serving.signatures import PREDICT, RANK, REGRESS


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    return folder, text_data.write(folder)


@pytest.fixture(
    scope="module",
    params=["packed", pytest.param("padded", marks=pytest.mark.slow)],
)
def run(request, data, tmp_path_factory):
    """A run directory, and the model that was trained in it."""
    folder, layout = tmp_path_factory.mktemp(request.param), request.param
    hparams = PipelineHparams(
        model_dir=str(folder),
        num_epochs=2,
        steps_per_epoch=None,
        validation_steps=None,
        learning_rate=0.05,
        loss="softmax_loss",
        export_best_model=True,
        best_exporter_metric="ndcg_5",
        best_exporter_metric_higher_better=True,
        layout=layout,
        seed=1,
    )
    builder = text_data.dataset_builder(data[0], test_input_pattern=f"{data[0]}/test-*")
    pipeline = SimplePipeline(text_data.model_builder(), builder, hparams)
    return folder, builder, pipeline.train_and_validate(), layout


def ndcg(labels, scores, cutoff):
    """NDCG of one list, of which the documents have different scores."""
    ranked = labels[np.argsort(-scores, kind="stable")][:cutoff]
    ideal = np.sort(labels)[::-1][:cutoff]
    discount = 1 / np.log2(np.arange(2, len(ranked) + 2))
    best = ((2.0**ideal - 1) * discount).sum()
    return ((2.0**ranked - 1) * discount).sum() / best if best else np.nan


def model_scores(run, split="valid"):
    """Scores and labels by list, of the trained model on batches of the builder."""
    _, builder, model, layout = run
    scores, labels = [], []
    for features, truth in builder.make_dataset(split, layout):
        found = model(features, training=False)
        if layout == "padded":
            mask = features[ranking_data.MASK]
            found, truth = (tf.ragged.boolean_mask(x, mask) for x in (found, truth))
        for one, other in zip(found, truth, strict=True):
            scores.append(one.numpy())
            labels.append(other.numpy())
    return scores, labels


def test_the_final_metrics_are_those_of_numpy(run):
    predictor = Predictor(str(run[0] / "export" / "best_model_by_metric"))
    for split in ("valid", "test"):
        lists = run[1].lists(split, "packed")
        scores = predictor.score(lists)
        ends = lists.row_splits[1:-1]
        rows = zip(np.split(lists.labels, ends), np.split(scores, ends), strict=True)
        values = [ndcg(labels, some, 5) for labels, some in rows]
        found = read_json(run[0] / "metrics.json")[split]["ndcg@5"]["skip"]
        assert found == pytest.approx(np.nanmean(values), abs=1e-6)


def test_the_export_scores_as_the_model(run):
    wanted, _ = model_scores(run)
    predictor = Predictor(str(run[0] / "export" / "latest_model"))
    assert predictor.signature == RANK
    lists = run[1].lists("valid", "packed")
    for function in (None, predictor.function):
        found = np.split(predictor.score(lists, function), lists.row_splits[1:-1])
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_all_signatures_score_alike(run, data):
    lists = data[1]["valid"]
    predictor = Predictor(str(run[0] / "export" / "latest_model"))
    signatures = predictor._module.signatures
    records = tf.constant([ranking_data.elwc(ranked) for ranked in lists])
    (padded,) = signatures[PREDICT](records).values()
    wanted = np.concatenate(
        [
            row[: len(ranked.documents)]
            for row, ranked in zip(padded.numpy(), lists, strict=True)
        ]
    )
    scores = predictor.score(run[1].lists("valid", "packed"))
    np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-5)
    examples = [
        ranking_data.example({**ranked.context, **document}).SerializeToString()
        for ranked in lists
        for document in ranked.documents
    ]
    (one_by_one,) = signatures[REGRESS](tf.constant(examples)).values()
    np.testing.assert_allclose(one_by_one, wanted, rtol=1e-5, atol=1e-5)


def test_evaluate_and_predict_agree_with_the_run(run, data, tmp_path, capsys):
    folder = data[0]
    model = f"--model={run[0]}"
    output = tmp_path / "test.json"
    pattern = f"{folder}/test-*"
    assert main(["evaluate", model, f"--data={pattern}", f"--output={output}"]) == 0
    wanted = read_json(run[0] / "metrics.json")["test"]
    assert json.loads(output.read_text())["ndcg@5"] == wanted["ndcg@5"]
    ranking = tmp_path / "ranking.tsv"
    arguments = [f"--input={pattern}", "--input_format=elwc", f"--output={ranking}"]
    assert main(["predict", model, *arguments]) == 0
    scores = Predictor(str(run[0])).score(run[1].lists("test", "packed"))
    rows = [line.split("\t") for line in ranking.read_text().splitlines()]
    documents = [
        document["docid"][0]
        for ranked in data[1]["test"]
        for document in ranked.documents
    ]
    found = {name: float(score) for _, name, _, score in rows}
    np.testing.assert_allclose([found[n] for n in documents], scores, rtol=1e-5)
