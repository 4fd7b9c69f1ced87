"""From a table with gaps, by a config with steps that learn, to predictions."""

from __future__ import annotations

import collections
import csv
import json
import pathlib

import numpy as np
import pytest

from tfr_pipeline.cli.main import main
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(dict(
        model_dir="",
        data=dict(dir="", train_batch_size=4, valid_batch_size=4),
        model=dict(
            scorer_args=dict(hidden_layer_dims=(8,)),
            preprocess={
                "*": ("standardize", "missing"),
                "brand": {"embedding": 3, "oov": 1},
                "title": ("tokens", {"embedding": 2, "oov": 1, "shared": "words"}),
                "query": ("tokens", {"embedding": 2, "oov": 1, "shared": "words"}),
            },
        ),
        pipeline=dict(num_epochs=1, loss="softmax_loss", learning_rate=0.01),
    ))
"""


def rows(queries: int = 30, documents: int = 6) -> list[dict[str, object]]:
    random = np.random.default_rng(0)
    words = ["red", "white", "wine", "cheese"]
    found = []
    for number in range(queries * documents):
        price = round(random.lognormal(2), 3)
        found.append(
            {
                "qid": f"q{number // documents}",
                "query": words[number // documents % 4],
                "label": int(price > 7),
                "name": f"d{number}",
                "price": "" if number % 7 == 0 else price,
                "stock": "" if number % 5 == 0 else str(number % 2 == 0).lower(),
                "brand": ["", "red", "grün", "7"][random.integers(4)],
                "title": " ".join(random.choice(words, 2)),
            }
        )
    return found


def write(path: pathlib.Path, table: list[dict[str, object]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


def scores(output: pathlib.Path) -> dict[str, float]:
    lines = [line.split("\t") for line in output.read_text().splitlines()]
    return {name: float(score) for _, name, _, score in lines}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("shop")
    write(folder / "a.csv", rows())
    (folder / "types.json").write_text(json.dumps({"stock": "boolean"}))
    (folder / "config.py").write_text(CONFIG)
    assert not main(
        [
            *("convert", f"--input={folder / 'a.csv'}", "--input_format=csv"),
            *(f"--output={folder / 'data'}", "--splits=train:.6,valid:.2,test:.2"),
            *("--nan=keep", "--docid_column=name", "--context_columns=query"),
            *("--text_columns=title,query", "--categorical_columns=brand"),
            f"--types={folder / 'types.json'}",
        ]
    )
    assert not main(
        [
            *("train", f"--config={folder / 'config.py'}"),
            *(f"--config.data.dir={folder / 'data'}",),
            f"--config.model_dir={folder / 'run'}",
        ]
    )
    return folder


def predicted(shop: pathlib.Path, name: str, source: str, *flags: str) -> object:
    output = shop / f"{name}.tsv"
    command = ["predict", f"--model={shop / 'run'}", f"--input={source}"]
    assert not main([*command, f"--output={output}", *flags])
    return scores(output)


def test_steps_learn_of_the_rows_of_training_that_have_a_value(shop):
    data = shop / "data"
    builder = SimpleDatasetBuilder.from_features(
        Features.load(str(data)), DatasetHparams(f"{data}/train-*", "", 4, 4)
    )
    queries = set(builder.lists("train").query_ids)
    train = [row for row in rows() if row["qid"] in queries]
    assert 0 < len(train) < len(rows())
    learnt = json.loads((shop / "run" / "preprocessing.json").read_text())["learnt"]
    prices = [row["price"] for row in train if row["price"] != ""]
    stocks = [row["stock"] == "true" for row in train if row["stock"]]
    found = learnt["features"]["0 Standardize"]
    assert found["mean"] == pytest.approx([np.mean(prices), np.mean(stocks)])
    assert found["deviation"] == pytest.approx([np.std(prices), np.std(stocks)])
    brands = collections.Counter(row["brand"] for row in train)
    brand = learnt["brand"]["0 Embedding"]
    assert dict(zip(brand["vocabulary"], brand["counts"], strict=True)) == brands


def test_what_is_predicted_of_the_table_is_what_is_predicted_of_the_data(shop):
    table = predicted(shop, "csv", f"{shop}/a.csv")
    data = predicted(shop, "elwc", f"{shop}/data/*.tfrecord", "--input_format=elwc")
    assert len(table) == len(rows())
    assert table == pytest.approx(data, rel=1e-5, abs=1e-6)


def test_a_value_that_is_missing_is_not_one_that_is_zero(shop):
    changed = rows()
    for row in changed:
        row["price"] = row["price"] or 0
        row["brand"] = "never seen" if row["brand"] == "7" else row["brand"]
    write(shop / "b.csv", changed)
    before = predicted(shop, "csv", f"{shop}/a.csv")
    after = predicted(shop, "changed", f"{shop}/b.csv")
    assert np.isfinite(list(after.values())).all()
    for old, new in zip(rows(), changed, strict=True):
        same = after[old["name"]] == pytest.approx(before[old["name"]], abs=1e-6)
        assert same == (old == new)
