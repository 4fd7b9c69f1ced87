"""Data that other tests use as well."""

from tests.cli.conftest import project
from tests.pipeline.conftest import data

__all__ = ["data", "project"]
