"""Folds by query: disjoint, complete, balanced, and nobody's but the queries'."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfr_pipeline.data.folds import Fold, check, fold_of_lists
from tfr_pipeline.errors import ConfigError, DataError

# Some queries have several lists.
IDS = st.lists(st.text("ab1é", min_size=1, max_size=3), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(ids=IDS, folds=st.integers(2, 7), data=st.data())
def test_folds_are_by_query_balanced_and_free_of_the_order_of_lists(ids, folds, data):
    queries = set(ids)
    if len(queries) < folds:
        with pytest.raises(DataError, match=f"{folds} folds and {len(queries)} quer"):
            fold_of_lists(np.array(ids, object), folds)
        return
    found = fold_of_lists(np.array(ids, object), folds)
    of_query = collections.defaultdict(set)
    for query, fold in zip(ids, found.tolist(), strict=True):
        of_query[query].add(fold)
    assert all(len(its) == 1 for its in of_query.values())
    sizes = collections.Counter(its.pop() for its in of_query.values())
    assert set(sizes) == set(range(folds))
    assert max(sizes.values()) - min(sizes.values()) <= 1
    # The same lists in another order, and some of them again.
    order = data.draw(st.permutations(range(len(ids))))
    more = [*order, *order[:5]]
    again = fold_of_lists(np.array([ids[place] for place in more], object), folds)
    assert again.tolist() == found[more].tolist()


@settings(max_examples=50, deadline=None)
@given(ids=IDS, folds=st.integers(2, 7))
def test_each_list_is_held_out_once_and_trained_on_otherwise(ids, folds):
    ids = np.array([*ids, *map(str, range(10, 20))], object)
    held_out = np.array([Fold(folds, i, True)(ids) for i in range(folds)])
    trained_on = np.array([Fold(folds, i, False)(ids) for i in range(folds)])
    assert (held_out.sum(axis=0) == 1).all()
    assert (trained_on == ~held_out).all()


@settings(max_examples=50, deadline=None)
@given(ids=IDS, folds=st.integers(2, 4), number=st.integers(1, 3))
def test_sessions_are_in_the_fold_of_their_query(ids, folds, number):
    ids = [*ids, *map(str, range(10, 20))]
    sessions = [f"{query}/{i}" for i in range(number) for query in ids]
    found = fold_of_lists(np.array(sessions, object), folds, sessions=True)
    wanted = fold_of_lists(np.array(ids, object), folds)
    assert found.tolist() == wanted.tolist() * number
    held_out = Fold(folds, 1, True, sessions=True)(np.array(sessions, object))
    assert held_out.tolist() == (found == 1).tolist()


def test_neighbours_are_not_dealt_out_in_their_order():
    # Queries of one day, or of one kind, stand together in many files.
    found = fold_of_lists(np.array([f"q{i:04}" for i in range(1000)], object), 5)
    halves = [np.bincount(half, minlength=5) for half in (found[:500], found[500:])]
    assert (np.abs(np.array(halves) - 100) < 40).all()
    assert len(set(np.diff(found).tolist())) == 9


def test_lists_without_an_id_are_queries_of_their_own():
    found = fold_of_lists(np.array(["", "a", "", "b", "", "a"], object), 5)
    assert len(set(found[[0, 1, 2, 3, 4]].tolist())) == 5
    assert found[1] == found[5]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((None, 0), r"data\.fold: expected data\.folds beside it, found fold 0"),
        ((1, 0), r"data\.folds: expected 2 or more, found 1"),
        ((2.5, 0), r"data\.folds: expected 2 or more, found 2\.5"),
        ((True, 0), r"data\.folds: expected 2 or more, found True"),
        (
            (5, None),
            r"data\.fold: expected the fold that validates, 0 to 4, found None",
        ),
        ((5, 5), r"0 to 4, found 5"),
        ((5, -1), r"0 to 4, found -1"),
    ],
)
def test_numbers_that_are_no_folds_are_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        check(*given)
    if given != (None, 0):
        return
    check(None, None)
    check(2, 1)


@settings(max_examples=50, deadline=None)
@given(ids=IDS, folds=st.integers(3, 7))
def test_a_fold_for_the_test_neither_trains_nor_validates(ids, folds):
    ids = np.array([*ids, *map(str, range(10, 20))], object)
    for fold in range(folds):
        test = (fold + 1) % folds
        train = Fold(folds, fold, False, test)(ids)
        valid, measured = Fold(folds, fold, True)(ids), Fold(folds, test, True)(ids)
        assert (train.astype(int) + valid + measured == 1).all()
    assert str(Fold(5, 3, False, 4)) == "all but folds 3 and 4 of 5"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((None, None, 0), r"data\.test_fold: expected data\.folds beside it"),
        ((2, 0, 1), r"data\.folds: expected 3 or more beside data\.test_fold, found 2"),
        ((3, 0, 3), r"data\.test_fold: .* 0 to 2 and not 0, .* found 3"),
        ((3, 1, 1), r"not 1, which validates; found 1"),
        ((3, None, 1), r"data\.fold: expected the fold that validates"),
    ],
)
def test_folds_for_the_test_that_are_none_are_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        check(*given)
    check(3, 0, 2)
