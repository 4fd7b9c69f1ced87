"""Signatures answer as TF-Ranking's do, and `rank` as a plain sort does."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from tests.ranking_data import (
    CONTEXT_SPEC,
    EXAMPLE_SPEC,
    MASK,
    RankedList,
    elwc,
    example,
    random_lists,
)
from tests.serving.serving_helpers import randomize, scaled
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.scorers import DNNScorer, UnivariateScorer
from tfr_pipeline.model.steps.lists import ListStandardize
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder
from tfr_pipeline.serving.rank_inputs import input_names
from tfr_pipeline.serving.signatures import (
    PREDICT,
    RANK,
    REGRESS,
    SERVING_DEFAULT,
    Signatures,
)

LENGTHS = [3, 1, 5, 2]
to_float = functools.partial(tf.cast, dtype=tf.float32)
FUNCTIONS = dict.fromkeys(["clicks", "age", "query_length"], scaled)


class TwoTasks(UnivariateScorer):
    """Scores for two tasks."""

    def _score_flattened(self, context_features, example_features):
        parts = [
            tf.keras.layers.Flatten()(t) for _, t in sorted(example_features.items())
        ]
        dense = tf.keras.layers.Dense(2)(tf.concat(parts, 1))
        return {"click": dense[:, :1], "buy": dense[:, 1:]}


def make(scorer=None, context=CONTEXT_SPEC, examples=EXAMPLE_SPEC):
    """Returns our packed, our padded and TF-Ranking's padded signatures."""
    functions = {n: f for n, f in FUNCTIONS.items() if n in context or n in examples}
    builder = ModelBuilder(
        FeatureSpecInputCreator(context, examples),
        functions,
        scorer or DNNScorer(hidden_layer_dims=[8], activation="tanh"),
        MASK,
    )
    packed, padded = builder.build_packed(), builder.build()
    packed.set_weights(randomize(padded).get_weights())
    arguments = (context, examples, MASK)
    return (
        Signatures(packed, *arguments),
        Signatures(padded, *arguments),
        tfr.keras.saved_model.Signatures(padded, *arguments),
    )


@pytest.fixture(scope="module")
def signatures():
    return make()


@pytest.fixture(scope="module")
def functions(signatures):
    return [one() for one in signatures]


def close(found, wanted):
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        assert found[key].shape == value.shape
        np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_predict_scores_and_pads_as_tf_ranking_does(functions, seed):
    lists = random_lists(seed, LENGTHS, missing=0.2)
    serialized = tf.constant([elwc(ranked) for ranked in lists])
    packed, padded, theirs = (one[PREDICT](serialized) for one in functions)
    assert theirs["outputs"].shape == (4, 5)
    close(packed, theirs)
    close(padded, theirs)
    mask = np.arange(5) < np.array(LENGTHS)[:, None]
    for found in (packed, padded):
        np.testing.assert_array_equal(
            found["outputs"].numpy()[~mask], theirs["outputs"].numpy()[~mask]
        )


def test_predict_takes_an_empty_list_among_others(functions):
    lists = random_lists(3, [2, 0, 3])
    serialized = tf.constant([elwc(ranked) for ranked in lists])
    for one in functions[:2]:
        scores = one[PREDICT](serialized)["outputs"].numpy()
        assert scores.shape == (3, 3)
        np.testing.assert_allclose(scores[1], np.log(1e-10), rtol=1e-6)
        for row in (0, 2):
            alone = one[PREDICT](serialized[row : row + 1])["outputs"].numpy()
            np.testing.assert_allclose(scores[row, : alone.size], alone[0], rtol=1e-5)


def test_regress_scores_as_tf_ranking_does(functions):
    ranked = random_lists(4, [6], missing=0.2)[0]
    serialized = tf.constant(
        [example({**ranked.context, **d}).SerializeToString() for d in ranked.documents]
    )
    packed, padded, theirs = (one[REGRESS](serialized) for one in functions)
    assert theirs["outputs"].shape == (6,)
    close(packed, theirs)
    close(padded, theirs)


def test_several_tasks_are_scored_as_tf_ranking_does():
    packed, padded, theirs = (one() for one in make(TwoTasks()))
    lists = random_lists(0, LENGTHS)
    serialized = tf.constant([elwc(ranked) for ranked in lists])
    wanted = theirs[PREDICT](serialized)
    assert set(wanted) == {"click", "buy"}
    close(packed[PREDICT](serialized), wanted)
    close(padded[PREDICT](serialized), wanted)
    found = packed[RANK](**rank_inputs(lists))
    assert set(found) == {"click", "buy", "ranks", "ids"}


def rank_inputs(lists, ids=None, examples=EXAMPLE_SPEC, context=CONTEXT_SPEC):
    """Returns the inputs of `rank` for ranked lists."""
    documents = [d for ranked in lists for d in ranked.documents]
    lengths = [len(ranked.documents) for ranked in lists]
    names = input_names({**context, **examples})
    inputs = {"row_splits": tf.constant(np.cumsum([0, *lengths]), tf.int64)}
    for name, spec in examples.items():
        rows = np.array([document[name] for document in documents])
        inputs[names[name]] = tf.constant(rows.reshape(-1, *spec.shape), spec.dtype)
    for name, spec in context.items():
        rows = np.array([ranked.context[name] for ranked in lists])
        inputs[names[name]] = tf.constant(rows, spec.dtype)
    inputs["ids"] = tf.constant([] if ids is None else ids, tf.string)
    return inputs


@pytest.mark.parametrize("which", [0, 1], ids=["packed", "padded"])
def test_rank_scores_as_predict_does_and_sorts_each_list(functions, which):
    lists = random_lists(5, [3, 0, 1, 4])
    found = functions[which][RANK](**rank_inputs(lists))
    serialized = tf.constant([elwc(ranked) for ranked in lists])
    wanted = functions[2][PREDICT](serialized)["outputs"].numpy()
    mask = np.arange(4) < np.array([3, 0, 1, 4])[:, None]
    np.testing.assert_allclose(found["scores"], wanted[mask], rtol=1e-4, atol=1e-5)
    scores, ranks = found["scores"].numpy(), found["ranks"].numpy()
    for first, last in ((0, 3), (3, 4), (4, 8)):
        order = np.argsort(-scores[first:last], kind="stable")
        assert ranks[first:last][order].tolist() == list(range(1, last - first + 1))


@pytest.mark.parametrize("which", [0, 1], ids=["packed", "padded"])
def test_rank_keeps_the_order_of_documents_with_equal_scores(functions, which):
    lists = random_lists(6, [3, 5])
    for ranked in lists:
        ranked.documents[:] = [ranked.documents[0]] * len(ranked.documents)
    ranks = functions[which][RANK](**rank_inputs(lists))["ranks"]
    assert ranks.numpy().tolist() == [1, 2, 3, 1, 2, 3, 4, 5]


def test_ids_come_back_or_are_row_numbers(functions):
    lists = random_lists(7, [2, 1])
    found = functions[0][RANK](**rank_inputs(lists, ["a", "b", "c"]))
    assert found["ids"].numpy().tolist() == [b"a", b"b", b"c"]
    found = functions[0][RANK](**rank_inputs(lists))
    assert found["ids"].numpy().tolist() == [b"0", b"1", b"2"]


def test_other_query_features_give_other_scores(functions):
    lists = random_lists(8, [2, 2])
    inputs = rank_inputs(lists)
    before = functions[0][RANK](**inputs)["scores"].numpy()
    inputs["query_vector"] += tf.constant([[0.0, 0.0], [1.0, 1.0]])
    after = functions[0][RANK](**inputs)["scores"].numpy()
    np.testing.assert_array_equal(before[:2], after[:2])
    assert (before[2:] != after[2:]).all()


def test_rank_without_documents_returns_none(functions):
    lists = random_lists(9, [0])
    found = functions[0][RANK](**rank_inputs(lists))
    assert found["scores"].shape == found["ranks"].shape == (0,)


def test_the_default_is_regress_or_predict(signatures):
    lists = [elwc(ranked) for ranked in random_lists(0, [2])]
    default = signatures[0]("predict")[SERVING_DEFAULT]
    assert default(tf.constant(lists))["outputs"].shape == (1, 2)
    with pytest.raises(ConfigError, match=r"'regress' or 'predict', found 'rank'"):
        signatures[0]("rank")
    default = signatures[0]()[SERVING_DEFAULT]
    documents = [example({}).SerializeToString()] * 3
    assert default(tf.constant(documents))["outputs"].shape == (3,)


NAMES = ["1", "bm25.title", "class", "größe", "_x", "a b", "a_b", "x/y", "ids", "self"]


def test_features_may_have_names_that_are_no_identifiers(tmp_path):
    spec = {name: tf.io.FixedLenFeature((1,), tf.float32, 0.0) for name in NAMES}
    ours, _, theirs = make(context={}, examples=spec)
    path = str(tmp_path / "model")
    tf.saved_model.save(ours._model, path, signatures=ours())
    loaded = tf.saved_model.load(path)
    lists = random_lists(0, [3, 2], context_spec={}, example_spec=spec)
    found = loaded.signatures[RANK](**rank_inputs(lists, None, spec, {}))
    serialized = tf.constant([elwc(ranked) for ranked in lists])
    wanted = theirs()[PREDICT](serialized)["outputs"].numpy().ravel()[:5]
    np.testing.assert_allclose(found["scores"], wanted, rtol=1e-4, atol=1e-5)


def test_a_padded_model_may_have_a_feature_called_as_packed_ones_are():
    context = {"documents_seen": tf.io.FixedLenFeature((1,), tf.float32, 0.0)}
    _, ours, theirs = make(context=context)
    lists = random_lists(0, LENGTHS, context_spec=context)
    serialized = tf.constant([elwc(ranked) for ranked in lists])
    close(ours()[PREDICT](serialized), theirs()[PREDICT](serialized))


def test_text_features_are_scored_as_tf_ranking_does():
    spec = {"docid": tf.io.FixedLenFeature((1,), tf.string, "")}
    lookup = tf.keras.layers.StringLookup(vocabulary=["d0_0", "d0_1"])
    builder = ModelBuilder(
        FeatureSpecInputCreator({}, spec),
        {"docid": lambda t: to_float(lookup(t))},
        lambda c, e, m: tf.reduce_sum(e["docid"], -1),
        MASK,
    )
    model = builder.build()
    ours = Signatures(model, {}, spec, MASK)()
    theirs = tfr.keras.saved_model.Signatures(model, {}, spec, MASK)()
    serialized = tf.constant([elwc(ranked) for ranked in random_lists(0, [3, 2])])
    (found,), (wanted,) = (
        signatures[PREDICT](serialized).values() for signatures in (ours, theirs)
    )
    real = np.array([[True] * 3, [True, True, False]])
    np.testing.assert_array_equal(found[real], wanted[real])
    ranked = ours[RANK](
        docid=tf.constant([["d0_0"], ["d0_1"], ["?"]]),
        row_splits=tf.constant([0, 3], tf.int64),
        ids=tf.constant([], tf.string),
    )
    assert ranked["scores"].numpy().tolist() == [1.0, 2.0, 0.0]


def test_lists_of_any_length_need_no_default_where_features_have_partitions():
    of_rows = tf.io.RaggedFeature(
        tf.float32, "values", partitions=[tf.io.RaggedFeature.RowLengths("lengths")]
    )
    random = np.random.default_rng(0)

    def document():
        numbers = {"price": random.normal(size=1), "values": random.normal(size=3)}
        numbers = {key: value.astype(np.float32) for key, value in numbers.items()}
        return {**numbers, "lengths": random.permutation([1, 2])}

    lists = [
        RankedList({"size": np.float32([n])}, [document() for _ in range(n)])
        for n in (1, 3, 0, 2)
    ]
    serialized = tf.constant([elwc(ranked) for ranked in lists])
    found = {}
    for default in (None, 0.0):
        number = tf.io.FixedLenFeature((1,), tf.float32, default)
        context, spec = {"size": number}, {"price": number, "rows": of_rows}
        builder = ModelBuilder(
            FeatureSpecInputCreator(context, spec),
            {"rows": lambda x: tf.reduce_max(x.to_tensor(), [2, 3])[..., tf.newaxis]},
            DNNScorer(hidden_layer_dims=[4], activation="tanh"),
            MASK,
        )
        model = randomize(builder.build())
        found[default] = Signatures(model, context, spec, MASK)()[PREDICT](serialized)
    theirs = tfr.keras.saved_model.Signatures(model, context, spec, MASK)()
    close(found[0.0], theirs[PREDICT](serialized))
    close(found[None], found[0.0])


def test_int64_columns_are_inputs_of_their_own_type(signatures):
    specs = {
        spec.name: spec for spec in signatures[0].rank_tf_function().input_signature
    }
    assert specs["clicks"].dtype == tf.int64
    assert specs["grid"].shape.as_list() == [None, 2, 2]
    slots = BlockLayout.from_spec(EXAMPLE_SPEC).slots
    assert {s.name for row in slots.values() for s in row} <= set(specs)


@pytest.mark.parametrize("step", [None, ListStandardize()])
def test_what_compares_documents_is_served_by_lists(step):
    spec = {"clicks": tf.io.FixedLenFeature((1,), tf.float32, 0.0)}
    data = SimpleDatasetBuilder(
        {}, spec, MASK, ("label", spec["clicks"]), DatasetHparams("a", "b", 1, 1)
    )
    model = ModelBuilder(
        FeatureSpecInputCreator({}, spec),
        {"clicks": step} if step else {},
        DNNScorer(hidden_layer_dims=[2]),
        MASK,
    ).build_packed()
    signatures = data.build_signatures(model)
    assert signatures[SERVING_DEFAULT] is signatures[PREDICT if step else REGRESS]
