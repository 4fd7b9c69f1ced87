"""What becomes of paths: empty ones, and what is at the place of an output."""

from __future__ import annotations

import shutil

import pytest

from tests.cli.command_helpers import LETOR
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
    ("evaluate", "--per_query", ["--model=m", "--data=kept"]),
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


@pytest.fixture
def readable(trained, tmp_path):
    """Copies of a run, its text and its data: `(run, text, data)`."""
    for folder in (trained.run, trained.text, trained.data):
        shutil.copytree(folder, tmp_path / folder.name)
    return tmp_path / "run", tmp_path / "text", tmp_path / "data"


def other_spelling(path, kind):
    """Returns another path that leads to a file."""
    if kind == "dots":
        return f"{path.parent}/../{path.parent.name}/./{path.name}"
    other = path.with_name("other")
    if kind == "symlink":
        other.symlink_to(path)
    elif kind == "hard link":
        other.hardlink_to(path)
    else:
        other = path
    return str(other)


@pytest.mark.parametrize("kind", ["same", "dots", "symlink", "hard link"])
@pytest.mark.parametrize("command", ["predict", "evaluate", "convert", "export"])
def test_no_output_is_an_input_of_the_same_command(readable, command, kind, capsys):
    run, text, data = readable
    (shard,) = data.glob("test-*.tfrecord")
    if command == "predict":
        source = other_spelling(text / "test.txt", kind)
        words = [f"--model={run}", f"--input={text}/t*.txt", f"--output={source}"]
    elif command == "evaluate":
        output = other_spelling(shard, kind)
        words = [f"--model={run}", f"--data={data}/test-*", f"--output={output}"]
    elif command == "convert":
        source = other_spelling(shard, kind)
        words = [f"--input={source}", "--input_format=elwc", "--split=test"]
        words.append(f"--output={data}")
    else:
        if kind == "hard link":
            pytest.skip("there are none of folders")
        output = other_spelling(run / "checkpoints", kind)
        words = [f"--run={run}", f"--output={output}"]
    before = tree(run.parent)
    assert main([command, *words]) == 2
    error = capsys.readouterr().err
    assert "--output: " in error and "which this command reads" in error
    assert error.count("\n") == 1
    assert tree(run.parent) == before


@pytest.mark.parametrize(
    "name", ["config.json", "export/latest_model/*/saved_model.pb", "checkpoints/ck*x"]
)
def test_no_output_is_a_file_of_the_model(readable, name, capsys):
    run, text, data = readable
    path = sorted(run.glob(name))[0]
    before = tree(run)
    for words in (
        ["predict", f"--input={text}/test.txt"],
        ["evaluate", f"--data={data}/test-*"],
    ):
        assert main([*words, f"--model={run}", f"--output={path}"]) == 2
        assert "which this command reads" in capsys.readouterr().err
    assert tree(run) == before


def test_the_file_of_queries_is_no_input_and_no_other_output(readable, capsys):
    run, _, data = readable
    (shard,) = data.glob("test-*.tfrecord")
    link = run.parent / "link.tsv"
    link.symlink_to(shard)
    before = tree(run.parent)
    words = ["evaluate", f"--model={run}", f"--data={data}/test-*"]
    table = f"{run.parent}/new.tsv"
    for more, problem in (
        ([f"--per_query={link}"], "which this command reads"),
        ([f"--per_query={run}/per_query.parquet"], "which this command reads"),
        ([f"--per_query={table}", f"--output={run}/../new.tsv"], "is --output, too"),
        ([f"--per_query={run.parent}/new.csv"], ".parquet or .tsv"),
    ):
        assert main([*words, *more]) == 2
        error = capsys.readouterr().err
        assert "--per_query: " in error
        assert problem in error
        assert error.count("\n") == 1
    assert tree(run.parent) == before


def test_a_description_that_the_input_needs_is_not_replaced(readable, capsys):
    _, _, data = readable
    for path in [*data.glob("train*"), *data.glob("valid*")]:
        path.unlink()
    (shard,) = data.glob("test-*.tfrecord")
    shard.rename(data.parent / "input.tfrecord")
    before = tree(data.parent)
    words = [f"--input={data.parent}/input.tfrecord", "--input_format=elwc"]
    words += [f"--features={data}", f"--output={data}", "--output_format=packed"]
    assert main(["convert", *words]) == 2
    assert "describes the input" in capsys.readouterr().err
    assert tree(data.parent) == before


@pytest.mark.parametrize("by", ["dir", "patterns"])
def test_a_run_directory_is_not_the_folder_of_the_data(readable, by, capsys):
    _, _, data = readable
    before = tree(data)
    words = [f"--config={LETOR}", f"--config.model_dir={data}/../data"]
    words += (
        [f"--config.data.dir={data}"]
        if by == "dir"
        else [
            f"--config.data.train={data}/train-*",
            f"--config.data.valid={data}/valid-*",
            f"--config.data.features={data}/features.json",
        ]
    )
    assert main(["train", *words]) == 2
    error = capsys.readouterr().err
    assert "config.model_dir" in error and "which this command reads" in error
    assert tree(data) == before


@pytest.mark.parametrize("command", ["convert", "synthesize", "export", "new", "train"])
@pytest.mark.parametrize("below", ["", "/below", "/below/deep"])
def test_a_file_in_the_place_of_a_folder_is_named(
    project, command, below, tmp_path, capsys
):
    (tmp_path / "file").write_text("mine")
    output = f"{tmp_path}/file{below}"
    words = {
        "convert": [f"--input={project.text}/test.txt", f"--output={output}"],
        "export": [f"--run={tmp_path}/run", f"--output={output}"],
        "new": [output],
        "synthesize": [f"--output={output}"],
        "train": project.train_flags(output),
    }
    assert main([command, *words[command]]) == 2
    error = capsys.readouterr().err
    assert f"expected a folder{f' at {tmp_path}/file' if below else ''}" in (
        error.replace("'", "")
    )
    assert error.count("\n") == 1
    assert tree(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("command", ["predict", "evaluate"])
@pytest.mark.parametrize("kind", ["folder", "below"])
def test_a_folder_in_the_place_of_a_file_is_named(
    project, command, kind, tmp_path, capsys
):
    (tmp_path / "file").write_text("mine")
    output = tmp_path if kind == "folder" else tmp_path / "file" / "below"
    data = {"predict": f"--input={project.text}/test.txt"}
    data["evaluate"] = f"--data={project.data}/test-*"
    # Known before the model is loaded, which is not there.
    assert main([command, "--model=m", data[command], f"--output={output}"]) == 2
    error = capsys.readouterr().err
    wanted = "found the folder" if kind == "folder" else "expected a folder at"
    assert wanted in error
    assert tree(tmp_path) == {"file": b"mine"}
