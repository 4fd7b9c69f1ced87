"""Ids of tables: what is refused, and what is said about the others."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.source import read_lists
from tfr_pipeline.errors import DataError

pa = pytest.importorskip(
    "pyarrow", reason="needs a working pyarrow", exc_type=ImportError
)
pa_parquet = pytest.importorskip("pyarrow.parquet")


def parquet(folder: pathlib.Path, **columns: Any) -> str:
    rows = len(next(iter(columns.values())))
    table = {"label": [1] * rows, "x": [0.5] * rows, **columns}
    pa_parquet.write_table(pa.table(table), folder / "a.parquet")
    return str(folder / "a.parquet")


def read(path: str, **options: Any) -> Lists:
    lists = read_lists(path, "parquet", options=Options(**options))
    return Lists.concatenate(lists)


@pytest.mark.parametrize("separator", ["\t", "\n", "\r"])
def test_an_id_that_would_break_a_line_of_predictions_is_an_error(
    tmp_path: pathlib.Path, separator: str
) -> None:
    path = parquet(tmp_path, qid=["a", "b"], doc=["d", f"d{separator}e"])
    with pytest.raises(DataError, match=r"a.parquet:2: column 'doc'.*document id"):
        read(path, docid_column="doc")
    path = parquet(tmp_path, qid=["a", f"b{separator}"])
    with pytest.raises(DataError, match=r"a.parquet:2: column 'qid'.*query id"):
        read(path)


@pytest.mark.parametrize(
    "queries", [["a", None], ["a", ""], [1, None], pa.array([1.0, float("nan")])]
)
def test_a_missing_query_id_is_an_error(tmp_path: pathlib.Path, queries: Any) -> None:
    with pytest.raises(DataError, match=r"a.parquet:2: column 'qid'.*query id"):
        read(parquet(tmp_path, qid=queries))


def test_ids_that_are_not_utf_8_are_an_error(tmp_path: pathlib.Path) -> None:
    path = parquet(tmp_path, qid=pa.array([b"caf\xe9", b"caf\xe8"], pa.binary()))
    with pytest.raises(DataError, match=r"a.parquet:1: .*'qid'.*query id in UTF-8"):
        read(path)


def test_empty_and_repeated_document_ids_are_counted_and_said(
    tmp_path: pathlib.Path,
) -> None:
    path = parquet(
        tmp_path, qid=["a"] * 4 + ["b"] * 2, doc=["d", "e", "d", "", "d", None]
    )
    options = Options(docid_column="doc")
    lists = Lists.concatenate(read_lists(path, "parquet", options=options))
    assert lists.document_ids.tolist() == ["d", "e", "d", "4", "d", "6"]
    said: list[str] = []
    list(read_lists(path, "parquet", options=options, report=said.append))
    converted: list[str] = []
    stats = convert(
        path,
        str(tmp_path / "out"),
        input_format="parquet",
        options=options,
        report=converted.append,
    )
    assert stats["documents_with_a_repeated_id"] == 1
    assert "2 documents have an empty id" in said[0]
    assert "1 documents have the id" in said[1]
    assert "query 'a', document 'd'" in said[1]
    assert set(said) <= set(converted)
