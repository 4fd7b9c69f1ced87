"""Paired differences: NumPy over the metrics of each query is the oracle."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from tfr_pipeline.cli.against import BETTER, METRIC, UNDECIDED, verdict
from tfr_pipeline.metrics.evaluation import QueryMetrics
from tfr_pipeline.metrics.paired import paired_differences


def make_lists(queries: int = 60):
    random = np.random.default_rng(4)
    lengths = random.integers(2, 9, queries)
    splits = np.concatenate([[0], np.cumsum(lengths)])
    labels = random.integers(0, 3, splits[-1]).astype(float)
    labels[splits[0] : splits[1]] = 0.0  # a query without a relevant document
    return labels, splits, random


def test_differences_are_means_over_queries() -> None:
    labels, splits, random = make_lists()
    scores = labels + random.normal(size=(2, len(labels))) * [[1.0], [3.0]]
    one, other = (QueryMetrics.of(labels, row, splits) for row in scores)
    found = paired_differences(one, other)
    assert found.keys() == one.values.keys()
    for name, difference in found.items():
        gain = one.skip(name) - other.skip(name)
        weights = one.label_sum if name == "arp" else np.ones(len(gain))
        defined = ~np.isnan(gain)
        mean = np.average(gain[defined], weights=weights[defined])
        assert difference["difference"] == pytest.approx(mean, abs=1e-12), name
        low, high = difference["ci"]
        assert low <= mean <= high
    assert found["ndcg@10"]["ci"][0] > 0  # a third of the noise shows


def test_intervals_have_the_width_of_the_normal_one() -> None:
    labels, splits, random = make_lists(400)
    scores = labels + random.normal(size=(2, len(labels)))
    one, other = (QueryMetrics.of(labels, row, splits) for row in scores)
    gain = one.skip("ndcg@10") - other.skip("ndcg@10")
    gain = gain[~np.isnan(gain)]
    width = 2 * 1.96 * gain.std() / np.sqrt(len(gain))
    low, high = paired_differences(one, other)["ndcg@10"]["ci"]
    assert high - low == pytest.approx(width, rel=0.15)


def test_a_ranking_does_not_differ_from_itself() -> None:
    labels, splits, random = make_lists()
    one = QueryMetrics.of(labels, random.normal(size=len(labels)), splits)
    for difference in paired_differences(one, one).values():
        assert difference == {"difference": 0.0, "ci": [0.0, 0.0]}


@pytest.mark.parametrize("queries", [1, 2, 9, 10])
def test_one_query_has_no_interval_and_few_have_a_warning(queries) -> None:
    random = np.random.default_rng(queries)
    # Another one has no relevant document, and does not count.
    labels = np.append(np.tile([1.0, 0.0, 0.0], queries), [0.0, 0.0, 0.0])
    splits = 3 * np.arange(queries + 2)
    good, bad = (QueryMetrics.of(labels, s, splits) for s in (labels, -labels))
    noisy = QueryMetrics.of(labels, random.normal(size=len(labels)), splits)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = paired_differences(good, bad)["mrr"]
        paired_differences(good, noisy)
    assert found["difference"] == pytest.approx(1 - 1 / 3)
    has_none = found["ci"] == [None, None]
    assert has_none == (queries == 1)
    assert [f"only {queries} of the queries" in str(w.message) for w in said] == (
        [True, True] if queries < 10 else []
    )
    assert (good.means()["mrr"]["skip_ci"] == [None, None]) == has_none
    assert verdict({METRIC: found}) == (UNDECIDED if has_none else BETTER)


def test_nothing_is_defined_without_relevant_documents() -> None:
    one = QueryMetrics.of([0.0, 0.0], [1.0, 2.0], [0, 2])
    found = paired_differences(one, one)
    assert found["ndcg@10"] == {"difference": None, "ci": [None, None]}
