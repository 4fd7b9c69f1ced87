"""`sweep best`: which trial is best, as a config file, and trained again."""

from __future__ import annotations

import json
import random
import statistics

import pytest

from tests.sweep import studies
from tfr_pipeline.cli.main import main
from tfr_pipeline.experiment import config_files
from tfr_pipeline.sweep import standing, winner
from tfr_pipeline.sweep.standing import Standing

optuna = pytest.importorskip("optuna")
TWO = "ndcg@10,seconds.training"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "study"


def trials_of(folder):
    return standing.find(str(folder)).study.trials


def test_best_names_the_trial_its_point_and_its_run(folder, capsys):
    studies.make(folder, [0.5, None, 0.75, 0.25])
    assert main(["sweep", "best", str(folder)]) == 0
    first, *lines, last = capsys.readouterr().out.splitlines()
    assert first == "trial 2: ndcg@10 0.750000"
    point = trials_of(folder)[2].user_attrs["point"]
    assert [line.split(" = ")[0].strip() for line in lines] == list(point)
    assert last == f"run directory: {folder}/trials/00002"


def test_less_is_better_where_the_study_says_so(folder):
    studies.make(folder, [3.0, 2.0, 2.0, 4.0], metric="arp")
    assert [row.number for row in standing.find(str(folder)).best()] == [1, 2, 0, 3]


def test_the_front_is_that_of_optuna(folder):
    chance = random.Random(3)
    values = [[chance.randrange(8) / 8, chance.randrange(8) + 1.0] for _ in range(40)]
    study = studies.make(folder, values, metric=TWO)
    found = Standing(study.optuna)
    front = sorted(trial.number for trial in study.optuna.best_trials)
    assert [row.number for row in found.front()] == front
    assert 1 < len(front) < 40
    best = [row.number for row in found.best()]
    assert sorted(best[: len(front)]) == front


def test_of_several_metrics_one_of_the_front_has_to_be_named(folder, tmp_path, capsys):
    studies.make(folder, [[0.5, 2.0], [0.75, 3.0], [0.25, 9.0]], metric=TWO)
    assert main(["sweep", "best", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "none better in all of ndcg@10, seconds.training" in out
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["0", "1"]
    path = tmp_path / "a.py"
    assert main(["sweep", "best", str(folder), f"--output={path}"]) == 2
    assert "--trial: expected one of 0, 1, of which none" in capsys.readouterr().err
    words = ["sweep", "best", str(folder), "--trial=2", f"--output={path}"]
    assert main(words) == 0
    assert path.read_text().startswith('"""Trial 2 of study study: ndcg@10 0.250000')


@pytest.mark.parametrize("seeds", ["fixed", "per_trial"])
def test_the_config_file_is_the_base_with_the_point(folder, tmp_path, seeds):
    study = studies.make(folder, [0.5, 0.75, 0.25], seeds=seeds)
    path = tmp_path / "best.py"
    for number in range(3):
        words = [f"--output={path}", f"--trial={number}"]
        assert main(["sweep", "best", str(folder), *words]) == 0
        found = config_files.load(str(path), [])
        expected = studies.config_of(folder)
        expected["model_dir"] = f"{folder}/best/{number:05d}"
        for key, value in study.optuna.trials[number].user_attrs["point"].items():
            *parents, last = key.split(".")
            here = expected
            for part in parents:
                here = here[part]
            here[last] = value
        seed = found.pop("seed")
        assert (seed == expected.pop("seed")) == (seeds == "fixed")
        assert json.loads(json.dumps(found)) == expected


@pytest.mark.parametrize(
    ("names", "words", "told"),
    [
        (["train-0", "valid-0"], [], (None, None)),
        (["train-0"], [], (3, 0)),
        (["train-0"], ["--config.data.folds=5", "--config.data.fold=2"], (5, 2)),
        (["train-0"], ["--config.data.valid=there"], (None, None)),
        (["train-0", "valid-0"], ["--config.data.fold=1"], (3, 1)),
    ],
    ids=["validation files", "none", "folds of its own", "others", "another fold"],
)
def test_after_folds_validation_files_validate_or_else_a_fold(
    folder, tmp_path, names, words, told
):
    data = tmp_path / "da[t]a"
    data.mkdir()
    for name in names:
        (data / name).touch()
    config = studies.config_of(folder, dir=str(data))
    studies.make(folder, [0.5], config=config, folds=3)
    path = tmp_path / "best.py"
    assert main(["sweep", "best", str(folder), f"--output={path}", *words]) == 0
    found = config_files.load(str(path), [])["data"]
    assert (found.get("folds"), found.get("fold")) == told


def test_values_of_the_config_file_can_be_overridden(folder, tmp_path):
    studies.make(folder, [0.5])
    path = tmp_path / "best.py"
    words = [f"--output={path}", "--config.data.dir=there", "--config.seed=5"]
    assert main(["sweep", "best", str(folder), *words]) == 0
    words = ["--config.model_dir=other", "--config.pipeline.num_epochs=9"]
    found = config_files.load(str(path), words)
    assert (found["data"]["dir"], found["seed"]) == ("there", 5)
    assert (found["model_dir"], found["pipeline"]["num_epochs"]) == ("other", 9)


@pytest.mark.parametrize("name", ['a"""b', "a\\nb\\", "q'\"", "été"])
def test_names_of_studies_do_not_break_the_config_file(tmp_path, name):
    study = studies.make(tmp_path / "plain", [0.5])
    found = Standing(study.optuna, str(tmp_path / name))
    found.study.study_name = name
    row = found.best()[0]
    path = tmp_path / "best.py"
    path.write_text(winner.as_file(found, row, winner.config_of(found, row)))
    loaded = config_files.load(str(path), [])
    assert loaded["model_dir"] == str(tmp_path / name / "best" / "00000")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--trial=1"], "found 1, which is failed"),
        (["--trial=7"], "found 7, which is none"),
        (["--trial=x"], "expected a whole number, found 'x'"),
        (["--seeds=2"], "--seeds is for --train"),
        (["--train"], "expected --model_dir=OUT"),
        (["--train", "--model_dir=a", "--seeds=0"], "expected 1 or more"),
        (["--config.seed=1"], "expected it with --output or --train"),
        (["--output=a.txt"], "expected FILE.py"),
        (["--output=a.py", "--config.sead=1"], "did you mean 'seed'"),
    ],
    ids=str,
)
def test_what_best_cannot_do_is_an_error(words, told, folder, capsys, monkeypatch):
    studies.make(folder, [0.5, None])
    monkeypatch.chdir(folder.parent)
    try:
        code = main(["sweep", "best", str(folder), *words])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert told in capsys.readouterr().err
    assert not list(folder.parent.glob("a*"))


@pytest.mark.slow
def test_the_winner_is_trained_with_several_seeds_and_tested(folder, data, capsys):
    config = studies.config_of(folder, dir=str(data), train_batch_size=4)
    studies.make(folder, [0.5], config=config)
    out = folder.parent / "out"
    words = ["sweep", "best", str(folder), "--train", "--seeds=2", f"--model_dir={out}"]
    assert main(words) == 0
    said = capsys.readouterr().out
    runs = [out / f"seed-{seed}" for seed in (42, 43)]
    found = [json.loads((run / "metrics.json").read_text()) for run in runs]
    values = [metrics["test"]["ndcg@10"]["skip"] for metrics in found]
    assert values[0] != values[1]
    cell = f"{statistics.fmean(values):.4f} +- {statistics.stdev(values):.4f}"
    (line,) = [line for line in said.splitlines() if line.startswith("test ")]
    assert cell in line
    for run in runs:
        assert list((run / "export" / "latest_model").iterdir())
    summary = json.loads((out / "seeds.json").read_text())
    assert summary["seeds"] == [42, 43]
    assert summary["metrics"]["test"]["ndcg@10"]["values"] == values
    # Again there is nothing to do; another trial may not mix with this one.
    assert main(words) == 0
    again = [json.loads((run / "metrics.json").read_text()) for run in runs]
    assert [metrics["test"] for metrics in again] == [m["test"] for m in found]
    studies.make(folder, [0.75], trials=2, config=config)
    capsys.readouterr()
    assert main(words) == 2
    assert "expected a new folder, or that of this trial" in capsys.readouterr().err


def test_other_files_are_not_mixed_with_runs(folder, capsys):
    studies.make(folder, [0.5])
    out = folder.parent / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    words = ["--train", "--seeds=2", f"--model_dir={out}"]
    assert main(["sweep", "best", str(folder), *words]) == 2
    assert "found other files in it" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["mine"]
