"""Data and one trained run that the command tests share."""

from __future__ import annotations

import contextlib
import io

import pytest

from tests.cli.command_helpers import Project
from tfr_pipeline.cli.main import main


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Text and converted data, made by the command line."""
    return Project.make(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def trained(project: Project) -> Project:
    """The project after `train`. Tests must not change its files."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["train", *project.train_flags(project.run)]) == 0
    (project.folder / "train.out").write_text(out.getvalue())
    return project
