"""No test leaves a launcher."""

from __future__ import annotations

import pytest

from tests.pipeline.conftest import data

__all__ = ["data"]

from tests.cluster.launching import kill_what_is_left


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    kill_what_is_left()
