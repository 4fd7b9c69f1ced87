"""Trials that are jobs of a launcher: several workers train one together."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import time

import pytest

from tests.pipeline.training_helpers import ROOT
from tests.sweep.test_sweep import Sweep, until
from tfr_pipeline.cli.main import main

optuna = pytest.importorskip("optuna")

TWO = "--launch=launch/local.sh --workers=2 --grace=30 --"
MWMS = "--config.pipeline.strategy=MultiWorkerMirroredStrategy"
# The second trial is behind the first after an epoch.
PRUNING = (
    'hyper.study(hyper.sweep("pipeline.learning_rate", [0.05, 1e-9]), '
    'pruner="median", pruner_args={"n_startup_trials": 1})'
)


@pytest.fixture
def sweep(tmp_path, data, monkeypatch):
    monkeypatch.setenv("TFR_PIPELINE_SWEEP_BEAT", "0.5")
    monkeypatch.chdir(ROOT)
    return Sweep(tmp_path, data)


def log(sweep: Sweep, number: int) -> str:
    return (sweep.run(number) / "job.log").read_text()


def processes(sweep: Sweep) -> list[int]:
    """Returns the processes of jobs, with those of their launchers."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if f"--job={sweep.folder}/".encode() in words:
                found.append(int(entry.name))
    return found


def saved(sweep: Sweep, number: int) -> list[pathlib.Path]:
    return list(sweep.run(number).glob("checkpoints/ckpt-*.index"))


def finish(sweep: Sweep, *words: str) -> str:
    """Runs the command to its end; returns what it said."""
    process = sweep.start(*words)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return output


# What needs no job, or one of a single process.


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("launch/local.sh --workers=2", "ends with --"),
        ("", "ends with --"),
        ("launch/lcal.sh --workers=2 --", "'launch/lcal.sh': no such command"),
        ("configs/letor.py --", "chmod +x"),
        ("launch/local.sh 'a --", "No closing quotation"),
    ],
)
def test_a_wrong_launcher_is_explained_before_the_first_trial(
    sweep, capsys, text, wanted
):
    sweep.write()
    assert main(sweep.words(f"--launch={text}")) == 2
    error = capsys.readouterr().err
    assert "--launch" in error and wanted in error
    assert not sweep.folder.exists()


def test_a_dry_run_shows_the_command_of_a_trial(sweep, capsys):
    sweep.write()
    with pytest.warns(UserWarning, match="--isolate has no effect"):
        assert main(sweep.words(TWO, "--dry_run", "--isolate")) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("job of trial 0: launch/local.sh --workers=2 --grace=30 --")
    assert f"--job={sweep.run(0)}/job.json" in first
    assert not sweep.folder.exists()


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        ("echo '[worker 1] error: no luck'; echo bye; exit 3", "no luck (job"),
        ("echo first; echo last; exit 3", "last (job ended with exit code 3"),
        ("exit 3", "the job said nothing"),
        ("kill -9 $$", "job ended with signal 9"),
        ("true", "metrics.json"),
        ("echo 'error: write: No space left on device'; exit 1", None),
    ],
)
def test_a_job_that_fails_is_a_trial_that_failed(sweep, capsys, script, wanted):
    sweep.write('hyper.fixed("seed", 1)')
    code = main(sweep.words(f'--launch=sh -c "{script}" --'))
    if wanted is None:  # no fault of the trial
        assert code == 1 and sweep.states == ["WAITING"]
        assert "no room left" in capsys.readouterr().err
        return
    assert code == 0 and sweep.states == ["FAIL"]
    assert wanted in sweep.trials[0].user_attrs["reason"]
    assert log(sweep, 0).startswith("$ sh -c")
    left = {path.name for path in sweep.run(0).iterdir()}
    assert left == {"job.log", "error.txt"}


def test_a_job_that_somebody_else_ends_parks_the_trial(sweep):
    sweep.write('hyper.fixed("seed", 1)')
    with pytest.raises(SystemExit, match="143"):
        main(sweep.words('--launch=sh -c "exit 143" --'))
    assert sweep.states == ["WAITING"]


@pytest.mark.slow
def test_a_trial_comes_to_the_same_as_a_job(sweep, tmp_path, data):
    sweep.write('hyper.fixed("seed", 3)', epochs=2)
    assert main(sweep.words("--launch=env --")) == 0
    here = Sweep(tmp_path, data)
    here.folder = tmp_path / "here"
    assert main(here.words("--name=here")) == 0
    job, alone = sweep.read(0)["valid"], here.read(0)["valid"]
    assert job["ndcg@10"]["skip"] == pytest.approx(alone["ndcg@10"]["skip"], abs=1e-6)
    assert sweep.trials[0].values == [job["ndcg@10"]["skip"]]


# Jobs of two workers.


@pytest.mark.slow
def test_each_trial_of_a_study_is_trained_by_two_workers(sweep):
    sweep.write('hyper.sweep("pipeline.learning_rate", [1e-9, 0.05, 0.01, 1e-8])')
    output = finish(sweep, TWO, MWMS, "--keep=1")
    assert sweep.states == ["COMPLETE"] * 4 and "4 of 4 finished" in output
    values = [sweep.read(number)["valid"]["ndcg@10"]["skip"] for number in range(4)]
    assert [trial.values for trial in sweep.trials] == [[value] for value in values]
    for number in range(4):
        environment = sweep.read(number, "environment.json")
        assert environment["replicas"] == 2
        assert not list(sweep.run(number).glob("job*.json"))
    best = max(range(4), key=lambda number: values[number])
    kept = [number for number in range(4) if saved(sweep, number)]
    assert kept == [best]


@pytest.mark.slow
def test_both_workers_of_a_pruned_trial_leave_after_the_same_epoch(sweep):
    sweep.write(PRUNING, epochs=4)
    finish(sweep, TWO, MWMS)
    assert sweep.states == ["COMPLETE", "PRUNED"]
    logged = [float(row["val_metric/ndcg_10"]) for row in sweep.history(0)]
    reported = sweep.trials[0].intermediate_values
    assert list(reported) == [1, 2, 3, 4]
    assert list(reported.values()) == pytest.approx(logged, abs=1e-6)
    said = re.findall(r"\[(worker \d)\] pruned after epoch (\d)", log(sweep, 1))
    epoch = len(sweep.history(1))
    assert epoch < 4
    assert sorted(said) == [(f"worker {i}", str(epoch)) for i in (0, 1)]
    assert list(sweep.trials[1].intermediate_values) == list(range(1, epoch + 1))
    # It ended by itself: nobody was killed, nothing started again.
    assert "[job]" not in log(sweep, 1)
    assert "pruned after" not in log(sweep, 0)
    assert not (sweep.run(1) / "metrics.json").exists()
    assert not saved(sweep, 1)


@pytest.mark.slow
def test_sigterm_stops_the_job_parks_the_trial_and_it_goes_on(sweep):
    sweep.write('hyper.study(hyper.sweep("seed", [1]), pruner="median")', epochs=60)
    process = sweep.start(TWO, MWMS)
    until(lambda: len(saved(sweep, 0)) == 2, process, 300)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    assert "trial 0: parked" in output
    assert sweep.states == ["WAITING"] and not processes(sweep)
    done = len(sweep.history(0))
    assert 0 < done < 60
    assert "killing" not in log(sweep, 0)
    finish(sweep, TWO, MWMS)
    assert sweep.states == ["COMPLETE"]
    assert len(sweep.history(0)) == 60
    assert "going on from step" in log(sweep, 0)


@pytest.mark.slow
def test_a_killed_worker_of_the_sweep_takes_its_job_along(sweep):
    sweep.write('hyper.sweep("seed", [1, 2])', epochs=40)
    process = sweep.start(TWO, MWMS)
    until(lambda: len(saved(sweep, 0)) == 2, process, 300)
    assert len(processes(sweep)) == 3
    process.kill()
    process.wait()
    limit = time.monotonic() + 5.0
    while processes(sweep):
        assert time.monotonic() < limit, "the job runs on"
        time.sleep(0.05)
    assert sweep.states == ["RUNNING"]
    finish(sweep, TWO, MWMS)
    assert sweep.states == ["COMPLETE"] * 2
    assert [len(sweep.history(number)) for number in (0, 1)] == [40, 40]
    assert log(sweep, 0).count("going on from step") == 1


@pytest.mark.slow
def test_a_killed_worker_of_the_job_is_the_matter_of_its_launcher(sweep):
    sweep.write('hyper.study(hyper.sweep("seed", [1]), pruner="median")', epochs=40)
    process = sweep.start(TWO, MWMS)
    until(lambda: len(saved(sweep, 0)) == 2, process, 300)
    os.kill(max(processes(sweep)), signal.SIGKILL)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert "restart 1 of 3" in log(sweep, 0)
    assert sweep.states == ["COMPLETE"]
    assert len(sweep.history(0)) == 40
    assert list(sweep.trials[0].intermediate_values) == list(range(1, 41))


@pytest.mark.slow
def test_the_reason_of_a_failed_job_is_its_error_and_the_study_goes_on(sweep):
    sweep.write(
        'hyper.product(hyper.fixed("pipeline.optimizer", "sgd"), '
        'hyper.sweep("pipeline.learning_rate", [1e38, 0.01]))'
    )
    finish(sweep, TWO.replace("--grace", "--max_restarts=0 --grace"), MWMS)
    assert sweep.states == ["FAIL", "COMPLETE"]
    assert "NaN or infinite" in sweep.trials[0].user_attrs["reason"]


@pytest.mark.slow
def test_workers_of_a_sweep_have_a_job_each_also_for_repeats(sweep):
    sweep.write('hyper.sweep("pipeline.learning_rate", [0.01, 0.02])')
    words = (TWO, MWMS, "--workers=2", "--repeats=2")
    finish(sweep, *words)
    assert sweep.states == ["COMPLETE"] * 2
    assert len({trial.user_attrs["worker"] for trial in sweep.trials}) == 2
    for number in (0, 1):
        spread = sweep.trials[number].user_attrs["spread"]["ndcg@10"]
        assert len(spread["values"]) == 2
        for repeat in (1, 2):
            assert (sweep.run(number) / f"repeat-{repeat}" / "job.log").exists()


@pytest.mark.slow
def test_a_job_with_parameter_servers_is_pruned_by_its_chief(sweep):
    sweep.write(PRUNING, epochs=3)
    finish(
        sweep,
        TWO.replace("--workers=2", "--workers=1 --ps=1"),
        "--config.pipeline.strategy=ParameterServerStrategy",
    )
    assert sweep.states == ["COMPLETE", "PRUNED"]
    assert "[chief 0] pruned after epoch" in log(sweep, 1)
    assert "restart" not in log(sweep, 1)
