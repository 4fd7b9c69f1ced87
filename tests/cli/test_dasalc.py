"""A model that looks at whole lists trains from a config and ranks from its export."""

from __future__ import annotations

import pytest

from tests.cli.command_helpers import LETOR
from tests.pipeline.training_helpers import read_json
from tfr_pipeline.cli.main import main


@pytest.mark.slow
def test_dasalc_trains_and_its_export_ranks(project, tmp_path):
    run, ranked = tmp_path / "run", tmp_path / "ranked.tsv"
    flags = [
        f"--config={LETOR}:dasalc",
        f"--config.data.dir={project.data}",
        f"--config.model_dir={run}",
        "--config.data.train_batch_size=8",
        "--config.pipeline.num_epochs=2",
        "--config.pipeline.steps_per_execution=5",
        "--config.model.scorer_args.hidden_layer_dims=(8,)",
        "--config.model.scorer_args.head_size=4",
        "--config.model.scorer_args.num_layers=2",
    ]
    assert main(["train", *flags]) == 0
    assert read_json(run / "environment.json")["layout"] == "padded"
    assert 0 < read_json(run / "metrics.json")["test"]["ndcg@10"]["skip"] <= 1
    source = f"--input={project.text / 'test.txt'}"
    assert main(["predict", f"--model={run}", source, f"--output={ranked}"]) == 0
    scores = [float(line.split("\t")[3]) for line in ranked.read_text().splitlines()]
    assert len(set(scores)) > len(scores) / 2
