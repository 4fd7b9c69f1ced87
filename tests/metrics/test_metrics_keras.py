"""Keras metrics against TF-Ranking, under ties, and their interface."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest

from tfr_pipeline import metrics
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.errors import ConfigError

theirs = tfr.keras.metrics
KEYS = metrics.RankingMetricKey.all_keys()
DIVERSITY = ("precision_ia", "alpha_dcg")
WITHOUT_TOPN = ("arp", "ordered_pair_accuracy")
CASES = [
    (key, topn)
    for key in KEYS
    for topn in (None, 1, 3, 10)
    if key not in DIVERSITY and (topn is None or key not in WITHOUT_TOPN)
]
LENGTHS = [3, 0, 1, 7, 5, 20]


def ragged(values, lengths=None):
    return tf.RaggedTensor.from_row_lengths(values, lengths or LENGTHS)


def make_batch(seed, lowest=-1, highest=3):
    """Tie-free scores; labels of -1 are masked; some weights are 0."""
    rng = np.random.default_rng(seed)
    documents = sum(LENGTHS)
    labels = rng.integers(lowest, highest + 1, documents).astype(np.float32)
    scores = rng.permutation(documents).astype(np.float32) / 7.0
    weights = np.maximum(rng.uniform(-0.2, 1.0, documents), 0.0).astype(np.float32)
    per_list = rng.uniform(0.1, 2.0, (len(LENGTHS), 1)).astype(np.float32)
    return (
        ragged(labels),
        ragged(scores),
        {"none": None, "scalar": 2.0, "list": per_list, "document": ragged(weights)},
    )


def value(metric, *arguments):
    metric.reset_state()
    metric.update_state(*arguments)
    return float(metric.result())


def their_metric(key, topn=None, **kwargs):
    cls = getattr(theirs, type(metrics.get(key)).__name__)
    return cls(**({} if topn is None else {"topn": topn}), **kwargs)


@pytest.mark.parametrize("weights", ["none", "scalar", "list", "document"])
@pytest.mark.parametrize(("key", "topn"), CASES)
def test_both_layouts_equal_tf_ranking_without_ties(key, topn, weights):
    ours, oracle = metrics.get(key, topn=topn), their_metric(key, topn)
    for highest in (3, 0):  # 0: no list has a relevant document
        labels, scores, all_weights = make_batch(1, highest=highest)
        weight = all_weights[weights]
        dense = weight.to_tensor(0.0) if weights == "document" else weight
        padded = labels.to_tensor(-1.0), scores.to_tensor(0.0), dense
        expected = value(oracle, *padded)
        assert value(ours, *padded) == pytest.approx(expected, rel=1e-6, abs=1e-6)
        assert value(ours, labels, scores, weight) == pytest.approx(
            expected, rel=1e-6, abs=1e-6
        )


@pytest.mark.parametrize("key", ["ndcg", "map", "precision", "ordered_pair_accuracy"])
def test_packed_equals_tf_ranking_with_ragged_on(key):
    labels, scores, weights = make_batch(2, lowest=0)
    expected = value(their_metric(key, ragged=True), labels, scores, weights["list"])
    assert value(metrics.get(key), labels, scores, weights["list"]) == pytest.approx(
        expected, rel=1e-6
    )


@pytest.mark.parametrize("key", DIVERSITY)
def test_diversity_metrics_by_key_equal_tf_ranking(key):
    rng = np.random.default_rng(3)
    _, scores, _ = make_batch(3)
    labels = ragged(rng.integers(0, 2, (sum(LENGTHS), 3)).astype(np.float32))
    expected = value(
        their_metric(key, 2), labels.to_tensor(-1.0), scores.to_tensor(0.0)
    )
    assert value(metrics.get(key, topn=2), labels, scores) == pytest.approx(expected)
    assert expected > 0.0


@pytest.mark.parametrize("topn", [None, 1, 2, 3])
@pytest.mark.parametrize(
    ("key", "combine"),
    [
        ("ndcg", np.mean),
        ("dcg", np.mean),
        ("precision", np.mean),
        ("recall", np.mean),
        ("arp", np.mean),
        ("mrr", np.min),
        ("map", np.min),
        ("hits", np.min),
    ],
)
def test_ties_count_as_their_orders_do(key, combine, topn):
    """Brute force over all orders of the documents that respect the scores."""
    if key in WITHOUT_TOPN and topn is not None:
        pytest.skip("the whole list counts")
    labels = np.array([0.0, 2.0, 1.0, 0.0, 3.0], np.float32)
    scores = np.array([2.0, 1.0, 1.0, 1.0, 0.0], np.float32)
    oracle = metrics.get(key, topn=topn)
    found = [
        value(oracle, [labels], [np.array(order, np.float32)])
        for order in itertools.permutations(range(5))
        if all(
            order[i] > order[j]
            for i in range(5)
            for j in range(5)
            if scores[i] > scores[j]
        )
    ]
    tied = value(metrics.get(key, topn=topn), [labels], [scores])
    assert len(found) == 6
    assert tied == pytest.approx(combine(found), rel=1e-6)


@pytest.mark.parametrize(("key", "topn"), CASES)
def test_the_order_of_tied_documents_changes_nothing(key, topn):
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, 12).astype(np.float32)
    scores = rng.integers(0, 3, 12).astype(np.float32)
    weights = rng.uniform(0.1, 1.0, 12).astype(np.float32)
    order = rng.permutation(12)
    metric = metrics.get(key, topn=topn)
    expected = value(metric, [labels], [scores], [weights])
    shuffled = value(metric, [labels[order]], [scores[order]], [weights[order]])
    assert shuffled == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("key", [key for key in KEYS if key not in DIVERSITY])
def test_degenerate_batches_never_give_nan(key):
    nan, inf = np.nan, np.inf
    batches = {
        "no documents": ([], [], [0, 0]),
        "single documents": ([1.0, 0.0], [0.5, 0.5], [1, 1]),
        "all masked": ([-1.0, -1.0, 1.0], [1.0, 2.0, 3.0], [2, 1]),
        "nothing relevant": ([0.0, 0.0], [1.0, 2.0], [2]),
        "bad scores": ([1.0, 0.0, 2.0, 0.0], [nan, inf, -inf, 1.0], [4]),
        "huge scores": ([1.0, 0.0, 2.0], [1e38, -1e38, 0.0], [3]),
    }
    for labels, scores, lengths in batches.values():
        tensors = [ragged(np.array(v, np.float32), lengths) for v in (labels, scores)]
        for topn in (None,) if key in WITHOUT_TOPN else (None, 2):
            for weights in (None, np.zeros((len(lengths), 1), np.float32)):
                metric = metrics.get(key, topn=topn)
                assert np.isfinite(value(metric, *tensors, weights))


def test_a_nan_score_ranks_its_document_last():
    metric = metrics.get("mrr")
    assert value(metric, [[1.0, 0.0, 0.0]], [[np.nan, -5.0, 1.0]]) == pytest.approx(
        1.0 / 3.0
    )


def test_masked_documents_with_high_scores_are_ignored():
    metric = metrics.get("ndcg", topn=1)
    assert value(metric, [[-1.0, 1.0, 0.0]], [[9.0, 2.0, 1.0]]) == 1.0


def test_own_gain_and_discount_functions_are_used():
    labels, scores, _ = make_batch(5, lowest=0)
    arguments = {
        "gain_fn": tfr.keras.utils.identity,
        "rank_discount_fn": tfr.keras.utils.inverse,
    }
    expected = value(
        theirs.NDCGMetric(**arguments), labels.to_tensor(-1.0), scores.to_tensor(0.0)
    )
    assert value(metrics.get("ndcg", **arguments), labels, scores) == pytest.approx(
        expected, rel=1e-6
    )
    again = tf.keras.metrics.deserialize(
        tf.keras.metrics.serialize(metrics.get("ndcg", **arguments))
    )
    assert value(again, labels, scores) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("key", KEYS)
def test_serialisation_keeps_class_and_arguments(key):
    metric = metrics.get(
        key, name="metric/mine", topn=None if key in WITHOUT_TOPN else 7
    )
    for again in (
        tf.keras.metrics.deserialize(tf.keras.metrics.serialize(metric)),
        type(metric).from_config(metric.get_config()),
    ):
        assert type(again) is type(metric)
        assert again.name == "metric/mine"
        assert again.get_config() == metric.get_config()
    assert isinstance(metric, getattr(theirs, type(metric).__name__))


@pytest.mark.parametrize(
    "name", [n for n in metrics.__all__ if n.endswith("Metric")] + ["get"]
)
def test_signatures_begin_with_tf_rankings(name):
    ours = inspect.signature(getattr(metrics, name)).parameters
    expected = inspect.signature(getattr(theirs, name)).parameters
    assert list(ours)[: len(expected)] == list(expected)
    assert all(ours[p].default == expected[p].default for p in expected)


def test_the_default_metrics_are_tf_rankings():
    ours = [(type(m).__name__, m.name) for m in metrics.default_keras_metrics()]
    expected = [(type(m).__name__, m.name) for m in theirs.default_keras_metrics()]
    assert ours == expected


def test_unknown_keys_and_arguments_are_config_errors_that_name_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'ndcg'"):
        metrics.get("ndgc")
    with pytest.raises(ConfigError, match="unknown argument 'topn' in metric arp"):
        metrics.get("arp", topn=3)
