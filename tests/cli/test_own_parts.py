"""A project made by `new` whose config names a part of its own of each kind."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from tests.cli.command_helpers import command
from tests.pipeline.training_helpers import environment, read_json

# The kinds and where the config of the project says them.
OWN = {
    "model builder": r"model\.builder = \"builders\.parts:",
    "dataset builder": r"data\.builder = \"builders\.parts:",
    "preprocessing": r"preprocess = \"builders\.parts:",
    "pipeline": r"pipeline\.pipeline = \"builders\.parts:",
    "loss": r"pipeline\.loss = \"builders\.parts:",
    "metric": r"pipeline\.metrics = .*builders\.parts:",
    "callback": r"\{\"name\": \"builders\.parts:",
}


@pytest.mark.slow
def test_own_parts_train_on_one_and_two_workers_and_are_exported_and_rank(tmp_path):
    project = tmp_path / "project"

    def run(*words, **options):
        done = command(*words, cwd=project, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert command("new", project).returncode == 0
    config = (project / "configs" / "own_parts.py").read_text()
    for kind, pattern in OWN.items():
        assert re.search(pattern, config), kind
    run("synthesize", "--output=text", "--queries=60", "--features=8")
    for split in ("train", "valid", "test"):
        run("convert", f"--input=text/{split}.txt", "--output=data", f"--split={split}")

    words = ["train", "--config=configs/own_parts.py", "--config.data.dir=data"]
    words += ["--config.data.train_batch_size=4", "--config.pipeline.num_epochs=3"]
    words += ["--config.pipeline.learning_rate=0.05"]
    assert "loss of the first step" in run(
        *words, "--config.model_dir=dry", "--dry_run"
    )
    assert not (project / "dry").exists()
    run(*words, "--config.model_dir=run")

    words += ["--config.pipeline.strategy=MultiWorkerMirroredStrategy"]
    job = ["sh", "launch/local.sh", "--workers=2", "--", sys.executable]
    done = subprocess.run(
        [*job, "-m", "tfr_pipeline", *words, "--config.model_dir=run2"],
        cwd=project,
        env=environment(PYTHON=sys.executable, TF_NUM_INTRAOP_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

    scores = {}
    for name in ("run", "run2"):
        served, test = f"--model=served-{name}", f"{name}-test.json"
        # What `metrics.json` is about is the best epoch.
        run("export", f"--run={name}", "--best", f"--output=served-{name}")
        words = [served, "--data=data/test-*", f"--output={test}", "--baselines"]
        run("evaluate", *words)
        of_run = read_json(project / name / "metrics.json")["test"]["ndcg@10"]["skip"]
        found = read_json(project / test)
        assert found["ndcg@10"]["skip"] == pytest.approx(of_run, abs=1e-6)
        assert of_run > found["baselines"]["random"]["ndcg@10"]["skip"] + 0.1
        run("predict", served, "--input=text/test.txt", f"--output={name}.tsv")
        lines = (project / f"{name}.tsv").read_text().splitlines()
        rows = [line.split("\t") for line in lines]
        scores[name] = {(qid, docid): float(score) for qid, docid, _, score in rows}
    # Two workers share the batches of one; Adam makes more of how sums are rounded.
    assert scores["run"].keys() == scores["run2"].keys()
    pairs = np.array([(score, scores["run2"][k]) for k, score in scores["run"].items()])
    assert np.corrcoef(pairs.T)[0, 1] > 0.999
