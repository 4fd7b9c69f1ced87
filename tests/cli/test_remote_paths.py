# ruff: noqa: F811
"""Every path a URL: the same results as with local paths, whatever the store does."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("fsspec")

import fsspec

from tests.cli.command_helpers import LETOR, SMALL, command
from tests.pipeline.training_helpers import environment
from tests.remote_stores import object_storage, s3  # noqa: F401
from tfr_pipeline import remote
from tfr_pipeline.cli.main import main

SIZE = ("--queries=40", "--documents=12", "--features=8")


def whole_path(place, *more):
    """Yields the command lines from raw data to predictions and an export."""
    yield ["synthesize", f"--output={place}/text", *SIZE]
    for split in ("train", "valid", "test"):
        yield [
            *("convert", f"--input={place}/text/{split}.txt"),
            *(f"--output={place}/data", f"--split={split}", "--num_shards=2"),
        ]
    yield [
        *("train", f"--config={LETOR}:dnn", f"--config.data.dir={place}/data"),
        *(f"--config.model_dir={place}/run", *SMALL, *more),
    ]
    yield [
        *("evaluate", f"--model={place}/run", f"--data={place}/data/test-*"),
        *(f"--output={place}/all.json", f"--per_query={place}/queries.tsv"),
    ]
    yield [
        *("predict", f"--model={place}/run", f"--input={place}/text/test.txt"),
        f"--output={place}/ranking.tsv",
    ]
    yield ["export", f"--run={place}/run", f"--output={place}/models"]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Results of the whole path with local paths: the file of predictions, metrics."""
    place = tmp_path_factory.mktemp("local")
    for words in whole_path(place):
        assert main(words) == 0
    return (place / "ranking.tsv").read_bytes(), json.loads(
        (place / "all.json").read_text()
    )


def check_results(place, local):
    assert remote.read(f"{place}/ranking.tsv") == local[0]
    assert json.loads(remote.read(f"{place}/all.json")) == local[1]
    assert remote.read(f"{place}/queries.tsv").startswith(b"split\t")
    found = remote.find(f"{place}/models")
    version = remote.read(f"{place}/models/.newest").decode().strip()
    assert {f"{version}/saved_model.pb", "saved_model.pb"} <= set(found)


@pytest.mark.parametrize(
    "scheme", ["memory", pytest.param("file", marks=pytest.mark.slow)]
)
def test_in_one_process_the_whole_path_gives_what_local_paths_give(
    local, tmp_path, monkeypatch, scheme
):
    monkeypatch.setenv("TFR_PIPELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    place = f"{scheme}://{tmp_path}/place"
    for words in whole_path(place):
        assert main(words) == 0
    check_results(place, local)
    there = {"cache", "place"} if scheme == "file" else {"cache"}
    assert set(os.listdir(tmp_path)) == there  # no folder called `memory:`


def disturbed(store, words, line):
    """Runs a command; kills a server when it says a line, and starts it when missed.

    Args:
      store: The server.
      words: The command.
      line: A part of what the command says; empty to kill the server before it starts.

    Returns:
      The exit code, what it said, and whether it missed the server.
    """
    if not line:
        store.kill()
    process = subprocess.Popen(
        [sys.executable, "-m", "tfr_pipeline", *words],
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = []
    for text in process.stdout:
        said.append(text)
        if line and line in text and store.runs:
            store.kill()
        if "trying again" in text and not store.runs:
            store.start()
    return process.wait(), "".join(said), "trying again" in "".join(said)


@pytest.mark.slow
def test_on_a_server_that_is_killed_and_comes_back_it_gives_the_same(
    local,
    s3,
    tmp_path,
):
    place = f"s3://bucket/{tmp_path.name}"
    lines = {"convert": "", "train": "training step traced", "predict": ""}
    for words in whole_path(place):
        if words[0] in lines and "--split=valid" not in words:
            code, said, missed = disturbed(s3, words, lines[words[0]])
            assert code == 0, said
            assert missed, said
        else:
            done = command(*words)
            assert done.returncode == 0, done.stderr
    check_results(place, local)


@pytest.mark.slow
def test_a_job_that_is_killed_goes_on_on_another_machine(
    s3,
    tmp_path,
):
    place = f"s3://bucket/{tmp_path.name}"
    words = [*whole_path(place, "--config.pipeline.num_epochs=60")]
    for line in words[:4]:
        assert main(line) == 0
    job = subprocess.Popen(
        [sys.executable, "-m", "tfr_pipeline", *words[4]],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    while remote.stat(f"{place}/run/checkpoints/checkpoint") is None:
        time.sleep(0.2)
        assert job.poll() is None
    job.send_signal(signal.SIGKILL)
    job.communicate()
    before = json.loads(remote.read(f"{place}/run/lock"))
    done = command(
        *words[4],
        env=environment(TFR_PIPELINE_CACHE=str(tmp_path / "elsewhere")),
    )
    assert done.returncode == 0, done.stderr
    assert re.search(rf"{place}/run: going on from step \d+ of", done.stdout)
    assert before["owner"].split(":")[1] == str(job.pid)
    assert remote.stat(f"{place}/run/lock") is None
    metrics = json.loads(remote.read(f"{place}/run/metrics.json"))
    history = remote.read(f"{place}/run/history.csv").decode().splitlines()
    assert len(history) == 61 and metrics["step"] == 60 * 10


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["predict", "--model={}/none"], 1, "{}/none: expected a SavedModel"),
        (["evaluate", "--model={}/none"], 1, "{}/none: expected a SavedModel"),
        (["export", "--run={}/none"], 1, "{}/none: no such folder"),
        (["train", "--config.data.dir={}/none"], 1, "{}/none/features.json: not found"),
        (["convert", "--input={}/none-*"], 1, "no file matches '{}/none-*'"),
        (["convert", "--output=s3://no-such-bucket/a"], 2, "no such bucket"),
        (["convert", "--output={}/a.txt"], 2, "expected a folder, found the file"),
        (["predict", "--output={}"], 2, "expected a file, found the folder"),
        (["predict", "--output={}/a.txt"], 2, "is what this command reads"),
    ],
)
def test_bad_paths_are_one_line_that_names_them(
    s3,
    tmp_path,
    capsys,
    words,
    code,
    message,
):
    place = f"s3://bucket/{tmp_path.name}"
    remote.write(f"{place}/a.txt", b"1 qid:1 1:1\n")
    defaults = {
        "convert": {"input": f"{place}/a.txt", "output": f"{place}/data"},
        "predict": {
            "model": f"{place}/model",
            "input": f"{place}/a.txt",
            "output": f"{place}/out",
        },
        "evaluate": {"model": f"{place}/model", "data": f"{place}/a.txt"},
        "export": {"run": f"{place}/run", "output": f"{place}/models"},
        "train": {"config": f"{LETOR}:dnn", "config.model_dir": f"{place}/run"},
    }[words[0]]
    given = dict(word[2:].format(place).split("=", 1) for word in words[1:])
    flags = [f"--{name}={value}" for name, value in {**defaults, **given}.items()]
    assert main([words[0], *flags]) == code
    said = capsys.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message.format(place) in errors[0]
    assert "Traceback" not in said
    assert list(remote.find(place)) == ["a.txt"]


def test_a_store_that_does_not_answer_is_an_error(monkeypatch, capsys, tmp_path):
    pytest.importorskip("s3fs")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-mine")
    monkeypatch.setenv("TFR_PIPELINE_REMOTE_PATIENCE", "0")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(["convert", "--input=s3://bucket/a", "--output=s3://bucket/b"])
    said = capsys.readouterr().err
    assert code == 1
    assert re.match(r"error: s3://bucket/b: .*127.0.0.1:9", said)
    assert "secret-of-mine" not in said + out.getvalue()
