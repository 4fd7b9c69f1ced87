"""Data that the command tests use as well."""

from tests.cli.conftest import project

__all__ = ["project"]
