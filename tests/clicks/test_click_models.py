"""Click models: what is sampled is what the closed form says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tfr_pipeline.clicks import models
from tfr_pipeline.errors import ConfigError

ATTRACTION = np.array([0.1, 0.9, 0.4, 0.6])
MODELS = {
    "pbm": models.PositionBased(eta=0.7),
    "cascade": models.click_model("cascade"),
    "dcm": models.DependentClick(stay=0.7, eta=0.5),
}


@pytest.mark.parametrize("name", MODELS)
def test_frequencies_of_samples_are_the_probabilities(name):
    model = MODELS[name]
    sessions = 40_000
    lists = np.broadcast_to(ATTRACTION, (sessions, 4))
    clicks = model.sample(lists, np.random.default_rng(0))
    expected = model.probabilities(ATTRACTION)
    error = np.sqrt(expected * (1 - expected) / sessions)
    assert np.all(np.abs(clicks.mean(axis=0) - expected) < 5 * error)


def brute_force(stay):
    """Adds up the probabilities of all runs of a user down a list, one by one."""
    clicked = np.zeros(4)
    # For each document: whether it attracts, and whether a click there is the last.
    for attracts, leaves in itertools.product(
        itertools.product((0, 1), repeat=4), repeat=2
    ):
        chance, seen, clicks = 1.0, True, np.zeros(4)
        for k in range(4):
            go_on = stay * (1 / (k + 1)) ** 0.5
            chance *= ATTRACTION[k] if attracts[k] else 1 - ATTRACTION[k]
            chance *= 1 - go_on if leaves[k] else go_on
            clicks[k] = seen and attracts[k]
            seen = seen and not (attracts[k] and leaves[k])
        clicked += chance * clicks
    return clicked


@pytest.mark.parametrize("stay", [0.0, 0.7, 1.0])
def test_dependent_clicks_add_up_over_all_that_users_may_do(stay):
    found = models.DependentClick(stay, eta=0.5).probabilities(ATTRACTION)
    np.testing.assert_allclose(found, brute_force(stay))


def test_a_session_of_the_cascade_has_at_most_one_click():
    clicks = MODELS["cascade"].sample(np.full((500, 6), 0.5), np.random.default_rng(1))
    assert clicks.sum(axis=1).max() == 1


def test_attraction_rises_with_gains_from_the_noise_to_one():
    found = models.attraction(np.array([0.0, 2.0, 3.0]), noise=0.2, largest=3.0)
    np.testing.assert_allclose(found, [0.2, 0.2 + 0.8 * 3 / 7, 1.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: models.click_model("pmb"), "did you mean 'pbm'"),
        (lambda: models.click_model("pbm", eta=-1.0), "eta: expected"),
        (lambda: models.click_model("dcm", stay=1.5), "stay: expected"),
        (lambda: models.attraction(np.array([5.0])), "found 5"),
        (lambda: models.attraction(np.array([-1.0])), "found -1"),
        (lambda: models.attraction(np.array([1.0]), noise=1.0), "noise: expected"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        change()
