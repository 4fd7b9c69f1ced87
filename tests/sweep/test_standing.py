"""`sweep status` and `sweep export`: what is said of a study, and what of none."""

from __future__ import annotations

import csv
import datetime
import io
import json
import subprocess
import sys

import pytest

from tests.pipeline.training_helpers import ROOT, environment
from tests.sweep import studies
from tests.sweep.studies import PRUNED, REASON, RUNNING, WAITING
from tfr_pipeline.cli.main import main
from tfr_pipeline.sweep import standing
from tfr_pipeline.sweep.standing import Standing

optuna = pytest.importorskip("optuna")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "study"


def test_status_shows_trials_and_what_is_best(folder, capsys):
    outcomes = [0.5, None, 0.75, PRUNED, WAITING, RUNNING]
    study = studies.make(folder, outcomes, trials=8)
    assert main(["sweep", "status", str(folder)]) == 0
    head, best, left, _, columns, *rows = capsys.readouterr().out.splitlines()
    assert head == (
        "study study: 4 of 8 trials finished, 2 complete, 1 pruned, 1 failed, "
        "1 running, 1 waiting"
    )
    assert best == "best: trial 2, ndcg@10 0.750000"
    assert left.startswith("time left: about") and left.endswith("(1 worker)")
    assert columns.split() == ["trial", "state", "ndcg@10", "since", "time", "worker"]
    states = [row.split()[:3] for row in rows]
    assert states == [
        ["0", "complete", "0.500000"],
        ["1", "failed", "-"],
        ["2", "complete", "0.750000"],
        ["3", "pruned", "-"],
        ["4", "waiting", "-"],
        ["5", "running", "-"],
    ]
    assert rows[1].endswith(REASON)
    who = study.optuna.trials[5].user_attrs["worker"]
    assert who in rows[5]


def test_a_worker_that_is_gone_is_told_from_one_that_works(folder, tmp_path):
    script = (
        "import pathlib, sys; from tests.sweep import studies; "
        f"studies.make(pathlib.Path({str(folder)!r}), ['running'], trials=2)"
    )
    words = [sys.executable, "-c", script]
    subprocess.run(words, cwd=ROOT, env=environment(), check=True)
    (row,) = standing.find(str(folder)).rows
    assert row.state == standing.LEFT


def test_time_left_follows_from_finished_trials_and_workers(folder):
    found = Standing(
        studies.make(folder, [0.5, 0.25, RUNNING, RUNNING], trials=8).optuna
    )
    assert [row.number for row in found.having("running")] == [2, 3]
    start = datetime.datetime(2026, 1, 1)
    seconds = {0: 100.0, 1: 200.0}
    import dataclasses

    found.rows = [
        dataclasses.replace(
            row,
            started=start,
            ended=start + datetime.timedelta(seconds=seconds[row.number])
            if row.number in seconds
            else None,
        )
        for row in found.rows
    ]
    # Six trials of 150 s, of which two have gone on for 50 s each, by two workers.
    now = start + datetime.timedelta(seconds=50)
    assert found.seconds_left(now) == pytest.approx((6 * 150 - 100) / 2)
    # One that takes longer than others is about to end, for all one knows.
    now = start + datetime.timedelta(seconds=1000)
    assert found.seconds_left(now) == pytest.approx((6 * 150 - 300) / 2)


def test_nothing_is_known_of_the_time_left_before_a_trial_is_finished(folder, capsys):
    studies.make(folder, [RUNNING], trials=3)
    assert main(["sweep", "status", str(folder)]) == 0
    assert "time left: not known yet (1 worker)" in capsys.readouterr().out


def test_a_study_is_found_by_its_storage(folder, tmp_path, capsys):
    url = f"sqlite:///{tmp_path}/other.db"
    studies.make(folder, [0.5], url=url)
    assert main(["sweep", "status", url]) == 0
    assert main(["sweep", "status", str(folder), f"--storage={url}"]) == 0
    one, two = capsys.readouterr().out.split("study study:")[1:]
    assert one == two
    studies.make(tmp_path / "second", [0.5], url=url)
    assert main(["sweep", "status", url]) == 2
    assert "several studies, expected one of second, study" in capsys.readouterr().err
    assert main(["sweep", "status", url, "--name=second"]) == 0
    assert "study second: 1 of 1" in capsys.readouterr().out


def test_the_environment_names_a_storage_that_the_folder_does_not_have(
    folder, tmp_path, monkeypatch, capsys
):
    url = f"sqlite:///{tmp_path}/other.db"
    monkeypatch.setenv("TFR_PIPELINE_STORAGE", url)
    studies.make(folder, [0.5], url=url)
    studies.make(tmp_path / "own", [0.25])
    for name, value in (("study", 0.5), ("own", 0.25)):
        assert main(["sweep", "best", str(tmp_path / name)]) == 0
        assert f"ndcg@10 {value:.6f}" in capsys.readouterr().out


def test_a_study_that_optuna_made_can_be_looked_at(tmp_path, capsys):
    url = f"sqlite:///{tmp_path}/own.db"
    study = optuna.create_study(storage=url, study_name="own")
    study.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=3)
    assert main(["sweep", "status", url]) == 0
    best = f"best: trial {study.best_trial.number}, value {study.best_value:.6f}"
    assert best in capsys.readouterr().out
    assert main(["sweep", "best", url, f"--output={tmp_path}/a.py"]) == 2
    assert "that `tfr-pipeline sweep` made" in capsys.readouterr().err


def test_the_budget_is_what_the_last_worker_was_told(folder):
    studies.make(folder, [0.5, 0.25], trials=2)
    assert standing.find(str(folder)).budget == 2
    studies.make(folder, [0.75], trials=9)
    assert standing.find(str(folder)).budget == 9


def test_a_study_without_trials_has_a_status(folder, capsys):
    studies.make(folder, [], trials=3)
    assert main(["sweep", "status", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("study study: 0 of 3 trials finished\ntime left: not known")
    assert main(["sweep", "best", str(folder)]) == 2
    assert "expected a complete trial, found none among 0" in capsys.readouterr().err


def test_a_study_of_failures_says_why_there_is_no_best(folder, capsys):
    studies.make(folder, [None, None])
    assert main(["sweep", "status", str(folder)]) == 0
    assert main(["sweep", "best", str(folder)]) == 2
    assert f"2 failed, trial 0: {REASON}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["{tmp}/none"], "no such folder"),
        (["{tmp}"], "which has sweep.json, found none"),
        (["{tmp}/elsewhere"], "expected the storage that the sweep was given"),
        (["{tmp}/moved"], "found another one by the name of 'study'"),
        (["sqlite:///{tmp}/none.db"], "none.db: no such file"),
        (["journal:///{tmp}/none.log"], "none.log: no such file"),
        (["{tmp}/study", "--name=studdy"], "did you mean 'study'?"),
        (["{tmp}/study", "--nam=x"], "unknown flag '--nam'"),
        ([], "FOLDER_OR_STORAGE"),
    ],
    ids=str,
)
@pytest.mark.parametrize("command", ["status", "export"])
def test_what_is_no_sweep_is_an_error(command, words, told, folder, capsys):
    tmp_path = folder.parent
    studies.make(folder, [0.5])
    for name, of in (("elsewhere", None), ("moved", folder)):
        (tmp_path / name).mkdir()
        marker = {"study": "study", "id": "of another one"}
        (tmp_path / name / "sweep.json").write_text(json.dumps(marker))
        if of is not None:
            (tmp_path / name / "study.db").write_bytes((of / "study.db").read_bytes())
    before = sorted(tmp_path.rglob("*"))
    words = [word.format(tmp=tmp_path) for word in words]
    try:
        code = main(["sweep", command, *words])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert told in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_command_of_sweep_names_the_nearest(capsys):
    assert main(["sweep", "stats", "x"]) == 2
    assert "unknown command of sweep 'stats'; did you mean 'status'" in (
        capsys.readouterr().err
    )


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_export_has_a_line_for_each_trial(folder, tmp_path, capsys):
    study = studies.make(folder, [0.1 + 0.2, None, PRUNED])
    assert main(["sweep", "export", str(folder)]) == 0
    out = capsys.readouterr().out
    assert main(["sweep", "export", str(folder), f"--output={tmp_path}/a.csv"]) == 0
    assert (tmp_path / "a.csv").read_text() == out
    rows = read(out)
    assert [row["state"] for row in rows] == ["complete", "failed", "pruned"]
    assert float(rows[0]["ndcg@10"]) == 0.1 + 0.2
    assert [row["ndcg@10"] for row in rows[1:]] == ["", ""]
    assert rows[1]["reason"] == REASON
    for trial, row in zip(study.optuna.trials, rows, strict=True):
        point = trial.user_attrs["point"]
        assert float(row["pipeline.learning_rate"]) == point["pipeline.learning_rate"]
        dims = json.loads(row["model.scorer_args.hidden_layer_dims"])
        assert dims == point["model.scorer_args.hidden_layer_dims"]
        assert row["pipeline.loss"] == point["pipeline.loss"]
        has = "pipeline.loss_args.temperature" in point
        assert bool(row["pipeline.loss_args.temperature"]) == has
        took = trial.datetime_complete - trial.datetime_start
        assert float(row["seconds"]) == pytest.approx(took.total_seconds(), abs=1e-3)


def test_export_has_the_deviation_of_repeats(folder):
    study = studies.make(folder, [RUNNING], repeats=3)
    trial = study.optuna.trials[0]
    spread = {"ndcg@10": {"mean": 0.5, "deviation": 0.125, "values": [0.5]}}
    study.storage.set_trial_user_attr(trial._trial_id, "spread", spread)
    study.optuna.tell(trial.number, 0.5)
    (row,) = read(csv_of(folder))
    assert row["ndcg@10 deviation"] == "0.125"
    assert standing.find(str(folder)).rows[0].deviations == (0.125,)


def csv_of(folder):
    from tfr_pipeline.sweep import csv_table

    return csv_table.text(standing.find(str(folder)))


@pytest.mark.parametrize("command", ["export", "best", "plot"])
def test_what_is_not_ours_is_not_written_over(command, folder, tmp_path, capsys):
    if command == "plot":
        pytest.importorskip("plotly", reason="needs pip install plotly")
    studies.make(folder, [0.5, 0.25])
    path = tmp_path / "mine.py"
    words = ["sweep", command, str(folder), f"--output={path}"]
    path.write_text("# mine\n")
    assert main(words) == 2
    assert "is there, and not of this command" in capsys.readouterr().err
    assert path.read_text() == "# mine\n"
    path.unlink()
    for _ in range(2):  # what is ours is
        assert main(words) == 0
    path.unlink()
    path.mkdir()
    assert main(words) == 2
    assert "found the folder" in capsys.readouterr().err


def test_a_storage_that_cannot_be_reached_is_named_without_its_password(capsys):
    pytest.importorskip("psycopg", reason="needs pip install psycopg[binary]")
    assert main(["sweep", "status", "postgresql://ann:secret@127.0.0.1:1/db"]) == 1
    err = capsys.readouterr().err
    assert "127.0.0.1:1/db cannot be reached" in err and "secret" not in err


def test_a_page_of_a_sweep_elsewhere_needs_a_place(folder, tmp_path, capsys):
    pytest.importorskip("plotly", reason="needs pip install plotly")
    url = f"sqlite:///{tmp_path}/other.db"
    studies.make(folder, [0.5], url=url)
    folder.rename(tmp_path / "elsewhere")
    assert main(["sweep", "plot", url]) == 2
    assert "--output: expected a file: the folder of study" in capsys.readouterr().err
    assert main(["sweep", "plot", url, f"--output={tmp_path}/a.html"]) == 0
