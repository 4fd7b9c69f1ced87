"""`cv`: what it writes, what it goes on with, and what it refuses."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import time
import types

import numpy as np
import pytest

from tests.cli.command_helpers import LETOR, start
from tests.pipeline.training_helpers import make_data, read_json
from tfr_pipeline.choosing import training
from tfr_pipeline.choosing.systems import find
from tfr_pipeline.cli.main import main
from tfr_pipeline.metrics.query_values import read
from tfr_pipeline.report.subject import open_subject

FOLDS, QUERIES = 3, 40


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


def words(data, folder, *more):
    return [
        "cv",
        f"--config={LETOR}:dnn",
        f"--config.data.dir={data}",
        f"--config.model_dir={folder}",
        "--config.pipeline.num_epochs=2",
        "--config.data.train_batch_size=8",
        "--config.model.scorer_args.hidden_layer_dims=(4,)",
        f"--folds={FOLDS}",
        *more,
    ]


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    """A cross-validation of one seed. Tests must not change it."""
    folder = tmp_path_factory.mktemp("cv") / "one"
    assert main(words(data, folder)) == 0
    return folder


@pytest.fixture
def copied(done, tmp_path):
    """A copy of it, and what was in `cv.json`."""
    shutil.copytree(done, tmp_path / "cv")
    return tmp_path / "cv"


def times(folder):
    """Returns when the runs of a cross-validation ended."""
    return {p.parent.name: p.stat().st_mtime_ns for p in folder.glob("*/metrics.json")}


def test_every_query_is_measured_once_and_runs_are_ordinary(done):
    table = read(str(done / "per_query.parquet")).to_pydict()
    assert len(set(table["query"])) == len(table["query"]) == QUERIES
    assert set(table["split"]) == {"test"} and set(table["seed"]) == {42}
    assert set(table["fold"]) == {1, 2, 3}
    for fold in range(1, FOLDS + 1):
        run = done / f"fold-{fold}-seed-42"
        assert (run / "export" / "latest_model").is_dir()
        told = read_json(run / "config.json")["data"]
        held = (told["folds"], told["fold"], told["test_fold"])
        assert held == (FOLDS, fold % FOLDS, (fold + 1) % FOLDS)
        metrics = read_json(run / "metrics.json")
        assert metrics["test"]["queries"] == table["fold"].count(fold)
        # What was measured of each query is kept of both splits.
        assert set(read(str(run / "per_query.parquet"))["split"].to_pylist()) == {
            "valid",
            "test",
        }


def test_the_summary_is_that_of_the_queries(done):
    found = read_json(done / "cv.json")
    table = read(str(done / "per_query.parquet")).to_pydict()
    fold = np.array(table["fold"])
    assert (found["folds"], found["seeds"]) == (FOLDS, [42])
    assert found["test"]["queries"] == found["valid"]["queries"] == QUERIES
    for name, empty in (("skip", None), ("zero", 0.0), ("one", 1.0)):
        values = np.array(table["ndcg@10"], float)
        values = values if empty is None else np.nan_to_num(values, nan=empty)
        known, result = ~np.isnan(values), found["test"]["ndcg@10"][name]
        folds = [values[known & (fold == n)].mean() for n in (1, 2, 3)]
        assert result["mean"] == pytest.approx(values[known].mean())
        error = values[known].std(ddof=1) / np.sqrt(known.sum())
        assert result["standard_error"] == pytest.approx(error)
        assert result["folds"] == pytest.approx(folds)
        assert result["fold_deviation"] == pytest.approx(np.std(folds, ddof=1))
        assert result["seed_deviation"] is None
        for n, value in enumerate(folds, start=1):
            metrics = read_json(done / f"fold-{n}-seed-42" / "metrics.json")
            assert metrics["test"]["ndcg@10"][name] == pytest.approx(value)


def test_the_same_command_again_trains_nothing_and_finds_the_same(copied, data, capsys):
    before, found = times(copied), (copied / "cv.json").read_bytes()
    assert main(words(data, copied)) == 0
    assert "3 are there already" in capsys.readouterr().out
    assert times(copied) == before
    assert (copied / "cv.json").read_bytes() == found


@pytest.mark.parametrize(
    ("more", "words_of_error"),
    [
        (["--config.pipeline.learning_rate=0.1"], "learning_rate was 0.003, is 0.1"),
        (["--config.pipeline.num_epochs=3"], "num_epochs was 2, is 3"),
        (["--folds=4"], "folds was 3, is 4"),
    ],
)
def test_another_config_is_refused_with_the_difference(
    done, data, capsys, more, words_of_error
):
    before = times(done)
    assert main(words(data, done, *more)) == 2
    error = capsys.readouterr().err
    assert f"it is of another cross-validation: {words_of_error}" in (
        error.replace("pipeline.", "")
    )
    assert times(done) == before


def test_other_data_is_refused_with_the_difference(done, data, tmp_path, capsys):
    other = make_data(tmp_path, queries=30)
    assert main(words(other, done)) == 1
    error = capsys.readouterr().err
    assert "of other data: train: train-00000-of-00002.tfrecord was" in error
    # The same data elsewhere is the same.
    moved = shutil.copytree(data, tmp_path / "moved")
    assert main(words(moved, done)) == 0


@pytest.mark.slow
def test_a_run_that_ended_before_a_stop_is_not_trained_again(copied, data, monkeypatch):
    """SIGTERM unwinds as SystemExit; what is left of the folder goes on."""
    found = read_json(copied / "cv.json")
    for name in ("cv.json", "per_query.parquet"):
        (copied / name).unlink()
    for fold in (2, 3):
        shutil.rmtree(copied / f"fold-{fold}-seed-42")
    first, build = times(copied), training.build_pipeline

    def stopping(config, **options):
        if "fold-3" in config["model_dir"]:
            raise SystemExit(143)
        return build(config, **options)

    monkeypatch.setattr(training, "build_pipeline", stopping)
    with pytest.raises(SystemExit) as caught:
        main(words(data, copied))
    assert caught.value.code == 143
    assert not (copied / "cv.json").exists()
    monkeypatch.undo()
    assert main(words(data, copied)) == 0
    assert times(copied).items() >= first.items()
    assert read_json(copied / "cv.json") == found


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        (["--folds=2"], 2, "--folds: expected 3 or more, found 2"),
        (["--folds=41"], 1, "found 41 folds and 40 queries"),
        (["--folds=x"], 2, "argument --folds"),
        (["--seeds=0"], 2, "--seeds"),
        (["--config.data.fold=1"], 2, "data.fold: expected none"),
        (["--config.pipeline.loss=nothing"], 2, "nothing"),
        (["--config.data.dir=/nowhere"], 1, "/nowhere"),
        (["--parts=/nowhere"], 1, "/nowhere"),
        (["--config.model_dir=gs://a/b"], 2, "a folder of this machine"),
        (["--nothing"], 2, "--nothing"),
    ],
)
def test_wrong_words_are_one_line_and_write_nothing(
    data, tmp_path, capsys, more, code, text
):
    try:
        found = main(words(data, tmp_path / "cv", *more))
    except SystemExit as error:  # of argparse
        found = error.code
    lines = capsys.readouterr().err.strip().splitlines()
    assert found == code, lines
    assert text in lines[-1] and lines[-1].startswith("error: ")
    assert not (tmp_path / "cv").exists()


def test_a_folder_of_something_else_is_refused(data, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(words(data, tmp_path)) == 2
    assert "found 'notes.txt' in it and no plan.json" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_a_dry_run_shows_the_runs_and_writes_nothing(data, tmp_path, capsys):
    assert main(words(data, tmp_path / "cv", "--dry_run", "--seeds=2")) == 0
    out = capsys.readouterr().out
    assert "3 folds x 2 seeds = 6 runs, 40 queries are measured, 13 to 14" in out
    assert "fold-1-seed-43: validates on fold 1 of 3" in out
    assert not (tmp_path / "cv").exists()


def test_cross_validations_are_compared_by_the_command(done, tmp_path, capsys):
    other = shutil.copytree(done, tmp_path / "other")
    assert main(["compare", str(done), str(other)]) == 0
    out = capsys.readouterr().out
    assert "test data, 40 queries" in out and "+0.0000 to +0.0000" in out
    assert find([str(done)])[0].seeds == 1


def test_a_report_of_a_fold_asks_about_the_queries_that_it_measured(done):
    subject = open_subject(str(done / "fold-1-seed-42"))
    assert (subject.split, subject.lacking) == ("test", "")
    table = read(str(done / "per_query.parquet")).to_pydict()
    folds = zip(table["query"], table["fold"], strict=True)
    measured = {query for query, fold in folds if fold == 1}
    assert {*subject.lists.query_ids} == measured
    assert (subject.places() >= 0).all()


def test_a_claim_is_of_one_process(tmp_path):
    with training.claimed(str(tmp_path), "run") as first:
        with training.claimed(str(tmp_path), "run") as second:
            assert first and not second
        with training.claimed(str(tmp_path), "other") as other:
            assert other
    with training.claimed(str(tmp_path), "run") as again:
        assert again


@pytest.mark.slow
def test_killed_it_goes_on_and_finds_the_same(done, data, tmp_path):
    folder = tmp_path / "cv"
    process = start(*words(data, folder))
    limit = time.monotonic() + 200
    # In the second run, after its first checkpoint.
    while not list(folder.glob("fold-2-*/checkpoints/*.index")):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "cv.json").exists()
    before = times(folder)
    assert "fold-1-seed-42" in before and len(before) < FOLDS
    assert main(words(data, folder)) == 0
    assert times(folder).items() >= before.items()
    assert read_json(folder / "cv.json") == read_json(done / "cv.json")


@pytest.mark.slow
def test_workers_share_the_runs_and_more_seeds_may_follow(data, done, tmp_path):
    folder = pathlib.Path(shutil.copytree(done, tmp_path / "cv"))
    before = times(folder)
    process = start(*words(data, folder, "--seeds=2", "--workers=2"))
    out = process.communicate(timeout=280)[0]
    assert process.returncode == 0, out
    assert times(folder).items() >= before.items()
    assert len(times(folder)) == 2 * FOLDS
    for fold in range(1, FOLDS + 1):
        assert out.count(f"fold-{fold}-seed-43: valid") == 1
    found = read_json(folder / "cv.json")["test"]["ndcg@10"]["skip"]
    assert len(found["seeds"]) == 2 and found["seed_deviation"] > 0
    assert found["mean"] == pytest.approx(np.mean(found["seeds"]))
    alone = read_json(done / "cv.json")["test"]["ndcg@10"]["skip"]
    assert found["seeds"][0] == pytest.approx(alone["mean"])
    # Fewer than there are would leave some out.
    assert main(words(data, folder)) == 2


def test_the_time_left_is_that_of_all_who_train(tmp_path):
    runs = [
        types.SimpleNamespace(
            name=f"run-{number}",
            config={"data": {}},
            finished=lambda number=number: number < 2,
        )
        for number in range(6)
    ]
    plan = types.SimpleNamespace(folder=str(tmp_path), runs=runs)
    trainer = training.Trainer(plan, None, None)
    trainer._begun, trainer._trained = time.perf_counter() - 20, 2
    assert trainer._standing() == "2 of 6 runs, about 40 s left (1 worker)"
    with training.claimed(str(tmp_path), "run-3") as mine:
        assert mine
        assert trainer._standing() == "2 of 6 runs, about 20 s left (2 workers)"
