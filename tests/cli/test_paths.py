"""What becomes of paths: empty ones, and what is at the place of an output."""

from __future__ import annotations

import pytest

from tests.pipeline.training_helpers import tree
from tfr_pipeline.cli.main import main

# Every flag of every command that takes paths, and what else the command wants.
PATH_FLAGS = [
    ("convert", "--input", ["--output=o"]),
    ("convert", "--output", ["--input=kept"]),
    ("convert", "--features", ["--input=kept", "--output=o"]),
    ("convert", "--query_file", ["--input=kept", "--output=o"]),
    ("synthesize", "--output", []),
    ("train", "--config", []),
    ("evaluate", "--model", ["--data=kept"]),
    ("evaluate", "--data", ["--model=m"]),
    ("evaluate", "--output", ["--model=m", "--data=kept"]),
    ("predict", "--model", ["--input=kept", "--output=o"]),
    ("predict", "--input", ["--model=m", "--output=o"]),
    ("predict", "--output", ["--model=m", "--input=kept"]),
    ("predict", "--query_file", ["--model=m", "--input=kept", "--output=o"]),
    ("export", "--run", ["--output=o"]),
    ("export", "--output", ["--run=r"]),
    ("doctor", "--data", []),
    ("new", "", []),
]


def usage_error(capsys, *words):
    """Runs a command that is used in a wrong way; returns its one line."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("path", ["", "  "])
@pytest.mark.parametrize(("command", "flag", "others"), PATH_FLAGS)
def test_an_empty_path_is_wrong_usage_and_changes_nothing(
    command, flag, others, path, tmp_path, monkeypatch, capsys
):
    (tmp_path / "kept").write_text("1 qid:1 1:1\n")
    before = tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = [f"{flag}={path}"] if flag else [path]
    error = usage_error(capsys, command, *words, *others)
    assert "expected a path, found nothing" in error
    assert (flag or "DIR") in error
    assert tree(tmp_path) == before


# What is there already


def test_synthesize_replaces_files_only_by_force(tmp_path, capsys):
    words = ["synthesize", f"--output={tmp_path}", "--queries=4", "--documents=4"]
    (tmp_path / "valid.txt").write_text("precious")
    before = tree(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}/valid.txt" in error and "--force" in error
    assert tree(tmp_path) == before
    assert main([*words, "--force"]) == 0
    assert set(tree(tmp_path)) == {"train.txt", "valid.txt", "test.txt"}
    assert b"qid:" in tree(tmp_path)["valid.txt"]


@pytest.mark.parametrize("name", ["train-00000-of-00002.tfrecord", "features.json"])
def test_convert_replaces_no_file_that_it_has_not_written(tmp_path, name, capsys):
    source = tmp_path / "text.txt"
    source.write_text("1 qid:1 1:1\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_text("precious")
    before = tree(tmp_path)
    assert main(["convert", f"--input={source}", f"--output={tmp_path}/data"]) == 1
    assert f"{tmp_path}/data/{name}: " in capsys.readouterr().err
    assert tree(tmp_path) == before
