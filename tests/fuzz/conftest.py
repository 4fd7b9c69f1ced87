"""Sound inputs of every kind, and a sound run: what the cases spoil."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cli.command_helpers import Project
from tests.data.format_helpers import write_format
from tests.fuzz.commands import run
from tests.fuzz.trained_run import Trained
from tests.ranking_data import random_lists
from tests.serving.serving_helpers import export_untrained
from tfr_pipeline.features import Features

LINE = "{grade} qid:{query} 1:{a:.4g} 2:{b:.4g} 3:{c:.4g} #docid = d{row} inc = 1\n"


@pytest.fixture(scope="session")
def sound(tmp_path_factory):
    """A folder of sound inputs of every kind."""
    folder = tmp_path_factory.mktemp("sound")
    rng = np.random.default_rng(0)
    rows = []
    for query in range(6):
        for _ in range(4):
            a, b, c = rng.normal(size=3)
            rows.append((int(rng.integers(0, 3)), query, a, b, c, len(rows)))
    text = "".join(
        LINE.format(grade=g, query=q, a=a, b=b, c=c, row=row)
        for g, q, a, b, c, row in rows
    )
    (folder / "text.txt").write_text(text)
    plain = "".join(f"{g} 1:{a:.4g} 2:{b:.4g}\n" for g, _, a, b, _, _ in rows)
    (folder / "plain.txt").write_text(plain)
    (folder / "plain.query").write_text("4\n" * 6)
    for name, mark in (("csv", ","), ("tsv", "\t")):
        lines = [["label", "qid", "name", "x", "y"]]
        lines += [
            [str(g), str(q), f"d {row}", f"{a:.4g}", f"{b:.4g}"]
            for g, q, a, b, _, row in rows
        ]
        table = "".join(mark.join(line) + "\n" for line in lines)
        (folder / f"table.{name}").write_text(table)
    write_format(folder / "in.elwc", random_lists(0, [3, 1, 4, 2]), "elwc")
    write_format(folder / "in.seq", random_lists(0, [3, 1, 4, 2]), "seq")
    for kind in ("elwc", "packed"):
        words = [f"--input={folder}/text.txt", f"--output={folder}/{kind}"]
        assert run("convert", *words, f"--output_format={kind}")[0] == 0
    words = [f"--input={folder}/text.txt", f"--output={folder}/narrow"]
    words += ["--output_format=packed", "--feature_dtype=bfloat16"]
    assert run("convert", *words)[0] == 0
    features = Features.load(str(folder / "elwc"))
    export_untrained(features, folder / "model")
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run that has come to its end."""
    project = Project.make(tmp_path_factory.mktemp("trained"))
    assert run("train", *project.train_flags(project.run))[0] == 0
    return Trained.of(project)
