"""Shapes against functions that are known; they sum to scores."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.report.report_helpers import FEATURES, Known, export, make_lists
from tests.serving.serving_helpers import randomize
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.features import Feature, Features
from tfr_pipeline.model.scorers import DNNScorer, GAMScorer
from tfr_pipeline.report.shapes import additive_shapes

LISTS = make_lists()
GAM = {"example_hidden_layer_dims": [8], "activation": "relu"}


def column_of(name: str) -> int:
    return FEATURES.example["vector"].columns.index(name)


def test_a_sum_of_known_functions_has_these_as_shapes(tmp_path) -> None:
    weights = np.float32([3.0, -1.0, 0.5, 0.0])
    scorer = Known(lambda x: tf.reduce_sum(weights * x**2, axis=1, keepdims=True))
    found = additive_shapes(export(scorer, tmp_path / "1"), LISTS)
    assert [one.name for one in found.shapes] == ["bm25", "age", "clicks", "length"]
    for one, weight in zip(found.shapes, weights, strict=True):
        values = LISTS.values["float32"][:, column_of(one.name)].astype(float)
        expected = weight * (one.x**2 - (values**2).mean())
        np.testing.assert_allclose(one.effect, expected, atol=2e-4)
        assert one.spread == pytest.approx(abs(weight) * (values**2).std(), abs=1e-3)
    assert found.residual < 1e-4


def test_the_shapes_of_a_gam_sum_to_the_score_of_each_document(tmp_path) -> None:
    scorer = GAMScorer(per_column=True, **GAM)
    predictor = export(scorer, tmp_path / "1", change=randomize)
    # So many points that all values are among them.
    found = additive_shapes(predictor, LISTS, points=LISTS.num_documents)
    total = np.full(LISTS.num_documents, found.intercept)
    for one in found.shapes:
        values = LISTS.values["float32"][:, column_of(one.name)]
        total += np.interp(values, one.x, one.effect)
    np.testing.assert_allclose(total, predictor.score(LISTS), atol=1e-4)
    assert found.query_id == "" and not found.left_out


def test_with_query_features_they_are_those_of_one_query(tmp_path) -> None:
    features = Features(
        context={"market": Feature("float32", (1,), 0.0)}, example=FEATURES.example
    )
    scorer = GAMScorer(per_column=True, context_hidden_layer_dims=[4], **GAM)
    predictor = export(scorer, tmp_path / "1", features, randomize)
    market = np.arange(LISTS.num_lists, dtype=np.float32)[:, np.newaxis]
    lists = dataclasses.replace(LISTS, context={"market": market})
    found = additive_shapes(predictor, lists, points=LISTS.num_documents)
    assert found.query_id == "q0"
    first = lists.slice(0, 1)
    total = np.full(first.num_documents, found.intercept)
    for one in found.shapes:
        values = first.values["float32"][:, column_of(one.name)]
        total += np.interp(values, one.x, one.effect)
    np.testing.assert_allclose(total, predictor.score(first), atol=1e-4)


def test_vectors_with_one_network_are_left_out(tmp_path) -> None:
    features = Features(
        example={"single": Feature("float32", (1,), 0.0), **FEATURES.example}
    )
    lists = make_lists(columns=5)
    predictor = export(GAMScorer(**GAM), tmp_path / "1", features, randomize)
    found = additive_shapes(predictor, lists)
    assert [one.name for one in found.shapes] == ["single"]
    assert found.left_out == ("vector",)


def test_missing_values_have_no_place_on_a_shape(tmp_path) -> None:
    scorer = Known(
        lambda x: tf.reduce_sum(tf.where(tf.math.is_nan(x), 2.0, x), 1, keepdims=True)
    )
    values = LISTS.values["float32"].copy()
    values[::3, 0], values[:, 1] = np.nan, np.nan
    lists = dataclasses.replace(LISTS, values={"float32": values})
    found = additive_shapes(export(scorer, tmp_path / "1"), lists)
    assert {one.name for one in found.shapes} == {"bm25", "clicks", "length"}
    assert all(np.isfinite(one.x).all() for one in found.shapes)


def test_a_network_of_all_features_has_no_shapes(tmp_path) -> None:
    scorer = DNNScorer(hidden_layer_dims=[8], activation="relu")
    predictor = export(scorer, tmp_path / "1", change=randomize)
    with pytest.raises(ConfigError, match="the model is not additive"):
        additive_shapes(predictor, LISTS)
