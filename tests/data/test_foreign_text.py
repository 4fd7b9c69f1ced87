"""LibSVM text as other programs leave it: ids, marks, missing labels and values."""

from __future__ import annotations

import codecs
import os
import pathlib
import resource

import numpy as np
import pytest

from tests.data.conversion_helpers import sample_text, write
from tfr_pipeline.data import ids
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.sources import libsvm
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.source import read_lists
from tfr_pipeline.errors import ConfigError, DataError

GOOD = "1 qid:1 1:0.5 2:1\n0 qid:1 1:0.25 2:2\n"


def read(path: object, **options: object) -> Lists:
    return Lists.concatenate(
        read_lists(str(path), "libsvm", options=Options(**options))  # type: ignore[arg-type]
    )


def write_bytes(path: pathlib.Path, content: bytes) -> pathlib.Path:
    path.write_bytes(content)
    return path


# Ids


@pytest.mark.parametrize(
    ("line", "kind"),
    [(b"1 qid:caf\xe9 1:1", "query"), (b"1 qid:2 1:1 #docid = \xe9t\xe9", "document")],
)
@pytest.mark.parametrize("grouped", [True, False])
def test_an_id_that_is_not_utf8_is_an_error_with_file_and_line(
    tmp_path: pathlib.Path, line: bytes, kind: str, grouped: bool
) -> None:
    path = write_bytes(tmp_path / "a.txt", GOOD.encode() + line + b"\n")
    with pytest.raises(DataError, match=rf"a.txt:3: expected a {kind} id in UTF-8"):
        read(path, group_by_query=grouped)


def test_an_id_may_be_any_utf8_text(tmp_path: pathlib.Path) -> None:
    text = "1 qid:caf\u00e9 1:1 # docid = \u6587\u66f8\n0 qid:cafe 1:1\n"
    lists = read(write_bytes(tmp_path / "a.txt", text.encode()))
    assert lists.query_ids.tolist() == ["caf\u00e9", "cafe"]
    assert lists.document_ids.tolist() == ["\u6587\u66f8", "2"]


def test_a_document_whose_id_was_left_empty_is_called_by_its_line(
    tmp_path: pathlib.Path,
) -> None:
    text = (
        "1 qid:1 1:1 #docid =  inc = 1 prob = 0.5\n"
        "0 qid:1 1:1 #docid = G-1 inc = 1\n"
        "0 qid:1 1:1 #docid = \n"
    )
    lists = read(write(tmp_path / "a.txt", text))
    assert lists.document_ids.tolist() == ["1", "G-1", "3"]


def test_documents_of_a_query_that_share_an_id_are_counted(
    tmp_path: pathlib.Path,
) -> None:
    text = "".join(
        f"1 qid:{query} 1:1 # docid = {name}\n"
        for query, name in [("a", "x"), ("a", "y"), ("b", "x"), ("b", "x"), ("b", "x")]
    )
    lists = read(write(tmp_path / "a.txt", text))
    assert ids.repeated(lists) == (2, "query 'b', document 'x'")


# Marks, line ends


@pytest.mark.parametrize("grouped", [True, False])
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(
    tmp_path: pathlib.Path, grouped: bool
) -> None:
    plain = read(write(tmp_path / "a.txt", GOOD), group_by_query=grouped)
    marked = codecs.BOM_UTF8 + GOOD.replace("\n", "\r\n").encode()
    found = read(write_bytes(tmp_path / "b.txt", marked), group_by_query=grouped)
    np.testing.assert_array_equal(found.values["float32"], plain.values["float32"])
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0]
    assert found.document_ids.tolist() == ["1", "2"]


def test_a_byte_order_mark_in_a_query_file_changes_nothing(
    tmp_path: pathlib.Path,
) -> None:
    path = write(tmp_path / "a.txt", "1 1:1\n0 1:1\n1 1:1\n")
    query = write_bytes(tmp_path / "q", codecs.BOM_UTF8 + b"2\r\n1\r\n")
    assert read(path, query_file=str(query)).lengths.tolist() == [2, 1]


def test_a_length_of_very_many_digits_is_an_error(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.txt", "1 1:1\n")
    query = write(tmp_path / "q", "9" * 5000 + "\n")
    with pytest.raises(DataError, match=r"q:1: expected the number of documents"):
        read(path, query_file=query)


# Values and labels that are missing


def test_null_is_a_value_that_is_not_there(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.txt", "1 qid:1 1:0.5 2:NULL 3:2\n0 qid:1 1:NULL\n")
    with pytest.raises(DataError, match=r"a.txt:1: .*finite float32, found '2:NULL'"):
        read(path)
    zero = read(path, nan="zero").values["float32"]
    assert zero.tolist() == [[0.5, 0, 2], [0, 0, 0]]
    kept = read(path, nan="keep").values["float32"]
    np.testing.assert_array_equal(kept, [[0.5, np.nan, 2], [np.nan, 0, 0]])


@pytest.mark.parametrize(
    ("input_format", "text"),
    [
        ("libsvm", "1 qid:1 1:nan\n"),
        ("csv", "qid,label,x\n1,1,nan\n"),
        ("csv", "qid,label,x\n1,1,\n"),
    ],
)
def test_what_training_refuses_is_not_recommended(
    tmp_path: pathlib.Path, input_format: str, text: str
) -> None:
    path = write(tmp_path / "a", text)
    options = Options(feature_columns=("x",) if input_format == "csv" else ())
    with pytest.raises(DataError, match="--nan=zero") as caught:
        list(read_lists(path, input_format, options=options))
    assert "keep" not in str(caught.value)


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("label", ["", "-1 ", "-2.5 ", "nan ", "NULL ", "3 "])
def test_labels_are_not_needed_where_nothing_is_learnt(
    tmp_path: pathlib.Path, label: str, grouped: bool
) -> None:
    rows = ["qid:1 1:0.5 2:1", "qid:2 1:1 # docid = d", "qid:2 2:7"]
    path = write(tmp_path / "a.txt", "".join(f"{label}{row}\n" for row in rows))
    lists = read(path, require_label=False, group_by_query=grouped)
    assert lists.query_ids.tolist() == ["1", "2"]
    assert lists.lengths.tolist() == [1, 2]
    assert lists.document_ids.tolist() == ["1", "d", "3"]
    assert lists.values["float32"].tolist() == [[0.5, 1], [1, 0], [0, 7]]
    if label != "3 ":
        with pytest.raises(DataError, match=r"a.txt:1: expected a"):
            read(path, group_by_query=grouped)


def test_labels_are_not_needed_beside_a_query_file(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.txt", "1:0.5 2:1\n-1 1:1\n2:7\n")
    query = write(tmp_path / "q", "1\n2\n")
    lists = read(path, require_label=False, query_file=query)
    assert lists.values["float32"].tolist() == [[0.5, 1], [1, 0], [0, 7]]


def test_a_word_for_a_label_is_refused_even_where_none_is_needed(
    tmp_path: pathlib.Path,
) -> None:
    path = write(tmp_path / "a.txt", "good qid:1 1:0.5\n")
    with pytest.raises(DataError, match=r"a.txt:1: expected a number.*'good'"):
        read(path, require_label=False)


# Numbers of features and of files


def test_rows_without_any_feature_are_not_taken_for_no_rows(
    tmp_path: pathlib.Path,
) -> None:
    path = write(tmp_path / "a.txt", "1 qid:1\n0 qid:1\n")
    with pytest.raises(DataError, match=r"a.txt: expected features .*--num_features"):
        convert(path, str(tmp_path / "out"))
    stats = convert(
        path, str(tmp_path / "out"), options=Options(num_features=3), report=print
    )
    assert stats["documents"] == 2


def test_very_many_features_come_with_a_hint(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.txt", "1 qid:1 1:1\n0 qid:1 70000:1\n")
    said: list[str] = []
    convert(path, str(tmp_path / "out"), report=said.append)
    assert any("70,000 features each document takes 0.3 MiB" in line for line in said)


@pytest.mark.parametrize("index", [libsvm.MAX_INDEX + 1, 1 << 24, 10**15])
def test_an_index_that_no_feature_has_is_refused(
    tmp_path: pathlib.Path, index: int
) -> None:
    path = write(tmp_path / "a.txt", f"1 qid:1 1:1\n0 qid:1 {index}:1\n")
    with pytest.raises(DataError, match=r"a.txt:2: expected feature indices up to"):
        convert(path, str(tmp_path / "out"), report=lambda line: None)
    with pytest.raises(ConfigError, match=r"--num_features: .* at most 1048576"):
        convert(path, str(tmp_path / "out"), options=Options(num_features=index))
    assert os.listdir(tmp_path) == ["a.txt"]


def test_more_files_than_can_be_are_refused(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.txt", sample_text())
    with pytest.raises(ConfigError, match="--num_shards: expected at most 99999"):
        convert(path, str(tmp_path / "out"), num_shards=99999999999999999999)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
        convert(path, str(tmp_path / "out"), num_shards=320, report=lambda line: None)
        assert len(list((tmp_path / "out").glob("train-*"))) == 320
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
