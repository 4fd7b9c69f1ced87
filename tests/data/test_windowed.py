"""Batches of data that is too large to be shuffled as a whole."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfr_pipeline.data.batching import windowed
from tfr_pipeline.data.batching.deal import random_numbers
from tfr_pipeline.data.batching.windowed import WindowedPlan

ROW = 100  # bytes


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(windowed, "WINDOW", 40_000)
    monkeypatch.setattr(windowed, "BLOCK", 1_000)


def some_lengths(count=1500, seed=0, longest=40):
    random = np.random.default_rng(seed)
    return random.lognormal(1.6, 0.6, count).astype(np.int64).clip(1, longest)


def local_batches(plan, epoch=0):
    """Returns the lists of each local batch of an epoch."""
    first = epoch * plan.windows
    windows = [plan.window(first + i) for i in range(plan.windows)]
    return [np.split(window.order, window.splits[1:-1]) for window in windows]


def flat(plan, epoch=0):
    return list(itertools.chain(*local_batches(plan, epoch)))


def global_batches(plan, epoch=0):
    parts = flat(plan, epoch)
    steps = range(0, len(parts), plan.replicas)
    return [np.concatenate(parts[i : i + plan.replicas]) for i in steps]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 50), min_size=24, max_size=300),
    batch_size=st.integers(1, 40),
    budget=st.none() | st.integers(20, 400),
    replicas=st.sampled_from([1, 2, 3, 5]),
    seed=st.integers(0, 5),
    by_length=st.booleans(),
)
def test_each_list_comes_once_an_epoch_and_every_replica_has_some(
    lengths, batch_size, budget, replicas, seed, by_length
):
    lengths = np.array(lengths)
    real = np.flatnonzero(lengths)
    if len(real) < replicas:
        return
    batches = batch_size, budget, replicas, seed
    arguments = lengths, ROW, *batches, True, None, by_length
    plan = WindowedPlan(*arguments)
    for epoch in (0, 3):
        found = flat(plan, epoch)
        assert len(found) == plan.steps * replicas
        assert sorted(np.concatenate(found)) == real.tolist()
        assert all(len(batch) for batch in found)
        again = flat(WindowedPlan(*arguments), epoch)
        assert all(map(np.array_equal, found, again))


@pytest.mark.parametrize(
    ("budget", "by_length"), [(None, False), (150, False), (None, True)]
)
def test_any_number_of_replicas_has_the_same_global_batches(budget, by_length):
    lengths = some_lengths()
    made = functools.partial(
        WindowedPlan, lengths, ROW, 32, budget, seed=4, by_length=by_length
    )
    one = made(replicas=1)
    assert one.shares == (12 if budget is None else 6)
    for replicas in (2, 3, 6):
        many = made(replicas=replicas)
        assert many.steps == one.steps and many.shares == one.shares
        for epoch in (0, 1):
            for a, b in zip(
                global_batches(one, epoch), global_batches(many, epoch), strict=True
            ):
                assert sorted(a) == sorted(b)


def test_a_worker_needs_the_same_share_of_the_lists_in_every_epoch():
    lengths = some_lengths()
    plan = WindowedPlan(lengths, ROW, 32, None, 4, seed=1)
    owners = [set(), set(), set(), set()]
    for epoch in (0, 1, 5):
        for number, batch in enumerate(flat(plan, epoch)):
            owners[number % 4].update(batch.tolist())
    assert sorted(itertools.chain(*owners)) == list(range(len(lengths)))
    documents = [lengths[list(owned)].sum() for owned in owners]
    assert max(documents) - min(documents) < 0.02 * lengths.sum()
    for number, owned in enumerate(owners):  # in a row
        assert sorted(owned) == list(range(*plan.lists_of(number, 4)))


def test_batches_have_equally_many_lists_and_nearly_equally_many_documents(
    monkeypatch,
):
    monkeypatch.setattr(windowed, "WINDOW", 800_000)
    lengths = some_lengths(6000)
    plan = WindowedPlan(lengths, ROW, 32, None, 4, seed=1)
    for window in local_batches(plan)[:-1]:
        whole = [np.concatenate(window[i : i + 4]) for i in range(0, len(window), 4)]
        assert {len(batch) for batch in whole} <= {31, 32}
        documents = np.array([lengths[batch].sum() for batch in whole])
        shuffled = np.sqrt(32) * lengths.std()  # what chance alone leaves
        assert documents.std() < 0.25 * shuffled
        local = np.array([lengths[batch].sum() for batch in window])
        assert local.std() < 0.5 * np.sqrt(8) * lengths.std()


def test_batches_by_length_have_a_part_of_the_padding_of_others(monkeypatch):
    monkeypatch.setattr(windowed, "WINDOW", 800_000)
    lengths = some_lengths(6000)
    found = []
    for by_length in (False, True):
        plan = WindowedPlan(lengths, ROW, 32, None, 2, 1, by_length=by_length)
        batches = global_batches(plan)
        assert {len(batch) for batch in batches} <= {31, 32}
        places = sum(len(batch) * lengths[batch].max() for batch in batches)
        found.append(1.0 - lengths.sum() / places)
    random, alike = found
    assert alike < 0.5 * random


def test_batches_cut_by_documents_do_not_go_by_length():
    plans = [
        WindowedPlan(some_lengths(), ROW, 1, 300, 2, 1, by_length=by)
        for by in (False, True)
    ]
    assert all(map(np.array_equal, flat(plans[0]), flat(plans[1])))


def test_budgets_are_kept_by_batches_of_documents(monkeypatch):
    monkeypatch.setattr(windowed, "WINDOW", 800_000)
    lengths = some_lengths(6000)
    plan = WindowedPlan(lengths, ROW, 1, 300, 2, seed=1)
    assert plan.steps == -(-lengths.sum() // 300)
    documents = np.array([lengths[batch].sum() for batch in global_batches(plan)])
    assert 297 < documents.mean() <= 300
    assert np.percentile(documents, 99) < 1.25 * 300


def test_what_a_window_reads_is_in_pieces():
    lengths = some_lengths(6000)
    plan = WindowedPlan(lengths, ROW, 32, None, 2, seed=1)
    size = windowed.WINDOW * plan.shares / 12
    for number in range(plan.windows):
        lists = np.sort(plan.window(number).order)
        assert lengths[lists].sum() * ROW < 1.3 * size
        runs = 1 + (np.diff(lists) > 1).sum()
        # A window begins and ends within a block of each share.
        most = lengths[lists].sum() * ROW / windowed.BLOCK + 2 * plan.shares
        assert runs < 1.2 * most


def test_neighbours_are_apart_and_all_pairs_meet():
    """Batches are as those of a full shuffle: chance says who is with whom."""
    lengths = some_lengths(1200)
    plan = WindowedPlan(lengths, ROW, 24, None, 1, seed=3)
    near, far = 0, 0
    epochs = 60
    for epoch in range(epochs):
        batch_of = np.empty(len(lengths), np.int64)
        for number, batch in enumerate(global_batches(plan, epoch)):
            batch_of[batch] = number
        near += (np.diff(batch_of) == 0).mean()  # neighbours in a file
        far += (batch_of == np.roll(batch_of, 600)).mean()
    chance = 1 / plan.steps
    # Neighbours of one block are in one window, of which there are several.
    assert far / epochs < 1.5 * chance
    assert near / epochs < 1.5 * plan.windows * chance
    assert near / epochs > chance / 2


@pytest.mark.parametrize(("replicas", "by_length"), [(1, False), (3, False), (3, True)])
@pytest.mark.parametrize("start", [0, 1, 7, 40, 100])
def test_a_run_goes_on_with_the_batches_it_would_have_had(start, replicas, by_length):
    plan = WindowedPlan(
        some_lengths(), ROW, 32, None, replicas, seed=4, by_length=by_length
    )
    whole = [
        batch for epoch in range(4) for batch in (b.tolist() for b in flat(plan, epoch))
    ]
    dataset = plan.dataset(start, sized=True, numbered=True).take(3 * replicas)
    for place, ((index, number), sizes) in enumerate(dataset):
        wanted = start * replicas + place
        assert number == wanted
        assert index.numpy().tolist() == whole[wanted]
        step = wanted // replicas * replicas
        of_step = whole[step : step + replicas]
        lists = list(itertools.chain(*of_step))
        longest = plan._lengths[lists].max()
        assert sizes.numpy().tolist() == [len(lists), longest, len(whole[wanted])]
    found = plan.batch_of_step(start)
    whole_step = whole[start * replicas : (start + 1) * replicas]
    assert found.tolist() == list(itertools.chain(*whole_step))
    counted = list(itertools.islice(plan.sizes(start), 5))
    for place, (lists, documents) in enumerate(counted):
        batch = whole[start * replicas + place]
        assert (lists, documents) == (len(batch), plan._lengths[batch].sum())


def test_workers_share_the_batches_of_one():
    plan = WindowedPlan(some_lengths(), ROW, 32, None, 6, seed=4)
    full = [b.numpy().tolist() for b in plan.dataset(5).take(6 * 20)]
    for worker in range(3):
        own = plan.dataset(5, shard=(worker, 3)).take(2 * 20)
        wanted = [b for i, b in enumerate(full) if i // 2 % 3 == worker]
        assert [b.numpy().tolist() for b in own] == wanted


@pytest.mark.parametrize("replicas", [1, 4])
def test_without_seed_the_lists_of_a_replica_come_in_order(replicas):
    lengths = np.concatenate([[0], some_lengths(), [0]])
    plan = WindowedPlan(lengths, ROW, 32, replicas=replicas, training=False)
    batches = [b.numpy() for b in plan.dataset(repeat=False)]
    assert len(batches) == plan.steps * replicas
    own = [np.concatenate(batches[replica::replicas]) for replica in range(replicas)]
    np.testing.assert_array_equal(np.concatenate(own), np.arange(len(lengths)))
    assert max(map(len, batches)) == plan.most_lists
    for replica, lists in enumerate(own):
        assert plan.lists_of(replica, replicas) == (lists[0], lists[-1] + 1)


def test_fewer_lists_than_batches_for_all_replicas_are_said():
    plan = WindowedPlan(some_lengths(300), ROW, 4, None, 8, seed=0)
    assert plan.has_few_lists
    assert all(len(batch) for batch in flat(plan))


def test_random_numbers_stay_the_same():
    # SplitMix64 from state 0, as published by Vigna (prng.di.unimi.it/splitmix64.c).
    wanted = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert random_numbers(3).tolist() == wanted
    assert (random_numbers(5, 1, 2) != random_numbers(5, 2, 1)).all()
