"""Graded lists for the tests of clicks."""

from __future__ import annotations

import pytest

from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.sources.source import read_lists
from tfr_pipeline.data.synthesize import Size, synthesize


@pytest.fixture(scope="session")
def graded(tmp_path_factory):
    """Path of LibSVM text with 40 queries and 8 features."""
    folder = tmp_path_factory.mktemp("graded")
    synthesize(str(folder), Size(queries=40, documents=12, features=8))
    return folder / "train.txt"


@pytest.fixture(scope="session")
def graded_lists(graded):
    """The same as lists."""
    return Lists.concatenate(read_lists(str(graded), "libsvm"))
