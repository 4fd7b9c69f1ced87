"""Sweeps that train: what trials leave, how they end, and what workers do about it."""

from __future__ import annotations

import csv
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

import pytest

from tests.pipeline.training_helpers import ROOT, environment
from tfr_pipeline.cli.main import main

optuna = pytest.importorskip("optuna")

CONFIG = """
from configs import letor

def get_config():
    config = letor.get_config("dnn")
    config.data.train_batch_size = 4
    config.pipeline.num_epochs = {epochs}
    config.pipeline.early_stopping_patience = 0
    config.model.scorer_args.hidden_layer_dims = (4,)
    return config

def get_sweep(hyper):
    return {sweep}
"""
RATES = 'hyper.sweep("pipeline.learning_rate", [1e-9, 0.05, 1e-8])'


class Sweep:
    """A config file, and the folder of its sweep."""

    def __init__(self, folder: pathlib.Path, data: pathlib.Path):
        self._file, self.folder, self._data = (
            folder / "config.py",
            folder / "sweep",
            data,
        )

    def write(self, sweep: str = RATES, epochs: int = 1) -> None:
        self._file.write_text(CONFIG.format(sweep=sweep, epochs=epochs))

    def words(self, *more: str) -> list[str]:
        return [
            "sweep",
            f"--config={self._file}",
            f"--config.data.dir={self._data}",
            f"--config.model_dir={self.folder}",
            *more,
        ]

    def start(self, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tfr_pipeline", *self.words(*more)],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def trials(self) -> list[optuna.trial.FrozenTrial]:
        storage = f"sqlite:///{self.folder}/study.db"
        return optuna.load_study(study_name="sweep", storage=storage).get_trials()

    @property
    def states(self) -> list[str]:
        return [trial.state.name for trial in self.trials]

    def run(self, number: int) -> pathlib.Path:
        return self.folder / "trials" / f"{number:05d}"

    def read(self, number: int, name: str = "metrics.json"):
        return json.loads((self.run(number) / name).read_text())

    def history(self, number: int) -> list[dict[str, str]]:
        with open(self.run(number) / "history.csv", encoding="utf-8") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def sweep(tmp_path, data, monkeypatch):
    monkeypatch.setenv("TFR_PIPELINE_SWEEP_BEAT", "0.5")
    monkeypatch.chdir(ROOT)
    return Sweep(tmp_path, data)


def until(condition, process, seconds=120):
    """Waits for a condition while a process runs."""
    limit = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def test_trials_are_runs_and_the_best_keeps_its_weights(sweep, parses, capsys):
    sweep.write()
    assert main(sweep.words("--keep=1")) == 0
    output = capsys.readouterr().out
    found = [sweep.read(number) for number in range(3)]
    values = [metrics["valid"]["ndcg@10"]["skip"] for metrics in found]
    assert [trial.values for trial in sweep.trials] == [[value] for value in values]
    assert [t.params["pipeline.learning_rate"] for t in sweep.trials] == [
        1e-9,
        0.05,
        1e-8,
    ]
    assert sweep.read(1, "config.json")["pipeline"]["learning_rate"] == 0.05
    assert max(values) == values[1]
    assert f"best: trial 1, ndcg@10 {values[1]:.6g}" in output
    # The test data, which the folder has, was not looked at.
    assert not any("test" in metrics for metrics in found)
    for name in ("checkpoints", "export"):
        kept = [(sweep.run(number) / name).exists() for number in range(3)]
        assert kept == [False, True, False]
    assert (sweep.run(0) / "history.csv").exists()
    # Training and validation data were read once for all trials.
    assert len(parses) == 2


def test_the_same_command_again_has_nothing_to_do_and_more_trials_go_on(sweep, capsys):
    sweep.write('{"pipeline.learning_rate": {"low": 1e-3, "high": 0.1, "log": True}}')
    assert main(sweep.words("--trials=1")) == 0
    before = sweep.trials
    capsys.readouterr()
    assert main(sweep.words("--trials=1")) == 0
    assert "joined, sampler tpe, 1 of 1 trials finished" in capsys.readouterr().out
    assert main(sweep.words("--trials=2")) == 0
    assert sweep.states == ["COMPLETE"] * 2
    assert sweep.trials[0] == before[0]


def test_a_study_of_other_settings_is_refused_once_for_all_workers(sweep, capfd):
    sweep.write('hyper.sweep("seed", [1])')
    assert main(sweep.words()) == 0
    sweep.write('hyper.sweep("seed", [1, 2])')
    capfd.readouterr()
    assert main(sweep.words("--workers=2")) == 2
    output = "".join(capfd.readouterr())
    assert output.count("of other settings") == 1
    assert "worker" not in output and len(sweep.trials) == 1


@pytest.mark.slow
def test_what_is_not_ours_stays_when_a_trial_is_stripped(sweep):
    from tfr_pipeline.sweep.keeping import strip

    sweep.write('hyper.fixed("seed", 1)')
    assert main(sweep.words()) == 0
    run = sweep.run(0)
    for place in ("checkpoints", "export", "export/latest_model"):
        (run / place / "notes.txt").write_text("mine")
    strip(str(run))
    for name in ("checkpoints", "export"):
        left = [path.name for path in (run / name).rglob("*") if path.is_file()]
        assert set(left) == {"notes.txt"}


@pytest.mark.parametrize(
    ("space", "words"),
    [
        pytest.param(
            'hyper.sweep("pipeline.loss", ["softmx_loss", "softmax_loss"])',
            "did you mean 'softmax_loss'",
            marks=pytest.mark.slow,
        ),
        (
            'hyper.product(hyper.fixed("pipeline.optimizer", "sgd"), '
            'hyper.sweep("pipeline.learning_rate", [1e38, 0.01]))',
            "is NaN or infinite in step",
        ),
    ],
    ids=["a wrong name", "NaN"],
)
def test_a_trial_that_fails_says_why_and_the_study_goes_on(sweep, capsys, space, words):
    sweep.write(space)
    assert main(sweep.words()) == 0
    assert sweep.states == ["FAIL", "COMPLETE"]
    reason = sweep.trials[0].user_attrs["reason"]
    assert words in reason
    assert f"trial 0: failed: {reason}" in capsys.readouterr().out
    assert "Traceback" in (sweep.run(0) / "error.txt").read_text()


def test_failures_from_the_start_end_the_sweep_with_the_first_cause(sweep, capsys):
    names = [f"no_loss_{i}" for i in range(5)]
    sweep.write(f'hyper.sweep("pipeline.loss", {names})')
    assert main(sweep.words("--give_up=2")) == 1
    assert sweep.states == ["FAIL"] * 2
    error = capsys.readouterr().err
    assert "all 2 trials so far have failed" in error and "no_loss_0" in error
    # Somebody may have mended it.
    assert main(sweep.words("--give_up=2")) == 1
    assert sweep.states == ["FAIL"] * 4


def test_a_trial_that_is_behind_is_pruned(sweep):
    sweep.write(
        'hyper.study(hyper.sweep("pipeline.learning_rate", [0.05, 1e-9]), '
        'pruner="median", pruner_args={"n_startup_trials": 1})',
        epochs=4,
    )
    assert main(sweep.words()) == 0
    assert sweep.states == ["COMPLETE", "PRUNED"]
    assert len(sweep.history(0)) == 4 and len(sweep.history(1)) < 4
    reported = sweep.trials[0].intermediate_values
    logged = [float(row["val_metric/ndcg_10"]) for row in sweep.history(0)]
    assert list(reported.values()) == pytest.approx(logged)
    assert not (sweep.run(1) / "checkpoints").exists()


@pytest.mark.slow
def test_a_flag_takes_the_place_of_a_pruner_and_its_arguments(sweep):
    sweep.write(
        'hyper.study(hyper.fixed("seed", 7), pruner="median", '
        'pruner_args={"n_startup_trials": 1})'
    )
    assert main(sweep.words("--pruner=none")) == 0
    assert sweep.states == ["COMPLETE"]


def test_pruning_by_what_epochs_lack_is_the_fault_of_the_sweep(sweep, capsys):
    sweep.write(
        'hyper.study(hyper.sweep("seed", [1, 2, 3]), metric="mrr", pruner="median")',
        epochs=2,
    )
    assert main(sweep.words()) == 2
    assert sweep.states == ["FAIL"]
    error = capsys.readouterr().err
    assert "val_metric/mrr" in error and "prune_on" in error


@pytest.mark.slow
def test_repeats_have_seeds_one_after_the_other_and_their_mean_counts(sweep):
    sweep.write('hyper.study(hyper.fixed("seed", 7), repeats=3)')
    assert main(sweep.words()) == 0
    runs = [sweep.run(0) / f"repeat-{i}" for i in (1, 2, 3)]
    seeds = [json.loads((run / "config.json").read_text())["seed"] for run in runs]
    assert seeds == [7, 8, 9]
    metrics = [json.loads((run / "metrics.json").read_text()) for run in runs]
    values = [found["valid"]["ndcg@10"]["skip"] for found in metrics]
    assert sweep.trials[0].user_attrs["point"] == {"seed": 7}
    assert sweep.trials[0].value == pytest.approx(statistics.fmean(values))
    spread = sweep.trials[0].user_attrs["spread"]["ndcg@10"]
    assert spread["values"] == values
    assert spread["deviation"] == pytest.approx(statistics.stdev(values))


@pytest.mark.parametrize(
    ("rates", "folds"),
    [([0.05], 2), pytest.param([1e-8, 0.05], 3, marks=pytest.mark.slow)],
)
def test_the_mean_over_folds_is_that_of_runs_of_each_fold(
    sweep, tmp_path, parses, capsys, rates, folds
):
    space = f'hyper.sweep("pipeline.learning_rate", {rates})'
    sweep.write(f"hyper.study({space}, folds={folds})")
    assert main(sweep.words()) == 0
    # All folds of all trials are made of what was read once.
    assert len(parses) == 1
    for number, rate in enumerate(rates):
        values = []
        for fold in range(folds):
            run = tmp_path / f"{number}-{fold}"
            words = sweep.words(
                f"--config.model_dir={run}",
                f"--config.pipeline.learning_rate={rate}",
                f"--config.data.folds={folds}",
                f"--config.data.fold={fold}",
            )
            assert main(["train", *words[1:]]) == 0
            found = json.loads((run / "metrics.json").read_text())["valid"]
            assert found["queries"] in (40 // folds, 40 // folds + 1)
            values.append(found["ndcg@10"]["skip"])
            told = sweep.read(number, f"fold-{fold + 1}/config.json")["data"]
            assert (told["folds"], told["fold"]) == (folds, fold)
        trial = sweep.trials[number]
        assert trial.value == pytest.approx(statistics.fmean(values))
        spread = trial.user_attrs["spread"]["ndcg@10"]
        assert spread["values"] == values
        assert spread["deviation"] == pytest.approx(statistics.stdev(values))
    # The best trial, which is the last, keeps the weights of all of its runs.
    for name in ("checkpoints", "export"):
        runs = [sweep.run(n).glob(f"fold-*/{name}") for n in range(len(rates))]
        assert [len(list(found)) for found in runs] == [0] * (len(rates) - 1) + [folds]
    capsys.readouterr()
    assert main(sweep.words(f"--folds={folds + 1}")) == 2
    assert f"folds is {folds} there and {folds + 1} here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ('hyper.sweep("data.fold", [0, 1])', []),
        ('hyper.fixed("seed", 1)', ["--config.data.folds=3"]),
    ],
)
def test_folds_of_a_trial_and_of_the_study_exclude_each_other(
    sweep, capsys, space, words
):
    sweep.write(f"hyper.study({space}, folds=3)")
    assert main(sweep.words("--dry_run", *words)) == 2
    assert "found one beside folds=3 of the study" in capsys.readouterr().err


@pytest.mark.slow
def test_folds_and_repeats_are_a_run_each(sweep):
    sweep.write('hyper.study(hyper.fixed("seed", 7), repeats=2, folds=2)')
    assert main(sweep.words()) == 0
    found = [
        json.loads((run / "config.json").read_text())
        for run in sorted(sweep.run(0).glob("repeat-*"))
    ]
    told = [(one["seed"], one["data"]["fold"]) for one in found]
    assert told == [(7, 0), (7, 1), (8, 0), (8, 1)]
    assert len(sweep.trials[0].user_attrs["spread"]["ndcg@10"]["values"]) == 4


@pytest.mark.slow
def test_seeds_of_trials_are_their_own_if_asked_for(sweep):
    sweep.write('hyper.sweep("pipeline.learning_rate", [0.01, 0.02])')
    assert main(sweep.words("--seeds=per_trial")) == 0
    seeds = [sweep.read(number, "config.json")["seed"] for number in (0, 1)]
    assert seeds[0] != seeds[1]


@pytest.mark.slow
def test_several_objectives_have_a_front(sweep, capsys):
    sweep.write()
    words = ["--metric=ndcg@10,documents_per_second", "--sampler=nsgaii", "--trials=2"]
    assert main(sweep.words(*words)) == 0
    assert all(len(trial.values) == 2 for trial in sweep.trials)
    assert "documents_per_second" in capsys.readouterr().out


def test_a_dry_run_shows_the_trials_and_writes_nothing(sweep, capsys):
    sweep.write()
    assert main(sweep.words("--dry_run")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 trials, sampler grid, pruner none, maximize ndcg@10"
    assert lines[2] == "    1: pipeline.learning_rate=0.05"
    assert not sweep.folder.exists()


@pytest.mark.parametrize(
    ("space", "words", "wanted"),
    [
        ('{"pipeline.learning_rat": [1]}', [], "did you mean 'pipeline.learning_rate'"),
        ('{"pipelin.learning_rate": [1]}', [], "unknown config key 'pipelin'"),
        ('{"pipeline.num_epochs": [1, "two"]}', [], "expected a whole number"),
        ('{"pipeline.num_epochs": {"low": 1, "high": 2.5}}', ["--trials=2"], "whole"),
        ('[{"seed": 1}, {"sead": 2}]', [], "did you mean 'seed'"),
        ('{"model_dir": ["a"]}', [], "run directory of its own"),
        ("{}", [], "the space is empty"),
        ('hyper.interval("seed", 3, 2)', [], "low=3 and high=2"),
        ('hyper.interval("pipeline.learning_rate", 0.1, 1)', [], "--trials"),
        ("1 / 0", [], "get_sweep: ZeroDivisionError"),
        (RATES, ["--metric=test.ndcg@10"], "choosing on test data"),
        (RATES, ["--metric=ndcg@7"], "unknown metric 'ndcg@7'"),
        (RATES, ["--sampler=gp"], "torch"),
        (RATES, ["--storage=study.db"], "expected a URL"),
        (RATES, ["--time_budget=soon"], "90m or 8h"),
        (RATES, ["--trials=0"], "expected 1 or more"),
    ],
)
def test_bad_input_is_explained_before_the_first_trial(
    sweep, capsys, space, words, wanted
):
    sweep.write(space)
    try:
        code = main(sweep.words(*words))
    except SystemExit as end:  # of the parser of flags
        code = end.code
    assert code == 2
    assert wanted in capsys.readouterr().err
    assert not (sweep.folder / "trials").exists()


def test_a_file_without_a_sweep_is_explained(tmp_path, capsys, data):
    words = ["--config=configs/demo.py", f"--config.data.dir={data}"]
    assert main(["sweep", *words, f"--config.model_dir={tmp_path}/s"]) == 2
    assert "expected a function get_sweep(hyper)" in capsys.readouterr().err


def test_another_space_for_a_study_is_refused_with_the_difference(sweep, capsys):
    sweep.write('hyper.fixed("seed", 1)')
    assert main(sweep.words()) == 0
    sweep.write('hyper.fixed("seed", 2)')
    assert main(sweep.words()) == 2
    assert "'seed = 1' there and 'seed = 2' here" in capsys.readouterr().err
    assert main(sweep.words("--config.pipeline.num_epochs=9")) == 2
    assert "pipeline.num_epochs is 1 there and 9 here" in capsys.readouterr().err


def test_a_killed_trial_goes_on_from_its_checkpoint(sweep):
    sweep.write('hyper.fixed("seed", 1)', epochs=60)
    process = sweep.start()
    history = sweep.run(0) / "history.csv"
    checkpoints = sweep.run(0) / "checkpoints"
    until(lambda: len(list(checkpoints.glob("ckpt-*.index"))) == 2, process)
    process.kill()
    process.wait()
    assert sweep.states == ["RUNNING"]
    before = history.read_text().splitlines()
    assert len(before) < 60
    assert main(sweep.words()) == 0
    assert sweep.states == ["COMPLETE"]
    after = history.read_text().splitlines()
    assert len(after) == 61
    # The seconds of an epoch are those of the process that trained it. The last one
    # may have been written down, and not saved.
    assert after[: len(before) - 1] == before[:-1]


@pytest.mark.slow
def test_sigterm_parks_a_trial_and_the_same_command_goes_on(sweep):
    sweep.write('hyper.fixed("seed", 1)', epochs=60)
    process = sweep.start()
    until(lambda: (sweep.run(0) / "history.csv").exists(), process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert "trial 0: parked" in output
    assert sweep.states == ["WAITING"]
    done = len(sweep.history(0))
    assert 0 < done < 60
    assert main(sweep.words()) == 0
    assert sweep.states == ["COMPLETE"]
    assert len(sweep.history(0)) == 60


def test_a_time_budget_begins_no_trial_after_it(sweep, capsys):
    sweep.write()
    assert main(sweep.words("--time_budget=0.001s")) == 0
    assert "the time is up: 0 of 3" in capsys.readouterr().out
    assert sweep.states == []


@pytest.mark.slow
def test_two_workers_share_the_trials_of_a_study(sweep):
    sweep.write('hyper.sweep("seed", [1, 2, 3, 4, 5, 6])')
    process = sweep.start("--workers=2")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert sweep.states == ["COMPLETE"] * 6
    assert len({trial.user_attrs["worker"] for trial in sweep.trials}) == 2
    assert output.count("best: trial") == 1
    assert [trial.params["seed"] for trial in sweep.trials] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_worker_that_is_killed_is_started_again_and_loses_nothing(sweep):
    sweep.write('hyper.sweep("seed", [1, 2, 3, 4])', epochs=100)
    process = sweep.start("--workers=2")
    until(lambda: len(list(sweep.run(1).glob("checkpoints/ckpt-*.index"))) > 1, process)
    running = [trial for trial in sweep.trials if trial.state.name == "RUNNING"]
    victim = int(running[-1].user_attrs["worker"].rpartition(":")[2])
    os.kill(victim, signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "ended by SIGKILL, started again" in output
    assert sweep.states == ["COMPLETE"] * 4
    assert all(len(sweep.history(number)) == 100 for number in range(4))


@pytest.mark.slow
def test_workers_of_a_command_share_a_study_on_postgresql(sweep, postgresql):
    url = postgresql.make_database("command")
    sweep.write('hyper.sweep("seed", [1, 2, 3, 4])')
    process = sweep.start("--workers=2", f"--storage={url}")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "secret" not in output and "://***@127.0.0.1" in output
    study = optuna.load_study(
        study_name="sweep",
        storage=url.replace("postgresql:", "postgresql+psycopg:"),
    )
    assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE"] * 4
    notes = [sweep.run(i) / "environment.json" for i in range(4)]
    assert not any("secret" in path.read_text() for path in notes)


@pytest.mark.slow
def test_sigterm_to_the_command_parks_the_trials_of_all_its_workers(sweep):
    sweep.write('hyper.sweep("seed", [1, 2])', epochs=200)
    process = sweep.start("--workers=2")
    histories = [sweep.run(number) / "history.csv" for number in (0, 1)]
    until(lambda: all(path.exists() for path in histories), process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert sweep.states == ["WAITING"] * 2


@pytest.mark.slow
def test_isolated_trials_have_a_process_each(sweep):
    sweep.write('hyper.sweep("seed", [1, 2, 3])')
    process = sweep.start("--isolate")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert sweep.states == ["COMPLETE"] * 3
    assert len({trial.user_attrs["worker"] for trial in sweep.trials}) == 3


@pytest.mark.slow
def test_a_full_disk_stops_the_worker_and_parks_the_trial(sweep, tmp_path):
    if os.getuid() != 0:
        pytest.skip("needs to be root, to make a small disk")
    small = tmp_path / "sweep"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs a machine that lets root make a small disk")
    try:
        sweep.write('hyper.fixed("seed", 1)', epochs=3)
        storage = f"sqlite:///{tmp_path}/study.db"
        process = sweep.start(f"--storage={storage}")
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 1, output
        assert "no room left on the disk" in output and "parked" in output
        study = optuna.load_study(study_name="sweep", storage=storage)
        assert [trial.state.name for trial in study.get_trials()] == ["WAITING"]
    finally:
        subprocess.run(["umount", str(small)], check=True)
