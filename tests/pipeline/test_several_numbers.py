"""Scorers that give a document several numbers, from training to prediction."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from builders.multi_task import SharedBottomScorer
from tests.pipeline import multi_task_data
from tests.pipeline.test_multi_task import TASKS, parts
from tests.pipeline.training_helpers import changed, make_config, read_json
from tfr_pipeline.cli.main import main
from tfr_pipeline.compat import tf
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.metrics.evaluation import evaluate_lists
from tfr_pipeline.pipeline.multi_task import MultiTaskPipeline
from tfr_pipeline.serving.predictor import Predictor
from tfr_pipeline.serving.signatures import PREDICT, RANK

NAMES = ("outputs[0]", "outputs[1]")


@pytest.mark.parametrize(
    ("loss", "layout"),
    [
        pytest.param("click_em_loss", "packed", marks=pytest.mark.slow),
        ("mixture_em_loss", "padded"),
    ],
)
def test_two_numbers_a_document_train_export_restore_evaluate_and_predict(
    data, tmp_path, capsys, loss, layout
):
    run, text = tmp_path / "run", data.parent / "text" / "test.txt"
    config = changed(
        make_config(data, run, num_epochs=1, loss=loss, metrics=(), layout=layout),
        model__scorer_args__output_units=2,
    )
    build_pipeline(config).train_and_validate()
    written = read_json(run / "metrics.json")
    assert set(written["test"]) == set(NAMES)

    export = Predictor(str(run))
    signatures = tf.saved_model.load(export.path).signatures
    assert RANK not in signatures and PREDICT in signatures
    builder = build_pipeline(config)._dataset_builder
    scores = export.score_tasks(builder.lists("test", "packed"))
    assert tuple(scores) == NAMES
    assert np.ptp(scores[NAMES[0]] - scores[NAMES[1]]) > 1e-3

    measured = tmp_path / "measured.json"
    words = [f"--model={run}", f"--data={data}/test-*", f"--output={measured}"]
    assert main(["evaluate", *words]) == 0
    assert read_json(measured) == written["test"]
    for task, column in scores.items():
        out = tmp_path / "ranking.tsv"
        words = [f"--model={run}", f"--input={text}", f"--output={out}"]
        assert main(["predict", *words, f"--task={task}"]) == 0
        with open(out, encoding="utf-8") as file:
            found = [float(row[3]) for row in csv.reader(file, delimiter="\t")]
        np.testing.assert_allclose(sorted(found), sorted(column), rtol=1e-5)
    capsys.readouterr()
    assert main(["predict", *words]) == 2
    assert "expected one of outputs[0], outputs[1]" in capsys.readouterr().err
    words = [f"--run={run}", f"--output={tmp_path / 'export'}"]
    assert main(["export", *words]) == 0  # of weights that are restored
    again = Predictor(str(tmp_path / "export"))
    for task, column in again.score_tasks(builder.lists("test", "packed")).items():
        np.testing.assert_allclose(column, scores[task], rtol=1e-5)


class TwoClicks(SharedBottomScorer):
    """Gives a document one number for the first task, two for the second."""

    def _score_flattened(self, context_features, example_features):
        scores = super()._score_flattened(context_features, example_features)
        return {**scores, "click": tf.keras.layers.Dense(2)(scores["click"])}


def test_a_task_of_several_that_has_two_numbers_is_evaluated_by_each(tmp_path):
    data, run = multi_task_data.make_data(tmp_path / "data"), tmp_path / "run"
    arguments = parts(
        data,
        run,
        TwoClicks(TASKS, [8, 4], activation="tanh"),
        num_epochs=1,
        loss={"relevance": "softmax_loss", "click": "mixture_em_loss"},
        metrics={"relevance": ("ndcg_5",)},
    )
    pipeline = MultiTaskPipeline(*arguments)
    pipeline.train_and_validate()
    measured = read_json(run / "metrics.json")["valid"]
    assert set(measured) == {"relevance", "click[0]", "click[1]"}
    predictor = Predictor(str(run))
    lists = pipeline._dataset_builder.lists("valid", "packed")
    scores = predictor.score_tasks(lists)
    for task, column in {"relevance": 0, "click[0]": 1, "click[1]": 1}.items():
        wanted = evaluate_lists(lists.labels[:, column], scores[task], lists.row_splits)
        assert measured[task] == wanted

    found = tmp_path / "found.json"
    words = [f"--model={run}", f"--data={data}/valid-*", f"--output={found}"]
    assert main(["evaluate", *words, "--baselines"]) == 0
    content = read_json(found)
    assert content.pop("baselines").keys() == measured.keys()
    assert content == measured
