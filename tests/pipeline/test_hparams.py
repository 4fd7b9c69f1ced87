"""`PipelineHparams`: TF-Ranking's parameters, the guide's names, bad values."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from tfr_pipeline.compat import tfr
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.hparams import PipelineHparams

THEIRS = tfr.keras.pipeline.PipelineHparams
REQUIRED = {
    "model_dir": "run",
    "num_epochs": 4,
    "steps_per_epoch": 5,
    "validation_steps": 6,
    "learning_rate": 0.1,
    "loss": "softmax_loss",
}


def make(**changes):
    return PipelineHparams(**{**REQUIRED, **changes})


def test_the_first_parameters_are_those_of_tf_ranking_in_order_with_their_defaults():
    ours = list(inspect.signature(PipelineHparams).parameters.values())
    for mine, reference in zip(
        ours, inspect.signature(THEIRS).parameters.values(), strict=False
    ):
        assert mine.name == reference.name
        assert mine.kind == reference.kind
        if reference.name == "variable_partitioner":
            # Theirs is an object that is made once, whatever the cluster; None makes
            # one for the cluster.
            assert mine.default is None
        else:
            assert mine.default == reference.default


def test_our_own_parameters_are_keyword_only():
    own = list(inspect.signature(PipelineHparams).parameters.values())[
        len(inspect.signature(THEIRS).parameters) :
    ]
    assert own
    assert {parameter.kind for parameter in own} == {inspect.Parameter.KEYWORD_ONLY}


def test_it_is_accepted_where_tf_ranking_expects_its_own():
    assert isinstance(make(), THEIRS)


def test_positional_arguments_land_where_tf_ranking_puts_them():
    values = ("run", 4, 5, 6, 0.1, "softmax_loss", "none", "sgd", 2.0, 3)
    ours, theirs = PipelineHparams(*values), THEIRS(*values)
    for field in dataclasses.fields(THEIRS):
        if field.name != "variable_partitioner":
            assert getattr(ours, field.name) == getattr(theirs, field.name)


def test_num_train_steps_of_the_guide_are_spread_over_the_epochs():
    hparams = PipelineHparams(
        model_dir="run",
        num_epochs=4,
        num_train_steps=100,
        num_valid_steps=6,
        learning_rate=0.1,
        loss="softmax_loss",
    )
    assert hparams.steps_per_epoch == 25
    assert hparams.validation_steps == 6


def test_num_train_steps_that_no_epoch_can_share_are_refused():
    with pytest.raises(ConfigError, match=r"multiple of num_epochs \(4\), found 10"):
        PipelineHparams("run", 4, num_train_steps=10, num_valid_steps=1)


def test_steps_in_both_spellings_are_refused():
    with pytest.raises(ConfigError, match="steps_per_epoch"):
        make(num_train_steps=100)
    with pytest.raises(ConfigError, match="validation_steps"):
        make(num_valid_steps=100)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_epochs", 0),
        ("num_epochs", "3"),
        ("num_epochs", True),
        ("steps_per_epoch", -1),
        ("steps_per_epoch", 1.5),
        ("validation_steps", 0),
        ("steps_per_execution", None),
        ("steps_per_execution", 2**70),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", "fast"),
        ("checkpoint_every_steps", 0),
        ("checkpoint_every_seconds", -1),
        ("checkpoint_every_seconds", True),
        ("checkpoint_every_seconds", "60"),
        ("early_stopping_patience", -1),
        ("early_stopping_min_delta", -0.1),
        ("layout", "ragged"),
    ],
)
def test_an_impossible_value_is_an_error_that_names_parameter_and_value(name, value):
    with pytest.raises(ConfigError, match=name) as caught:
        make(**{name: value})
    assert repr(value) in str(caught.value)


def test_none_means_one_pass_over_the_data():
    hparams = make(steps_per_epoch=None, validation_steps=None)
    assert hparams.steps_per_epoch is None


def test_a_cache_that_is_mapped_into_memory_is_no_url():
    with pytest.raises(ConfigError, match=r"folder of this machine.*s3://bucket/cache"):
        DatasetHparams("a", "b", 1, 1, cache="s3://bucket/cache")
