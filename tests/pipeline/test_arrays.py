"""Arrays and data frames are trained on as files of the same data are."""

from __future__ import annotations

import csv
import json
import pathlib
import re
from typing import Any

import numpy as np
import pytest

import tfr_pipeline as tfr
from tfr_pipeline.compat import tf
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.convert.cut import Cut
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.errors import ConfigError, DataError, PipelineError
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.arrays import from_arrays
from tfr_pipeline.pipeline.datasets.frames import from_dataframe
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder

ROOT = pathlib.Path(__file__).resolve().parents[2]
BATCHES = {"train_batch_size": 4, "valid_batch_size": 4}


def arrays(seed: int, queries: int = 20) -> tuple[Any, Any, Any]:
    random = np.random.default_rng(seed)
    features = random.normal(size=(8 * queries, 3)).astype(np.float32)
    labels = np.clip(np.round(features[:, 0] + 1), 0, 4)
    return features, labels, random.integers(0, queries, 8 * queries)


def write_csv(path: pathlib.Path, found: tuple[Any, Any, Any]) -> str:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["qid", "label", "docid", "a", "b", "c"])
        for row, (x, y, qid) in enumerate(zip(*found, strict=True)):
            writer.writerow([qid, y, row, *map(repr, x.tolist())])
    return str(path)


def train(data: Any, folder: pathlib.Path) -> dict[str, Any]:
    model = tfr.keras.model.ModelBuilder(
        tfr.keras.model.FeatureSpecInputCreator({}, data.features.example_spec),
        {},
        tfr.keras.model.DNNScorer(hidden_layer_dims=[8], output_units=1),
        "__list_mask__",
    )
    hparams = tfr.keras.pipeline.PipelineHparams(
        str(folder),
        num_epochs=2,
        steps_per_epoch=5,
        validation_steps=None,
        learning_rate=0.05,
        loss="softmax_loss",
        seed=3,
    )
    tfr.keras.pipeline.SimplePipeline(model, data, hparams).train_and_validate()
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.slow
def test_arrays_train_to_the_same_metrics_and_ranks_as_files_of_them(
    tmp_path: pathlib.Path,
) -> None:
    splits = {"train": arrays(0), "valid": arrays(1), "test": arrays(2)}
    for split, found in splits.items():
        convert(
            write_csv(tmp_path / f"{split}.csv", found),
            str(tmp_path / "data"),
            input_format="csv",
            split=split,
            options=Options(docid_column="docid", group_by_query=True),
        )
    patterns = [f"{tmp_path}/data/{split}-*" for split in splits]
    hparams = DatasetHparams(
        patterns[0], patterns[1], **BATCHES, test_input_pattern=patterns[2]
    )
    features = Features.load(str(tmp_path / "data"))
    files = SimpleDatasetBuilder.from_features(features, hparams)
    given = from_arrays(
        *splits["train"],
        valid=splits["valid"],
        test=splits["test"],
        feature_names=["a", "b", "c"],
        **BATCHES,
    )
    assert given.layouts == files.layouts == ("packed", "padded")
    assert given.features.example == features.example
    wanted = train(files, tmp_path / "files")
    found = train(given, tmp_path / "arrays")
    for key in ("valid", "test", "step", "best_step"):
        assert found[key] == wanted[key], key
    models = [
        tf.saved_model.load(str(tmp_path / run / "export" / "latest_model"))
        for run in ("files", "arrays")
    ]
    inputs = {
        "features": tf.constant(splits["test"][0][:6]),
        "row_splits": tf.constant([0, 4, 6], tf.int64),
        "ids": tf.constant(list("abcdef")),
    }
    ranked = [model.signatures["rank"](**inputs) for model in models]
    for name in ranked[0]:
        np.testing.assert_array_equal(ranked[0][name].numpy(), ranked[1][name].numpy())


@pytest.mark.slow
def test_a_run_on_other_arrays_is_not_gone_on_with(tmp_path: pathlib.Path) -> None:
    features, labels, qid = arrays(0)
    train(from_arrays(features, labels, qid, **BATCHES), tmp_path / "run")
    other = features.copy()
    other[5, 1] += 1
    with pytest.raises((PipelineError, ValueError), match="values/float32"):
        train(from_arrays(other, labels, qid, **BATCHES), tmp_path / "run")


def test_queries_are_brought_together_in_the_order_of_their_first_rows() -> None:
    features = np.arange(5.0)[:, np.newaxis]
    data = from_arrays(
        features, [0, 1, 2, 3, 4], ["b", "a", "b", "c", "a"], weight=[1, 2, 3, 4, 5]
    )
    lists = data.lists("train")
    assert lists.query_ids.tolist() == ["b", "a", "c"]
    assert lists.row_splits.tolist() == [0, 2, 4, 5]
    order = [0, 2, 1, 4, 3]
    assert lists.values["float32"][:, 0].tolist() == order
    assert lists.labels is not None and lists.labels.tolist() == order
    assert lists.weights is not None
    assert lists.weights.tolist() == [number + 1 for number in order]
    assert lists.document_ids.tolist() == list(map(str, order))


@pytest.mark.parametrize("kind", [int, float, str, np.uint8])
def test_ids_of_any_type_are_the_same_texts(kind: Any) -> None:
    qid = np.array([7, 7, 8]).astype(kind)
    data = from_arrays(np.eye(3), [1, 0, 1], qid)
    assert data.lists("train").query_ids.tolist() == ["7", "8"]


def test_splits_are_those_of_convert() -> None:
    features, labels, qid = arrays(0, queries=60)
    text = "train:.6,valid:.2,test:.2"
    data = from_arrays(features, labels, qid, splits=text)
    cut = Cut.parse(text)
    ids = [str(name) for name in dict.fromkeys(qid.tolist())]
    numbers = cut.of(ids)
    for number, split in enumerate(cut.names):
        own = [name for name, of in zip(ids, numbers, strict=True) if of == number]
        assert data.lists(split).query_ids.tolist() == own


GOOD: dict[str, Any] = {"X": np.zeros((2, 2)), "y": [1, 0], "qid": [1, 2]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y": [1]}, "y: expected one for each of the 2 rows of X, found .*[1]"),
        ({"y": [1, np.nan]}, r"y\[1\]: expected a number of 0 or more, found nan"),
        ({"y": [1, -1]}, r"y\[1\]: expected a number of 0 or more, found -1"),
        ({"y": ["a", "b"]}, "y: expected numbers"),
        ({"qid": [1, None]}, r"qid\[1\]: expected a query id, found an empty one"),
        ({"qid": [1, 1.5]}, r"qid\[1\]: expected a whole number or a text, found 1.5"),
        ({"qid": ["a\tb", "c"]}, r"qid\[0\]: expected a query id without tab"),
        ({"X": [[1, np.nan], [1, 1]]}, r"X\[0, 1\]: .*nan='zero'"),
        ({"X": [["a"], ["b"]]}, "X: expected numbers .* from_dataframe"),
        ({"X": np.zeros(2)}, r"X: expected \[documents, features\]"),
        ({"X": np.zeros((0, 2)), "y": [], "qid": []}, "at least one of each"),
        ({"weight": [1, -1]}, r"weight\[1\]: expected a number of 0 or more"),
        ({"feature_names": ["a"]}, "expected 2 names"),
        ({"nan": "no"}, "unknown value of nan 'no'"),
        ({"cache": "disk"}, "unknown setting of batches 'cache'"),
        (
            {"splits": "train:.9999999,valid:.0000001"},
            "each split, found none of 2 for 'valid'",
        ),
        ({"splits": "valid:1"}, "expected train among them"),
        ({"splits": "train:.5,valid:.6"}, "splits: expected shares that add up to 1"),
        ({"splits": "train:1", "valid": GOOD}, "instead of other data"),
        ({"valid": (np.zeros((1, 3)), [1], [1])}, "valid: X: expected 2 features"),
        ({"valid": {"X": 1, "labels": 2}}, "unknown array of valid 'labels'"),
        ({"test": 3}, r"test: expected \(X, y, qid\)"),
        ({"weight": [1, 1], "test": (1, 2, 3)}, "test: expected weights in all"),
    ],
)
def test_arrays_that_do_not_fit_are_errors(
    changed: dict[str, Any], message: str
) -> None:
    with pytest.raises((DataError, ConfigError), match=message):
        from_arrays(**{**GOOD, **changed})


def test_a_frame_becomes_what_convert_makes_of_parquet(tmp_path: pathlib.Path) -> None:
    pa = pytest.importorskip("pyarrow", exc_type=ImportError)
    pa_parquet = pytest.importorskip("pyarrow.parquet")
    frame = pa.table(
        {
            "qid": ["b", "a", "b", "c"],
            "label": [1, 0, 2, 1],
            "price": [0.5, 1.5, 2.5, 3.5],
            "stock": [True, False, True, True],
            "title": ["one", None, "three", "vier"],
            "brand": pa.array(["x", "y", "x", None]).dictionary_encode(),
            "vector": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]],
            "uid": [2**40, 1, 2, 3],
            "age": [3, 4, 3, 5],
        }
    )
    pa_parquet.write_table(frame, tmp_path / "a.parquet")
    options = Options(
        context_columns=("age",), types={"uid": "integer"}, group_by_query=True
    )
    convert(
        str(tmp_path / "a.parquet"),
        str(tmp_path / "out"),
        input_format="parquet",
        options=options,
    )
    features = Features.load(str(tmp_path / "out"))
    pattern = f"{tmp_path}/out/train-*"
    wanted = SimpleDatasetBuilder.from_features(
        features, DatasetHparams(pattern, pattern, 2, 2)
    ).lists("train")
    data = from_dataframe(frame, context=["age"], types={"uid": "integer"})
    assert data.features.example == features.example
    assert data.features.context == features.context
    found = data.lists("train")
    assert found.query_ids.tolist() == wanted.query_ids.tolist()
    np.testing.assert_array_equal(found.row_splits, wanted.row_splits)
    np.testing.assert_array_equal(found.labels, wanted.labels)
    for kind in ("values", "context"):
        ours, theirs = getattr(found, kind), getattr(wanted, kind)
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])
    assert found.loose.keys() == wanted.loose.keys()
    for name, column in found.loose.items():
        plain = wanted.loose[name].plain_values
        assert column.plain_values.tolist() == plain.tolist()
        assert column.lengths.tolist() == wanted.loose[name].lengths.tolist()
    batches = [
        [
            features
            for features, *_ in builder.make_dataset(
                "valid", "padded"
            ).as_numpy_iterator()
        ]
        for builder in (
            data.with_splits({"valid": data.splits["train"]}),
            SimpleDatasetBuilder.from_features(
                features, DatasetHparams(pattern, pattern, 2, 32)
            ),
        )
    ]
    tf.nest.map_structure(np.testing.assert_array_equal, *batches)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"label": "grade"}, "unknown column 'grade' in train"),
        ({"types": {"title": "date"}}, "train:0: column 'title': expected a date"),
        ({"nan": "error"}, "train:1: column 'price': expected a finite"),
        (
            {"valid": {"qid": [1], "label": [1]}},
            "valid: expected the columns .*'price'",
        ),
        ({"frame": 3}, "expected a data frame of pandas or polars"),
    ],
)
def test_frames_that_do_not_fit_are_errors(
    changed: dict[str, Any], message: str
) -> None:
    pa = pytest.importorskip("pyarrow", exc_type=ImportError)
    frame = pa.table(
        {"qid": [1, 1], "label": [1, 0], "price": [1.0, None], "title": ["a", "b"]}
    )
    with pytest.raises((DataError, ConfigError), match=message):
        from_dataframe(**{"frame": frame, "nan": "zero", **changed})


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_of_other_libraries_are_as_arrow_tables(library: str) -> None:
    module = pytest.importorskip(library)
    columns = {"qid": ["b", "a", "b"], "label": [1, 0, 2], "price": [0.5, 1.5, 2.5]}
    lists = from_dataframe(module.DataFrame(columns)).lists("train")
    assert lists.query_ids.tolist() == ["b", "a"]
    assert lists.values["float32"].tolist() == [[0.5], [2.5], [1.5]]


def test_names_of_tf_ranking_are_still_found() -> None:
    from tfr_pipeline.compat import tfr as theirs

    assert tfr.data.build_ranking_dataset is theirs.data.build_ranking_dataset
    assert tfr.data.from_arrays is from_arrays


def test_the_example_of_the_documentation_runs(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    (example,) = re.findall(r"test_arrays.py -->\n```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "data.md", "exec"), {})
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test"]["ndcg@10"]["skip"] > 0.5
