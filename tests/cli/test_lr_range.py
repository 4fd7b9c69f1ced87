"""`train --lr_range`: a sweep of rates, beside a run that is left alone."""

from __future__ import annotations

import csv
import sys

import numpy as np
import pytest

from tests.pipeline.training_helpers import tree
from tfr_pipeline.cli.main import main
from tfr_pipeline.pipeline.run.lr_range import Row, suggested


def train(project, folder, *flags):
    words = [w for w in project.train_flags(folder / "run") if w]
    return main(["train", *words, *flags])


def read(folder):
    with open(folder / "run-lr_range" / "lr_range.csv") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_rates_rise_and_losses_are_those_of_the_batches(
    project, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "plotly", None)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    before = tree(tmp_path / "run")
    # Its losses are alike from batch to batch.
    loss = "--config.pipeline.loss=approx_ndcg_loss"
    assert train(project, tmp_path, "--lr_range=1e-4,100", loss) == 0
    out = capsys.readouterr().out
    assert tree(tmp_path / "run") == before
    rows = read(tmp_path)
    rates = np.array([row["learning_rate"] for row in rows])
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    np.testing.assert_allclose(rates[1:] / rates[:-1], 1e6 ** (1 / 99), rtol=1e-4)
    assert rates[0] == pytest.approx(1e-4)
    # So high a rate loses what was won.
    assert len(rows) < 100 or rates[-1] == pytest.approx(100.0)
    smoothed, total, weight = [], 0.0, 0.0
    for row in rows:
        total, weight = 0.8 * total + row["loss"], 0.8 * weight + 1.0
        smoothed.append(total / weight)
    np.testing.assert_allclose([r["smoothed"] for r in rows], smoothed, rtol=1e-5)
    assert len({row["loss"] for row in rows}) > 10
    assert "no plot: it needs Plotly, pip install 'tfr_pipeline[report]'" in out
    assert "suggestion: --config.pipeline.learning_rate=" in out


def test_the_plot_is_a_page_that_loads_nothing(project, tmp_path, capsys):
    pytest.importorskip("plotly")
    assert train(project, tmp_path, "--lr_range") == 0
    page = (tmp_path / "run-lr_range" / "lr_range.html").read_text()
    assert "learning rate" in page
    assert "src=" not in page.split("<body>")[1].split("</script>")[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lr_range=1"], "--lr_range: expected LOW,HIGH, such as 1e-5,1, found '1'"),
        (["--lr_range=1,0.1"], "lr_range: expected two rates, the lower one first"),
        (["--lr_range=-1,1"], "lr_range: expected two rates"),
        (
            ["--lr_range", "--config.pipeline.optimizers={'*':{'learning_rate':1}}"],
            "one rate for all layers, found pipeline.optimizers['*'] with a",
        ),
        (["--lr_range", "--dry_run"], "--dry_run: expected without --lr_range"),
    ],
)
def test_what_is_no_range_is_named(project, tmp_path, capsys, flags, message):
    assert train(project, tmp_path, *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run-lr_range").exists()


def test_a_tenth_of_the_rate_of_the_least_loss_is_suggested():
    losses = [3.0, 2.5, 2.0, 2.2, 9.0]
    rows = [Row(i, 10.0 ** (i - 4), loss, loss) for i, loss in enumerate(losses, 1)]
    assert suggested(rows) == 0.01
    assert suggested(rows[2:]) is None
    assert suggested([]) is None
