"""`train --ensemble` and `ensemble`: members, their mean, and what was interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time

import numpy as np
import pytest

from tests.cli.command_helpers import command, start
from tests.cluster.launching import finished, kill_what_is_left, launch
from tfr_pipeline.cli.main import main


def flags(project, folder, *more):
    return ["train", *project.train_flags(folder), "--config.seed=5", *more]


def read(path):
    return json.loads(path.read_text())


def lists_and_scores(project, *models):
    """Returns the test lists, and the scores of each model."""
    from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
    from tfr_pipeline.pipeline.datasets.multi_label import builder_from_features
    from tfr_pipeline.serving.predictor import Predictor

    predictors = [Predictor(str(model)) for model in models]
    hparams = DatasetHparams("", f"{project.data}/test-*", 1, 1)
    builder = builder_from_features(predictors[0].features, hparams)
    lists = builder.lists("valid", "packed")
    return lists, [predictor.score(lists) for predictor in predictors]


@pytest.fixture(scope="module")
def ensemble(project, tmp_path_factory):
    """An ensemble of two, trained in this process."""
    folder = tmp_path_factory.mktemp("ensembles") / "two"
    assert main(flags(project, folder, "--ensemble=2")) == 0
    return folder


def test_an_ensemble_scores_as_its_members_on_average_and_says_how_well(
    project, ensemble
):
    from tfr_pipeline.metrics.evaluation import evaluate_lists

    members = [ensemble / f"member-{i}" for i in range(2)]
    lists, (found, *others) = lists_and_scores(project, ensemble, *members)
    assert np.abs(others[0] - others[1]).max() > 0.01
    np.testing.assert_allclose(found, np.mean(others, axis=0), rtol=0, atol=2e-6)
    metrics = read(ensemble / "metrics.json")
    wanted = evaluate_lists(lists.labels, found, lists.row_splits)
    found = metrics["test"]["ndcg@10"]
    assert found["skip"] == pytest.approx(wanted["ndcg@10"]["skip"])
    assert [one["seed"] for one in metrics["members"]] == [5, 6]
    for one, member in zip(metrics["members"], members, strict=True):
        of_run = read(member / "metrics.json")
        assert one["run"] == member.name
        assert (one["valid"], one["test"]) == (of_run["valid"], of_run["test"])
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(ensemble / "per_query.parquet").to_pylist()
    values = [row["ndcg@10"] for row in rows if row["split"] == "test"]
    mean = np.mean([value for value in values if value is not None])
    assert mean == pytest.approx(metrics["test"]["ndcg@10"]["skip"])


def test_commands_take_an_ensemble_as_any_run(project, ensemble, tmp_path):
    data, output = f"--data={project.data}/test-*", tmp_path / "measured.json"
    words = ["evaluate", f"--model={ensemble}", data, f"--output={output}"]
    assert main(words) == 0
    assert read(output) == read(ensemble / "metrics.json")["test"]
    ranked = tmp_path / "ranked.tsv"
    source = f"--input={project.text}/test.txt"
    words = ["predict", f"--model={ensemble}", source, f"--output={ranked}"]
    assert main(words) == 0
    _, (scores,) = lists_and_scores(project, ensemble)
    lines = ranked.read_text().splitlines()
    written = [float(line.split("\t")[3]) for line in lines]
    np.testing.assert_allclose(sorted(written), np.sort(scores), atol=1e-5)


def test_runs_that_are_there_are_averaged_and_measured(
    project, ensemble, tmp_path, capsys
):
    runs = [str(ensemble / f"member-{i}") for i in range(2)]
    out = tmp_path / "out"
    for _ in range(2):  # again, in the same place
        assert main(["ensemble", *runs, f"--output={out}"]) == 0
        found, before = read(out / "metrics.json"), read(ensemble / "metrics.json")
        assert found["test"] == before["test"] and found["valid"] == before["valid"]
    assert "test ensemble" in capsys.readouterr().out
    assert len([p for p in (out / "export").glob("*/*") if p.name.isdigit()]) == 1
    assert (out / "per_query.parquet").exists()
    (out / "report.html").write_text("of `report --run=OUT`")
    # Others in their place, which no config says the data of.
    other = f"{runs[0]}/export/latest_model"
    assert main(["ensemble", other, f"--output={out}"]) == 0
    _, (found, wanted) = lists_and_scores(project, out, other)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)
    assert not (out / "per_query.parquet").exists()


def test_runs_with_other_folds_are_averaged_and_not_measured(
    ensemble, tmp_path, capsys
):
    other = tmp_path / "other"
    shutil.copytree(ensemble / "member-1", other, symlinks=True)
    config = read(other / "config.json")
    config["data"]["folds"] = 3
    (other / "config.json").write_text(json.dumps(config))
    words = [str(ensemble / "member-0"), str(other), f"--output={tmp_path / 'out'}"]
    assert main(["ensemble", *words]) == 0
    assert "not measured: data.folds is None in" in capsys.readouterr().out
    assert "test" not in read(tmp_path / "out" / "metrics.json")
    assert not (tmp_path / "out" / "per_query.parquet").exists()


def test_a_member_that_is_named_twice_is_refused(ensemble, tmp_path, capsys):
    runs = [str(ensemble / "member-0"), f"{ensemble}/./member-0"]
    assert main(["ensemble", *runs, f"--output={tmp_path / 'out'}"]) == 2
    assert "named more than once" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "keys", "value", "message"),
    [
        ("config.json", ["data", "test_fold"], 1, "data.test_fold is None in"),
        *(
            ("environment.json", ["data", split, "x"], "1 byte", f": {split}: new x")
            for split in ("train", "test")
        ),
        ("environment.json", ["data", "train", "teacher x"], "1 byte", None),
    ],
)
def test_runs_with_other_lists_are_not_measured(
    ensemble, tmp_path, name, keys, value, message
):
    from tfr_pipeline.experiment.ensemble import _builder_of, _read

    runs, said = [str(tmp_path / f"member-{i}") for i in range(2)], []
    for run in runs:
        for file in ("config.json", "environment.json"):
            source = ensemble / os.path.basename(run) / file
            (tmp_path / os.path.basename(run)).mkdir(exist_ok=True)
            shutil.copy(source, run)
    content = read(tmp_path / "member-1" / name)
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (tmp_path / "member-1" / name).write_text(json.dumps(content))
    told = [_read(run, "config.json") for run in runs]
    builder = _builder_of(runs, told, said.append)
    assert (builder is None) == bool(message)
    assert bool(said) == bool(message)
    assert not message or message in said[0]


def test_data_that_was_converted_again_is_not_measured(ensemble, tmp_path):
    from tfr_pipeline.experiment.ensemble import _builder_of, _read

    run, said = str(ensemble / "member-0"), []
    config = _read(run, "config.json")
    data = tmp_path / "data"
    shutil.copytree(config["data"]["dir"], data)
    config["data"]["dir"] = str(data)
    assert _builder_of([run], [config], said.append) is not None
    for path in data.glob("test-*"):
        path.write_bytes(b"other" * 10)
    assert _builder_of([run], [config], said.append) is None
    assert "is not that of now: test: " in said[0]
    assert _builder_of(["s3://bucket/run"], [{}], said.append) is None
    assert "s3://bucket/run is remote. Copy it" in said[1]


def test_what_cannot_be_is_said_before_anything_is_trained(
    project, ensemble, tmp_path, capsys, monkeypatch
):
    def refused(*words, told):
        try:
            code = main(list(words))
        except SystemExit as error:
            code = error.code
        assert code in (1, 2)
        assert told in capsys.readouterr().err

    run = ensemble / "member-0"
    out = tmp_path / "out"
    refused(*flags(project, run, "--ensemble=2"), told="'checkpoints' in it")
    refused(*flags(project, out, "--ensemble=0"), told="expected 1 or more")
    refused(*flags(project, out, "--workers=2"), told="no effect without --ensemble")
    remote = flags(project, "s3://bucket/out", "--ensemble=2")
    refused(*remote, told="expected a folder of this machine for an ensemble")
    refused("ensemble", str(tmp_path), f"--output={out}", told="expected a SavedModel")
    refused("ensemble", str(run), f"--output={run}", told="which this command reads")
    refused("ensemble", f"--output={out}", told="RUN")
    changed = flags(project, ensemble, "--ensemble=2", "--config.data.list_size=3")
    refused(*changed, told="holds another run: data.list_size is None there")
    for job, told in (
        (["ps"], "of workers alone, found"),
        ([], "--workers: it has no"),
    ):
        jobs = {name: [f"{name}:1"] for name in ("chief", "worker", *job)}
        task = {"type": "worker", "index": 0}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": jobs, "task": task}))
        refused(*flags(project, out, "--ensemble=2", "--workers=2"), told=told)
    assert not out.exists()


def train_here(configs, command, workers, say):
    """Stands for processes of the members."""
    for one in configs:
        own = f"--config.seed={one['seed']}", f"--config.model_dir={one['model_dir']}"
        assert main([*command, *own]) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_members_that_have_ended_are_not_trained_or_averaged_again(
    project, ensemble, capsys, monkeypatch, workers
):
    from tfr_pipeline.cluster import beat, heartbeat
    from tfr_pipeline.experiment import member_processes

    monkeypatch.setattr(heartbeat, "_before", 0)
    monkeypatch.setattr(heartbeat, "_now", beat.Beat())
    monkeypatch.setattr(member_processes, "train", train_here)
    files = [path for path in sorted(ensemble.rglob("*")) if path.is_file()]
    before = [path.stat().st_mtime_ns for path in files]
    capsys.readouterr()
    words = flags(project, ensemble, "--ensemble=2", f"--workers={workers}")
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "test ensemble" in said and "member 1 of 2" not in said
    assert [path.stat().st_mtime_ns for path in files] == before
    if workers == 1:  # a supervisor hears of the steps of both
        steps = [read(ensemble / f"member-{i}/metrics.json")["step"] for i in range(2)]
        assert heartbeat.now().step == sum(steps)


def test_a_run_has_ended_when_it_has_its_epochs_and_exports(ensemble, tmp_path):
    from tfr_pipeline.experiment.build import build_pipeline
    from tfr_pipeline.pipeline.run.at_checkpoint import has_ended

    run = tmp_path / "run"
    shutil.copytree(ensemble / "member-0", run, symlinks=True)
    config = {**read(run / "config.json"), "model_dir": str(run)}

    def ended(**told):
        pipeline = build_pipeline(config | {"pipeline": config["pipeline"] | told})
        return has_ended(pipeline)

    epochs = config["pipeline"]["num_epochs"]
    metrics = read(run / "metrics.json")
    assert metrics["epochs"] == epochs and ended() and not ended(num_epochs=epochs + 1)
    # It was stopped while it went on; a copy has other times.
    more = config | {"pipeline": config["pipeline"] | {"num_epochs": epochs + 1}}
    (run / "config.json").write_text(json.dumps(more))
    os.utime(run / "metrics.json")
    assert not ended(num_epochs=epochs + 1)
    metrics["stopped"] = "no better epoch"
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert ended(num_epochs=epochs + 1)
    # Written by an earlier version.
    (run / "config.json").write_text(json.dumps(config))
    old = {k: v for k, v in metrics.items() if k not in ("epochs", "stopped")}
    (run / "metrics.json").write_text(json.dumps(old))
    assert not ended()
    (run / "metrics.json").write_text(json.dumps(metrics))
    for name in ("best_model_by_metric", "latest_model"):
        assert ended()
        kept = (run / "export" / name).rename(tmp_path / name)
        assert ended() == (name[:4] == "best" and metrics["best_step"] is None)
        (run / "export" / name).mkdir()
        assert not ended()
        (run / "export" / name).rmdir()
        kept.rename(run / "export" / name)


def test_an_ensemble_that_was_killed_while_it_was_averaged_is_averaged_again(
    ensemble, tmp_path
):
    from tfr_pipeline.experiment.ensemble import _combined, combine_once
    from tfr_pipeline.serving import versions

    folder = tmp_path / "two"
    shutil.copytree(ensemble, folder, symlinks=True)
    runs = [str(folder / f"member-{i}") for i in range(2)]
    os.utime(folder / "metrics.json")
    whole = _combined(runs, str(folder))
    assert whole == read(folder / "metrics.json")
    about = read(folder / "ensemble.json")
    # Of one member less, killed before it had an export: all else is of both.
    one = {"members": about["members"][:1]}
    (folder / "ensemble.json").write_text(json.dumps(one))
    assert not _combined(runs[:1], str(folder))
    (folder / "metrics.json").write_text(json.dumps(whole | one))
    assert not _combined(runs[:1], str(folder))  # the export is of both
    content = combine_once(runs[:1], str(folder))
    assert content == _combined(runs[:1], str(folder))
    assert not _combined(runs, str(folder))
    assert [found["run"] for found in content["members"]] == ["member-0"]
    newest = versions.find_export(str(folder))
    assert os.path.basename(newest) == os.path.basename(versions.find_export(runs[0]))
    # A member was exported again since, or its export is gone.
    about = (folder / "ensemble.json").read_text()
    (folder / "ensemble.json").write_text(about.replace(runs[0], "moved"))
    assert _combined(runs[:1], str(folder))
    number = os.path.basename(newest)
    (folder / "ensemble.json").write_text(about.replace(f"/{number}", "/7"))
    assert not _combined(runs[:1], str(folder))
    (folder / "ensemble.json").write_text(about)
    assert _combined(runs[:1], str(folder))
    versions.remove(str(folder / "export" / "latest_model"))
    assert not _combined(runs[:1], str(folder))


def test_who_waits_says_for_whom_once(ensemble, tmp_path, monkeypatch, capsys):
    from tfr_pipeline.experiment.ensemble import combine_once, train
    from tfr_pipeline.pipeline.run import lock

    folder, said, naps = tmp_path / "two", [], []
    shutil.copytree(ensemble, folder, symlinks=True)
    runs = [str(folder / f"member-{i}") for i in range(2)]
    os.utime(folder / "metrics.json")

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 2:
            held.release()

    monkeypatch.setattr(time, "sleep", nap)
    held = lock.RunLock(str(folder))
    assert combine_once(runs, str(folder), say=said.append)
    held = lock.RunLock(runs[0])
    config = read(folder / "member-0" / "config.json") | {"model_dir": runs[0]}
    naps.clear()
    train([config], said.append)
    assert len(said) == 3 and "which train member 1" in said[1]
    for line, place in ((said[0], folder), (said[2], runs[0])):
        assert f":{os.getpid()}:" in line and f"remove {place}/lock" in line
    # `ensemble` does not mix its files with those of another one.
    with lock.held(str(folder)):
        assert main(["ensemble", runs[0], f"--output={folder}"]) == 1
    assert "in use by another job" in capsys.readouterr().err


@pytest.mark.slow
def test_an_ensemble_that_was_killed_goes_on(project, ensemble, tmp_path):
    folder = tmp_path / "killed"
    words = flags(project, folder, "--ensemble=2", "--workers=2")
    words.append("--config.pipeline.checkpoint_every_steps=1")
    process = start(*words)
    checkpoint = folder / "member-0" / "checkpoints" / "checkpoint"
    limit = time.monotonic() + 200
    while not checkpoint.exists() and time.monotonic() < limit:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "metrics.json").exists()
    # Members die with the command: nobody is left in their folders.
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert "member-1: " in done.stdout and "test ensemble" in done.stdout
    for number in range(2):
        name = f"member-{number}/metrics.json"
        assert read(folder / name)["step"] == read(ensemble / name)["step"]
    # Processes with other numbers of threads add up in another order.
    _, (killed, whole) = lists_and_scores(project, folder, ensemble)
    assert np.corrcoef(killed, whole)[0, 1] > 0.99


def until(there, process, limit=300.0):
    """Waits for a file that a process writes."""
    end = time.monotonic() + limit
    while not there.exists():
        assert process.poll() is None and time.monotonic() < end, there
        time.sleep(0.02)


def children(process):
    """Returns the processes that a launcher has started."""
    path = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(path) as file:
        return [int(word) for word in file.read().split()]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["MultiWorkerMirroredStrategy", "None"])
def test_a_job_whose_worker_was_killed_does_not_train_again_what_has_ended(
    project, tmp_path, strategy
):
    folder = tmp_path / "job"
    words = flags(project, folder, "--ensemble=3", f"--config.pipeline.{strategy=!s}")
    words.append("--config.pipeline.checkpoint_every_steps=1")
    process = launch(sys.executable, "-m", "tfr_pipeline", *words, grace=30)
    try:
        ended = folder / "member-0" / "metrics.json"
        until(folder / "member-2" / "checkpoints" / "checkpoint", process)
        before = ended.stat().st_mtime_ns if ended.exists() else None
        os.kill(children(process)[1], signal.SIGKILL)
        code, said = finished(process, 400)
    finally:
        kill_what_is_left()
    assert code == 0, said
    assert "restart 1 of 3" in said and said.count("members averaged") == 1
    assert said.count("test ensemble") == 1
    if before is not None:
        assert ended.stat().st_mtime_ns == before
    together = strategy != "None"
    assert before is not None or not together
    for number in range(3):
        environment = read(folder / f"member-{number}" / "environment.json")
        assert environment["replicas"] == 1 + together
    members = [folder / f"member-{number}" for number in range(3)]
    _, (found, *others) = lists_and_scores(project, folder, *members)
    np.testing.assert_allclose(found, np.mean(others, axis=0), rtol=0, atol=2e-6)
    assert np.abs(others[0] - others[2]).max() > 0.01


@pytest.mark.slow
def test_commands_on_several_machines_share_the_members_and_one_that_dies_is_replaced(
    project, tmp_path
):
    folder = tmp_path / "shared"
    words = flags(project, folder, "--ensemble=2")
    words.append("--config.pipeline.checkpoint_every_steps=1")

    first = start(*words)
    until(folder / "member-0" / "lock", first)
    second = start(*words)
    until(folder / "member-1" / "lock", second)
    until(folder / "member-0" / "checkpoints" / "checkpoint", first)
    first.kill()
    first.communicate()
    said, _ = second.communicate(timeout=400)
    assert second.returncode == 0, said
    assert "member 2 of 2" in said and "going on from step" in said
    assert [one["seed"] for one in read(folder / "metrics.json")["members"]] == [5, 6]


@pytest.mark.slow
def test_a_member_that_fails_names_itself_and_stops_the_others(project, tmp_path):
    folder = tmp_path / "failing"
    (folder / "member-1").mkdir(parents=True)
    (folder / "member-1" / "config.json").write_text('{"model_dir": "other"}')
    done = command(*flags(project, folder, "--ensemble=2", "--workers=2"))
    assert done.returncode == 2
    assert "error: member-1: " in done.stderr and "holds another run" in done.stderr
    assert not (folder / "metrics.json").exists()
