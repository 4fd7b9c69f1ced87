"""Scores of files of XGBoost and CatBoost against those of the libraries."""

from __future__ import annotations

import types

import numpy as np
import pytest

from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Feature, Features
from tfr_pipeline.serving.teachers import OfTrees, load
from tfr_pipeline.serving.tree_files import TreeFile

RNG = np.random.default_rng(4)
COLUMNS = 5
ROWS = RNG.normal(size=(240, COLUMNS)).astype(np.float32)
LABELS = np.clip(np.round(ROWS[:, 0] + ROWS[:, 1] * ROWS[:, 2] + 1), 0, 4)
QUERIES = np.repeat(np.arange(24), 10)
# Others, some of which lack values.
OTHERS = RNG.normal(size=(90, COLUMNS)).astype(np.float32)
OTHERS[::3, 1] = np.nan
NAMES = [f"column {name}" for name in "abcde"]


def xgboost():
    # Not in the environment of the tests, which stays small.
    return pytest.importorskip("xgboost", reason="pip install xgboost")


def catboost():
    return pytest.importorskip("catboost", reason="pip install catboost")


def train_xgboost(rows=ROWS, names=None, types=None, rounds=30, **told):
    """Trains with early stopping, so that there are trees behind the best one."""
    library = xgboost()
    half = len(rows) // 2
    parts = [
        library.DMatrix(
            rows[part],
            LABELS[part],
            qid=QUERIES[part],
            feature_names=names,
            feature_types=types,
            enable_categorical=True,
        )
        for part in (slice(None, half), slice(half, None))
    ]
    told = {"objective": "rank:ndcg", "max_depth": 3, "nthread": 1, **told}
    watched = {"evals": [(parts[1], "valid")], "verbose_eval": False}
    return library.train(told, parts[0], rounds, **watched, early_stopping_rounds=3)


@pytest.mark.parametrize("name", ["model.json", "model.ubj", "model"])
@pytest.mark.parametrize(
    "told",
    [
        {},
        {"booster": "dart", "rate_drop": 0.3},
        {"booster": "gblinear"},
        {"num_parallel_tree": 3},
        {"objective": "binary:logistic", "base_score": 0.3},
    ],
    ids=["trees", "dart", "linear", "forest", "logistic"],
)
def test_scores_of_an_xgboost_file_are_those_up_to_its_best_iteration(
    tmp_path, told, name, monkeypatch
):
    if "objective" in told:
        monkeypatch.setitem(globals(), "LABELS", np.float32(LABELS > 1))
    booster = train_xgboost(**told)
    assert booster.num_boosted_rounds() > booster.best_iteration + 1
    path = tmp_path / name
    path.write_bytes(booster.save_raw("json" if name == "model.json" else "ubj"))
    if name == "model":  # its content counts, whatever it is called
        path.write_bytes(booster.save_raw("json"))
    found = TreeFile(str(path))
    assert (found.kind, found.num_features, found.names) == ("xgboost", COLUMNS, ())
    wanted = booster.predict(
        xgboost().DMatrix(OTHERS),
        output_margin=True,
        iteration_range=(0, booster.best_iteration + 1),
    )
    assert np.ptp(wanted) > 0.01
    np.testing.assert_array_equal(found.score(OTHERS), wanted)
    assert found.score(OTHERS).dtype == np.float32


def test_scores_of_a_file_of_xgboosts_ranker_are_those_that_it_predicts(tmp_path):
    ranker = xgboost().XGBRanker(n_estimators=20, early_stopping_rounds=3, n_jobs=1)
    valid = {"eval_set": [(ROWS[120:], LABELS[120:])], "eval_qid": [QUERIES[120:]]}
    ranker.fit(ROWS[:120], LABELS[:120], qid=QUERIES[:120], **valid, verbose=False)
    path = str(tmp_path / "model.ubj")
    ranker.save_model(path)
    np.testing.assert_array_equal(TreeFile(path).score(OTHERS), ranker.predict(OTHERS))


@pytest.mark.parametrize("form", ["cbm", "json"])
@pytest.mark.parametrize(
    "told",
    [
        {"loss_function": "YetiRank"},
        {"loss_function": "QueryRMSE", "grow_policy": "Lossguide"},
        {"loss_function": "RMSE"},  # which has a bias
        {"loss_function": "QueryRMSE", "nan_mode": "Max"},
    ],
    ids=lambda told: "-".join(told.values()),
)
def test_scores_of_a_catboost_file_are_those_of_the_library(tmp_path, told, form):
    model, half = train_catboost(**told), slice(120, None)
    path = str(tmp_path / "model")  # without an extension that says which form it has
    model.save_model(path, format=form)
    found = TreeFile(path)
    assert (found.kind, found.num_features, found.names) == ("catboost", COLUMNS, ())
    for rows in (ROWS[half], OTHERS):
        wanted = model.predict(rows)
        assert np.ptp(wanted) > 0.01
        np.testing.assert_array_equal(found.score(rows), wanted.astype(np.float32))


def train_catboost(rows=ROWS, names=None, labels=LABELS, **told):
    library = catboost()
    told = {"iterations": 30, "depth": 3, "thread_count": 1, "verbose": False, **told}
    rows = rows.copy()
    if "nan_mode" in told:
        rows[::5, 1] = np.nan
    model = library.CatBoost({**told, "allow_writing_files": False, "random_seed": 1})
    first, second = (
        library.Pool(
            rows[part], labels[part], group_id=QUERIES[part], feature_names=names
        )
        for part in (slice(None, 120), slice(120, None))
    )
    return model.fit(first, eval_set=second, early_stopping_rounds=3)


@pytest.mark.parametrize("kind", ["xgboost", "catboost"])
def test_columns_are_found_by_name_or_counted(tmp_path, kind):
    order = [3, 0, 2]
    rows, names = np.ascontiguousarray(ROWS[:, order]), [NAMES[i] for i in order]
    train = train_xgboost if kind == "xgboost" else train_catboost
    told = {} if kind == "xgboost" else {"loss_function": "QueryRMSE"}
    path = str(tmp_path / "model.json")
    model = train(rows, names=names, **told)
    model.save_model(path, **({} if kind == "xgboost" else {"format": "json"}))
    features = Features(example={name: Feature() for name in NAMES})
    lists = types.SimpleNamespace(values={"float32": ROWS}, num_documents=len(ROWS))
    found = load(path, features)
    assert found.kind == kind
    np.testing.assert_array_equal(found.scores(lists), TreeFile(path).score(rows))
    other = Features(example={name: Feature() for name in NAMES[1:]})
    with pytest.raises(ConfigError, match="'column a' is none of them"):
        load(path, other)
    nameless = str(tmp_path / "nameless.json")
    model = train(rows, **told)
    model.save_model(nameless, **({} if kind == "xgboost" else {"format": "json"}))
    with pytest.raises(ConfigError, match=r"on the 5 numeric columns .* one on 3"):
        load(nameless, features)


def test_models_of_classes_and_categories_are_refused(tmp_path):
    path = str(tmp_path / "model.json")
    train_xgboost(objective="multi:softprob", num_class=5).save_model(path)
    with pytest.raises(DataError, match=r"one score a document, .* shape \[5\] each"):
        TreeFile(path).score(OTHERS)
    rows = np.abs(np.round(ROWS))
    train_xgboost(rows, types=["c", *"qqqq"]).save_model(path)
    with pytest.raises(DataError, match=r"xgboost .*: it takes categories; expected"):
        TreeFile(path)


def test_catboost_models_of_classes_and_categories_are_refused(tmp_path):
    path = str(tmp_path / "model.cbm")
    train_catboost(loss_function="MultiClass").save_model(path)
    with pytest.raises(DataError, match=r"one score a document, .* shape \[5\] each"):
        TreeFile(path).score(OTHERS)
    library, rows = catboost(), np.round(ROWS).astype(int).astype(object)
    told = {"iterations": 2, "verbose": False, "allow_writing_files": False}
    pool = library.Pool(rows, LABELS, cat_features=[0])
    library.CatBoost(told).fit(pool).save_model(path)
    with pytest.raises(DataError, match=r"catboost .*: it takes categories, texts"):
        TreeFile(path)


def test_trees_of_sparse_rows_are_told_that_zeros_are_missing(tmp_path):
    sparse = pytest.importorskip("scipy.sparse")
    rows = np.where(ROWS > 0.2, ROWS, 0).astype(np.float32)
    library = xgboost()
    matrix = library.DMatrix(sparse.csr_matrix(rows), LABELS, qid=QUERIES)
    booster = library.train({"objective": "rank:ndcg", "nthread": 1}, matrix, 20)
    path = str(tmp_path / "model.json")
    booster.save_model(path)
    wanted = booster.predict(matrix, output_margin=True)
    features = Features(example={"features": Feature(shape=(COLUMNS,))})
    lists = types.SimpleNamespace(values={"float32": rows}, num_documents=len(rows))
    told = load(path, features, missing=0.0)
    np.testing.assert_array_equal(told.scores(lists), wanted)
    assert np.abs(load(path, features).scores(lists) - wanted).max() > 0.1
    assert not np.isnan(rows).any()  # those of the student stay as they are


def test_a_missing_value_is_one_for_the_trees_alone():
    trees = types.SimpleNamespace(
        kind="any",
        names=(),
        num_features=2,
        score=lambda rows: np.isnan(rows).sum(axis=1).astype(np.float32),
    )
    rows = np.array([[0, -1], [-1, np.nan], [2, 3]], np.float32)
    lists = types.SimpleNamespace(values={"float32": rows}, num_documents=3)
    features = Features(example={"features": Feature(shape=(2,))})
    for missing, wanted in ((None, [0, 1, 0]), (0.0, [1, 1, 0]), (-1.0, [1, 2, 0])):
        found = OfTrees(trees, features, missing).scores(lists)
        np.testing.assert_array_equal(found, wanted)
