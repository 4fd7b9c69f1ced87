"""The examples in the docstrings of losses and metrics are what the code gives."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

from tfr_pipeline import losses, metrics

MODULES = [
    f"{package.__name__}.{module.name}"
    for package in (losses, metrics)
    for module in pkgutil.iter_modules(package.__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
