"""Propensities: estimates beside those that clicks were simulated with."""

from __future__ import annotations

import numpy as np
import pytest

from tfr_pipeline.cli.main import main
from tfr_pipeline.clicks import estimation, models
from tfr_pipeline.clicks.logs import Log, read_log
from tfr_pipeline.clicks.rankers import rankers
from tfr_pipeline.clicks.simulation import Sessions, simulate
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.files import read_json

TRUE = models.examination(5, 1.0)


def log_of(lists, words, count, depth=5):
    sessions = Sessions(count, models.PositionBased(1.0), depth, noise=0.2)
    found = list(simulate(lists, rankers(words, lists, 0.1, 1), sessions))
    return Log.of(
        np.concatenate([rows for _, rows, _ in found]),
        np.concatenate([np.arange(1, len(rows) + 1) for _, rows, _ in found]),
        np.concatenate([clicks for _, _, clicks in found]),
        lists.values["float32"],
    )


def expected_log(shown):
    """A log whose clicks are what is expected, of documents at all positions."""
    random = np.random.default_rng(0)
    rates = random.uniform(0.1, 0.9, 30)
    documents, positions = (x.ravel() for x in np.meshgrid(np.arange(30), np.arange(5)))
    clicks = shown * rates[documents] * TRUE[positions]
    return Log(documents, positions + 1, np.full(150, shown), clicks)


def test_harvesting_is_exact_where_clicks_are_as_expected():
    found = estimation.harvest(expected_log(1000.0))
    np.testing.assert_allclose(found, TRUE, rtol=1e-3)


def test_harvesting_finds_the_propensities_of_a_log_of_two_rankers(graded_lists):
    log = log_of(graded_lists, "weak:1,random", 20_000)
    np.testing.assert_allclose(estimation.propensities(log, "harvest"), TRUE, rtol=0.08)


def test_em_finds_the_propensities_of_a_log_of_one_ranker():
    """Attraction is a function of features as the method takes it to be."""
    random = np.random.default_rng(0)
    features = random.normal(size=(3000, 2)).astype(np.float32)
    rates = 1 / (1 + np.exp(-features[:, 0] + 1))
    lists = np.argsort(
        -features.reshape(600, 5, 2)[..., 0] + random.normal(size=(600, 5))
    )
    documents = np.tile((lists + np.arange(600)[:, None] * 5).ravel(), 20)
    positions = np.tile(np.arange(5), 600 * 20)
    clicks = random.random(len(documents)) < rates[documents] * TRUE[positions]
    log = Log.of(documents, positions + 1, clicks, features)
    np.testing.assert_allclose(estimation.propensities(log, "em"), TRUE, rtol=0.08)


def test_one_ranker_says_nothing_to_harvest(graded_lists):
    log = log_of(graded_lists, "feature:1", 200)
    with pytest.raises(DataError, match="connect position 2 with the first"):
        estimation.harvest(log)


def test_a_log_without_clicks_is_refused():
    log = Log.of(np.array([0, 1]), np.array([1, 2]), np.array([0, 0]))
    with pytest.raises(DataError, match="expected clicks"):
        estimation.propensities(log)


def test_methods_are_known_by_name():
    log = Log.of(np.array([0]), np.array([1]), np.array([1]))
    with pytest.raises(ConfigError, match="did you mean 'harvest'"):
        estimation.propensities(log, "harvst")


def test_em_needs_features():
    log = Log.of(np.array([0]), np.array([1]), np.array([1]))
    with pytest.raises(DataError, match="expected features"):
        estimation.propensities(log, "em")


def test_the_command_writes_what_it_finds_in_files(graded, tmp_path, capsys):
    words = ["--sessions=1500", "--ranker=weak,random", "--depth=3", "--noise=0.3"]
    flags = [f"--input={graded}", f"--output={tmp_path}"]
    assert main(["clicks", "simulate", *flags, *words]) == 0
    log = read_log(f"{tmp_path}/train-*")
    assert log.shown.sum() == 1500 * 3 or log.positions.max() == 3
    output = tmp_path / "found.json"
    flags = [f"--input={tmp_path}/train-*", f"--output={output}"]
    assert main(["clicks", "propensities", *flags]) == 0
    assert main(["clicks", "propensities", *flags, "--method=em"]) == 0
    found = read_json(str(output))
    assert found["method"] == "em"
    assert found["propensities"][0] == 1.0
    assert len(found["propensities"]) == 3
    assert main(["clicks", "propensities", *flags, "--method=e"]) == 2
    assert main(["clicks", "propensities", *flags, "--position_feature=pos"]) == 2
    assert "did you mean 'position'" in capsys.readouterr().err
