"""Where commands find their input: pipes, folders, the home, names with commas."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import threading

import pytest

from tests.pipeline.training_helpers import environment, read_json, tree
from tfr_pipeline.cli.main import main


def converted(folder):
    """Returns what a conversion wrote, without the names of its input."""
    found = {k: v for k, v in tree(folder).items() if not k.endswith("stats.json")}
    statistics = read_json(pathlib.Path(folder, "train.stats.json"))
    statistics["files"] = [file["bytes"] for file in statistics["files"]]
    return found, statistics


@pytest.fixture(scope="module")
def expected(project, tmp_path_factory):
    """What becomes of the text of the training queries."""
    output = tmp_path_factory.mktemp("expected") / "data"
    text = project.text / "train.txt"
    assert main(["convert", f"--input={text}", f"--output={output}"]) == 0
    return converted(output)


def fed(path, content):
    """Writes into a pipe, beside the test."""
    thread = threading.Thread(target=pathlib.Path(path).write_bytes, args=(content,))
    thread.start()
    return thread


def test_a_pipe_is_converted_as_a_file(project, expected, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = fed(tmp_path / "pipe", (project.text / "train.txt").read_bytes())
    output = tmp_path / "data"
    assert main(["convert", f"--input={tmp_path}/pipe", f"--output={output}"]) == 0
    writer.join()
    assert converted(output) == expected
    (file,) = read_json(output / "train.stats.json")["files"]
    assert file["path"] == f"{tmp_path}/pipe"


def test_standard_input_is_converted_as_a_file(project, expected, tmp_path):
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "tfr_pipeline", "convert"),
            *("--input=-", f"--output={tmp_path}/data"),
        ],
        env=environment(),
        stdin=subprocess.PIPE,
    ) as process:
        process.communicate((project.text / "train.txt").read_bytes(), timeout=120)
    assert process.returncode == 0
    assert converted(tmp_path / "data") == expected


def test_errors_in_a_pipe_have_its_name(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    writer = fed(tmp_path / "pipe", b"1 qid:1 1:1\n2 qid:1 1:x\n")
    words = [f"--input={tmp_path}/pipe", f"--output={tmp_path}/data"]
    assert main(["convert", *words]) == 1
    writer.join()
    assert f"error: {tmp_path}/pipe:2: " in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["pipe"]


def test_what_is_read_more_than_once_cannot_be_a_pipe(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    words = ["--model=m", f"--data={tmp_path}/pipe"]
    assert main(["evaluate", *words]) == 1
    assert "found the stream" in capsys.readouterr().err


def test_a_pipe_is_ranked_to_standard_output_as_a_file_to_a_file(
    trained, tmp_path, capfd
):
    text = trained.text / "test.txt"
    words = ["predict", f"--model={trained.run}"]
    assert main([*words, f"--input={text}", f"--output={tmp_path}/o"]) == 0
    os.mkfifo(tmp_path / "pipe")
    writer = fed(tmp_path / "pipe", text.read_bytes())
    capfd.readouterr()
    assert main([*words, f"--input={tmp_path}/pipe", "--output=-"]) == 0
    writer.join()
    captured = capfd.readouterr()
    assert captured.out == (tmp_path / "o").read_text()
    assert "queries ranked" in captured.err


def test_a_folder_is_all_its_files(project, expected, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    lines = (project.text / "train.txt").read_text().splitlines(keepends=True)
    queries = [line.split()[1] for line in lines]
    middle = queries.index(queries[len(lines) // 2])
    (source / "part-0").write_text("".join(lines[:middle]))
    (source / "part-1").write_text("".join(lines[middle:]))
    for name in ("_SUCCESS", ".part-0.crc"):
        (source / name).write_text("not data")
    output = tmp_path / "data"
    assert main(["convert", f"--input={source}", f"--output={output}"]) == 0
    found, statistics = converted(output)
    assert statistics["documents"] == expected[1]["documents"]
    assert found["features.json"] == expected[0]["features.json"]


def test_a_folder_with_all_splits_asks_for_one(project, capsys):
    assert main(["evaluate", "--model=m", f"--data={project.data}"]) == 1
    assert f"'{project.data}/test-*'" in capsys.readouterr().err


def test_data_in_a_folder_with_commas_below_the_home_is_found(
    project, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(project.data, tmp_path / "a,b" / "data")
    flags = [*project.train_flags("~/run"), "--config.data.dir=~/a,b/data"]
    assert main(["train", *flags, "--dry_run"]) == 0
    assert "training: 2 epochs of 10 steps" in capsys.readouterr().out
    assert main(["new", "~/mine"]) == 0
    assert (tmp_path / "mine" / "configs" / "letor.py").exists()
    # Nothing is called "~", neither here nor there.
    assert not os.path.exists("~") and not (tmp_path / "run").exists()
