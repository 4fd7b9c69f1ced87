"""Data and one trained run that the command tests share."""

from __future__ import annotations

import pathlib

import pytest

from tests.cli.command_helpers import Project, command


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Text, converted data and a run, all made by the command line."""
    folder = tmp_path_factory.mktemp("project")
    return Project.make(folder)


@pytest.fixture(scope="session")
def trained(project: Project) -> Project:
    """The project after `train`."""
    done = command("train", *project.train_flags(project.run))
    assert done.returncode == 0, done.stderr[-3000:]
    (project.folder / "train.out").write_text(done.stdout)
    return project


@pytest.fixture
def letor() -> str:
    """Path of the config that serves any LETOR-style folder."""
    return str(pathlib.Path(__file__).resolve().parents[2] / "configs" / "letor.py")
