"""The path of the README: text, data, training, evaluation, ranked lists, export."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from tests.cli.command_helpers import command
from tests.metrics.query_files import read_rows
from tests.pipeline.training_helpers import ROOT, environment, read_json, tree
from tfr_pipeline.cli.main import main
from tfr_pipeline.metrics.evaluation import evaluate_lists

HIDDEN = "--config.model.scorer_args.hidden_layer_dims=(8,)"


def text_rows(path):
    """Returns `(qid, docid, grade, features)` of each line of a LibSVM file."""
    rows = []
    for line in pathlib.Path(path).read_text().splitlines():
        values, comment = line.split("#")
        grade, qid, *features = values.split()
        docid = re.fullmatch(r"docid = (\S+) inc = 1", comment).group(1)
        columns = [feature.split(":")[1] for feature in features]
        rows.append((qid.split(":")[1], docid, int(grade), columns))
    return rows


def ranked_rows(path):
    """Returns `(qid, docid, rank, score)` of each line that `predict` wrote."""
    rows = [line.split("\t") for line in pathlib.Path(path).read_text().splitlines()]
    return [(qid, docid, int(rank), float(score)) for qid, docid, rank, score in rows]


@pytest.fixture(scope="module")
def ranked(trained):
    """The test file, ranked by a process of its own."""
    path = trained.folder / "ranked.tsv"
    done = command(
        "predict",
        f"--model={trained.run}",
        f"--input={trained.text / 'test.txt'}",
        f"--output={path}",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    count = len(text_rows(trained.text / "test.txt"))
    assert done.stdout == f"{path}: {count} documents of 10 queries ranked\n"
    assert done.stderr == ""
    return path


def test_training_ends_with_a_table_and_the_run_directory(trained):
    out = (trained.folder / "train.out").read_text()
    metrics = read_json(trained.run / "metrics.json")
    for split in ("valid", "test"):
        (line,) = re.findall(rf"^{split} .*$", out, re.M)
        shown = [float(number) for number in line.split()[1:]]
        wanted = [metrics[split][k]["skip"] for k in ("ndcg@1", "ndcg@5", "ndcg@10")]
        assert shown[:3] == pytest.approx(wanted, abs=5e-5)
    assert f"run directory: {trained.run}" in out


def test_evaluate_gives_the_numbers_of_the_run(trained, tmp_path, capsys):
    output = tmp_path / "test.json"
    words = [f"--model={trained.run}", f"--data={trained.data}/test-*"]
    words += [f"--per_query={tmp_path}/test.tsv", "--baselines"]
    assert main(["evaluate", *words, f"--output={output}"]) == 0
    found = read_json(output)
    of_run = read_rows(trained.run / "per_query.parquet")
    queries = read_rows(tmp_path / "test.tsv")
    assert queries == [row for row in of_run if row["split"] == "test"]
    rows = text_rows(trained.text / "test.txt")
    names = [row[0] for row in rows]
    assert [row["query"] for row in queries] == list(dict.fromkeys(names))
    for row in queries:
        assert row["documents"] == names.count(row["query"])
        grades = [grade for name, _, grade, _ in rows if name == row["query"]]
        assert row["relevant"] == sum(grade >= 1 for grade in grades)
    baselines = found.pop("baselines")
    assert found == read_json(trained.run / "metrics.json")["test"]
    assert set(baselines) == {"best feature", "random"}
    out = capsys.readouterr().out
    assert f"per query: {tmp_path}/test.tsv" in out
    named = baselines["best feature"]
    said = f"best feature: {named['feature']}, {named['first']} values first"
    assert said in out
    # That column of the text, as scores.
    rows = text_rows(trained.text / "test.txt")
    number = int(named["feature"].removeprefix("feature_")) - 1
    scores = np.float32([row[3][number] for row in rows])
    queries = [row[0] for row in rows]
    starts = [i for i, q in enumerate(queries) if i == 0 or q != queries[i - 1]]
    wanted = evaluate_lists(
        np.float32([row[2] for row in rows]),
        scores if named["first"] == "highest" else -scores,
        np.array([*starts, len(rows)]),
    )
    assert named["ndcg@10"] == wanted["ndcg@10"]
    assert re.search(r"^random +0\.\d{4}", out, re.M)
    assert "10 queries (" in out


def test_every_document_is_ranked_once_by_falling_score(trained, ranked):
    given, found = text_rows(trained.text / "test.txt"), ranked_rows(ranked)
    assert sorted(row[:2] for row in found) == sorted(row[:2] for row in given)
    queries = list(dict.fromkeys(row[0] for row in given))
    assert list(dict.fromkeys(row[0] for row in found)) == queries
    for query in queries:
        rows = [row for row in found if row[0] == query]
        assert [rank for _, _, rank, _ in rows] == list(range(1, len(rows) + 1))
        scores = [score for *_, score in rows]
        assert scores == sorted(scores, reverse=True)


def test_scikit_learn_measures_in_the_ranking_what_the_run_reports(trained, ranked):
    from sklearn.metrics import ndcg_score

    grades = {row[:2]: row[2] for row in text_rows(trained.text / "test.txt")}
    found = ranked_rows(ranked)
    values = []
    for query in dict.fromkeys(row[0] for row in found):
        rows = [row for row in found if row[0] == query]
        gains = [2.0 ** grades[row[:2]] - 1 for row in rows]
        if not any(gains):
            continue
        # A list of one document is not for scikit-learn; nothing can be wrong in it.
        scores = [row[3] for row in rows]
        values.append(ndcg_score([gains], [scores], k=10) if len(rows) > 1 else 1.0)
    reported = read_json(trained.run / "metrics.json")["test"]["ndcg@10"]["skip"]
    assert np.mean(values) == pytest.approx(reported, rel=1e-5)


def predicted(trained, tmp_path, source, *flags):
    output = tmp_path / "out.tsv"
    words = [f"--model={trained.run}", f"--input={source}", f"--output={output}"]
    assert main(["predict", *words, *flags]) == 0
    return ranked_rows(output)


def assert_same_ranking(found, wanted):
    assert [row[:3] for row in found] == [row[:3] for row in wanted]
    np.testing.assert_allclose(
        [row[3] for row in found], [row[3] for row in wanted], rtol=1e-5, atol=1e-6
    )


def test_compressed_text_is_ranked_as_plain_text(trained, ranked, tmp_path):
    source = tmp_path / "test.txt.gz"
    source.write_bytes(gzip.compress((trained.text / "test.txt").read_bytes()))
    found = predicted(trained, tmp_path, source)
    assert_same_ranking(found, ranked_rows(ranked))


def test_converted_data_is_ranked_as_the_text_it_came_from(trained, ranked, tmp_path):
    found = predicted(
        trained, tmp_path, f"{trained.data}/test-*", "--input_format=elwc"
    )
    assert_same_ranking(found, ranked_rows(ranked))


@pytest.mark.parametrize("format_name", ["csv", "parquet"])
def test_a_table_is_ranked_as_the_text_of_its_rows(
    trained, ranked, tmp_path, format_name
):
    rows = text_rows(trained.text / "test.txt")
    names = ["qid", "docid", *(f"f{i}" for i in range(8))]
    source = tmp_path / f"test.{format_name}"
    if format_name == "csv":
        with open(source, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            writer.writerows([qid, docid, *values] for qid, docid, _, values in rows)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {
            "qid": [row[0] for row in rows],
            "docid": [row[1] for row in rows],
            **{f"f{i}": [float(row[3][i]) for row in rows] for i in range(8)},
        }
        pq.write_table(pa.table(columns), source)
    flags = (
        f"--input_format={format_name}",
        "--docid_column=docid",
        "--feature_columns=" + ",".join(names[2:]),
    )
    # No label column: labels are not needed.
    assert_same_ranking(
        predicted(trained, tmp_path, source, *flags), ranked_rows(ranked)
    )


def test_an_export_of_the_checkpoints_scores_as_those_of_the_run(
    trained, ranked, tmp_path, capsys
):
    metrics = read_json(trained.run / "metrics.json")
    for name, flags, step in (
        ("latest_model", [], metrics["step"]),
        ("best_model_by_metric", ["--best"], metrics["best_step"]),
    ):
        output = tmp_path / name
        words = [f"--run={trained.run}", f"--output={output}", *flags]
        assert main(["export", *words]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == f"{output}/{step}"
        rankings = []
        for model in (output, trained.run / "export" / name):
            target = tmp_path / "out.tsv"
            words = [f"--model={model}", f"--input={trained.text}/test.txt"]
            assert main(["predict", *words, f"--output={target}"]) == 0
            rankings.append(ranked_rows(target))
        assert_same_ranking(*rankings)


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(project, tmp_path, capsys):
    before = tree(project.folder)
    flags = project.train_flags(tmp_path / "run")
    assert main(["train", *flags, "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert "training: 2 epochs of 10 steps" in out
    assert "selects by val_metric/ndcg_10" in out
    assert not list(tmp_path.iterdir())
    assert tree(project.folder) == before


@pytest.mark.slow
def test_the_generalized_additive_model_trains(project, tmp_path):
    flags = project.train_flags(tmp_path / "run", scorer="gam")
    short = "--config.model.scorer_args.example_hidden_layer_dims=(4,)"
    assert main(["train", *flags, short]) == 0
    assert read_json(tmp_path / "run" / "metrics.json")["step"] == 20


@pytest.fixture(scope="module")
def console_script(tmp_path_factory):
    """What pip installs: a script in another folder, which Python looks into first."""
    path = tmp_path_factory.mktemp("bin") / "tfr-pipeline"
    path.write_text(
        "import sys\nfrom tfr_pipeline.cli.main import main\nsys.exit(main())\n"
    )

    def run(cwd, *words):
        return subprocess.run(
            [sys.executable, str(path), *map(str, words)],
            cwd=cwd,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.mark.slow
def test_a_new_project_trains_its_own_builder_and_exports_it(
    project, tmp_path, console_script
):
    folder = tmp_path / "mine"
    done = console_script(tmp_path, "new", "mine")
    assert done.returncode == 0, done.stderr
    assert (folder / "configs" / "letor.py").read_text() == (
        ROOT / "configs" / "letor.py"
    ).read_text()
    assert os.access(folder / "launch" / "local.sh", os.X_OK)
    # A name that this checkout does not have.
    os.rename(folder / "builders" / "letor.py", folder / "builders" / "own.py")
    done = console_script(
        folder,
        "train",
        "--config=configs/letor.py:builder",
        "--config.model.builder=builders.own:LetorModelBuilder",
        "--config.model.builder_args.hidden_layer_dims=(8,)",
        f"--config.data.dir={project.data}",
        "--config.model_dir=run",
        "--config.pipeline.num_epochs=1",
        "--config.data.train_batch_size=8",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_json(folder / "run" / "metrics.json")["step"] == 5
    done = console_script(folder, "export", "--run=run", "--output=served")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "served" / "5" / "saved_model.pb").exists()


@pytest.mark.slow
def test_the_test_of_a_new_project_passes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "."]) == 0
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "1 passed" in done.stdout, done.stdout[-3000:]


@pytest.mark.parametrize("folder", [".", "sub/new", "empty"])
def test_new_fills_a_new_or_empty_folder(tmp_path, monkeypatch, capsys, folder):
    (tmp_path / "empty").mkdir()
    place = tmp_path / "empty" if folder == "." else tmp_path / folder
    monkeypatch.chdir(place if folder == "." else tmp_path)
    assert main(["new", folder]) == 0
    printed = capsys.readouterr().out.splitlines()[:-1]
    found = {name for name in tree(place) if "__pycache__" not in name}
    assert {os.path.relpath(line, folder) for line in printed} == found
    assert {"README.md", "requirements.txt", ".gitignore"} <= found
    assert any(name.startswith("tests/test_") for name in found)
    assert not {name for name in os.listdir(place) if name.endswith(".tmp")}


def test_what_the_readme_of_a_new_project_names_is_there(tmp_path, capsys):
    assert main(["new", str(tmp_path / "mine")]) == 0
    text = (tmp_path / "mine" / "README.md").read_text()
    commands = re.findall(r"tfr-pipeline (\w+) (.*)", text)
    assert [name for name, _ in commands[:3]] == ["synthesize", "convert", "train"]
    for name in re.findall(r"`(\w+)/`", text):
        assert (tmp_path / "mine" / name).is_dir()
    for name, words in commands[:3]:
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main([name, "--help"])
        known = capsys.readouterr().out
        for flag in re.findall(r"(--\w+)=", words.replace("--config.", "")):
            assert flag in known
    requirements = (tmp_path / "mine" / "requirements.txt").read_text()
    assert requirements.startswith("tfr_pipeline==")


def test_new_leaves_a_folder_with_files_alone(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(["new", str(tmp_path)]) == 2
    assert "expected a new or empty folder" in capsys.readouterr().err
    assert tree(tmp_path) == {"file": b"mine"}


def test_a_wheel_brings_the_examples_and_new_finds_them(tmp_path):
    if importlib.util.find_spec("wheel") is None:
        pytest.skip("needs the package wheel to build one without a network")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for name in ("tfr_pipeline", "builders", "configs", "launch"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    words = ["pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path]
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words), str(source)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for name in ("configs/letor.py", "builders/letor.py", "configs/__init__.py"):
        path = f"share/tfr_pipeline/{name}"
        assert any(found.endswith(path) for found in names), path
    assert "tfr_pipeline/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "configs/"))]
    # Installed without what it depends on; `new` needs none of it.
    for number, place in enumerate(("--prefix", "--target")):
        target = tmp_path / place
        words = ["install", "--no-deps", "-q", "--ignore-installed", place, target]
        pip = [sys.executable, "-m", "pip", *map(str, words), str(wheel)]
        subprocess.run(pip, check=True, timeout=300)
        (package,) = target.glob("**/tfr_pipeline/py.typed")
        done = subprocess.run(
            [sys.executable, "-m", "tfr_pipeline", "new", f"mine{number}"],
            cwd=tmp_path,
            env={**environment(), "PYTHONPATH": str(package.parents[1])},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        for folder in ("builders", "configs", "launch"):
            made = tmp_path / f"mine{number}" / folder
            assert set(tree(made)) == {
                name for name in tree(ROOT / folder) if "__pycache__" not in name
            }
