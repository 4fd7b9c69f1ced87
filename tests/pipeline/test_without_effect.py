"""A setting that does nothing beside the others is named, once; no other is."""

from __future__ import annotations

import warnings

import pytest

from configs import letor
from tests.pipeline.test_fit import parts
from tests.pipeline.training_helpers import changed, make_config
from tfr_pipeline.compat import tfr
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.pipeline import without_effect
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.simple import SimplePipeline
from tfr_pipeline.pipeline.without_effect import Told, messages

SELECTS, PATIENT = {"export_best_model": True}, {"early_stopping_patience": 2}
PS, TPU = {"strategy": "ParameterServerStrategy"}, {"strategy": "TPUStrategy"}
OWN, UNMEASURED = {"loss": lambda y_true, y_pred: 0.0}, {"measures": False}
UNDESCRIBED, NO_VALIDATION = {"described": False}, {"valid_input_pattern": ""}
# Setting, a value, what else makes it useless, and what makes it useful.
TABLE = [
    ("best_exporter_metric", "ndcg_5", {}, SELECTS),
    ("best_exporter_metric", "ndcg_5", {}, PATIENT),
    ("early_stopping_min_delta", 0.1, SELECTS, PATIENT),
    ("weight_averaging", {"name": "swa", "start_epoch": 1}, {}, {"num_epochs": 2}),
    ("validation_steps", 3, NO_VALIDATION, {}),
    ("use_weighted_metrics", True, UNMEASURED, {}),
    ("training_metrics", True, UNMEASURED, {}),
    ("loss_reduction", "sum", OWN, {}),
    ("loss_reduction", "sum", {"loss": {"a": OWN["loss"]}}, {}),
    ("loss_reduction", "sum", OWN, {"loss": {"a": "softmax_loss", **OWN}}),
    ("variable_partitioner", print, {}, PS),
    ("variable_partitioner", print, TPU, PS),
    ("tpu", "local", {}, TPU),
    ("steps_per_execution", 5, PS, {}),
    ("valid_list_size", 3, NO_VALIDATION, {}),
    ("valid_input_pattern", "c", {**NO_VALIDATION, "folds": 3, "fold": 0}, {}),
    ("valid_list_size", 3, NO_VALIDATION, {"folds": 3, "fold": 0, **NO_VALIDATION}),
    ("test_input_pattern", "c", UNDESCRIBED, {}),
]
REQUIRED = {
    "model_dir": "run",
    "num_epochs": 1,
    "steps_per_epoch": None,
    "learning_rate": 0.1,
}
OF_DATA = {
    *("valid_input_pattern", "valid_list_size", "test_input_pattern"),
    *("folds", "fold"),
}


def told(settings):
    """Returns what the settings say: of the pipeline, the data and the rest."""
    pipeline = {"loss": "softmax_loss", "validation_steps": None}
    data, others = {"valid_input_pattern": "b"}, {}
    for name, value in settings.items():
        of_data = data if name in OF_DATA else pipeline
        (others if name in ("measures", "described") else of_data)[name] = value
    return Told(
        PipelineHparams(**{**REQUIRED, **pipeline}),
        DatasetHparams("a", train_batch_size=1, valid_batch_size=1, **data),
        **others,
    )


@pytest.mark.parametrize(("name", "value", "useless", "useful"), TABLE)
def test_a_setting_is_named_where_it_does_nothing(name, value, useless, useful):
    (found,) = messages(told({**useless, name: value}))
    assert found.startswith(f"{name}={value!r} has no effect")
    assert list(messages(told({**useful, name: value}))) == []


@pytest.mark.parametrize("argument", list(letor.SCORERS))
def test_none_of_a_config_that_ships_is_named(argument):
    settings = letor.get_config(argument).pipeline.to_dict()
    hparams = PipelineHparams(**{**REQUIRED, "validation_steps": None, **settings})
    assert list(messages(Told(hparams))) == []


@pytest.mark.parametrize("settings", [row[2] for row in TABLE])
def test_a_setting_with_its_default_is_not_named(settings):
    assert list(messages(told(settings))) == []


def test_every_row_of_the_table_is_tried_here():
    rows = (*without_effect._OF_PIPELINES, *without_effect._OF_DATA)
    assert {name for name, *_ in rows} == {name for name, *_ in TABLE}


def test_a_pipeline_says_so_once_before_anything_is_read(data, tmp_path):
    settings = {"tpu": "local", "early_stopping_min_delta": 0.1}
    pipeline = SimplePipeline(*parts(data, tmp_path, **settings))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            pipeline._layout()
    found = [str(warning.message).split("=")[0] for warning in caught]
    assert sorted(found) == sorted(settings)


def test_a_layout_that_a_foreign_dataset_does_not_have_is_named(data, tmp_path):
    model, dataset, hparams = parts(data, tmp_path, layout="packed")
    train = dataset.build_train_dataset()
    foreign = tfr.keras.pipeline.NullDatasetBuilder(train, train, "signatures")
    with pytest.warns(UserWarning, match="layout='packed' has no effect: the data"):
        assert SimplePipeline(model, foreign, hparams)._layout() is None


def test_arguments_for_no_preprocessing_are_named(data, tmp_path):
    config = changed(
        make_config(data, tmp_path / "run"),
        model__preprocess="none",
        model__preprocess_args={"by": 2.0},
    )
    with pytest.warns(UserWarning, match="model.preprocess_args has no effect: no fe"):
        build_pipeline(config)


def test_a_folder_beside_all_of_its_files_is_named(data, tmp_path):
    config = make_config(data, tmp_path / "run")
    files = {split: f"{data}/{split}-*" for split in ("train", "valid", "test")}
    config["data"].update(files, features=str(data))
    with pytest.warns(UserWarning, match="config.data.dir has no effect beside"):
        build_pipeline(config)
