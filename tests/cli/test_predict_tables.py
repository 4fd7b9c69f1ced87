"""A table with texts, dates, lists and missing values, from one file to predictions."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest

import tfr_pipeline as tfr
from tfr_pipeline.cli.main import main
from tfr_pipeline.compat import tf
from tfr_pipeline.features import DEFAULT_MASK, Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams

pa = pytest.importorskip(
    "pyarrow", reason="needs a working pyarrow", exc_type=ImportError
)
pa_parquet = pytest.importorskip("pyarrow.parquet")
TYPES = {"vector": "list", "tags": "ragged", "seller": "integer", "listed": "date"}


def table(queries: int = 30, documents: int = 6) -> Any:
    random = np.random.default_rng(0)
    count = queries * documents
    price = random.normal(size=count).round(3)
    brand = random.integers(0, 4, count)
    vectors = random.normal(size=(count, 2)).round(3)
    return pa.table(
        {
            "qid": np.repeat(np.arange(queries), documents),
            "label": (price > 0).astype(int) + (brand == 1),
            "name": [f"d{row}" for row in range(count)],
            "price": [None if row % 7 == 0 else p for row, p in enumerate(price)],
            "stock": [None if row % 5 == 0 else row % 2 == 0 for row in range(count)],
            "brand": [[None, "red", "grün", "7"][number] for number in brand],
            "title": [f"title {row % 5}" for row in range(count)],
            "listed": pa.array(random.integers(0, 20_000, count), pa.int32()).cast(
                pa.date32()
            ),
            "vector": vectors.tolist(),
            "tags": [["a", "b", "c"][: row % 3] for row in range(count)],
            "seller": random.integers(0, 2**40, count),
            "age": np.repeat(random.integers(0, 9, queries), documents),
        }
    )


def as_text(found: Any) -> Any:
    for name in ("vector", "tags"):
        cells = ["|".join(map(str, cell)) for cell in found[name].to_pylist()]
        found = found.set_column(
            found.schema.get_field_index(name), name, pa.array(cells)
        )
    return found


def hashed(values: Any) -> Any:
    return tf.cast(tf.strings.to_hash_bucket_fast(values, 8), tf.float32)


def scores(path: pathlib.Path) -> dict[tuple[str, str], str]:
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    return {(qid, name): score for qid, name, _, score in rows}


@pytest.mark.slow
def test_predictions_are_the_same_from_any_form_of_a_table(
    tmp_path: pathlib.Path,
) -> None:
    pa_parquet.write_table(table(), tmp_path / "a.parquet")
    pa.csv.write_csv(as_text(table()), tmp_path / "a.csv")
    (tmp_path / "types.json").write_text(json.dumps(TYPES))
    data = tmp_path / "data"
    assert not main(
        [
            *("convert", f"--input={tmp_path / 'a.csv'}", "--input_format=csv"),
            *(f"--output={data}", "--splits=train:.6,valid:.2,test:.2", "--nan=zero"),
            *("--docid_column=name", "--context_columns=age", "--text_columns=title"),
            *("--categorical_columns=brand", f"--types={tmp_path / 'types.json'}"),
        ]
    )
    features = Features.load(str(data))
    wanted = {"features", "brand", "title", "vector", "tags", "seller"}
    assert features.example.keys() == wanted
    builder = tfr.keras.pipeline.SimpleDatasetBuilder.from_features(
        features, DatasetHparams(f"{data}/train-*", f"{data}/valid-*", 4, 4)
    )
    scored = {n: f for n, f in features.example_spec.items() if n != "tags"}
    model = tfr.keras.model.ModelBuilder(
        tfr.keras.model.FeatureSpecInputCreator(features.context_spec, scored),
        {
            **dict.fromkeys(("brand", "title"), hashed),
            "seller": lambda values: tf.cast(values % 8, tf.float32),
        },
        tfr.keras.model.DNNScorer(hidden_layer_dims=[8], output_units=1),
        DEFAULT_MASK,
    )
    hparams = tfr.keras.pipeline.PipelineHparams(
        str(tmp_path / "run"),
        num_epochs=1,
        steps_per_epoch=3,
        validation_steps=None,
        learning_rate=0.01,
        loss="softmax_loss",
        export_best_model=False,
    )
    tfr.keras.pipeline.SimplePipeline(model, builder, hparams).train_and_validate()
    found = {}
    for name, path, *flags in (
        ("elwc", f"{data}/*.tfrecord", "--input_format=elwc"),
        ("csv", f"{tmp_path}/a.csv"),
        ("parquet", f"{tmp_path}/a.parquet", "--input_format=parquet"),
    ):
        output = tmp_path / f"{name}.tsv"
        command = ["predict", f"--model={tmp_path / 'run'}", f"--input={path}"]
        assert not main([*command, f"--output={output}", *flags])
        found[name] = scores(output)
    assert len(found["elwc"]) == 180
    assert found["csv"] == found["parquet"]
    assert found["csv"].keys() == found["elwc"].keys()
    for key, score in found["csv"].items():
        np.testing.assert_allclose(
            float(score), float(found["elwc"][key]), rtol=1e-5, atol=1e-6
        )
