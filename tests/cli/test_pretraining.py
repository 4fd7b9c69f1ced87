"""Pretraining from the command line: `docs/pretraining.md`."""

from __future__ import annotations

import csv
import shutil

import pytest

from tests.cli.command_helpers import LETOR, SMALL, command, run_shell, shell_of
from tests.pipeline.training_helpers import ROOT, read_json

PAGE = ROOT / "docs" / "pretraining.md"


@pytest.mark.slow
def test_the_commands_of_the_docs_run(tmp_path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    script = shell_of(PAGE).replace("--queries=1000", "--queries=300")
    script = script.replace("tfr-pipeline train", "tfr-pipeline train $SHORT")
    result = run_shell(f"SHORT=--config.pipeline.num_epochs=3\n{script}", tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "anew: sequential/dense/kernel, sequential/dense/bias" in result.stdout
    with open(tmp_path / "before/history.csv", encoding="utf-8") as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file)]
    assert losses[2] < losses[1] < losses[0]
    assert read_json(tmp_path / "run/metrics.json")["test"]["ndcg@10"]["skip"] > 0
    assert read_json(tmp_path / "few/train.stats.json")["queries"] == 50
    exported = command("export", "--run=before", "--output=out", cwd=tmp_path)
    assert exported.returncode == 1
    assert "one of pretraining. Train with config.pipeline" in exported.stderr
    predicted = command(
        *("predict", "--model=before", "--input=text/test.txt", "--output=out.tsv"),
        cwd=tmp_path,
    )
    assert predicted.returncode == 1
    assert "export" in predicted.stderr


def test_settings_are_checked_before_data_is_read(tmp_path) -> None:
    result = command(
        *("train", f"--config={LETOR}", "--config.data.dir=.", *SMALL),
        *("--config.model_dir=run", "--config.pipeline.pretrain.tasks=denoise"),
        cwd=tmp_path,
    )
    assert result.returncode == 2
    assert "unknown key 'tasks'" in result.stderr
