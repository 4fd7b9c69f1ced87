"""Paired differences: NumPy over the metrics of each query is the oracle."""

from __future__ import annotations

import numpy as np
import pytest

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


def test_nothing_is_defined_without_relevant_documents() -> None:
    one = QueryMetrics.of([0.0, 0.0], [1.0, 2.0], [0, 2])
    found = paired_differences(one, one)
    assert found["ndcg@10"] == {"difference": None, "ci": [None, None]}
