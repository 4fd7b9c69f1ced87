"""`sweep plot`: the page has what there is to see, and loads nothing."""

from __future__ import annotations

import html.parser
import json
import re

import pytest

from tests.sweep import studies
from tests.sweep.studies import PRUNED, REASON
from tfr_pipeline.cli.main import main
from tfr_pipeline.sweep import page, standing

optuna = pytest.importorskip("optuna")
pytest.importorskip("plotly", reason="needs pip install plotly")
# Attributes by which a page would load something.
LOADING = {"src", "href", "srcset", "data", "action", "poster", "background"}


class Page(html.parser.HTMLParser):
    """What stands in a page.

    Attributes:
      headings: Texts of titles within the page.
      text: All that is to be read.
      scripts: Contents of scripts.
      loads: What attributes name.
      open: Tags that were not closed.
    """

    def __init__(self, text: str):
        super().__init__()
        self.headings: list[str] = []
        self.scripts: list[str] = []
        self.loads: list[str] = []
        self.policy, self.text, self.tags = "", "", []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.loads += [found[name] for name in LOADING & set(found)]
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]
        if tag != "meta":
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        inside = self._open[-1:]
        if inside == ["h2"]:
            self.headings.append(data)
        if inside == ["script"]:
            self.scripts.append(data)
        elif inside != ["style"]:
            self.text += data

    @property
    def figures(self):
        """The figures, as Plotly would read them."""
        match = re.search(r"const figures = (\[.*?\n\]);", self.scripts[1], re.S)
        return json.loads(match[1])


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "study"


def page_of(folder):
    return Page(page.make(standing.find(str(folder))))


VALUES = [0.5, 0.25, 0.75, 0.125, 0.625, 0.875]


def test_the_page_has_optunas_plots_and_a_table_of_the_best(folder):
    study = studies.make(folder, [*VALUES, PRUNED, None], prune_on="val_loss")
    found = page_of(folder)
    assert found.headings == [
        "Best 10",
        "History",
        "Parallel coordinates",
        "Importances",
        "Slices",
        "Values by epoch",
        "Failed",
        "Search space",
    ]
    history, parallel, importances, *slices, epochs = found.figures
    assert history["data"][0]["y"] == VALUES
    lines = [trace for trace in parallel["data"] if trace["mode"] == "lines"]
    assert len(lines) == len(VALUES)
    assert len({trace["line"]["color"] for trace in lines}) == len(VALUES)
    names = parallel["layout"]["xaxis"]["ticktext"]
    assert names == [
        "ndcg@10",
        "hidden_layer_dims",
        "learning_rate",
        "loss",
        "temperature",
    ]
    assert set(importances["data"][0]["y"]) == set(names[1:])
    assert sum(len(figure["data"]) for figure in slices) == 4
    assert len(epochs["data"]) == 1
    # The best one stands first, and markup in a reason is text.
    rows = found.text.partition("Best 10")[2].partition("History")[0]
    place = VALUES.index(max(VALUES))
    rate = study.optuna.trials[place].user_attrs["point"]["pipeline.learning_rate"]
    assert f"{place}0.875000" in rows and f"{rate:.6g}" in rows
    assert f"trial 7: {REASON}" in found.text and "b" not in found.tags


def test_the_page_loads_nothing_from_elsewhere(folder, capsys):
    studies.make(folder, VALUES)
    assert main(["sweep", "plot", str(folder)]) == 0
    text = (folder / "sweep.html").read_text(encoding="utf-8")
    assert capsys.readouterr().out == f"page: {folder}/sweep.html\n"
    found = Page(text)
    assert found.loads == []
    assert not {"link", "img", "iframe", "object"} & set(found.tags)
    assert found.policy.startswith("default-src 'none'; ")
    assert "http" not in found.policy and "*" not in found.policy
    assert (
        "@import" not in text.partition("</style>")[0]
        and "url(" not in (text.partition("</style>")[0])
    )
    # plotly.js stands in it once, figures and its use apart from it.
    assert len(found.scripts) == 2
    assert text.count("plotly.js v") == 1
    assert not re.search(r"https?://", found.scripts[1])


def test_several_metrics_have_a_front_and_plots_each(folder):
    values = [[0.5, 2.0], [0.75, 3.0], [0.25, 9.0], [0.625, 2.5]]
    studies.make(folder, values, metric="ndcg@10,seconds.training")
    found = page_of(folder)
    assert found.headings[1] == "Pareto front"
    for name in ("ndcg@10", "seconds.training"):
        for plot in ("History", "Parallel coordinates", "Importances", "Slices"):
            assert f"{plot} of {name}" in found.headings
    xs, ys = ([v[i] for v in values] for i in (0, 1))
    points = [
        (x, y)
        for trace in found.figures[0]["data"]
        for x, y in zip(trace["x"], trace["y"], strict=True)
    ]
    assert sorted(points) == sorted(zip(xs, ys, strict=True))


@pytest.mark.parametrize(
    ("values", "told", "figures"),
    [
        ([], "No trial is complete yet.", 0),
        ([None, None], "It needs 1 complete trials or more, and there are 0.", 0),
        ([0.5], "It needs 2 complete trials or more, and there are 1.", 1),
        ([0.5, 0.5, 0.5, 0.5], "History", 5),
    ],
    ids=["no trial", "only failures", "one trial", "all alike"],
)
def test_what_a_plot_lacks_is_said_in_its_place(folder, values, told, figures):
    studies.make(folder, values, trials=9)
    found = page_of(folder)
    assert told in found.text
    if figures:
        assert len(found.figures) >= figures
    else:
        assert not found.scripts


def test_text_of_a_study_cannot_end_a_script(folder):
    name = "</script><script>alert(1)</script>"
    study = studies.make(folder, VALUES)
    study.storage.set_study_user_attr(
        study.optuna._study_id,
        "tfr_pipeline",
        {"settings": {"metric": [name]}, "space": [name]},
    )
    found = page_of(folder)
    assert len(found.scripts) == 2
    assert found.figures[0]["layout"]["yaxis"]["title"]["text"] == name
    assert name in found.text


def test_plotly_that_is_missing_is_named(folder, monkeypatch, capsys):
    studies.make(folder, VALUES)
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    assert main(["sweep", "plot", str(folder)]) == 2
    assert "pip install 'tfr_pipeline[report]'" in capsys.readouterr().err
    assert not (folder / "sweep.html").exists()


@pytest.mark.slow
def test_importances_are_of_what_is_best_whatever_is_better(folder):
    study = studies.make(folder, [], trials=100, metric="ndcg@10,seconds.training")
    for _ in range(100):
        claim = study.claim()
        # The highest values come of high rates, the lowest of high temperatures.
        heat = claim.point.get("pipeline.loss_args.temperature")
        value = -heat if heat else claim.point["pipeline.learning_rate"]
        study.complete(claim, [value, 10.0 + value])
    bars = [figure["data"][0] for figure in page_of(folder).figures]
    most = [
        max(zip(bar["x"], bar["y"], strict=True))[1]
        for bar in bars
        if bar["type"] == "bar"
    ]
    assert most == ["learning_rate", "temperature"]
