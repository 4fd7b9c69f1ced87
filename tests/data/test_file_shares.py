"""Shares of whole files, as even as files allow."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.data.test_windowed import flat, local_batches, some_lengths
from tfr_pipeline.data.batching import windowed
from tfr_pipeline.data.batching.file_shares import FileShares
from tfr_pipeline.data.batching.windowed import WindowedPlan

ROW = 100


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(windowed, "WINDOW", 40_000)
    monkeypatch.setattr(windowed, "BLOCK", 1_000)


def squares(documents):
    return int((np.asarray(documents) ** 2).sum())


def best(documents, shares):
    """Returns the shares of the most even way to cut, by trying all of them."""
    ends = np.concatenate([[0], np.cumsum(documents)])
    cuts = itertools.combinations(range(1, len(documents)), shares - 1)
    every = (np.diff(ends[[0, *inner, len(documents)]]) for inner in cuts)
    return min(every, key=squares)


@settings(max_examples=200, deadline=None)
@given(
    documents=st.lists(st.integers(1, 60), min_size=1, max_size=9),
    shares=st.integers(1, 5),
)
def test_shares_are_nearly_as_even_as_whole_files_can_be(documents, shares):
    if len(documents) < shares:
        return
    # Lists of one document.
    lengths = np.ones(sum(documents), np.int64)
    found = FileShares(lengths, np.array(documents), training=True)
    bounds = found.bounds(shares)
    ends = np.concatenate([[0], np.cumsum(documents)]).tolist()
    assert {*bounds.tolist()} <= {*ends}
    assert bounds[0] == 0 and bounds[-1] == ends[-1]
    assert (np.diff(bounds) > 0).all()
    assert np.diff(bounds).tolist() == found.documents(shares).tolist()
    optimum = best(documents, shares)
    assert squares(np.diff(bounds)) <= 1.35 * squares(optimum)


def test_equal_files_make_equal_shares():
    for files, shares in ((12, 4), (100, 10), (64, 64)):
        found = FileShares(np.full(files * 7, 3), np.full(files, 7), training=True)
        assert found.documents(shares).tolist() == [files // shares * 21] * shares


def test_files_without_documents_are_nobodys_share():
    lengths = np.array([0, 0, 5, 3, 0, 2, 0])
    counts = np.array([2, 0, 2, 1, 1, 1])
    training = FileShares(lengths, counts, training=True)
    assert training.most == 2
    assert training.bounds(2).tolist() == [0, 5, 7]
    assert training.documents(2).tolist() == [8, 2]
    assert FileShares(lengths, counts, training=False).most == 5


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=3, max_size=12),
    replicas=st.sampled_from([1, 2, 3]),
    budget=st.none() | st.integers(20, 400),
    batch_size=st.integers(1, 40),
    training=st.booleans(),
)
# A share with fewer lists than there are batches.
@example(counts=[1, 9, 1], replicas=2, budget=20, batch_size=1, training=False)
def test_each_list_comes_once_an_epoch_to_the_replica_that_has_its_file(
    counts, replicas, budget, batch_size, training
):
    lengths = some_lengths(sum(counts), seed=len(counts))
    lengths[:: len(lengths) // 3] = 0
    files = FileShares(lengths, np.array(counts), training)
    if files.most < replicas:
        return
    bounds = files.bounds(replicas)
    seed = 3 if training else None
    plan = WindowedPlan(
        lengths, ROW, batch_size, budget, replicas, seed, training, bounds
    )
    assert plan.dealt == -replicas
    for epoch in (0, 2) if training else (0,):
        found = flat(plan, epoch)
        wanted = np.flatnonzero(lengths) if training else np.arange(len(lengths))
        assert sorted(np.concatenate(found)) == wanted.tolist()
        assert len(found) == plan.steps * replicas
        assert all(len(batch) for batch in found) or not training
        for replica in range(replicas):
            first, last = plan.lists_of(replica, replicas)
            assert [first, last] == bounds[replica : replica + 2].tolist()
            own = np.concatenate(found[replica::replicas])
            assert ((own >= first) & (own < last)).all()


def test_batches_of_unequal_shares_are_alike_all_along():
    lengths = some_lengths(1500)
    bounds = np.array([0, 1000, 1500])
    plan = WindowedPlan(lengths, ROW, 30, None, 2, 0, True, bounds)
    counts = [len(batch) for window in local_batches(plan) for batch in window]
    assert {*counts[0::2]} == {20} and {*counts[1::2]} == {10}
