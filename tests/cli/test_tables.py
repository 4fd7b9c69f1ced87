"""One table to a served model, by the commands of `docs/tables.md`."""

from __future__ import annotations

import collections
import csv
import datetime
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.cli.command_helpers import shell_of
from tests.pipeline.training_helpers import ROOT, environment
from tfr_pipeline.cli.main import main
from tfr_pipeline.experiment import config_files
from tfr_pipeline.experiment.preprocessing import steps
from tfr_pipeline.features import Features

PAGE = ROOT / "docs" / "tables.md"
CONFIG = ROOT / "configs" / "tables.py"
QUERIES, DOCUMENTS = 60, 6
# Without this package: the program of the page, then `rank` and `predict` of a table.
ELSEWHERE = """
import json, sys
import tensorflow as tf

folder, path, records, program = sys.argv[1:]
exec(program)
with open(path) as file:
    inputs = json.load(file)
loaded = tf.saved_model.load(folder)
dtypes = {name: spec.dtype for name, spec in
          loaded.signatures["rank"].structured_input_signature[1].items()}
answer = loaded.signatures["rank"](
    **{name: tf.constant(value, dtypes[name]) for name, value in inputs.items()})
lists = list(tf.data.TFRecordDataset(tf.io.gfile.glob(records)))
scores = loaded.signatures["tensorflow/serving/predict"](inputs=tf.stack(lists))
print(json.dumps({
    "scores": answer["scores"].numpy().tolist(),
    "ids": [name.decode() for name in answer["ids"].numpy()],
    "of_records": scores["outputs"].numpy().tolist(),
    "package": any(name.startswith("tfr_pipeline") for name in sys.modules),
}))
"""


def rows() -> list[dict[str, str]]:
    """Returns a table in which each column has gaps; of the label it says something."""
    random = np.random.default_rng(0)
    words = ["red", "white", "shoe", "hat", "umbrella", "leather"]

    def gap(value: object) -> str:
        return "" if random.random() < 0.15 else str(value)

    found = []
    for number in range(QUERIES * DOCUMENTS):
        query = words[number // DOCUMENTS % len(words)]
        title = " ".join(random.choice(words, 3))
        price = round(float(random.lognormal(3)), 2)
        day = datetime.date(2024, 1, 1) + datetime.timedelta(int(random.integers(700)))
        found.append(
            {
                "session": f"s{number // DOCUMENTS}",
                "query": query,
                "item": f"i{number}",
                "label": str(int(query in title) + int(price < 20)),
                "price": gap(price),
                "rating": gap(random.integers(1, 6)),
                "in_stock": gap(str(bool(random.integers(2))).lower()),
                "listed": gap(day),
                "brand": gap(random.choice(["acme", "grün", "3"])),
                "title": gap(f'{title}, "new"'),
            }
        )
    return found


def write(path: pathlib.Path, table: list[dict[str, str]], ending: str = "\n") -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator=ending)
        writer.writeheader()
        writer.writerows(table)


def raw(table: list[dict[str, str]], features: Features) -> dict[str, object]:
    """Returns the inputs of `rank`, as whoever has the table at hand makes them."""

    def number(name: str, cell: str) -> float:
        if not cell:
            return float("nan")
        if name == "listed":
            return (datetime.date.fromisoformat(cell) - datetime.date(1970, 1, 1)).days
        return {"true": 1.0, "false": 0.0}.get(cell) or float(cell != "false" and cell)

    columns = features.example["features"].columns
    lengths = collections.Counter(row["session"] for row in table)
    firsts = np.cumsum([0, *lengths.values()])
    return {
        "features": [[number(name, row[name]) for name in columns] for row in table],
        "brand": [[row["brand"]] for row in table],
        "title": [[row["title"]] for row in table],
        "query": [[table[first]["query"]] for first in firsts[:-1]],
        "row_splits": firsts.tolist(),
        "ids": [row["item"] for row in table],
    }


def ranking(path: pathlib.Path) -> dict[str, float]:
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    return {document: float(score) for _, document, _, score in lines}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder in which the commands of the page ran."""
    folder = tmp_path_factory.mktemp("shop")
    shutil.copytree(ROOT / "configs", folder / "configs")
    write(folder / "shop.csv", rows())
    script = shell_of(PAGE).replace("tfr-pipeline train", "tfr-pipeline train $SHORT")
    script = script.replace("tfr-pipeline", f"{sys.executable} -m tfr_pipeline")
    short = "--config.pipeline.num_epochs=2 --config.model.scorer_args.dropout=0"
    result = subprocess.run(
        ["bash", "-euxc", f"SHORT='{short}'\n{script}"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return folder


def test_a_process_without_this_package_scores_raw_values_as_predict_does(
    shop: pathlib.Path,
) -> None:
    wanted = ranking(shop / "ranking.tsv")
    table = rows()
    assert len(wanted) == len(table)
    assert np.ptp(list(wanted.values())) > 0.1
    export = shop / "run" / "export" / "best_model_by_metric"
    (version,) = (path for path in export.iterdir() if path.name.isdigit())
    features = Features.load(str(version / "assets.extra" / "features.json"))
    (shop / "raw.json").write_text(json.dumps(raw(table, features)))
    records = str(shop / "data" / "test-*.tfrecord")
    (program,) = re.findall(
        r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    words = str(version), str(shop / "raw.json"), records, program
    done = subprocess.run(
        [sys.executable, "-P", "-c", ELSEWHERE, *words],
        cwd=shop,
        env={**os.environ, "PYTHONPATH": "", "TF_USE_LEGACY_KERAS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["package"]
    assert "A-481" in done.stdout  # the answer of the page
    served = dict(zip(found["ids"], found["scores"], strict=True))
    assert served == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    # Lists of the test split, of which all have as many documents.
    for scores in found["of_records"]:
        (session,) = {
            tuple(row["item"] for row in table[start : start + DOCUMENTS])
            for start in range(0, len(table), DOCUMENTS)
            if scores
            == pytest.approx(
                [wanted[row["item"]] for row in table[start : start + DOCUMENTS]],
                rel=1e-5,
                abs=1e-5,
            )
        }
        assert len(session) == len(scores) == DOCUMENTS


def test_windows_line_ends_make_the_same_data(shop: pathlib.Path) -> None:
    write(shop / "windows.csv", rows(), "\r\n")
    flags = re.search(r"(--splits.*?)\ntfr-pipeline train", shell_of(PAGE), re.DOTALL)
    words = flags[1].replace("\\\n", " ").replace("types.json", f"{shop}/types.json")
    source = [f"--input={shop / 'windows.csv'}", "--input_format=csv"]
    assert not main(["convert", *source, f"--output={shop / 'w'}", *words.split()])
    for path in sorted((shop / "data").glob("*.tfrecord")):
        assert (shop / "w" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_steps_go_by_the_types_of_the_data(tmp_path: pathlib.Path, kind: str) -> None:
    csv_module = pytest.importorskip("pyarrow.csv")
    path = tmp_path / f"shop.{kind}"
    write(tmp_path / "shop.csv", rows())
    flags = ["--text_columns=title,query", "--categorical_columns=brand"]
    if kind == "parquet":
        table = csv_module.read_csv(tmp_path / "shop.csv")
        brand = table["brand"].dictionary_encode()
        table = table.set_column(table.column_names.index("brand"), "brand", brand)
        import pyarrow.parquet

        pyarrow.parquet.write_table(table, path)
        flags = []
    else:
        (tmp_path / "types.json").write_text('{"listed": "date"}')
        flags.append(f"--types={tmp_path / 'types.json'}")
    source = [f"--input={path}", f"--input_format={kind}", f"--output={tmp_path}/data"]
    ids = ["--qid_column=session", "--docid_column=item", "--context_columns=query"]
    assert not main(["convert", *source, *ids, *flags, "--nan=keep"])
    features = Features.load(str(tmp_path / "data"))
    types = ("numeric", "numeric", "boolean", "date")
    assert features.example["features"].types == types
    words = [
        "model.preprocess.query=('tokens', {'embedding': 3})",
        "model.preprocess.brand={'hashing': 9}",
        "model.preprocess.type:text.tf_idf=50",
    ]
    config = config_files.load(str(CONFIG), [f"--config.{word}" for word in words])
    names = {
        name: [getattr(step, "func", step).__name__ for step in found]
        for name, found in steps(config["model"], features).items()
    }
    assert names == {
        "features": ["signed_log1p", "Standardize", "Missing"],
        "brand": ["Hashing"],
        "title": ["TfIdf"],
        "query": ["Tokens", "Embedding"],
    }
    assert config["model"]["preprocess"]["type:text"] == {"tf_idf": 50, "dim": 16}
