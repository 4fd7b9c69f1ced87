"""Data and runs that the pipeline tests share."""

from __future__ import annotations

import pathlib

import pytest

from tests.pipeline.training_helpers import make_config, make_data
from tfr_pipeline.compat import tf
from tfr_pipeline.experiment.build import build_pipeline


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Folder of a small converted data set."""
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def finished(data, tmp_path_factory):
    """A run that has ended: `(config, model)`. Tests must not change its files."""
    # Else its layers' names would depend on the models that other tests have made.
    tf.keras.backend.clear_session()
    config = make_config(
        data,
        tmp_path_factory.mktemp("finished") / "run",
        num_epochs=4,
        # So high that the last epoch is not the best one.
        learning_rate=2.0,
        export_best_model=True,
        best_exporter_metric="ndcg_10",
        best_exporter_metric_higher_better=True,
    )
    return config, build_pipeline(config).train_and_validate()
