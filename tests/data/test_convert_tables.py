"""CSV, TSV and Parquet: the same lists as the same data in LibSVM text."""

from __future__ import annotations

import argparse
import gzip
import os
import pathlib
from typing import Any

import numpy as np
import pytest

from tests.data.conversion_helpers import all_records, write
from tfr_pipeline.cli import convert as command
from tfr_pipeline.compat import tf
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.sources import csv_files, table_files
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.source import read_lists
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Feature, Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.multi_label import MultiLabelDatasetBuilder

pa = pytest.importorskip(
    "pyarrow", reason="needs a working pyarrow", exc_type=ImportError
)
pa_parquet = pytest.importorskip("pyarrow.parquet")

HEADER = "qid,label,docid,ctr,words,title,user,age\n"
ROWS = (
    "a,2,d1,0.1,3,one,u1,7\n"
    "a,0,d2,-1e-3,4,two,u1,7\n"
    "b,1,d3,12345.678901234567,16777217,three,u2,8\n"
)
ROLES = {"docid_column": "docid", "context_columns": ("user", "age")}


def read(path: str, input_format: str = "csv", **options: Any) -> Lists:
    return Lists.concatenate(read_lists(path, input_format, options=Options(**options)))


def table_of(lists: int, documents: int, seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    count = lists * documents
    return pa.table(
        {
            "qid": np.repeat(np.arange(lists), documents),
            "label": random.integers(0, 4, count),
            "x": random.normal(size=count),
            "n": random.integers(-5, 5, count),
        }
    )


def check_sample(lists: Lists) -> None:
    assert lists.query_ids.tolist() == ["a", "b"]
    assert lists.row_splits.tolist() == [0, 2, 3]
    assert lists.document_ids.tolist() == ["d1", "d2", "d3"]
    assert lists.labels is not None
    assert lists.labels.tolist() == [2, 0, 1]
    expected = [[0.1, 3], [-1e-3, 4], [12345.678901234567, 16777217]]
    np.testing.assert_array_equal(
        lists.values["float32"], np.array(expected, np.float32)
    )
    assert lists.context["user"].tolist() == [["u1"], ["u2"]]
    assert lists.context["age"].tolist() == [[7], [8]]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_csv_columns_take_the_roles_that_options_give(
    ending: str, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes((HEADER + ROWS).replace("\n", ending).encode())
    check_sample(read(str(path), **ROLES))


def test_tsv_and_gzip_read_as_csv_does(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress((HEADER + ROWS).replace(",", "\t").encode()))
    check_sample(read(str(path), "tsv", **ROLES))


def test_parquet_reads_as_csv_does(tmp_path: pathlib.Path) -> None:
    table = pa.csv.read_csv(write(tmp_path / "a.csv", HEADER + ROWS))
    pa_parquet.write_table(table, tmp_path / "a.parquet")
    check_sample(read(str(tmp_path / "a.parquet"), "parquet", **ROLES))


def test_without_a_column_for_it_the_line_is_the_document_id(
    tmp_path: pathlib.Path,
) -> None:
    lists = read(write(tmp_path / "a.csv", HEADER + ROWS))
    assert lists.document_ids.tolist() == ["2", "3", "4"]


def test_small_batches_give_the_same_lists_as_large_ones(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of(lists=300, documents=11)
    pa_parquet.write_table(table, tmp_path / "a.parquet")
    pa.csv.write_csv(table, tmp_path / "a.csv")
    whole = read(str(tmp_path / "a.parquet"), "parquet")
    monkeypatch.setattr(table_files, "_BLOCK_ELEMENTS", 256)
    monkeypatch.setattr(csv_files, "_BLOCK_BYTES", 2000)
    for input_format in ("parquet", "csv"):
        parts = list(read_lists(str(tmp_path / f"a.{input_format}"), input_format))
        assert len(parts) > 5
        small = Lists.concatenate(parts)
        np.testing.assert_array_equal(small.row_splits, whole.row_splits)
        np.testing.assert_array_equal(small.values["float32"], whole.values["float32"])
        assert small.query_ids.tolist() == whole.query_ids.tolist()


def test_unlabeled_rows_can_be_read_for_prediction(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.csv", "qid,x\n1,0.5\n1,2\n")
    assert read(path, require_label=False).labels is None
    path = write(tmp_path / "b.csv", "qid,label,x\n1,,0.5\n1,2,2\n")
    labels = read(path, require_label=False).labels
    assert labels is not None
    assert labels.tolist() == [-1, 2]


def test_a_converted_table_keeps_names_weights_and_context(
    tmp_path: pathlib.Path,
) -> None:
    path = write(tmp_path / "a.csv", "qid,label,x,w,user\nq,1,0.5,2,u1\nq,0,1.5,3,u1\n")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    flags = [f"--input={path}", "--input_format=csv", f"--output={tmp_path / 'out'}"]
    flags += ["--weight_column=w", "--context_columns=user", "--scalar_features"]
    assert command.run(parser.parse_args(flags)) == 0
    features = Features.load(str(tmp_path / "out"))
    assert features.context == {"user": Feature("string", (1,), "")}
    assert features.example == {"x": Feature("float32", (1,), 0.0)}
    assert features.weight == ("weight", Feature("float32", (1,), 1.0))
    reading = {"input_format": "csv", "nan": "error", "qid_column": "qid"}
    assert features.reading == {**reading, "docid_column": ""}
    input_pb2 = pytest.importorskip("tensorflow_serving.apis.input_pb2")
    (record,) = all_records(tmp_path / "out")
    elwc = input_pb2.ExampleListWithContext.FromString(record)
    context = tf.io.parse_single_example(
        elwc.context.SerializeToString(), features.context_spec
    )
    assert context["user"].numpy().tolist() == [b"u1"]
    assert features.weight_spec is not None
    rows = tf.io.parse_example(
        [example.SerializeToString() for example in elwc.examples],
        {**features.example_spec, features.weight_spec[0]: features.weight_spec[1]},
    )
    assert rows["x"].numpy().tolist() == [[0.5], [1.5]]
    assert rows["weight"].numpy().tolist() == [[2], [3]]


BAD_ROWS = {
    "a cell that is no number": ("b,1,d,oops,3,t,u,1", "'oops'"),
    "too few cells": ("b,1,d", "expected 8 cells, as the header has, found 3"),
    "an empty feature": ("b,1,d,,3,t,u,1", "'ctr': expected a finite.*empty cell"),
    "a NaN feature": ("b,1,d,nan,3,t,u,1", "'ctr': expected a finite"),
    "a negative grade": ("b,-1,d,1,3,t,u,1", "'label': expected a grade of 0 or more"),
    "an empty grade": ("b,,d,1,3,t,u,1", "'label': expected a grade of 0 or more"),
    "an empty query id": (",1,d,1,3,t,u,1", "'qid': expected a query id"),
    "a query that comes again": ("a,1,d,1,3,t,u,1", "'a' again.* began at .*:2"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_an_error_with_file_and_line(
    case: str, tmp_path: pathlib.Path
) -> None:
    line, message = BAD_ROWS[case]
    path = write(tmp_path / "bad.csv", f"{HEADER}{ROWS}{line}\nz,1,d,1,3,t,u,1\n")
    options = Options(feature_columns=("ctr", "words"))
    with pytest.raises(DataError, match=message) as caught:
        convert(path, str(tmp_path / "out"), input_format="csv", options=options)
    assert "bad.csv:5" in str(caught.value)
    assert os.listdir(tmp_path) == ["bad.csv"]


def test_columns_that_are_no_features_are_named(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.csv", "qid,label,x,y\n1,1,1,1\n1,0,1,oops\n")
    lines: list[str] = []
    convert(path, str(tmp_path / "out"), input_format="csv", report=lines.append)
    assert lines == [
        "columns left out, not numeric: y. To take them, say what they are: "
        "--text_columns, --categorical_columns or --types.",
        "columns taken as features, 1: x",
    ]


def test_a_column_that_is_not_there_names_the_nearest(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.csv", HEADER + ROWS)
    with pytest.raises(ConfigError, match=r"--qid_column.*did you mean 'qid'"):
        read(path, qid_column="quid")
    with pytest.raises(ConfigError, match=r"--feature_columns.*did you mean 'words'"):
        read(path, feature_columns=("word",))


@pytest.mark.parametrize("input_format", ["csv", "parquet"])
def test_files_that_are_empty_or_something_else_are_errors(
    input_format: str, tmp_path: pathlib.Path
) -> None:
    for content in ("", "PAR1 but not really"):
        path = write(tmp_path / "a", content)
        with pytest.raises((DataError, ConfigError), match="a"):
            read(path, input_format)


def test_a_header_without_rows_is_an_error(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.csv", "qid,label,x\n")
    with pytest.raises(DataError, match="at least one document"):
        read(path, feature_columns=("x",))


def test_truncated_gzip_is_an_error(tmp_path: pathlib.Path) -> None:
    data = gzip.compress((HEADER + ROWS * 500).encode())
    (tmp_path / "a.csv.gz").write_bytes(data[:-20])
    with pytest.raises(DataError, match=r"a.csv.gz: expected a whole gzip file"):
        read(str(tmp_path / "a.csv.gz"), group_by_query=True)


def test_files_with_other_columns_are_an_error(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "a.csv", "qid,label,x\n1,1,1\n")
    write(tmp_path / "b.csv", "qid,label,y\n2,1,1\n")
    with pytest.raises(
        DataError, match=r"b.csv: expected the columns of .*a.csv.*x, y"
    ):
        read(str(tmp_path / "*.csv"))


def test_several_labels_become_tasks_and_an_empty_cell_no_label(
    tmp_path: pathlib.Path,
) -> None:
    text = "qid,grade,clicked,x\nq,2,,0.5\nq,0,1,1.5\nr,,0,2\n"
    path = write(tmp_path / "a.csv", text)
    options = Options(label_columns=("grade", "clicked"))
    stats = convert(path, str(tmp_path / "out"), input_format="csv", options=options)
    assert stats["grades"] == {"-1": 1, "0": 1, "2": 1}
    features = Features.load(str(tmp_path / "out"))
    assert list(features.example["features"].columns) == ["x"]
    pattern = f"{tmp_path}/out/train-*"
    builder = MultiLabelDatasetBuilder.from_features(
        features, DatasetHparams(pattern, pattern, 2, 2)
    )
    assert builder.tasks == ("grade", "clicked")
    lists = builder.lists("train")
    assert lists.labels is not None
    assert lists.labels.tolist() == [[2, -1], [0, 1], [-1, 0]]


@pytest.mark.parametrize(
    ("columns", "output_format", "error", "message"),
    [
        (("grade", "clickd"), "elwc", ConfigError, "did you mean 'clicked'"),
        (("grade", "clicked"), "packed", ConfigError, "one label"),
        (("grade", "minus"), "elwc", DataError, "'minus': expected a grade"),
    ],
)
def test_label_columns_that_cannot_be_are_errors(
    tmp_path: pathlib.Path,
    columns: tuple[str, ...],
    output_format: str,
    error: type[Exception],
    message: str,
) -> None:
    path = write(tmp_path / "a.csv", "qid,grade,clicked,minus,x\nq,2,1,-3,0.5\n")
    with pytest.raises(error, match=message):
        convert(
            path,
            str(tmp_path / "out"),
            input_format="csv",
            output_format=output_format,
            options=Options(label_columns=columns),
        )
    assert not (tmp_path / "out").exists()
