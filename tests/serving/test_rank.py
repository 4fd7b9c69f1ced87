"""The `rank` signature: empty lists anywhere, ties, tasks, any names of features."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ranking_data import RankedList, random_lists
from tests.serving.serving_helpers import (
    make_builder,
    make_signatures,
    randomize,
    rank_inputs,
)
from tfr_pipeline.compat import tf
from tfr_pipeline.model.scorers import DNNScorer, UnivariateScorer
from tfr_pipeline.serving.export import export_saved_model
from tfr_pipeline.serving.rank_inputs import input_name, input_names
from tfr_pipeline.serving.signatures import RANK

LISTS = random_lists(3, [3, 1, 5, 2], missing=0.2)
FLOAT = tf.io.FixedLenFeature((1,), tf.float32, 0.0)


@pytest.fixture(scope="module")
def ranks():
    """`rank` of a padded and of a packed model with the same weights."""
    builder = make_builder()
    padded, packed = randomize(builder.build()), builder.build_packed()
    packed.set_weights(padded.get_weights())
    return [make_signatures(model).rank_tf_function() for model in (padded, packed)]


def test_padded_and_packed_models_rank_alike(ranks):
    first, second = [rank(**rank_inputs(LISTS)) for rank in ranks]
    np.testing.assert_allclose(first["scores"], second["scores"], rtol=1e-4, atol=1e-5)
    assert first["ranks"].numpy().tolist() == second["ranks"].numpy().tolist()
    assert np.ptp(first["scores"]) > 1e-2


@pytest.mark.parametrize("which", [0, 1], ids=["padded", "packed"])
def test_lists_without_documents_may_stand_anywhere(ranks, which):
    rank = ranks[which]
    empty = [RankedList(ranked.context, []) for ranked in LISTS]
    lists = [empty[0], LISTS[1], empty[1], empty[2], LISTS[2], empty[3]]
    found = rank(**rank_inputs(lists))
    wanted = rank(**rank_inputs([LISTS[1], LISTS[2]]))
    np.testing.assert_allclose(found["scores"], wanted["scores"], rtol=1e-4, atol=1e-5)
    assert found["ranks"].numpy().tolist() == wanted["ranks"].numpy().tolist()
    assert rank(**rank_inputs(empty))["ranks"].shape == (0,)
    assert rank(**rank_inputs([]))["scores"].shape == (0,)


def rank_of(scorer, names=("x",)):
    spec = dict.fromkeys(names, FLOAT)
    model = make_builder({}, spec, {}, scorer).build_packed()
    return spec, make_signatures(model, {}, spec)()[RANK]


def test_equal_scores_keep_their_order():
    class Copy(UnivariateScorer):
        def _score_flattened(self, context_features, example_features):
            return example_features["x"]

    spec, rank = rank_of(Copy())
    scores = [[2, 1, 2, 3, 1, 2], [0] * 40, [], [5, 5, 7]]
    lists = [
        RankedList({}, [{"x": np.float32([score])} for score in row]) for row in scores
    ]
    found = rank(**rank_inputs(lists, {}, spec))
    wanted = [2, 5, 3, 1, 6, 4, *range(1, 41), 2, 3, 1]
    assert found["ranks"].numpy().tolist() == wanted


class TwoTasks(UnivariateScorer):
    """Scores by two tasks that want opposite orders."""

    def _score_flattened(self, context_features, example_features):
        x = next(iter(example_features.values()))
        return {"buy": -x, "click": x}


TWO_LISTS = [RankedList({}, [{"x": np.float32([v])} for v in (1, 3, 2)])] * 2


def test_each_task_is_an_output():
    spec, rank = rank_of(TwoTasks())
    found = rank(**rank_inputs(TWO_LISTS, {}, spec))
    assert set(found) == {"click", "buy", "ranks", "ids"}
    assert found["click"].numpy().tolist() == [1, 3, 2] * 2
    assert found["buy"].numpy().tolist() == [-1, -3, -2] * 2
    assert found["ranks"].numpy().tolist() == [1, 3, 2] * 2


@pytest.mark.parametrize(
    ("task", "ranks"),
    [("", [1, 3, 2]), ("buy", [1, 3, 2]), ("click", [3, 1, 2])],
)
def test_a_loaded_model_ranks_by_the_task_that_is_asked_for(tmp_path, task, ranks):
    spec = {"x": FLOAT}
    model = make_builder({}, spec, {}, TwoTasks()).build_packed()
    export_saved_model(model, make_signatures(model, {}, spec)(), str(tmp_path / "1"))
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    inputs = rank_inputs(TWO_LISTS, {}, spec)
    found = loaded.signatures[RANK](**inputs, task=tf.constant(task))
    assert found["ranks"].numpy().tolist() == ranks * 2
    assert found["click"].numpy().tolist() == [1, 3, 2] * 2


def test_an_unknown_task_is_an_error_that_names_the_known_ones():
    spec, rank = rank_of(TwoTasks())
    inputs = rank_inputs(TWO_LISTS, {}, spec)
    with pytest.raises(tf.errors.InvalidArgumentError, match="one of buy, click"):
        rank(**inputs, task=tf.constant("clik"))


def test_a_feature_may_be_called_task():
    _, rank = rank_of(TwoTasks(), ("task",))
    assert input_names(["task"]) == {"task": "task"}
    assert input_names(["task"], tasks=True) == {"task": "task_"}
    found = rank(
        row_splits=tf.constant([0, 2], tf.int64),
        task_=tf.constant([[1.0], [2.0]]),
        task=tf.constant("click"),
    )
    assert found["ranks"].numpy().tolist() == [2, 1]


ODD = [
    *("bm25.title", "bm25/title", "17", "feature_17", "a b", "a_b", "a.b", "größe"),
    *("_x", "class", "None", "self", "args", "kwargs", "name", "inputs", "training"),
    *("row_splits", "ids", "scores", "ranks", "x" * 300),
]


def test_odd_names_become_identifiers_that_differ():
    names = input_names(ODD)
    assert set(names) == set(ODD)
    assert len(set(names.values())) == len(ODD)
    assert all(name.isidentifier() and name.isascii() for name in names.values())
    assert not {"row_splits", "ids", "self"} & set(names.values())
    assert names["a_b"] == "a_b" and names["bm25.title"] == input_name("bm25.title")
    assert input_names(reversed(ODD)) == names


def test_features_with_odd_names_are_ranked():
    class Weighted(UnivariateScorer):
        def _score_flattened(self, context_features, example_features):
            return tf.add_n(
                [(i + 1.0) * example_features[name] for i, name in enumerate(ODD)]
            )

    spec, rank = rank_of(Weighted(), ODD)
    lists = random_lists(0, [2, 3], {}, spec)
    wanted = [
        sum((i + 1.0) * document[name][0] for i, name in enumerate(ODD))
        for ranked in lists
        for document in ranked.documents
    ]
    found = rank(**rank_inputs(lists, {}, spec))
    np.testing.assert_allclose(found["scores"], wanted, rtol=1e-4)


WIDE = {
    "x": FLOAT,
    "y": FLOAT,
    "v": tf.io.FixedLenFeature((3,), tf.float32, [0.0] * 3),
}
LENGTH = {"length": tf.io.FixedLenFeature((2,), tf.float32, [0.0] * 2)}


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """`rank` in memory and loaded, of a model with normalisation."""
    scorer = DNNScorer(hidden_layer_dims=[2], use_batch_norm=True)
    model = make_builder(LENGTH, WIDE, {}, scorer).build_packed()
    functions = make_signatures(model, LENGTH, WIDE)()
    path = export_saved_model(model, functions, str(tmp_path_factory.mktemp("w") / "1"))
    loaded = tf.saved_model.load(path)
    return functions[RANK], loaded, loaded.signatures[RANK]


def wide_inputs(**other):
    """Five documents in two lists, with some inputs otherwise."""
    values = {
        "row_splits": np.int64([0, 2, 5]),
        "x": np.ones([5, 1], np.float32),
        "y": np.ones([5, 1], np.float32),
        "v": np.ones([5, 3], np.float32),
        "length": np.ones([2, 2], np.float32),
        "ids": np.array([], object),
        **other,
    }
    types = {"row_splits": tf.int64, "ids": tf.string}
    return {n: tf.constant(v, types.get(n, tf.float32)) for n, v in values.items()}


MISFITS = {
    "row_splits: expected 0 as its first": {"row_splits": [1, 2, 5]},
    "row_splits: expected numbers that never fall": {
        "row_splits": [0, 4, 2, 5],
        "length": np.ones([3, 2]),
    },
    "row_splits: expected 0 as its first number": {
        "row_splits": [],
        "length": np.ones([0, 2]),
    },
    r"x: expected the shape \[documents, 1\]": {"row_splits": [0, 2, 6]},
    r"x: expected .*; the last of row_splits": {"row_splits": [0, 2, 3]},
    r"v: expected the shape \[documents, 3\]": {"v": np.ones([5, 2])},
    r"v: expected the shape \[documents, 3": {"v": np.ones([3, 5])},
    r"length: expected the shape \[lists, 2\]": {"length": np.ones([3, 2])},
    r"length: .*row_splits has one number more": {"length": np.ones([1, 2])},
    "ids: expected none, or one for each document": {"ids": ["a", "b"]},
}


@pytest.mark.parametrize("which", [0, 2], ids=["model", "loaded"])
@pytest.mark.parametrize("words", MISFITS)
def test_inputs_that_do_not_fit_each_other_are_named(wide, words, which):
    assert wide[which](**wide_inputs())["ranks"].numpy().tolist() == [1, 2, 1, 2, 3]
    # In memory, TensorFlow compares what is known of shapes itself.
    errors = (tf.errors.InvalidArgumentError, TypeError)
    with pytest.raises(errors, match=words if which else None):
        wide[which](**wide_inputs(**MISFITS[words]))
