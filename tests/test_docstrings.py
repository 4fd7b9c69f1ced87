"""The examples in all docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import tfr_pipeline
from tfr_pipeline.experiment import registry

MODULES = [
    module.name
    for module in pkgutil.walk_packages(tfr_pipeline.__path__, "tfr_pipeline.")
    # Importing it would run the command line.
    if not module.name.endswith("__main__")
]
# Modules that stand on an extra.
NEED_BEAM = (
    "tfr_pipeline.data.convert.beam",
    "tfr_pipeline.data.convert.beam_runner",
    "tfr_pipeline.data.convert.beam_steps",
    "tfr_pipeline.graph.beam",
    "tfr_pipeline.graph.beam_jobs",
    "tfr_pipeline.graph.beam_pack",
)


def examples(name):
    """Returns the docstrings of a module that have examples."""
    found = doctest.DocTestFinder().find(importlib.import_module(name))
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    if name in NEED_BEAM:
        pytest.importorskip("apache_beam", exc_type=ImportError)
    for test in examples(name):
        assert doctest.DocTestRunner().run(test).failed == 0, test.name
    # What the example of `register` leaves is no part of ours.
    registry._registered["preprocessing"].pop("halved", None)


def test_packages_and_modules_with_examples_are_found():
    assert {"tfr_pipeline.files", "tfr_pipeline.losses.softmax"} <= set(MODULES)
    assert examples("tfr_pipeline.losses.softmax")
