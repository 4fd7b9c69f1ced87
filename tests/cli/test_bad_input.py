"""What train, evaluate, predict and export say of input that cannot be."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import re
import resource
import shutil
import subprocess

import pytest

from tests.cli.command_helpers import command
from tests.pipeline.training_helpers import read_json, tree
from tfr_pipeline.cli.main import main


@pytest.fixture
def fails(capsys):
    """Runs a command that has to fail; returns its one line."""

    def run(code, *words):
        capsys.readouterr()
        assert main([str(word) for word in words]) == code
        error = capsys.readouterr().err
        lines = [line for line in error.splitlines() if not line.startswith("warning:")]
        assert len(lines) == 1, error
        assert lines[0].startswith("error: ")
        assert "Traceback" not in error
        return lines[0]

    return run


@pytest.fixture
def copied(project, tmp_path):
    """A copy of the converted data, to be spoilt."""
    shutil.copytree(project.data, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def train(project, tmp_path, fails):
    """Runs `train`, which has to fail and to write nothing; returns its one line."""

    def run(code, *overrides):
        run_directory = tmp_path / "run"
        line = fails(code, "train", *project.train_flags(run_directory), *overrides)
        assert not run_directory.exists()
        return line

    return run


def shard(folder, split="train"):
    (path,) = pathlib.Path(folder).glob(f"{split}-*.tfrecord")
    return path


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(bytes(content))


# Training


def test_a_data_folder_that_is_not_there(train, tmp_path):
    line = train(1, f"--config.data.dir={tmp_path}/nothing")
    assert f"no such folder '{tmp_path}/nothing'" in line


def test_no_data_at_all(train):
    assert "--config.data.dir=DIR" in train(2, "--config.data.dir=")


def test_a_folder_without_the_description_of_its_features(train, copied):
    (copied / "features.json").unlink()
    line = train(1, f"--config.data.dir={copied}")
    assert f"{copied}/features.json: not found" in line


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_glob_that_matches_nothing(train, tmp_path, split):
    line = train(1, f"--config.data.{split}={tmp_path}/nothing-*")
    assert f"no file matches '{tmp_path}/nothing-*'" in line


@pytest.mark.parametrize("split", ["train", "valid"])
def test_an_empty_file(train, copied, split):
    path = shard(copied, split)
    path.write_bytes(b"")
    line = train(1, f"--config.data.dir={copied}")
    assert re.search(rf"{path}: expected \d+ records, as .* says, found 0\.", line)
    (copied / f"{split}.stats.json").unlink()
    line = train(1, f"--config.data.dir={copied}")
    assert f"{path}: expected ranked lists, found no document" in line


def test_a_record_with_a_wrong_checksum(train, copied):
    path = shard(copied)
    flip(path, path.stat().st_size // 2)
    line = train(1, f"--config.data.dir={copied}")
    assert f"{path}: record " in line
    assert "is corrupt" in line
    assert "convert it again" in line


def test_a_file_that_was_cut_off(train, copied):
    path = shard(copied, "valid")
    path.write_bytes(path.read_bytes()[:-100])
    line = train(1, f"--config.data.dir={copied}")
    assert f"{path}: record 9 is corrupt" in line


def test_a_file_of_another_format(train, copied, project):
    shutil.copy(project.text / "train.txt", shard(copied))
    assert f"{shard(copied)}: record 0 is corrupt" in train(
        1, f"--config.data.dir={copied}"
    )


def spoil_features(folder, change):
    path = folder / "features.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_features_of_another_size(train, copied):
    def shrink(content):
        (feature,) = content["example"].values()
        assert feature["shape"] == [8]
        feature["shape"] = [7]
        feature["columns"] = feature["columns"][:7]

    spoil_features(copied, shrink)
    line = train(1, f"--config.data.dir={copied}")
    assert "record 0" in line
    assert "expected 7 values, found 8" in line


def test_features_of_another_name(train, copied):
    def rename(content):
        content["example"] = {"bm25": next(iter(content["example"].values()))}

    spoil_features(copied, rename)
    line = train(1, f"--config.data.dir={copied}")
    assert "bm25" in line
    assert "found" in line


def test_a_description_that_is_not_json(train, copied):
    (copied / "features.json").write_text("{")
    assert "features.json: not valid JSON" in train(1, f"--config.data.dir={copied}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pipeline.loss=softmx_loss", "did you mean 'softmax_loss'"),
        ("pipeline.metrics=('ndgc_10',)", "did you mean 'ndcg'"),
        ("pipeline.best_exporter_metric=mrr", "unknown metric 'mrr'"),
        ("pipeline.optimizer=adm", "did you mean 'adam'"),
        ("pipeline.strategy=Mirored", "did you mean 'MirroredStrategy'"),
        ("model.scorer=dmn", "did you mean 'dnn'"),
        ("pipeline.schedule.name=cosin", "did you mean 'cosine'"),
        ("pipeline.num_epoch=3", "did you mean 'pipeline.num_epochs'"),
        ("pipeline.num_epochs=0", "num_epochs"),
        ("data.train_batch_size=-1", "train_batch_size"),
        ("model_dir=", "config.model_dir: a value is required"),
    ],
)
def test_a_name_or_a_number_that_cannot_be(train, override, message):
    assert message in train(2, f"--config.{override}")


def test_the_directory_of_another_run(trained, fails):
    before = tree(trained.run)
    flags = trained.train_flags(trained.run)
    line = fails(2, "train", *flags, "--config.pipeline.learning_rate=0.5")
    assert f"{trained.run} holds another run: pipeline.learning_rate is 0.003" in line
    assert tree(trained.run) == before


def test_a_directory_that_cannot_be_made(project, tmp_path, fails):
    (tmp_path / "file").write_text("")
    line = fails(2, "train", *project.train_flags(tmp_path / "file" / "run"))
    assert f"expected a folder at '{tmp_path}/file', found a file" in line


# Odd lists, which are no errors


def lists_text(path, queries, grades):
    """Writes queries with so many documents as there are grades."""
    lines = [
        f"{grade} qid:{query} 1:{0.1 * i + 0.01 * query:g} 2:{grade} #docid = D{i}\n"
        for query in range(1, queries + 1)
        for i, grade in enumerate(grades)
    ]
    path.write_text("".join(lines))
    return path


@pytest.fixture
def odd(tmp_path, capsys):
    """Converts lists with given grades for all splits; returns the folder."""

    def make(grades, queries=6):
        for split in ("train", "valid", "test"):
            source = lists_text(tmp_path / f"{split}.txt", queries, grades)
            words = [f"--input={source}", f"--output={tmp_path / 'odd'}"]
            assert main(["convert", *words, f"--split={split}"]) == 0
        capsys.readouterr()
        return tmp_path / "odd"

    return make


def train_on(project, data, run):
    flags = [f for f in project.train_flags(run) if "data.dir" not in f]
    return main(["train", *flags, f"--config.data.dir={data}"])


def test_lists_of_one_document_train_and_score_one(project, odd, tmp_path, capsys):
    data = odd([1])
    assert train_on(project, data, tmp_path / "run") == 0
    result = read_json(tmp_path / "run" / "metrics.json")["test"]
    assert (result["queries"], result["documents"]) == (6, 6)
    for convention in ("skip", "zero", "one"):
        assert result["ndcg@10"][convention] == 1.0


def test_queries_without_relevant_documents_train_and_are_counted_by_convention(
    project, odd, tmp_path, capsys
):
    data = odd([0, 0, 0])
    assert train_on(project, data, tmp_path / "run") == 0
    result = read_json(tmp_path / "run" / "metrics.json")["test"]
    assert result["queries_without_relevant"] == result["queries"] == 6
    assert result["ndcg@10"]["skip"] is None
    assert result["ndcg@10"]["zero"] == 0.0
    assert result["ndcg@10"]["one"] == 1.0
    capsys.readouterr()
    words = [f"--model={tmp_path / 'run'}", f"--data={data}/test-*", "--baselines"]
    assert main(["evaluate", *words]) == 0
    out = capsys.readouterr().out
    assert "6 queries (6 without a relevant document, skipped above)" in out
    assert "nan" not in out.lower()


# Evaluation


@pytest.fixture
def evaluate(trained, tmp_path, fails):
    def run(model, data):
        output = tmp_path / "out.json"
        words = (f"--model={model}", f"--data={data}", f"--output={output}")
        line = fails(1, "evaluate", *words)
        assert not output.exists()
        return line

    return run


def test_evaluation_without_a_model(evaluate, trained, tmp_path):
    for folder in (tmp_path / "nothing", trained.data):
        line = evaluate(folder, f"{trained.data}/test-*")
        assert f"{folder}: expected a SavedModel" in line


def test_evaluation_without_data(evaluate, trained):
    assert "--data: no file matches" in evaluate(trained.run, "nothing-*")


def test_evaluation_of_a_corrupt_file(evaluate, trained, copied):
    path = shard(copied, "test")
    flip(path, path.stat().st_size // 2)
    assert f"{path}: record " in evaluate(trained.run, path)


def test_evaluation_on_data_of_another_model(evaluate, trained, odd):
    data = odd([1, 0])
    line = evaluate(trained.run, f"{data}/test-*")
    assert f"{data}/features.json: feature 'features': expected" in line


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "saved_model.pb": cut,
    "variables/variables.index": cut,
    "variables/variables.data-00000-of-00001": cut,
    "assets.extra/features.json": lambda path: path.write_bytes(b'{"a": "\xff'),
}


@pytest.mark.parametrize("damage", [None, pathlib.Path.unlink], ids=["cut", "gone"])
@pytest.mark.parametrize("name", DAMAGES)
def test_evaluation_with_a_broken_model(evaluate, trained, tmp_path, name, damage):
    (version,) = (trained.run / "export" / "latest_model").glob("[0-9]*")
    shutil.copytree(version, tmp_path / "model")
    (damage or DAMAGES[name])(tmp_path / "model" / name)
    line = evaluate(tmp_path / "model", f"{trained.data}/test-*")
    if (name, damage) == ("saved_model.pb", pathlib.Path.unlink):
        assert "/model: expected a SavedModel" in line
    else:
        assert f"{tmp_path}/model/{name.partition('.data')[0]}" in line


# Prediction


@pytest.fixture
def predict(trained, tmp_path, fails):
    """Runs `predict` on a text that has to fail; an old output has to stay."""

    def run(text, *flags, name="input.txt", code=1):
        source, output = tmp_path / name, tmp_path / "out.tsv"
        source.write_text(text)
        output.write_text("old")
        words = (f"--model={trained.run}", f"--input={source}", f"--output={output}")
        line = fails(code, "predict", *words, *flags)
        assert output.read_text() == "old"
        assert {path.name for path in tmp_path.iterdir()} == {name, "out.tsv"}
        return line

    return run


def test_prediction_of_a_malformed_line_in_the_middle(predict):
    good = "".join(f"0 qid:{i} 1:1\n" for i in range(1, 4))
    assert "input.txt:4: " in predict(good + "0 qid:4 1:x\n")


def test_prediction_of_an_empty_file(predict):
    assert "input.txt" in predict("")


def test_prediction_with_a_feature_that_the_model_does_not_know(predict):
    line = predict("0 qid:1 1:1 9:1\n")
    assert "input.txt:1: " in line
    assert "9" in line


def test_prediction_with_a_feature_that_is_not_a_number(predict):
    assert "input.txt:1: " in predict("0 qid:1 1:nan\n")


def test_prediction_of_a_query_in_two_places(predict):
    line = predict("0 qid:1 1:1\n0 qid:2 1:1\n0 qid:1 1:1\n")
    assert "input.txt:3: " in line


def test_prediction_of_a_table_without_the_columns_of_the_model(predict):
    flags = ("--input_format=csv",)
    line = predict("qid,a\n1,2\n", *flags, name="input.csv", code=2)
    assert "unknown column 'feature_1' in" in line
    assert "input.csv" in line


def test_prediction_of_a_format_that_nobody_knows(trained, tmp_path, fails):
    (tmp_path / "in").write_text("x")
    words = (f"--model={trained.run}", f"--input={tmp_path}/in")
    line = fails(
        2, "predict", *words, f"--output={tmp_path}/out", "--input_format=libsvn"
    )
    assert "did you mean 'libsvm'" in line
    assert not (tmp_path / "out").exists()


# Export


def test_export_of_no_run(fails, tmp_path, trained):
    for run in (tmp_path / "nothing", trained.data):
        line = fails(1, "export", f"--run={run}", f"--output={tmp_path}/out")
        assert f"{run}/config.json: not found" in line
    assert not (tmp_path / "out").exists()


def test_export_of_a_run_without_checkpoints(fails, trained, tmp_path):
    shutil.copytree(trained.run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    words = (f"--run={tmp_path}/run", f"--output={tmp_path}/out")
    line = fails(1, "export", *words)
    assert f"{tmp_path}/run/checkpoints: expected a checkpoint, found none" in line
    assert not (tmp_path / "out").exists()


def test_export_of_a_damaged_checkpoint(fails, trained, tmp_path):
    shutil.copytree(trained.run, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*.index"):
        path.write_bytes(path.read_bytes()[:100])
    words = (f"--run={tmp_path}/run", f"--output={tmp_path}/out")
    line = fails(1, "export", *words)
    assert "cannot be read" in line and f"{tmp_path}/run/checkpoints/ckpt-" in line
    assert not (tmp_path / "out").exists()


def test_export_of_a_run_whose_config_is_not_json(fails, tmp_path):
    (tmp_path / "config.json").write_text("{")
    line = fails(1, "export", f"--run={tmp_path}", f"--output={tmp_path}/out")
    assert "config.json: not valid JSON" in line


@contextlib.contextmanager
def small_disk(folder, size):
    """Mounts a small disk of its own, or skips where that is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def assert_failed_export(done, folder):
    assert done.returncode == 1, done.stderr[-3000:]
    assert done.stderr.count("\n") == 1, done.stderr
    assert "error: export to" in done.stderr
    assert "nothing was left there" in done.stderr
    assert not list(folder.glob("*"))
    assert not list(folder.glob(".*"))


def test_a_full_disk_while_exporting(trained, tmp_path):
    with small_disk(tmp_path / "disk", "64k") as disk:
        done = command("export", f"--run={trained.run}", f"--output={disk}/models")
        assert_failed_export(done, disk / "models")


def test_a_limit_on_the_size_of_files_while_exporting(trained, tmp_path):
    limit = functools.partial(
        resource.setrlimit, resource.RLIMIT_FSIZE, (20_000, 20_000)
    )
    done = command(
        "export",
        f"--run={trained.run}",
        f"--output={tmp_path}/models",
        preexec_fn=limit,
    )
    assert_failed_export(done, tmp_path / "models")


def test_a_disk_that_fills_up_in_training_leaves_no_half_written_export(
    project, tmp_path
):
    with small_disk(tmp_path / "disk", "200k") as disk:
        done = command("train", *project.train_flags(disk / "run"))
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("error: ")
        assert "Traceback" not in done.stderr
        assert not list(disk.glob("run/export/*/[0-9]*"))
