"""Conversion of labels that are classes: CSV, Parquet and LibSVM."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tfr_pipeline.cli.main import main
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.sources import class_names
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.source import read_lists
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.multi_label import builder_from_features

CSV = """name,size,subject,ears
ann,0.5,cat,2
bob,1.5,dog,2.5
cid,2.5,,0
dan,3.5,owl,1
eve,0.0,cat,4
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "pets.csv"
    path.write_text(CSV)
    return path


def converted(folder, split="train"):
    """Returns the lists of a folder that `convert` filled."""
    features = Features.load(str(folder))
    hparams = DatasetHparams("", str(folder / f"{split}-*"), 2, 2)
    return builder_from_features(features, hparams).lists("valid", "packed")


def options(**more):
    named = {"label_column": "subject", "docid_column": "name", "classes": ()}
    return Options(**{**named, **more})


@pytest.mark.parametrize("output_format", ["elwc", "packed"])
def test_rows_of_a_table_become_lists_of_one(table, tmp_path, output_format):
    out = tmp_path / "data"
    stats = convert(
        str(table),
        str(out),
        input_format="csv",
        output_format=output_format,
        options=options(),
    )
    lists = converted(out)
    assert Features.load(str(out)).classes == ("cat", "dog", "owl")
    assert lists.labels.tolist() == [0, 1, -1, 2, 0]
    assert lists.row_splits.tolist() == [0, 1, 2, 3, 4, 5]
    assert lists.query_ids.tolist() == ["ann", "bob", "cid", "dan", "eve"]
    assert lists.values["float32"][1].tolist() == [1.5, 2.5]
    assert stats["classes"] == {"cat": 2, "dog": 1, "owl": 1}
    assert stats["unlabelled"] == 1
    written = json.loads((out / "train.stats.json").read_text())
    assert written["classes"] == stats["classes"]


@pytest.mark.parametrize(
    ("column", "classes"),
    [
        (pa.array(["cat", None, "dog", "cat", ""]), ("cat", "dog")),
        (pa.array(["cat", None, "dog", "cat", ""]).dictionary_encode(), ("cat", "dog")),
        (pa.array([10, None, 9, 10, -1]), ("9", "10")),
        (pa.array([10.0, float("nan"), 9.0, 10.0, -1.0]), ("9", "10")),
        (pa.array([True, None, False, True, None]), ("false", "true")),
    ],
)
def test_labels_of_any_type_are_names(tmp_path, column, classes):
    path, out = tmp_path / "rows.parquet", tmp_path / "data"
    frame = pa.table({"x": np.arange(5.0), "label": column})
    pyarrow.parquet.write_table(frame, path)
    given = Options(classes=())
    convert(str(path), str(out), input_format="parquet", options=given)
    assert Features.load(str(out)).classes == classes
    second = 0 if classes[1] in ("dog", "10", "true") else 1
    assert converted(out).labels.tolist() == [
        *([0, -1, 1, 0, -1] if classes[0] == "cat" else [1 - second, -1, 0, 1, -1])
    ]


def test_lines_of_libsvm_become_lists_of_one(tmp_path):
    text = "cat 1:1 3:0.5 # docid = a\n2:2\n\n# a remark\nowl 1:3\ncat 2:1\n"
    (tmp_path / "one.txt").write_text(text)
    (tmp_path / "two.txt").write_text("owl 3:9")
    out = tmp_path / "data"
    paths = [str(tmp_path / name) for name in ("one.txt", "two.txt")]
    convert(paths, str(out), options=Options(classes=()), num_workers=1)
    lists = converted(out)
    assert lists.labels.tolist() == [0, -1, 1, 0, 1]
    assert lists.query_ids.tolist() == ["a", "2", "3", "4", "5"]
    assert lists.values["float32"].tolist() == [
        [1, 0, 0.5],
        [0, 2, 0],
        [3, 0, 0],
        [0, 1, 0],
        [0, 0, 9],
    ]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("+1 1:1\n-1 1:2\n1:3\n1 1:4\n", [1, 0, -1, 1]),
        ("2 1:1\n-1 1:2\n1:3\n1 1:4\n", [1, -1, -1, 0]),
    ],
)
def test_minus_one_is_a_class_beside_plus_one_and_no_label_otherwise(
    tmp_path, text, labels
):
    (tmp_path / "lines.txt").write_text(text)
    given = Options(classes=())
    convert(str(tmp_path / "lines.txt"), str(tmp_path / "data"), options=given)
    assert converted(tmp_path / "data").labels.tolist() == labels


def test_large_text_is_cut_between_any_lines(tmp_path, monkeypatch):
    lines = [f"{number % 3} 1:{number}" for number in range(500)]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    by_line = class_names_chunks(monkeypatch)
    found = list(read_lists(str(tmp_path / "lines.txt"), "libsvm", options=by_line))
    assert len(found) > 3
    labels = np.concatenate([lists.labels for lists in found])
    ids = np.concatenate([lists.query_ids for lists in found])
    assert labels.tolist() == [number % 3 for number in range(500)]
    assert ids.tolist() == [str(number) for number in range(1, 501)]


def class_names_chunks(monkeypatch):
    """Lets chunks be small; returns options of three classes."""
    from tfr_pipeline.data.sources import libsvm_chunks

    small = libsvm_chunks.by_line
    monkeypatch.setattr(
        libsvm_chunks, "by_line", lambda paths, classes: small(paths, classes, 1000)
    )
    return Options(classes=("0", "1", "2"))


def test_other_splits_take_the_classes_that_are_there(table, tmp_path):
    out = str(tmp_path / "data")
    convert(str(table), out, input_format="csv", options=options())
    table.write_text("name,size,subject,ears\nfay,1,owl,1\n")
    convert(
        str(table), out, input_format="csv", split="test", options=options(classes=None)
    )
    assert converted(tmp_path / "data", "test").labels.tolist() == [2]


def test_a_class_that_is_not_known_is_an_error_with_its_place(table, tmp_path):
    out = str(tmp_path / "data")
    convert(str(table), out, input_format="csv", options=options())
    table.write_text("name,size,subject,ears\nfay,1,owl,1\ngus,1,eel,1\n")
    with pytest.raises(DataError, match=r"pets.csv:3: column 'subject'.*found 'eel'"):
        convert(str(table), out, input_format="csv", split="test", options=options())
    assert not list((tmp_path / "data").glob("test*"))
    with pytest.raises(DataError, match=r"classes: expected .*'owl'.*found"):
        convert(
            str(table),
            out,
            input_format="csv",
            split="test",
            options=options(classes=("owl", "eel")),
        )


def test_splits_are_cut_by_the_hash_of_the_id(tmp_path):
    path, out = tmp_path / "rows.csv", tmp_path / "data"
    rows = [f"row{i},{i},{'ab'[i % 2]}" for i in range(200)]
    path.write_text("\n".join(["name,x,subject", *rows]))
    convert(
        str(path),
        str(out),
        input_format="csv",
        splits="train:.8,test:.2",
        options=options(),
    )
    ids = [set(converted(out, split).query_ids) for split in ("train", "test")]
    assert ids[0].isdisjoint(ids[1])
    assert len(ids[0] | ids[1]) == 200
    assert 20 < len(ids[1]) < 60


def test_ids_that_come_again_are_an_error(table, tmp_path):
    table.write_text(CSV + "ann,1,dog,1\n")
    with pytest.raises(DataError, match=r"pets.csv:7: .*each id once.*'ann'.*csv:2"):
        convert(str(table), str(tmp_path), input_format="csv", options=options())


def test_rows_of_several_files_without_ids_have_different_ones(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("x,label\n1,cat\n2,dog\n")
    paths = [str(tmp_path / name) for name in ("a.csv", "b.csv")]
    out = tmp_path / "data"
    convert(paths, str(out), input_format="csv", options=Options(classes=()))
    assert converted(out).query_ids.tolist() == [
        *("a.csv:2", "a.csv:3", "b.csv:2", "b.csv:3")
    ]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--classes=1"], "2 to"),
        (["--classes=a,b,a"], "'a' more than once"),
        (["--classes=a,,b"], "different names"),
        (["--classes=auto", "--label_transform=log"], "labels are names"),
        (["--classes=auto", "--label_columns=a,b"], "each row is an example"),
        (["--classes=auto", "--group_by_query"], "each row is an example"),
        (["--classes=4"], "classes '0', '1', '2', '3'"),
    ],
)
def test_what_does_not_go_with_classes_is_said(table, tmp_path, words, error, capsys):
    flags = [f"--input={table}", "--input_format=csv", f"--output={tmp_path / 'out'}"]
    if "--label_columns=a,b" not in words:
        flags.append("--label_column=subject")
    assert main(["convert", *flags, *words]) in (1, 2)
    assert error in capsys.readouterr().err


@pytest.mark.parametrize("text", ["x,label\n1,cat\n2,cat\n3,\n", "x,label\n1,\n"])
def test_one_class_alone_is_none(tmp_path, text):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(DataError, match="two or more classes"):
        convert(
            str(tmp_path / "rows.csv"),
            str(tmp_path / "data"),
            input_format="csv",
            options=Options(classes=()),
        )


def test_queries_are_no_examples(tmp_path):
    (tmp_path / "lines.txt").write_text("1 qid:3 1:1\n0 qid:3 1:2\n")
    given = Options(classes=("0", "1"))
    with pytest.raises(DataError, match="leave out --classes"):
        convert(str(tmp_path / "lines.txt"), str(tmp_path / "out"), options=given)


def test_numbers_are_sorted_as_numbers_and_names_as_text():
    assert class_names.found_in(["10", "9", "-3"], "") == ("-3", "9", "10")
    assert class_names.found_in(["b", "10", "9"], "") == ("10", "9", "b")


def test_features_keep_their_classes(tmp_path):
    features = Features(classes=("a", "b"))
    features.save(str(tmp_path))
    assert Features.load(str(tmp_path)) == features
    for wrong in ("ab", ["a"], ["a", "a"], [1, 2]):
        content = {**features.to_json(), "classes": wrong}
        with pytest.raises(DataError, match="classes"):
            Features.from_json(content)


def test_a_parser_of_settings_is_strict():
    with pytest.raises(ConfigError, match="how many"):
        class_names.parse("70000")
