"""Batches of equally many documents: a permutation, and nearly all of them exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfr_pipeline.data.batching.level import level
from tfr_pipeline.data.batching.plan import BatchPlan


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=80),
    st.integers(1, 12),
    st.integers(0, 2**16),
)
def test_every_list_stays_and_batches_keep_their_numbers_of_lists(sizes, batches, seed):
    lengths = np.array(sizes)
    order = np.random.default_rng(seed).permutation(len(lengths))
    splits = np.arange(batches + 1) * len(lengths) // batches
    found = level(order, splits, lengths)
    assert sorted(found) == list(range(len(lengths)))

    def largest(order):
        sums = np.add.reduceat(np.append(lengths[order], 0), splits[:-1])
        sums = np.where(np.diff(splits) > 0, sums, 0)
        return sums.max()

    assert largest(found) <= largest(order)


@pytest.mark.parametrize("longest", [200, 10_000])
def test_nearly_all_batches_get_the_same_number_of_documents(longest):
    random = np.random.default_rng(5)
    lengths = random.lognormal(4.6, 0.6, 3000).astype(np.int64).clip(1, longest)
    splits = np.arange(95) * 3000 // 94
    found = level(random.permutation(3000), splits, lengths)
    sums = np.add.reduceat(lengths[found], splits[:-1])
    assert np.isin(sums - lengths.sum() // 94, [0, 1]).mean() > 0.9


@pytest.mark.parametrize("budget", [None, 300])
def test_batches_of_a_plan_are_level_and_epochs_differ(budget):
    random = np.random.default_rng(2)
    lengths = random.integers(1, 30, 1000)
    plan = BatchPlan(lengths, 20, budget, replicas=2, seed=7)
    orders = []
    for epoch in (0, 0, 1):
        order, splits = (part.numpy() for part in plan.epoch(epoch))
        assert sorted(order) == list(range(1000))
        sums = np.add.reduceat(lengths[order], splits[:-1])
        whole = sums[::2] + sums[1::2]
        assert np.isin(whole - lengths.sum() // len(whole), [0, 1]).mean() > 0.8
        assert (abs(sums[::2] - sums[1::2]) <= 2).mean() > 0.8
        orders.append(order)
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).mean() > 0.9


def test_global_batches_are_the_same_for_any_number_of_replicas():
    lengths = np.random.default_rng(2).integers(1, 30, 400)
    batches = []
    for replicas in (1, 2, 4):
        plan = BatchPlan(lengths, 20, replicas=replicas, seed=7)
        order, splits = (part.numpy() for part in plan.epoch(3))
        cuts = splits[::replicas][1:-1]
        batches.append([sorted(part) for part in np.split(order, cuts)])
    assert batches[0] == batches[1] == batches[2]


def test_lists_that_stay_in_order_are_not_exchanged():
    plan = BatchPlan(np.array([9, 9, 1, 1]), 2, seed=None)
    np.testing.assert_array_equal(plan.epoch(0)[0], [0, 1, 2, 3])
