"""Retraining from yesterday's model, and the commands of `docs/nightly.md`."""

from __future__ import annotations

import csv
import json
import re
import shutil

import pytest

from tests.cli.command_helpers import command, run_shell, shell_of
from tests.pipeline.training_helpers import ROOT, read_json
from tfr_pipeline import gradients
from tfr_pipeline.cli import against
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.synthesize import SPLITS, Size, synthesize

NIGHTLY = ROOT / "docs" / "nightly.md"


def differences(low, high):
    return {against.METRIC: {"difference": 0.0, "ci": [low, high]}}


@pytest.mark.parametrize(
    ("bounds", "code"),
    [
        ((0.01, 0.02), against.BETTER),
        ((-0.02, -0.01), against.WORSE),
        ((-0.01, 0.01), against.UNDECIDED),
        ((0.0, 0.0), against.UNDECIDED),
        ((None, None), against.UNDECIDED),
    ],
)
def test_the_code_says_on_which_side_the_interval_lies(bounds, code) -> None:
    assert against.verdict(differences(*bounds)) == code


@pytest.mark.parametrize(
    ("codes", "code"), [([0], 0), ([0, 4], 0), ([4, 4], 4), ([0, 3], 3), ([4, 3], 3)]
)
def test_a_model_of_several_tasks_is_worse_if_it_is_in_one(codes, code) -> None:
    assert against.together(codes) == code


def test_codes_are_none_of_those_that_mean_something_else() -> None:
    others = {1, 2, 65, 130, 143}
    assert not others & {against.BETTER, against.WORSE, against.UNDECIDED}


@pytest.mark.slow
def test_the_commands_of_the_docs_run(tmp_path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    script = shell_of(NIGHTLY).replace("synthesize ", "synthesize --queries=300 ")
    result = run_shell(script, tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "warm start: " in result.stdout
    line = re.search(r"ndcg@10: model less against .*", result.stdout)
    published = sorted(path.name for path in (tmp_path / "served").iterdir())
    assert line, result.stdout
    better = line[0].endswith(": better")
    assert ("20260106" in published) == better
    assert "20260105" in published

    def evaluate(model, other, **options):
        flags = [f"--model={model}", f"--against={other}", "--data=tuesday/data/test-*"]
        return command("evaluate", *flags, *options.get("more", ()), cwd=tmp_path)

    # Both directions, and itself.
    codes = [
        evaluate(*pair).returncode
        for pair in (("tuesday/run", "monday/run"), ("monday/run", "tuesday/run"))
    ]
    assert codes in ([0, 3], [3, 0], [4, 4])
    same = evaluate("monday/run", "served/20260105", more=["--output=same.json"])
    assert same.returncode == 4, same.stderr
    found = json.loads((tmp_path / "same.json").read_text())["differences"]
    assert found["ndcg@10"] == {"difference": 0.0, "ci": [0.0, 0.0]}
    missing = evaluate("monday/run", "nowhere")
    assert missing.returncode == 1
    assert "nowhere" in missing.stderr
    began = read_json(tmp_path / "tuesday/run/environment.json")["warm_start"]
    assert "monday/run/checkpoints/best-" in began


def day(folder, seed: int, drift: float = 0.0):
    """Makes the files of a day; returns their folder."""
    size = Size(queries=600, documents=20, features=12, drift=drift)
    synthesize(str(folder / "text"), size, seed)
    for split in SPLITS:
        path = str(folder / "text" / f"{split}.txt")
        convert(path, str(folder / "data"), input_format="libsvm", split=split)
    return folder / "data"


def ndcg_by_epoch(data, run, **pipeline) -> list[float]:
    from configs import nightly
    from tfr_pipeline.experiment.build import build_pipeline

    config = nightly.get_config().to_dict()
    config.update(model_dir=str(run), seed=3)
    config["data"]["dir"] = str(data)
    config["pipeline"].update(
        {"early_stopping_patience": 0, "strategy": None, **pipeline}
    )
    build_pipeline(config).train()
    gradients.forget_unused()
    with open(run / "history.csv", encoding="utf-8") as file:
        return [float(row["val_metric/ndcg_10"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_the_second_day_is_there_in_a_third_of_the_epochs(tmp_path) -> None:
    epochs = 24
    monday, tuesday = day(tmp_path / "1", 1), day(tmp_path / "2", 2, drift=0.2)
    first = ndcg_by_epoch(monday, tmp_path / "monday", num_epochs=epochs)
    told = {"from": str(tmp_path / "monday")}
    third = {"num_epochs": epochs // 3}
    warm = ndcg_by_epoch(tuesday, tmp_path / "warm", warm_start=told, **third)
    cold = ndcg_by_epoch(tuesday, tmp_path / "cold", **third)
    assert max(warm) >= max(first)
    assert max(cold) < max(first)
