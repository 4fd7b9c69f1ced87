"""Tests over queries: SciPy and counting are the oracles."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfr_pipeline.metrics.significance import holm, randomisation_test, t_test

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("queries", [2, 3, 14, 60, 3000])
@pytest.mark.parametrize("shift", [0.0, 0.05, 3.0])
def test_the_t_test_is_that_of_scipy(queries, shift):
    values = np.random.default_rng(queries).normal(shift, 1.0, queries)
    wanted = stats.ttest_1samp(values, 0.0).pvalue
    assert t_test(values) == pytest.approx(wanted, rel=1e-9, abs=1e-280)


def test_the_t_test_of_no_deviation_is_certain():
    assert t_test(np.zeros(5)) == 1.0
    assert t_test(np.full(5, 0.25)) == 0.0
    assert t_test(np.array([0.5])) is None
    assert randomisation_test(np.array([])) is None


@pytest.mark.parametrize("queries", [1, 4, 9])
def test_few_queries_have_all_their_signs_tried(queries):
    # With ties, and a difference of 0, which has no sign.
    values = np.append(np.random.default_rng(1).integers(-3, 9, queries) / 10.0, 0.0)
    flips = itertools.product([1, -1], repeat=len(values))
    sums = [abs(np.dot(signs, values)) for signs in flips]
    wanted = np.mean(np.array(sums) >= abs(values.sum()) - 1e-9)
    assert randomisation_test(values) == pytest.approx(wanted)


@pytest.mark.parametrize("queries", [15, 200])
def test_random_flips_are_those_of_scipy(queries):
    values = np.random.default_rng(3).normal(0.15, 1.0, queries)
    found = (
        stats.permutation_test(
            (values,),
            np.mean,
            permutation_type="samples",
            n_resamples=20_000,
            rng=np.random.default_rng(0),
        )
        if "rng" in stats.permutation_test.__code__.co_varnames
        else (
            stats.permutation_test(
                (values,),
                np.mean,
                permutation_type="samples",
                n_resamples=20_000,
                random_state=0,
            )
        )
    )
    assert randomisation_test(values) == pytest.approx(found.pvalue, abs=0.015)


def test_large_data_is_flipped_in_blocks_of_the_same_law(monkeypatch):
    from tfr_pipeline.metrics import significance

    values = np.random.default_rng(5).normal(0.1, 1.0, 300)
    whole = randomisation_test(values)
    monkeypatch.setattr(significance, "_CELLS", 5000)
    assert randomisation_test(values) == pytest.approx(whole, abs=0.015)


@pytest.mark.parametrize("test", [t_test, randomisation_test])
def test_p_is_uniform_where_there_is_no_difference(test):
    random = np.random.default_rng(11)
    # As differences in NDCG are: many 0, the others of long tails.
    drawn = random.laplace(size=(400, 60)) * (random.random((400, 60)) < 0.7)
    options = {"resamples": 999} if test is randomisation_test else {}
    found = [test(row, **options) for row in drawn]
    assert stats.kstest(found, "uniform").pvalue > 0.01
    # And small where there is one.
    assert test(drawn[0] + 1.0, **options) < 0.01


def test_p_has_no_direction():
    values = np.random.default_rng(2).normal(0.2, 1.0, 40)
    assert randomisation_test(values) == randomisation_test(-values)
    assert t_test(values) == t_test(-values)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.0, 1.0) | st.none(), max_size=8))
def test_holm_is_the_closed_test_of_bonferroni(values):
    """p of a hypothesis is the largest of all intersections that it is part of."""
    known = [place for place, p in enumerate(values) if p is not None]
    found = holm(values)
    for place, p in enumerate(values):
        if p is None:
            assert found[place] is None
            continue
        others = [other for other in known if other != place]
        wanted = max(
            min(1.0, (len(some) + 1) * min(p, *(values[i] for i in some), 1.0))
            for size in range(len(others) + 1)
            for some in itertools.combinations(others, size)
        )
        assert found[place] == pytest.approx(wanted, rel=1e-12)
