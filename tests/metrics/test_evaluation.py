"""Evaluation of a data set against scikit-learn, loops, brute force and Keras."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from tfr_pipeline import metrics
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.metrics.evaluation import evaluate_lists, per_query

CUTOFFS = (1, 3, 5, 10)


def make_data(seed=0, lists=40, distinct_scores=6, graded=True):
    """Many ties; a third of the lists without relevant documents; empty lists."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 15, lists)
    row_splits = np.concatenate([[0], np.cumsum(lengths)])
    documents = row_splits[-1]
    labels = rng.integers(0, 4 if graded else 2, documents).astype(np.float32)
    labels *= np.repeat(rng.random(lists) > 0.3, lengths)
    scores = rng.integers(0, distinct_scores, documents).astype(np.float32)
    return labels, scores, row_splits


def loop(labels, scores, cutoff):
    """One list, one document at a time; ties by the definition of each metric."""
    order = sorted(range(len(labels)), key=lambda i: (-scores[i], labels[i] >= 1))
    relevant = [labels[i] >= 1 for i in order]
    total = sum(relevant)
    hits, precisions = 0, []
    for rank, hit in enumerate(relevant, 1):
        hits += hit
        if hit:
            precisions.append(hits / rank)
    found = position = 0.0
    for i in range(len(labels)):
        above = sum(s > scores[i] for s in scores)
        tied = sum(s == scores[i] for s in scores)
        inside = min(max(cutoff - above, 0), tied) / tied
        found += inside * (labels[i] >= 1)
        position += labels[i] * (above + (tied + 1) / 2)
    return {
        "mrr": 1 / (relevant.index(True) + 1) if total else np.nan,
        "map": sum(precisions) / total if total else np.nan,
        f"precision@{cutoff}": found / min(cutoff, len(labels)) if labels else np.nan,
        f"recall@{cutoff}": found / total if total else np.nan,
        "arp": position / sum(labels) if sum(labels) else np.nan,
    }


@pytest.mark.parametrize("cutoff", [*CUTOFFS, None])
def test_ndcg_equals_scikit_learn_with_exponential_gains(cutoff):
    labels, scores, row_splits = make_data()
    values = per_query(labels, scores, row_splits)
    values = values["ndcg" if cutoff is None else f"ndcg@{cutoff}"]
    compared = 0
    for q, (start, stop) in enumerate(itertools.pairwise(row_splits)):
        gains = 2.0 ** labels[start:stop] - 1.0
        if stop - start < 2 or not gains.any():
            continue
        expected = ndcg_score([gains], [scores[start:stop]], k=cutoff)
        assert values[q] == pytest.approx(expected, abs=1e-9)
        compared += 1
    assert compared > 15


@pytest.mark.parametrize("seed", range(3))
def test_every_metric_equals_a_plain_loop(seed):
    labels, scores, row_splits = make_data(seed)
    values = per_query(labels, scores, row_splits)
    for q, (start, stop) in enumerate(itertools.pairwise(row_splits)):
        for cutoff in CUTOFFS:
            expected = loop(
                labels[start:stop].tolist(), scores[start:stop].tolist(), cutoff
            )
            for name, number in expected.items():
                assert values[name][q] == pytest.approx(number, nan_ok=True), name


def test_ties_count_as_their_orders_do():
    labels = np.array([0.0, 2.0, 1.0, 0.0, 3.0])
    scores = np.array([2.0, 1.0, 1.0, 1.0, 0.0])
    tied = per_query(labels, scores, [0, 5])
    orders = [
        per_query(labels, np.array([9, *order, 0.0]), [0, 5])
        for order in itertools.permutations([1.0, 2.0, 3.0])
    ]
    for name, value in tied.items():
        combine = np.min if name in ("mrr", "map") else np.mean
        expected = combine([order[name][0] for order in orders])
        assert value[0] == pytest.approx(expected), name


@pytest.mark.parametrize("distinct_scores", [6, 10_000])
def test_the_zero_convention_equals_the_keras_metrics(distinct_scores):
    labels, scores, row_splits = make_data(7, distinct_scores=distinct_scores)
    result = evaluate_lists(labels, scores, row_splits, bootstrap=0)
    tensors = [
        tf.RaggedTensor.from_row_splits(values, row_splits)
        for values in (labels, scores)
    ]
    cases = [("mrr", None), ("map", None), ("ndcg", None), ("arp", None)]
    cases += [(k, n) for k in ("ndcg", "precision", "recall") for n in CUTOFFS]
    for key, topn in cases:
        metric = metrics.get(key, topn=topn)
        metric.update_state(*tensors)
        name = key if topn is None else f"{key}@{topn}"
        value = result[name]["skip" if key == "arp" else "zero"]
        assert value == pytest.approx(float(metric.result()), rel=1e-5), name


def test_the_three_conventions_differ_by_the_queries_without_relevance():
    labels, scores, row_splits = make_data(1)
    result = evaluate_lists(labels, scores, row_splits)
    share = result["queries_without_relevant"] / result["queries"]
    ndcg = result["ndcg@10"]
    assert share > 0.1
    assert ndcg["zero"] == pytest.approx(ndcg["skip"] * (1 - share))
    assert ndcg["one"] == pytest.approx(ndcg["zero"] + share)
    assert set(result["mrr"]) == {"skip", "zero", "skip_ci", "zero_ci"}
    assert set(result["arp"]) == {"skip", "skip_ci"}


def test_intervals_enclose_the_mean_and_depend_on_the_seed_only():
    data = make_data(2, lists=200)
    first, again = evaluate_lists(*data, seed=3), evaluate_lists(*data, seed=3)
    other = evaluate_lists(*data, seed=4)
    assert first == again != other
    for name, numbers in first.items():
        if isinstance(numbers, dict):
            for convention in ("skip", "zero", "one"):
                if convention in numbers:
                    low, high = numbers[f"{convention}_ci"]
                    assert low < numbers[convention] < high, name


def test_the_interval_is_that_of_the_normal_approximation():
    data = make_data(2, lists=400)
    values = per_query(*data)["ndcg@10"]
    values = values[~np.isnan(values)]
    low, high = evaluate_lists(*data)["ndcg@10"]["skip_ci"]
    width = 2 * 1.96 * values.std() / np.sqrt(len(values))
    assert high - low == pytest.approx(width, rel=0.1)


def test_the_intervals_do_not_depend_on_the_block_size(monkeypatch):
    from tfr_pipeline.metrics import bootstrap

    data = make_data(2)
    whole = evaluate_lists(*data, bootstrap=200)["map"]["zero_ci"]
    monkeypatch.setattr(bootstrap, "_CELLS", 2000)
    blocks = evaluate_lists(*data, bootstrap=200)["map"]["zero_ci"]
    assert blocks == pytest.approx(whole, abs=0.02)


def test_the_result_is_json_without_nan_also_when_nothing_is_relevant():
    result = evaluate_lists([0.0, 0.0], [1.0, 2.0], [0, 2])
    json.dumps(result, allow_nan=False)
    assert result["ndcg"]["skip"] is None
    assert result["ndcg"]["skip_ci"] == [None, None]
    assert (result["ndcg"]["zero"], result["ndcg"]["one"]) == (0.0, 1.0)
    assert result["queries_without_relevant"] == 1


def test_documents_with_negative_labels_are_left_out():
    result = evaluate_lists([-1.0, 1.0, 0.0], [9.0, 2.0, 1.0], [0, 3], bootstrap=0)
    assert result["ndcg@1"]["skip"] == 1.0
    assert result["documents"] == 2


def test_nan_scores_are_counted_and_the_first_query_is_named():
    scores = [1.0, 2.0, np.nan, np.nan]
    with pytest.raises(DataError, match=r"2 of 4 scores are NaN.*query 2"):
        evaluate_lists([1.0, 0.0, 1.0, 0.0], scores, [0, 1, 2, 4])


@pytest.mark.parametrize(
    ("labels", "scores", "row_splits", "message"),
    [
        ([], [], [0], "nothing to evaluate: 0 lists, 0 documents"),
        ([], [], [0, 0], "nothing to evaluate: 1 lists, 0 documents"),
        ([-1.0], [1.0], [0, 1], "no documents with a label of 0 or more"),
        ([1.0, 0.0], [1.0], [0, 2], r"\(2,\) and \(1,\)"),
        ([1.0, 0.0], [1.0, 2.0], [0, 1], "row_splits to rise from 0 to 2"),
        ([np.nan], [1.0], [0, 1], "1 of 1 labels are NaN"),
    ],
)
def test_bad_input_is_a_data_error(labels, scores, row_splits, message):
    with pytest.raises(DataError, match=message):
        evaluate_lists(labels, scores, row_splits)


def test_infinite_scores_are_ranked_as_they_compare():
    values = per_query([0.0, 1.0, 0.0], [-np.inf, np.inf, 0.0], [0, 3])
    assert values["mrr"][0] == 1.0


def test_a_cutoff_below_one_is_an_error():
    with pytest.raises(ConfigError, match="cutoffs of 1 or more"):
        per_query([1.0], [1.0], [0, 1], cutoffs=(0,))
