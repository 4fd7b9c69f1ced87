"""The commands of `docs/classification.md`."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest

from tests.cli.command_helpers import run_shell, shell_of
from tests.pipeline.training_helpers import ROOT, read_json

PAGE = ROOT / "docs" / "classification.md"
SUBJECTS = ("Genetic_Algorithms", "Neural_Networks", "Theory")


def write_papers(path, count, seed, labelled=True):
    """Writes papers whose words say their subjects, most of the time."""
    rng = np.random.default_rng(seed)
    subjects = rng.integers(0, 3, count)
    likely = np.full((3, 12), 0.1) + 0.5 * np.repeat(np.eye(3), 4, axis=1)
    words = rng.random((count, 12)) < likely[subjects]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        last = ["subject"] if labelled else []
        writer.writerow(["paper", *(f"word{i}" for i in range(12)), *last])
        for number, row in enumerate(words.astype(int).tolist()):
            known = rng.random() < 0.8
            name = [SUBJECTS[subjects[number]] if known else ""]
            cells = name if labelled else []
            writer.writerow([f"p{seed}-{number}", *row, *cells])
    return [SUBJECTS[subject] for subject in subjects]


@pytest.mark.slow
def test_the_commands_of_the_docs_run(tmp_path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    write_papers(tmp_path / "papers.csv", 400, 0)
    subjects = write_papers(tmp_path / "new.csv", 50, 1, labelled=False)
    cites = np.random.default_rng(2).integers(0, 400, (600, 2)).tolist()
    with open(tmp_path / "citations.tsv", "w") as file:
        file.writelines(f"p0-{a}\tp0-{b}\t1\n" for a, b in cites if a != b)
    result = run_shell(shell_of(PAGE), tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "examples by class: " in result.stderr
    metrics = read_json(tmp_path / "run" / "metrics.json")["test"]
    assert metrics["accuracy"]["skip"] > 0.6
    with open(tmp_path / "graph_run" / "history.csv", newline="") as file:
        assert float(next(csv.DictReader(file))["graph_loss"]) > 0
    found = read_json(tmp_path / "test.json")
    assert found["accuracy"] == metrics["accuracy"]
    assert found["baselines"]["most frequent"]["accuracy"]["skip"] < 0.6
    with open(tmp_path / "subjects.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(rows[0]) == ["id", "class", *SUBJECTS]
    assert [row["id"] for row in rows] == [f"p1-{number}" for number in range(50)]
    right = [row["class"] == name for row, name in zip(rows, subjects, strict=True)]
    assert np.mean(right) > 0.6
