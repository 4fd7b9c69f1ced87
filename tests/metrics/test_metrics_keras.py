"""Keras metrics against TF-Ranking, under ties, and their interface."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from fractions import Fraction

import numpy as np
import pytest

from tfr_pipeline import metrics
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.metrics.evaluation import evaluate_lists, per_query

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
    lengths = tf.constant(LENGTHS if lengths is None else lengths, tf.int64)
    return tf.RaggedTensor.from_row_lengths(values, lengths)


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
    arguments = {} if topn is None else {"topn": topn}
    if key not in ("bpref", "pwa"):
        cls = getattr(theirs, type(metrics.get(key)).__name__)
        return cls(**arguments, **kwargs)
    # TF-Ranking has them for Estimators: inside a Keras metric of its own they work.
    name = {"bpref": "BPrefMetric", "pwa": "PWAMetric"}[key]
    if not hasattr(tfr.metrics_impl, name):
        pytest.skip(f"this tensorflow-ranking has no {name}")
    if key == "bpref":
        arguments.setdefault("topn", None)
    metric = theirs.MRRMetric()
    metric._metric = getattr(tfr.metrics_impl, name)(None, **arguments, **kwargs)
    return metric


@pytest.mark.parametrize("weights", ["none", "scalar", "list", "document"])
@pytest.mark.parametrize(("key", "topn"), CASES)
def test_both_layouts_equal_tf_ranking_without_ties(key, topn, weights):
    if key == "pwa" and weights in ("scalar", "document"):
        pytest.skip("TF-Ranking's takes weights of lists only")
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


def diversity_batch(seed, ties=False):
    """Labels `[batch, (list), 3]`, some documents masked; tie-free scores; weights."""
    rng = np.random.default_rng(seed)
    _, scores, weights = make_batch(seed)
    if ties:
        scores = ragged(rng.integers(0, 3, sum(LENGTHS)).astype(np.float32))
    labels = rng.integers(0, 2, (sum(LENGTHS), 3)).astype(np.float32)
    labels[rng.uniform(size=len(labels)) < 0.2] = -1.0
    return ragged(labels), scores, weights


@pytest.mark.parametrize("weights", ["none", "scalar", "list", "document"])
@pytest.mark.parametrize("topn", [None, 2])
@pytest.mark.parametrize("key", DIVERSITY)
def test_diversity_metrics_equal_tf_ranking_without_ties(key, topn, weights):
    labels, scores, all_weights = diversity_batch(3)
    weight = all_weights[weights]
    padded = (
        labels.to_tensor(-1.0),
        scores.to_tensor(0.0),
        weight.to_tensor(0.0) if weights == "document" else weight,
    )
    expected = value(their_metric(key, topn), *padded)
    ours = metrics.get(key, topn=topn)
    assert value(ours, *padded) == pytest.approx(expected, rel=1e-6)
    assert value(ours, labels, scores, weight) == pytest.approx(expected, rel=1e-6)
    assert expected > 0.0


def test_subtopics_that_a_query_lacks_count_nothing():
    # TF-Ranking's alpha-DCG subtracts them.
    labels, scores = [[[1.0, 0.0, -1.0], [1.0, 1.0, -1.0]]], [[2.0, 1.0]]
    without = np.array(labels)[:, :, :2]
    for key in DIVERSITY:
        expected = value(metrics.get(key), without, scores)
        assert value(metrics.get(key), labels, scores) == expected
    expected = 1.0 + (0.5 + 1.0) / np.log2(3.0)
    assert value(metrics.get("alpha_dcg"), labels, scores) == pytest.approx(expected)


@pytest.mark.parametrize("topn", [None, 3])
@pytest.mark.parametrize("key", DIVERSITY)
def test_the_order_of_tied_documents_changes_no_diversity_metric(key, topn):
    labels, scores, weights = diversity_batch(5, ties=True)
    metric = metrics.get(key, topn=topn)
    expected = value(metric, labels, scores, weights["document"])
    order = np.arange(sum(LENGTHS))[::-1]
    backwards = [
        ragged(tf.gather(x.values, order), LENGTHS[::-1])
        for x in (labels, scores, weights["document"])
    ]
    assert value(metric, *backwards) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("topn", [None, 1, 2])
def test_tied_documents_count_as_badly_as_they_can_in_alpha_dcg(topn):
    labels = np.array([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]], np.float32)
    metric = metrics.get("alpha_dcg", topn=topn)
    found = [
        value(metric, [labels], [np.array(order, np.float32)])
        for order in itertools.permutations(range(3))
    ]
    tied = value(metric, [labels], [np.zeros(3, np.float32)])
    assert tied == pytest.approx(min(found), rel=1e-6)
    assert tied < max(found)


def rows_of(labels, scores, weights=None):
    """Yields labels, scores and weights of each list, best scores first."""
    start = 0
    for length in LENGTHS:
        rows = np.arange(start, start + length)
        start += length
        weight = np.ones(sum(LENGTHS)) if weights is None else weights.values.numpy()
        rows = rows[(labels.values.numpy()[rows] >= 0) & (weight[rows] > 0)]
        rows = rows[np.argsort(-scores.values.numpy()[rows])]
        yield labels.values.numpy()[rows], weight[rows]


@pytest.mark.parametrize("trec", [True, False])
@pytest.mark.parametrize("topn", [None, 3])
def test_bpref_is_its_definition(topn, trec):
    labels, scores, _ = make_batch(6)
    total = 0.0
    for ranked, _ in rows_of(labels, scores):
        relevant, others = (ranked >= 1).sum(), (ranked < 1).sum()
        bound = min(relevant, others) if trec else relevant
        for position, label in enumerate(ranked[:topn]):
            if label >= 1:
                above = min((ranked[:position] < 1).sum(), relevant)
                total += (1.0 - (above / bound if bound else 0.0)) / relevant
    metric = metrics.get("bpref", topn=topn, use_trec_version=trec)
    expected = total / len(LENGTHS)
    assert value(metric, labels, scores) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("topn", [None, 2])
def test_pwa_is_its_definition_with_the_mean_weight_of_a_list(topn):
    labels, scores, weights = make_batch(7)
    weights = weights["document"]
    total = weight_sum = 0.0
    for ranked, weight in rows_of(labels, scores, weights):
        if not len(ranked):
            continue
        positions = np.arange(1, len(ranked) + 1)[: topn or 5]
        average = (ranked[: topn or 5] / positions).sum() / (1.0 / positions).sum()
        total += weight.mean() * average
        weight_sum += weight.mean()
    metric = metrics.get("pwa", topn=topn)
    found = value(metric, labels, scores, weights)
    assert found == pytest.approx(total / weight_sum, rel=1e-6)


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
        ("bpref", np.min),
        ("pwa", np.mean),
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


@pytest.mark.parametrize("key", DIVERSITY)
def test_degenerate_subtopics_never_give_nan(key):
    ones = np.ones((1, 1), np.float32)
    for label in (-1.0, 0.0, 1.0, 1e38, np.inf, np.nan):
        for length in (0, 1, 2):
            labels = np.full((1, length, 2), label, np.float32)
            for score in (1.0, np.nan, np.inf):
                scores = np.full((1, length), score, np.float32)
                for weights in (None, 0.0 * ones, np.nan * ones):
                    metric = metrics.get(key)
                    assert np.isfinite(value(metric, labels, scores, weights))


@pytest.mark.parametrize("top", [3, 99, 100, 110, 128, 1023, 1024, 5000])
def test_ndcg_is_exact_for_grades_of_any_size(top):
    grades, scores = [top - 3, 0, top, top - 1], [4.0, 3.0, 2.0, 1.0]
    # Integers of Python have no range to leave.
    gains = [Fraction(2**grade - 1, 2**top) for grade in grades]
    dcgs = [
        sum(float(gain) / np.log2(rank + 2.0) for rank, gain in enumerate(order[:3]))
        for order in (gains, sorted(gains, reverse=True))
    ]
    expected = pytest.approx(dcgs[0] / dcgs[1], rel=1e-6)
    assert value(metrics.get("ndcg", topn=3), [grades], [scores]) == expected
    assert per_query(grades, scores, [0, 4])["ndcg@3"][0] == expected


@pytest.mark.parametrize("lists", [2, 3])
@pytest.mark.parametrize("key", [key for key in KEYS if key not in ("bpref", "pwa")])
def test_weights_as_plain_lists_broadcast_as_tf_rankings_do(key, lists):
    labels = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])[:lists]
    if key in DIVERSITY:
        labels = np.stack([labels > 0.0, labels > 1.0], axis=2)
    labels = labels.astype(np.float32)
    scores = np.float32([[0.1, 0.5, 0.3], [0.9, 0.2, 0.4], [0.1, 0.2, 0.3]])[:lists]
    by_document = [[1.0, 2.0, 0.5], [0.3, 0.7, 1.0], [1.0, 1.0, 1.0]][:lists]
    zeros = [0.0, 0.0, 0.0]
    vectors = [[1.0, 2.0, 0.5], (1.0, 2.0, 0.5), zeros]
    others = [by_document, [[1.0, 2.0, 0.5]], [[2.0], [1.0], [3.0]][:lists]]
    others += [0.0, [zeros] * lists, [[0.0]] * lists]
    for weights in vectors + others:
        expected = value(their_metric(key), labels, scores, weights)
        ambiguous = lists == 3 and weights in vectors
        with (
            pytest.warns(UserWarning, match="one weight a position")
            if ambiguous
            else contextlib.nullcontext()
        ):
            found = value(metrics.get(key), labels, scores, weights)
        assert found == pytest.approx(expected, rel=1e-6)


def test_a_vector_of_a_weight_a_list_weighs_lists():
    labels, scores = [[1.0, 0.0, 2.0]] * 2, [[0.1, 0.5, 0.3], [0.9, 0.2, 0.4]]
    column = value(metrics.get("ndcg"), labels, scores, [[1.0], [3.0]])
    assert value(metrics.get("ndcg"), labels, scores, [1.0, 3.0]) == column


def test_a_key_that_is_no_text_is_named():
    for key in (None, 3, ["ndcg"], metrics.NDCGMetric):
        with pytest.raises(ValueError, match="`key` should be the name of a metric"):
            metrics.get(key)


@pytest.mark.parametrize("changes", ["labels", "scores", "weights"])
@pytest.mark.parametrize("kind", [tf.Variable, np.array])
def test_what_has_changed_between_two_updates_counts_as_it_is_now(kind, changes):
    def update(part, value):
        if kind is tf.Variable:
            part.assign(value)
        else:
            part[:] = value

    before = {"labels": [[0.0, 1.0]], "scores": [[0.2, 0.1]], "weights": [[1.0, 1.0]]}
    after = {"labels": [[1.0, 0.0]], "scores": [[0.1, 0.2]], "weights": [[0.0, 1.0]]}
    given = {name: tf.constant(value) for name, value in before.items()}
    given[changes] = kind(before[changes])
    metric = metrics.get("ndcg")
    assert value(metric, *given.values()) < 1.0
    update(given[changes], after[changes])
    assert value(metric, *given.values()) == 1.0


def test_gains_out_of_range_never_pass_for_a_number():
    labels, scores = [[100.0, 128.0]], [[2.0, 1.0]]
    assert value(metrics.get("dcg"), labels, scores) == np.inf
    assert value(metrics.get("dcg", topn=1), labels, scores) == np.float32(2.0**100)
    own = metrics.get("ndcg", gain_fn=lambda label: tf.pow(2.0, label))
    assert np.isnan(value(own, labels, scores))


@pytest.mark.parametrize("key", ["ndcg", "dcg", "pwa", "arp"])
def test_labels_beyond_the_range_of_a_metric_count_as_its_largest(key):
    scores = [[3.0, 2.0, 1.0]]
    found = value(metrics.get(key), [[0.0, np.inf, 1e35]], scores)
    assert found == value(metrics.get(key), [[0.0, 1e30, 1e30]], scores)


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
        "huge labels": ([130.0, 1e38, inf, nan, 0.0], [1.0, 2.0, 3.0, 4.0, 5.0], [5]),
        "no lists": ([], [], []),
    }
    for labels, scores, lengths in batches.values():
        tensors = [ragged(np.array(v, np.float32), lengths) for v in (labels, scores)]
        for topn in (None,) if key in WITHOUT_TOPN else (None, 2):
            column = np.ones((len(lengths), 1), np.float32)
            for weights in (None, 0.0 * column, nan * column, inf * column):
                metric = metrics.get(key, topn=topn)
                found = value(metric, *tensors, weights)
                # 2^130 is infinite in float32, which a mean of ratios can avoid.
                assert not np.isnan(found) if key == "dcg" else np.isfinite(found)


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


@pytest.mark.parametrize("convention", ["zero", "skip"])
@pytest.mark.parametrize("dense", [False, True])
def test_lists_without_relevance_count_as_in_the_evaluation(convention, dense):
    rng = np.random.default_rng(5)
    lengths = [4, 1, 6, 3, 9]
    labels = rng.integers(0, 4, sum(lengths)).astype(np.float32)
    labels[4] = labels[11:14] = 0.0  # of two lists
    scores = rng.permutation(len(labels)).astype(np.float32)
    wanted = evaluate_lists(labels, scores, np.cumsum([0, *lengths]), bootstrap=0)
    batch = ragged(labels, lengths), ragged(scores, lengths)
    if dense:
        batch = batch[0].to_tensor(-1.0), batch[1].to_tensor(0.0)
    for name, by_convention in wanted.items():
        if not isinstance(by_convention, dict) or convention not in by_convention:
            continue
        key, _, topn = name.partition("@")
        metric = metrics.get(
            key, topn=int(topn) if topn else None, without_relevant=convention
        )
        expected = by_convention[convention]
        assert value(metric, *batch) == pytest.approx(expected, rel=1e-5), name
    assert wanted["ndcg"]["zero"] < wanted["ndcg"]["skip"]


def test_an_unknown_convention_is_named():
    with pytest.raises(ConfigError, match=r"skp.* did you mean 'skip'"):
        metrics.get("ndcg", without_relevant="skp")


@pytest.mark.parametrize("convention", ["zero", "skip"])
@pytest.mark.parametrize("key", KEYS)
def test_serialisation_keeps_class_and_arguments(key, convention):
    metric = metrics.get(
        key,
        name="metric/mine",
        topn=None if key in WITHOUT_TOPN else 7,
        without_relevant=convention,
    )
    for again in (
        tf.keras.metrics.deserialize(tf.keras.metrics.serialize(metric)),
        type(metric).from_config(metric.get_config()),
    ):
        assert type(again) is type(metric)
        assert again.name == "metric/mine"
        assert again.without_relevant == convention
        assert again.get_config() == metric.get_config()


@pytest.mark.parametrize("key", KEYS)
def test_a_metric_is_an_instance_of_tf_rankings_class(key):
    metric = metrics.get(key)
    name = type(metric).__name__
    their_class = getattr(theirs, name, tf.keras.metrics.Mean)
    assert isinstance(metric, their_class)
    assert (their_class is tf.keras.metrics.Mean) == (key in ("bpref", "pwa"))


@pytest.mark.parametrize(
    "name", [n for n in metrics.__all__ if hasattr(theirs, n) and n[:7] != "Ranking"]
)
def test_signatures_begin_with_tf_rankings(name):
    ours = inspect.signature(getattr(metrics, name)).parameters
    expected = inspect.signature(getattr(theirs, name)).parameters
    # More may follow by name only, which stands before the rest of the names.
    known = [n for n, p in ours.items() if n in expected or p.kind != p.KEYWORD_ONLY]
    assert known[: len(expected)] == list(expected)
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: metrics.get("ndcg", topn=0), "`topn` should be None or a positive"),
        (lambda: metrics.PWAMetric(topn=-1), "`topn` should be None or a positive"),
        (lambda: metrics.get("alpha_dcg", alpha=1.5), "`alpha` should be between"),
        (
            lambda: metrics.get("ndcg")(np.zeros((1, 2, 3)), np.zeros((1, 2))),
            "expected labels of shape",
        ),
        (
            lambda: metrics.get("alpha_dcg")(np.zeros((1, 2)), np.zeros((1, 2))),
            "AlphaDCGMetric expects labels of shape",
        ),
    ],
)
def test_what_a_metric_cannot_use_is_a_config_error(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_seed_without_effect_is_a_warning():
    with pytest.warns(UserWarning, match="`seed` has no effect"):
        metrics.get("alpha_dcg", seed=1)
