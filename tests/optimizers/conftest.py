"""Data that the pipeline tests use as well."""

from tests.pipeline.conftest import data

__all__ = ["data"]
