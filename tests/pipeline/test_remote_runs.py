# ruff: noqa: F811
"""Run directories in a store: whole at any moment, gone on with anywhere, by one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import time

import numpy as np
import pytest

pytest.importorskip("fsspec")

from tests.pipeline.training_helpers import (
    changed,
    make_config,
    read_history,
    tree,
    untimed,
)
from tests.remote_stores import faulty  # noqa: F401
from tfr_pipeline import remote
from tfr_pipeline.errors import ConfigError, RunError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.pipeline.run import actions, remote_lock
from tfr_pipeline.pipeline.run.directory import RunDirectory

URL = "faulty://runs/one"
BEST = {
    "export_best_model": True,
    "best_exporter_metric": "ndcg_10",
    "best_exporter_metric_higher_better": True,
}


@pytest.fixture(autouse=True)
def hurried(faulty, monkeypatch):
    monkeypatch.setattr(remote_lock, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(remote_lock, "STALE_SECONDS", 1.5)
    monkeypatch.setattr(remote_lock, "_POLL_SECONDS", 0.1)
    return faulty


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Makes the rest of a test another machine, with an empty cache."""

    def move() -> None:
        monkeypatch.setenv("TFR_PIPELINE_CACHE", str(tmp_path / "elsewhere"))

    return move


def train(config):
    return build_pipeline(config).train_and_validate()


def stored():
    """Returns the content of the files of the run in the store."""
    return {name: remote.read(f"{URL}/{name}") for name in remote.find(URL)}


def history(text):
    lines = [line.split(",") for line in text.decode().splitlines()]
    rows = [zip(lines[0], map(float, row), strict=True) for row in lines[1:]]
    return [untimed(dict(row)) for row in rows]


def test_a_run_in_a_store_is_the_run_of_a_folder(data, tmp_path):
    local = train(make_config(data, tmp_path / "run", **BEST))
    there = train(make_config(data, URL, **BEST))
    for one, other in zip(local.get_weights(), there.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    here, found = tree(tmp_path / "run"), stored()

    def names(files):
        return {n for n in files if not n.startswith("logs/") and ".newest" not in n}

    assert names(found) - {".writer"} == names(here)
    assert history(found["history.csv"]) == [
        untimed(row) for row in read_history(tmp_path / "run")
    ]
    for place in ("latest_model", "best_model_by_metric"):
        version = found[f"export/{place}/.newest"].decode().strip()
        assert f"export/{place}/{version}/saved_model.pb" in found
    measured = [json.loads(files["metrics.json"]) for files in (here, found)]
    assert measured[0]["test"] == measured[1]["test"]
    assert any(name.startswith("logs/train/") for name in found)
    assert "lock" not in found


def broken(names, read):
    """Says what a reader of these files would stumble over."""
    for name in names:
        match = re.fullmatch(r"(checkpoints/(?:ckpt|best)-\d+)\.index", name)
        if match and f"{match[1]}.data-00000-of-00001" not in names:
            return f"{name} without its data"
        if re.fullmatch(r"export/\w+/(\d+/)?saved_model.pb", name):
            folder = name.rpartition("/")[0]
            if f"{folder}/variables/variables.index" not in names:
                return f"{name} without its variables"
    if "checkpoints/checkpoint" in names:
        latest = re.search(rb'^model_.*?"(.*?)"', read("checkpoints/checkpoint"))
        if f"checkpoints/{latest[1].decode()}.index" not in names:
            return f"checkpoints/checkpoint without {latest[1]}"
    if "metrics.json" in names and "export/latest_model/.newest" not in names:
        return "metrics.json without exports"
    return ""


def test_what_is_in_the_store_is_whole_at_any_moment(data, faulty):
    problems, moments = [], []

    def watch(call, path):
        if call not in ("put_file", "rm_file"):
            return
        start = "/runs/one/"
        names = {n[len(start) :] for n in list(faulty.store) if n.startswith(start)}
        found = broken(names, lambda name: faulty.store[start + name].getvalue())
        problems.append(found)
        moments.append(path)
        # What readers look for must not stand beside parts of two.
        name = path[len(start) :]
        model = re.sub(r"/variables/[^/]*$|/assets.extra/[^/]*$", "", name)
        index = re.sub(r"\.data-.*", ".index", name)
        for marker in (f"{model}/saved_model.pb", index):
            if marker != name and marker in names and call == "put_file":
                problems.append(f"{name} is written beside {marker}")

    faulty.watch = watch
    # Twice: versions, exports and checkpoints are replaced too.
    train(make_config(data, URL, num_epochs=2, **BEST))
    train(make_config(data, URL, num_epochs=4, **BEST))
    train(make_config(data, URL, num_epochs=4, **BEST))
    assert len(moments) > 40
    assert not list(filter(None, problems))


def test_another_machine_goes_on_to_the_same_weights(data, tmp_path, elsewhere):
    whole = train(make_config(data, tmp_path / "run", num_epochs=4))
    train(make_config(data, URL, num_epochs=2))
    elsewhere()
    rest = train(make_config(data, URL, num_epochs=4))
    for one, other in zip(whole.get_weights(), rest.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(history(stored()["history.csv"])) == 4


@pytest.mark.slow
def test_a_machine_that_comes_back_takes_what_the_other_one_did(
    data, elsewhere, monkeypatch
):
    before = os.environ["TFR_PIPELINE_CACHE"]
    train(make_config(data, URL, num_epochs=1))
    elsewhere()
    train(make_config(data, URL, num_epochs=2))
    monkeypatch.setenv("TFR_PIPELINE_CACHE", before)
    train(make_config(data, URL, num_epochs=3))
    assert [row["epoch"] for row in history(stored()["history.csv"])] == [0, 1, 2]


@pytest.mark.slow
def test_a_local_folder_that_was_emptied_is_filled_again(data, tmp_path):
    train(make_config(data, URL, num_epochs=2))
    (home,) = (tmp_path / "cache" / "runs").iterdir()
    shutil.rmtree(home / "work")
    train(make_config(data, URL, num_epochs=3))
    assert [row["epoch"] for row in history(stored()["history.csv"])] == [0, 1, 2]


@pytest.mark.slow
def test_a_run_that_was_removed_from_the_store_begins_anew(data, faulty):
    train(make_config(data, URL, num_epochs=2))
    faulty.store.clear()
    train(changed(make_config(data, URL, num_epochs=1), seed=8))
    assert len(history(stored()["history.csv"])) == 1


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["same", "other"])
def test_a_store_that_fails_for_good_loses_nothing(
    data,
    faulty,
    elsewhere,
    tmp_path,
    machine,
    capsys,
):
    whole = train(make_config(data, tmp_path / "run", num_epochs=4))
    puts = []

    def watch(call, path):
        puts.append(call == "put_file")
        if sum(puts) > 20:
            raise ConnectionError("refused")

    faulty.watch = watch
    with pytest.raises(RunError, match=r"folder 'work' of (\S+)\. The same") as caught:
        train(make_config(data, URL, num_epochs=3))
    assert URL in str(caught.value)
    assert "uploaded with the next checkpoint" in capsys.readouterr().err
    kept = re.search(r"'work' of (\S+)\.", str(caught.value))[1]
    assert os.path.isfile(os.path.join(kept, "work", "metrics.json"))
    faulty.watch = None
    if machine == "other":
        elsewhere()
    rest = train(make_config(data, URL, num_epochs=4))
    for one, other in zip(whole.get_weights(), rest.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not broken(set(stored()), lambda name: stored()[name])
    assert "metrics.json" in stored()


def test_sigterm_saves_into_the_store_and_gives_the_place_free(data):
    pipeline = build_pipeline(make_config(data, URL, num_epochs=100))

    def end(step, logs):
        if step >= 25:
            signal.raise_signal(signal.SIGTERM)

    theirs = pipeline.build_callbacks
    pipeline.build_callbacks = lambda: [actions.every_steps(5, end), *theirs()]
    with pytest.raises(SystemExit) as ended:
        pipeline.train_and_validate()
    assert ended.value.code == 143
    found = stored()
    assert b'"ckpt-25"' in found["checkpoints/checkpoint"]
    assert "checkpoints/ckpt-25.index" in found and "lock" not in found


def lock_of(owner, **more):
    content = {"owner": owner, "token": "other", "beat": 1, "time": time.time(), **more}
    remote.write(f"{URL}/lock", json.dumps(content).encode())


def test_another_job_is_noticed_and_named(data):
    with RunDirectory(URL).held():
        # As on another machine: its own folder, and no lock of this one's kernel.
        with pytest.raises(RunError, match=rf"^{URL}: in use by another job, .*:\d+:"):
            remote_lock.RemoteLock(URL)
    remote_lock.RemoteLock(URL).release()
    assert remote.stat(f"{URL}/lock") is None


@pytest.mark.parametrize(
    ("owner", "more"),
    [
        ("elsewhere:1:2026", {}),
        ("elsewhere:1:2026", {"time": 0}),
        (f"{socket.gethostname()}:{2**22 + 1}:2026", {}),
        (f"{socket.gethostname()}:{os.getpid()}:2026", {}),
    ],
    ids=["silent", "old", "ended", "reused"],
)
def test_the_lock_of_a_dead_job_is_taken(owner, more):
    lock_of(owner, **more)
    lock = remote_lock.RemoteLock(URL)
    assert json.loads(remote.read(f"{URL}/lock"))["owner"] != owner
    lock.release()


def test_a_run_whose_place_another_job_took_stops(data):
    run = RunDirectory(URL)
    with pytest.raises(RunError, match="in use by another job, elsewhere"):
        with run.held():
            lock_of("elsewhere:1:2026")
            end = time.monotonic() + 10
            while time.monotonic() < end:
                run.check()
                time.sleep(0.1)
    # It is theirs, and stays.
    assert json.loads(remote.read(f"{URL}/lock"))["token"] == "other"


def test_a_run_whose_place_vanishes_while_it_trains_stops(
    data,
    faulty,
):
    config = make_config(data, URL, num_epochs=10_000)
    pipeline = build_pipeline(config)
    begun = []

    def watch(call, path):
        if path.endswith("/checkpoint") and not begun:
            begun.append(path)
        elif begun and call == "cat_file" and path.endswith("/lock"):
            for name in [n for n in faulty.store if n.startswith("/runs/")]:
                faulty.store.pop(name, None)

    faulty.watch = watch
    with pytest.raises(RunError, match=rf"^{URL}/lock is gone: the run directory was"):
        pipeline.train_and_validate()
    assert os.listdir(pipeline._run.checkpoints)


def test_who_does_not_write_reads_a_copy(data):
    train(make_config(data, URL, num_epochs=1))
    before = stored()
    worker = RunDirectory(URL, chief=False)
    with worker.brought(int):
        assert "ckpt-10.index" in os.listdir(worker.checkpoints)
        worker.write_json("other.json", {})
        worker.mirror()
    assert stored() == before


def test_a_new_run_has_nothing_to_read():
    worker = RunDirectory(URL, chief=False)
    with worker.brought(int):
        assert os.listdir(worker.path) == []


def test_another_config_is_refused(data, elsewhere):
    train(make_config(data, URL, num_epochs=1))
    elsewhere()
    with pytest.raises(ConfigError, match=rf"^{URL} holds another run: .*rate"):
        train(make_config(data, URL, num_epochs=1, learning_rate=0.5))


def test_secrets_in_urls_are_written_nowhere(data, faulty, capsys):
    url = "faulty://ann:s3cr3t@runs/one"
    with RunDirectory(url).held() as _, pytest.raises(RunError) as caught:
        raise RunError(f"{url}: no")
    run = RunDirectory(url)
    with run.held():
        run.claim({"model_dir": url, "seed": 1})
        run.write_environment(1, {"data": "https://host/data?token=t0k3n&part=1"})
    found = b"".join(file.getvalue() for file in faulty.store.values()).decode()
    assert "faulty://***@runs/one" in found and "?token=***&part=1" in found
    said = capsys.readouterr()
    for text in (found, str(caught.value), said.out, said.err):
        assert "s3cr3t" not in text and "t0k3n" not in text
