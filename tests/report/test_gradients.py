"""Attributions against a linear model, and their sums against scores."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest

from tests.report.report_helpers import Known, export, linear, make_lists
from tests.serving.serving_helpers import randomize
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.attention_scorers import DASALCScorer
from tfr_pipeline.model.scorers import DNNScorer
from tfr_pipeline.model.steps.numeric import QuantileNormal
from tfr_pipeline.report import shapley
from tfr_pipeline.report.gradients import GapWarning, integrated_gradients
from tfr_pipeline.report.shapley import shapley_values

LISTS = make_lists()
ONE = LISTS.slice(2, 3)
WEIGHTS = np.array([2.0, -1.0, 0.5, 0.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def test_a_linear_model_adds_its_weight_for_each_unit(folder) -> None:
    predictor = export(linear(WEIGHTS), folder / "linear" / "1")
    baseline = np.float32([1.0, 2.0, 3.0, 4.0])
    found = integrated_gradients(predictor, ONE, baseline)
    expected = WEIGHTS * (ONE.values["float32"] - baseline)
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    np.testing.assert_allclose(found.scores, predictor.score(ONE), rtol=1e-6)
    assert found.names == ("bm25", "age", "clicks", "length")
    assert np.abs(found.gaps).max() < 1e-5


@pytest.mark.parametrize(
    "name, scorer",
    [
        ("relu", DNNScorer(hidden_layer_dims=[32, 32], activation="relu")),
        (
            "list",
            DASALCScorer(hidden_layer_dims=[8], num_heads=2, head_size=4, num_layers=1),
        ),
    ],
)
def test_attributions_sum_to_the_difference_of_scores(folder, name, scorer) -> None:
    predictor = export(scorer, folder / name / "1", change=randomize)
    rows = [4, 0]
    baseline = ONE.values["float32"].mean(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", GapWarning)
        found = integrated_gradients(predictor, ONE, baseline, documents=rows)
    scores = predictor.score(ONE)
    tolerance = 1e-3 * min(1.0, float(np.ptp(scores)))
    for place, row in enumerate(rows):
        moved = {"float32": ONE.values["float32"].copy()}
        moved["float32"][row] = baseline
        without = predictor.score(dataclasses.replace(ONE, values=moved))[row]
        total = found.values[place].sum()
        assert total == pytest.approx(scores[row] - without, abs=tolerance)
    assert np.abs(found.values).max() > 20 * tolerance


def test_a_model_with_jumps_tells_what_its_gradients_miss(folder) -> None:
    step = Known(lambda x: tf.cast(x[:, :1] > 0, tf.float32) + x[:, 1:2])
    predictor = export(step, folder / "step" / "1")
    with pytest.warns(GapWarning, match="to within 1, expected 0.001: .*shapley_val"):
        found = integrated_gradients(predictor, ONE, np.full(4, -9.0))
    np.testing.assert_allclose(found.values[:, 0], 0.0)
    jumped = (ONE.values["float32"][:, 0] > 0).astype(float)
    np.testing.assert_allclose(found.gaps, jumped, atol=1e-4)


def test_normal_quantiles_jump_where_documents_share_a_value(folder) -> None:
    step = QuantileNormal()
    sketch = step.new_sketch()
    even = np.linspace(-5, 5, 1000)
    counts = np.repeat([0.0, 1.0], 500)
    sketch.update(np.stack([even, counts, even, even], axis=1))
    step.statistics = step.learn(sketch)
    predictor = export(
        Known(lambda x: tf.reduce_sum(step(x)[:, :2], axis=1, keepdims=True)),
        folder / "quantile" / "1",
    )
    values = np.tile(np.float32([[2.0, 1.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]]), (2, 1))
    rows = ONE.values["float32"].copy()
    rows[:4] = values
    lists = dataclasses.replace(ONE, values={"float32": rows})
    with pytest.warns(GapWarning):
        found = integrated_gradients(predictor, lists, np.zeros(4), documents=[0, 1])
    # Ranks of 0 and 1 are 1/4 and 3/4; between them the rank hardly moves.
    np.testing.assert_allclose(found.gaps, [2 * 0.6745, 0.0], atol=0.01)
    np.testing.assert_allclose(found.values[:, 0], 0.5244, atol=0.01)
    exact = shapley_values(predictor, lists, np.zeros(4), documents=[0])
    np.testing.assert_allclose(exact.values[0, :2], [0.5244, 1.349], atol=0.01)


def test_shapley_values_of_a_linear_model_are_its_weights(folder) -> None:
    predictor = export(linear(WEIGHTS), folder / "straight" / "1")
    baseline = np.float32([1.0, 2.0, np.nan, 4.0])
    found = shapley_values(predictor, ONE, baseline, documents=[3, 1])
    expected = WEIGHTS * (ONE.values["float32"][[3, 1]] - baseline)
    np.testing.assert_allclose(found.values, np.nan_to_num(expected), atol=1e-5)
    assert found.documents.tolist() == [3, 1]


def test_shapley_values_share_what_features_do_together(folder) -> None:
    # By hand: in half of all orders 0 comes before 1 and has nothing yet, in half all.
    # An order and its reverse have each once, so there is no chance in it.
    def score(x):
        both = tf.cast((x[:, :1] > 0) & (x[:, 1:2] > 0), tf.float32)
        return 3.0 * both + tf.cast(x[:, 2:3] > 0, tf.float32)

    predictor = export(Known(score), folder / "and" / "1")
    values = np.ones_like(ONE.values["float32"])
    lists = dataclasses.replace(ONE, values={"float32": values})
    found = shapley_values(predictor, lists, -np.ones(4), documents=[0])
    np.testing.assert_allclose(found.values, [[1.5, 1.5, 1.0, 0.0]], atol=1e-6)
    assert found.orders == 32
    np.testing.assert_allclose(found.errors, 0.0, atol=1e-6)
    np.testing.assert_allclose(found.gaps, 0.0, atol=1e-6)


def test_too_many_scores_for_shapley_values_are_refused(folder, monkeypatch) -> None:
    predictor = export(linear(WEIGHTS), folder / "long" / "1")
    monkeypatch.setattr(shapley, "_MOST_DOCUMENTS", 100)
    with pytest.raises(ConfigError, match=r"expected at most 100\. Ask for fewer"):
        shapley_values(predictor, ONE)
    none = shapley_values(predictor, ONE, documents=[])
    assert none.values.shape == (0, 4)


def test_missing_values_stay_and_have_nothing_to_do_with_it(folder) -> None:
    filled = Known(
        lambda x: tf.reduce_sum(tf.where(tf.math.is_nan(x), 9.0, x), 1, True)
    )
    predictor = export(filled, folder / "nan" / "1")
    values = ONE.values["float32"].copy()
    values[0, 1] = np.nan
    lists = dataclasses.replace(ONE, values={"float32": values})
    found = integrated_gradients(predictor, lists, np.float32([0, 0, np.nan, 0]))
    expected = np.where([True, False, False, True], values[0], 0.0)
    np.testing.assert_allclose(found.values[0], expected, atol=1e-5)


def test_more_lists_than_one_and_other_baselines_are_errors(folder) -> None:
    predictor = export(linear(WEIGHTS), folder / "errors" / "1")
    with pytest.raises(
        ConfigError, match="expected one list with documents, found 8 lists"
    ):
        integrated_gradients(predictor, LISTS)
    with pytest.raises(ConfigError, match=r"baseline: expected the shape \[4\]"):
        integrated_gradients(predictor, ONE, np.zeros(3))
