"""`tfr-pipeline report`: the page says what there is, and what is left out."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.cli.command_helpers import LETOR, Project
from tests.pipeline import multi_task_data
from tests.remote_stores import faulty  # noqa: F401
from tests.report.page_reader import Page
from tfr_pipeline.cli.main import main
from tfr_pipeline.experiment.build import build_pipeline

pytest.importorskip("jinja2", reason="needs pip install jinja2")
pytest.importorskip("matplotlib", reason="needs pip install matplotlib")
ALL = [
    "Quality",
    "Data",
    "Training",
    "Wins and losses",
    "Slices",
    "Feature importance",
    "Shapes",
    "One list explained",
    "Config",
    "Environment",
    "How to repeat this run",
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def train(project: Project, name: str, scorer: str) -> str:
    """Trains for an epoch; returns the run directory."""
    path = str(project.folder / name)
    flags = (
        f"--config={LETOR}:{scorer}",
        f"--config.data.dir={project.data}",
        f"--config.model_dir={path}",
        "--config.pipeline.num_epochs=1",
    )
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["train", *flags]) == 0
    return path


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    return Project.make(tmp_path_factory.mktemp("reported"))


@pytest.fixture(scope="module")
def gam(project) -> str:
    return train(project, "run <b>&", "gam")


@pytest.fixture(scope="module")
def dnn(project) -> str:
    return train(project, "run_dnn", "dnn")


def report(*words: str) -> tuple[int, str, str]:
    """Runs the command; returns exit code, output and errors."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["report", *words])
    return code, out.getvalue(), err.getvalue()


def page_of(path: str, *words: str, output: str = "") -> Page:
    output = output or os.path.join(path, "report.html")
    code, out, err = report(f"--run={path}", *words)
    assert code == 0, err
    assert out == f"page: {output}\n"
    with open(output, encoding="utf-8") as file:
        return Page(file.read())


def test_the_page_has_all_there_is_and_loads_nothing(gam, dnn) -> None:
    page = page_of(gam, f"--baseline={dnn}")
    assert list(page.sections) == ALL
    assert not page.notes
    assert "script" not in page.tags and "b" not in page.tags
    assert all(found.startswith("#") for found in page.loads)
    assert {found[1:] for found in page.loads} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert page.policy.startswith("default-src 'none'")
    assert "url(" not in page.style and "@import" not in page.style
    with open(os.path.join(gam, "metrics.json"), encoding="utf-8") as file:
        mean = json.load(file)["test"]["ndcg@10"]["skip"]
    assert f"{mean:.4f}" in page.sections["Quality"]
    assert "The model is additive" in page.sections["Shapes"]
    assert "feature_1" in page.sections["Feature importance"]
    assert "model.scorer " in page.sections["Config"]
    assert "python " in page.sections["How to repeat this run"]  # of these tests


@pytest.mark.slow
def test_the_same_page_comes_again_from_moved_data(gam, project, tmp_path) -> None:
    moved = str(tmp_path / "copy")
    shutil.copytree(gam, moved)
    with open(os.path.join(moved, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    config["data"]["dir"] = str(tmp_path / "gone")
    with open(os.path.join(moved, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    without = page_of(moved)
    assert "Left out: the data was not read" in without.notes[0]
    assert "say where, by --data" in without.notes[0]
    assert "0." in without.sections["Quality"]  # of metrics.json
    data = str(project.data / "test-*")
    page = page_of(moved, f"--data={data}", "--query=51")
    assert not page.notes
    here = page_of(gam).sections["Quality"]
    assert here.split("95% interval")[0].split()[-1] in page.sections["Quality"]
    assert "query 51" in page.sections["One list explained"]


@pytest.mark.slow
def test_a_run_without_test_data_is_told_by_its_validation_data(gam, tmp_path) -> None:
    path = str(tmp_path / "run")
    shutil.copytree(gam, path)
    for name in ("metrics.json", "environment.json"):
        with open(os.path.join(path, name), encoding="utf-8") as file:
            content = json.load(file)
        content.pop("test", None)
        with open(os.path.join(path, name), "w", encoding="utf-8") as file:
            json.dump(content, file)
    os.remove(os.path.join(path, "per_query.parquet"))
    page = page_of(path)
    assert "NDCG@10 on validation data" in page.sections["Quality"]
    assert [note for note in page.notes if "per_query.parquet" in note]
    assert "The model is additive" in page.sections["Shapes"]


@pytest.mark.slow
def test_lists_of_large_data_are_sampled_and_it_says_how_many(gam) -> None:
    page = page_of(gam, "--documents=60")
    assert " lists, of 1" in page.sections["Feature importance"]
    assert "in 10)" in page.sections["Feature importance"]


def test_a_remote_run_gets_its_page(gam, faulty) -> None:  # noqa: F811
    store = faulty()
    store.put(gam, "faulty://bucket/run", recursive=True)
    code, out, err = report("--run=faulty://bucket/run")
    assert code == 0, err
    assert out == "page: faulty://bucket/run/report.html\n"
    page = Page(store.cat_file("faulty://bucket/run/report.html").decode())
    assert list(page.sections) == [title for title in ALL if title != ALL[3]]


@pytest.mark.slow
def test_queries_without_relevant_documents_leave_the_comparison_out(
    gam, dnn, project, tmp_path
) -> None:
    lines = (project.text / "test.txt").read_text().splitlines()
    text = "\n".join("0 " + line.split(" ", 1)[1] for line in lines)
    (tmp_path / "test.txt").write_text(text + "\n")
    flags = [f"--input={tmp_path}/test.txt", f"--output={tmp_path}/data"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["convert", *flags, "--split=test", "--num_features=8"]) == 0
    page = page_of(
        gam,
        f"--baseline={dnn}",
        f"--data={tmp_path}/data/test-*",
        f"--output={tmp_path}/page.html",
        output=f"{tmp_path}/page.html",
    )
    assert "Wins and losses" in page.sections
    assert "Left out: no query defines ndcg@10: none has a relevant document." in (
        page.notes
    )
    assert "against the baseline" not in page.sections["Quality"]


def test_what_cannot_be_is_one_line(gam, dnn, project, tmp_path) -> None:
    code, _, err = report(f"--run={project.data}")
    assert code == 1 and "expected a run directory" in err
    code, _, err = report(f"--run={gam}", "--query=none", f"--output={tmp_path}/a")
    assert code == 1 and "no query 'none' among 10 lists" in err
    code, _, err = report(f"--run={gam}", f"--output={gam}/metrics.json")
    assert code == 2 and "which this command reads" in err
    other = str(tmp_path / "other")
    shutil.copytree(dnn, other)
    shutil.rmtree(os.path.join(other, "export"))
    os.remove(os.path.join(other, "per_query.parquet"))
    code, _, err = report(
        f"--run={gam}", f"--baseline={other}", f"--output={tmp_path}/b"
    )
    assert code == 1 and "error: " in err
    assert os.listdir(tmp_path) == ["other"]


def test_a_missing_package_is_one_line_that_names_the_extra(gam, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, out, err = report(f"--run={gam}", "--output=never.html")
    assert code == 2 and not out
    assert "pip install 'tfr_pipeline[report]'" in err
    assert len(err.splitlines()) == 1 and not os.path.exists("never.html")


@pytest.mark.slow
def test_a_run_of_several_tasks_is_told_by_the_task_that_is_asked_for(
    tmp_path,
) -> None:
    data = multi_task_data.make_data(tmp_path / "data")
    config = multi_task_data.make_config(data, tmp_path / "run", num_epochs=1)
    build_pipeline(config).train_and_validate()
    page = page_of(str(tmp_path / "run"), "--task=click")
    assert "test, relevance" in page.sections["Quality"]
    assert "test, click" in page.sections["Quality"]
    assert "features[1]" in page.sections["Feature importance"]
    assert "Shapes" not in page.sections
    code, _, err = report(f"--run={tmp_path}/run", "--task=clicks")
    assert code == 2 and "did you mean 'click'" in err


@pytest.mark.slow
def test_a_browser_shows_the_page_and_asks_for_nothing(gam, tmp_path) -> None:
    browser = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, BROWSERS)), None
    )
    if browser is None:
        pytest.skip("needs a Chromium, in the path or named by CHROMIUM")
    page_of(gam)
    page, picture = os.path.join(gam, "report.html"), tmp_path / "page.png"
    log = tmp_path / "net.json"
    done = subprocess.run(
        [
            browser,
            *("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging"),
            f"--log-net-log={log}",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--screenshot={picture}",
            "--window-size=1250,4000",
            f"file://{page}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert picture.exists(), done.stderr
    assert "CONSOLE" not in done.stderr  # such as of what the policy forbids
    from matplotlib import image

    pixels = image.imread(str(picture))
    assert pixels.shape[:2] == (4000, 1250)
    assert pixels[..., :3].std() > 0.05
