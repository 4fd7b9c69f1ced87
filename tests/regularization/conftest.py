"""Data that the tests of regularisation share."""

from __future__ import annotations

import pathlib

import pytest

from tests.pipeline.training_helpers import make_data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Folder of a small converted data set."""
    return make_data(tmp_path_factory.mktemp("data"))
