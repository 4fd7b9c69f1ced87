"""What is lost when a feature says nothing, against what is known to be lost."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.report.report_helpers import FEATURES, export, linear, make_lists
from tfr_pipeline.data.lists import Ragged
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Feature, Features
from tfr_pipeline.metrics.evaluation import evaluate_lists
from tfr_pipeline.model.scorers import DNNScorer
from tfr_pipeline.report.columns import (
    Group,
    all_groups,
    groups_of,
    sample,
    typical,
)
from tfr_pipeline.report.importance import _moved, _orders, permutation_importance
from tfr_pipeline.serving.predictor import Predictor

LISTS = make_lists()


@pytest.fixture(scope="module")
def first_only(tmp_path_factory) -> Predictor:
    """A model that looks at the first column alone."""
    path = tmp_path_factory.mktemp("first")
    return export(linear([1.0, 0.0, 0.0, 0.0]), path / "1")


def ndcg(scores) -> float:
    measured = evaluate_lists(LISTS.labels, scores, LISTS.row_splits, bootstrap=0)
    return measured["ndcg@10"]["skip"]


def test_the_only_feature_loses_all_that_is_better_than_any_order(first_only) -> None:
    # Equal scores count with their expectation over all orders.
    expected = ndcg(first_only.score(LISTS)) - ndcg(np.zeros(LISTS.num_documents))
    found = permutation_importance(first_only, LISTS, repeats=400)
    assert found[0].name == "bm25"
    assert found[0].loss == pytest.approx(expected, abs=0.012)
    assert found[0].loss > 3 * found[0].error > 0
    assert [(one.loss, one.error) for one in found[1:]] == [(0.0, 0.0)] * 3


def test_what_is_said_twice_is_lost_only_together(tmp_path) -> None:
    predictor = export(linear([1.0, 1.0, 0.0, 0.0]), tmp_path / "1")
    values = LISTS.values["float32"].copy()
    values[:, 1] = values[:, 0]
    twice = dataclasses.replace(LISTS, values={"float32": values})
    groups = {"both": ["bm25", "vector[1]"], "one": ["age"]}
    both, one = permutation_importance(predictor, twice, groups, repeats=200)
    expected = ndcg(values[:, 0]) - ndcg(np.zeros(len(values)))
    assert (both.name, one.name) == ("both", "one")
    assert both.loss == pytest.approx(expected, abs=0.02)
    assert one.loss < 0.7 * both.loss


def test_the_same_seed_gives_the_same_and_lists_stay_as_they_were(first_only) -> None:
    before = LISTS.values["float32"].copy()
    one, two = (permutation_importance(first_only, LISTS, seed=3) for _ in range(2))
    assert one == two
    assert one != permutation_importance(first_only, LISTS, seed=4)
    assert np.array_equal(before, LISTS.values["float32"])


def test_documents_stay_in_their_lists_and_keep_columns_together() -> None:
    values = np.arange(2 * LISTS.num_documents, dtype=np.float32).reshape(-1, 2)
    texts = np.array([b"%d" % i for i in range(len(values))], object)
    lists = dataclasses.replace(
        LISTS,
        values={"float32": values},
        loose={"title": Ragged(texts, np.arange(len(texts) + 1))},
        context={"market": np.arange(LISTS.num_lists)},
    )
    group = Group("g", (("float32", 0), ("float32", 1)), ("title",), ("market",))
    (moved,) = _moved(lists, group, _orders(lists, 1, 0))
    rows = moved.values["float32"]
    assert np.array_equal(rows[:, 1], rows[:, 0] + 1)
    assert np.array_equal(rows[:, 0] / 2, moved.loose["title"].values.astype(int))
    for first, last in zip(lists.row_splits[:-1], lists.row_splits[1:], strict=True):
        assert sorted(rows[first:last, 0]) == sorted(values[first:last, 0])
    assert not np.array_equal(rows, values)
    assert sorted(moved.context["market"]) == sorted(lists.context["market"])


def test_one_query_is_an_error(first_only) -> None:
    with pytest.raises(DataError, match="at least two queries"):
        permutation_importance(first_only, LISTS.slice(0, 1))


def test_lists_without_labels_are_an_error(first_only) -> None:
    with pytest.raises(DataError, match="lists with labels"):
        permutation_importance(first_only, dataclasses.replace(LISTS, labels=None))


def test_an_unknown_feature_is_an_error_that_names_the_nearest(first_only) -> None:
    with pytest.raises(ConfigError, match="did you mean 'bm25'"):
        permutation_importance(first_only, LISTS, ["bm52"])
    with pytest.raises(ConfigError, match="group 'g': expected a list of names"):
        permutation_importance(first_only, LISTS, {"g": []})


def test_features_have_the_names_that_they_had_in_the_data(tmp_path) -> None:
    features = Features(
        context={"market": Feature("float32", (1,), 0.0)},
        example={
            "wide": Feature("float32", (100,), 0.0),
            "pair": Feature("float32", (2,), 0.0),
            **FEATURES.example,
        },
    )
    predictor = export(DNNScorer(hidden_layer_dims=[2]), tmp_path / "1", features)
    names = [group.name for group in all_groups(predictor)]
    columns = ["pair[0]", "pair[1]", "bm25", "age", "clicks", "length"]
    assert names == [*columns, "wide", "market"]
    vector, one, same = groups_of(predictor, ["vector", "wide[7]", "vector[3]"])
    assert [number for _, number in vector.columns] == [2, 3, 4, 5]
    assert (one.columns, same.columns) == ((("float32", 13),), (("float32", 5),))


def test_some_lists_are_sampled_of_many() -> None:
    lengths = np.full(1000, 10)
    chosen = sample(lengths, 205, seed=1)
    assert len(chosen) == 20 and (np.diff(chosen) > 0).all()
    assert sample(lengths, 3).tolist() == [sample(lengths, 3)[0]]


def test_a_typical_document_has_values_that_occur() -> None:
    values = np.float32([[1, np.nan], [4, np.nan], [2, 5], [np.nan, np.nan]])
    lists = dataclasses.replace(
        make_lists([4]), values={"float32": values, "int64": np.array([[3], [4]] * 2)}
    )
    found = typical(lists)
    assert found["float32"].tolist() == [2.0, 5.0]
    assert found["int64"].tolist() == [3] and found["int64"].dtype == np.int64
