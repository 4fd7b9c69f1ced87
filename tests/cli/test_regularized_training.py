"""The commands of `docs/regularized_training.md`."""

from __future__ import annotations

import shutil

import pytest

from tests.cli.command_helpers import run_shell, shell_of
from tests.pipeline.training_helpers import ROOT, read_history, read_json

PAGE = ROOT / "docs" / "regularized_training.md"


@pytest.mark.slow
def test_the_commands_of_the_docs_run(tmp_path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    script = shell_of(PAGE).replace("synthesize ", "synthesize --queries=60 ")
    script = script.replace("tfr-pipeline train", "tfr-pipeline train $SMALL")
    result = run_shell(f"SMALL=--config.pipeline.num_epochs=3\n{script}", tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    folder = tmp_path / "letor"
    for run in ("neighbours", "packed_neighbours"):
        assert read_history(folder / run)[-1]["graph_loss"] > 0
    # The same neighbours, wherever they come from.
    first, other = (
        read_history(folder / run)[0] for run in ("neighbours", "packed_neighbours")
    )
    assert other["graph_loss"] == pytest.approx(first["graph_loss"], rel=0.2)
    last = read_history(folder / "adversary")[-1]
    assert last["adversarial_loss"] / 0.5 > last["loss"]  # its multiplier
    found = read_json(folder / "attacked.json")
    clean, attacked = (x["ndcg@10"]["skip"] for x in (found, found["attacked"]))
    assert attacked < clean
    assert "attacked" in result.stdout
