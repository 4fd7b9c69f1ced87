"""What trials are chosen by."""

from __future__ import annotations

import pytest

from tfr_pipeline.errors import ConfigError, RunError
from tfr_pipeline.sweep.objective import MetricError, Objective
from tfr_pipeline.sweep.settings import Settings

METRICS = {
    "valid": {
        "ndcg@10": {"skip": 0.5, "zero": 0.4},
        "arp": {"skip": None},
        "accuracy": {"skip": 0.7},
        "log_loss": {"skip": 0.9},
    },
    "pretraining": {"val_loss": 0.8},
    "documents_per_second": 1e5,
    "seconds": {"training": 3.0},
}


@pytest.mark.parametrize(
    ("name", "value", "direction"),
    [
        ("ndcg@10", 0.5, "maximize"),
        ("ndcg@10.zero", 0.4, "maximize"),
        ("valid.ndcg@10.skip", 0.5, "maximize"),
        ("documents_per_second", 1e5, "maximize"),
        ("seconds.training", 3.0, "minimize"),
        ("accuracy", 0.7, "maximize"),
        ("log_loss", 0.9, "minimize"),
        ("pretraining.val_loss", 0.8, "minimize"),
    ],
)
def test_a_name_leads_to_a_number_and_to_what_is_better(name, value, direction):
    objective = Objective.of(name)
    assert objective.read(METRICS) == value
    assert objective.direction == direction


def test_a_best_value_may_be_a_loss_and_needs_a_direction():
    with pytest.raises(ConfigError, match="'best_value': expected a direction"):
        Objective.of("best_value")
    assert Objective.of("best_value", "minimize").direction == "minimize"


@pytest.mark.parametrize("name", ["test.ndcg@10", "test/ndcg@10", "test_ndcg@10"])
def test_choosing_on_test_is_an_error_that_says_so(name):
    with pytest.raises(ConfigError, match="choosing on test data is no measurement"):
        Objective.of(name)


@pytest.mark.parametrize(
    ("name", "near"), [("ndgc@10", "ndcg@10"), ("second.training", "seconds")]
)
def test_an_unknown_metric_names_the_nearest(name, near):
    with pytest.raises(ConfigError, match=f"did you mean.*{near}"):
        Objective.of(name)


def test_a_run_without_the_metric_is_the_fault_of_the_sweep():
    with pytest.raises(MetricError, match=r"unknown metric 'click'.*valid"):
        Objective.of("click.ndcg@10").read(METRICS)


def test_a_run_without_a_value_is_the_fault_of_the_trial():
    with pytest.raises(RunError, match="arp of this trial is None"):
        Objective.of("arp").read(METRICS)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sampler": "tpee"}, "did you mean 'tpe'"),
        ({"pruner": "medain"}, "did you mean 'median'"),
        ({"metric": "ndcg@10,mrr", "pruner": "median"}, "expected none with 2"),
        ({"metric": "ndcg@10,mrr", "sampler": "cmaes"}, "cmaes knows one"),
        ({"metric": "ndcg@10", "direction": "up"}, "direction 'up'"),
        ({"metric": "ndcg@10", "direction": "maximize,maximize"}, "found 2"),
        ({"metric": ""}, "expected at least one"),
        ({"repeats": 0}, "repeats: expected 1"),
        ({"folds": 1}, "folds: expected 2"),
        ({"seeds": "all"}, "unknown seeds"),
        ({"sampler_args": 3}, "expected a dict"),
        ({"trials": "ten"}, "trials: expected 1"),
    ],
)
def test_wrong_settings_are_explained(settings, words):
    with pytest.raises(ConfigError) as error:
        Settings.of(**settings)
    assert words in str(error.value)


def test_pruning_by_what_is_known_at_the_end_asks_for_a_value_of_epochs():
    settings = Settings.of(metric="seconds.training", pruner="median")
    with pytest.raises(ConfigError, match="prune_on"):
        _ = settings.monitor
    settings = Settings.of(metric="ndcg@5", pruner="median")
    assert settings.monitor == "val_metric/ndcg_5"
