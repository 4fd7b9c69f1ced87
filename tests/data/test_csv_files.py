"""CSV and TSV text as people write it: quotes, line ends, encodings, odd columns."""

from __future__ import annotations

import bz2
import csv
import io
import lzma
import pathlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfr_pipeline.cli.convert import names
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.sources import csv_files
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.source import read_lists
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Feature

pa = pytest.importorskip(
    "pyarrow", reason="needs a working pyarrow", exc_type=ImportError
)
pa_parquet = pytest.importorskip("pyarrow.parquet")


def read(path: Any, input_format: str = "csv", **options: Any) -> Lists:
    return Lists.concatenate(
        read_lists(str(path), input_format, options=Options(**options))
    )


def written(folder: pathlib.Path, text: str | bytes, name: str = "a.csv") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def rows_of(count: int, title: str = "t") -> list[str]:
    return [f"q{row // 10},{row % 3},{row}.5,{title}" for row in range(count)]


def lines_of_error(path: str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path, **options)
    return str(caught.value)


@pytest.mark.parametrize("row", [6, 900])
@pytest.mark.parametrize("rest", ['"open', '"open\n'])
def test_a_quote_that_is_never_closed_is_an_error_with_the_line_it_opened_on(
    tmp_path: pathlib.Path, row: int, rest: str
) -> None:
    rows = rows_of(1000)
    rows[row] = rows[row][:-1] + rest
    path = written(tmp_path, "\n".join(["qid,label,x,title", *rows, ""]))
    message = lines_of_error(path)
    assert f"a.csv:{row + 2}: expected the quote that opens a cell" in message


def test_a_quote_that_closes_in_a_later_row_is_an_error(tmp_path: pathlib.Path) -> None:
    rows = rows_of(30, '"title, and more"')
    rows[4] = rows[4].removesuffix('"')
    path = written(tmp_path, "\n".join(["qid,label,x,title", *rows, ""]))
    assert "a.csv:6: expected the quote" in lines_of_error(path)


def test_a_cell_over_very_many_lines_is_an_error(tmp_path: pathlib.Path) -> None:
    rows = rows_of(3000)
    rows[7] = rows[7][:-1] + '"open'
    rows[2500] += '"'
    path = written(tmp_path, "\n".join(["qid,label,x,title", *rows, ""]))
    assert "a.csv:9: expected the quote" in lines_of_error(path)


def test_lines_after_a_cell_with_line_ends_and_blank_lines_are_those_of_the_file(
    tmp_path: pathlib.Path,
) -> None:
    text = 'qid,label,x,title\n1,1,2,"a\nb\n\nc"\n\n1,0,3,"d ""e"""\n'
    lists = read(written(tmp_path, text))
    assert lists.document_ids.tolist() == ["2", "7"]
    path = written(tmp_path, text + "1,0,oops,t\n", "b.csv")
    message = lines_of_error(path, feature_columns=("x",))
    assert "b.csv:8: column 'x': expected a number, found 'oops'" in message


cells = st.text(st.sampled_from('ab ,"\n\r;'), max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(cells, cells), min_size=1, max_size=12),
    st.integers(1, 60),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_blocks_have_the_rows_and_lines_of_the_csv_module(
    tmp_path_factory: pytest.TempPathFactory,
    table: list[tuple[str, str]],
    size: int,
    quoting: Any,
    ending: str,
) -> None:
    # A lone carriage return ends a line for some; it is in no test of lines.
    table = [tuple(cell.replace("\r", "") for cell in row) for row in table]
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=quoting, lineterminator=ending)
    writer.writerows([("first", "second"), *table])
    path = written(tmp_path_factory.mktemp("csv"), out.getvalue())
    reader = csv.reader(io.StringIO(out.getvalue(), newline=""))
    expected, line = [], 1
    for row in reader:
        expected.append((line, [cell.encode() for cell in row]))
        line = reader.line_num + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_files, "_BLOCK_BYTES", size)
        found = [row for block in csv_files.blocks(path, "csv") for row in block.rows()]
    assert found == expected[1:]


def test_a_byte_order_mark_windows_line_ends_and_trailing_delimiters_are_read(
    tmp_path: pathlib.Path,
) -> None:
    plain = "qid,label,x\n1,1,0.5\n1,0,2\n"
    expected = read(written(tmp_path, plain)).values["float32"].tolist()
    for text in (
        b"\xef\xbb\xbf" + plain.encode(),
        plain.replace("\n", "\r\n").encode(),
        plain.replace("\n", "\r").encode(),
        plain.replace("\n", ",\n").encode(),
        b"qid,label,x\n1,1,0.5,\n1,0,2,\n",
    ):
        lists = read(written(tmp_path, text, "b.csv"))
        assert lists.values["float32"].tolist() == expected, text
    path = written(tmp_path, "qid,label,x\n1,1,0.5,\n1,0,2,7\n", "c.csv")
    assert "c.csv:3" in lines_of_error(path)


@pytest.mark.parametrize("label", ["-1", "", "nan", "3"])
def test_labels_are_not_needed_where_nothing_is_learnt(
    tmp_path: pathlib.Path, label: str
) -> None:
    path = written(tmp_path, f"qid,label,x\n1,{label},0.5\n2,{label},2\n")
    options = {"require_label": False, "feature_columns": ("x",)}
    assert read(path, **options).values["float32"].tolist() == [[0.5], [2]]
    if label != "3":
        assert "expected a grade of 0 or more" in lines_of_error(path)


def test_true_and_false_are_numbers(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path, "qid,label,x,new\n1,true,0.5,True\n1,false,2,False\n")
    lists = read(path, context_columns=("new",))
    assert lists.context["new"].tolist() == [[1]]
    assert lists.labels is not None
    assert lists.labels.tolist() == [1, 0]
    lists = read(path)
    assert lists.values["float32"].tolist() == [[0.5, 1], [2, 0]]


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("before", ["", "1,1,NA,2,3\n"])
def test_the_error_names_the_column_that_is_wrong(
    tmp_path: pathlib.Path, before: str, start: str
) -> None:
    for column, row in (
        ("z", "1,0,null,2,1_0"),
        ("y", "1,0,1,2_0,3"),
        ("label", "1,oops,1,2,3"),
    ):
        text = f"{start}qid,label,x,y,z\n{before}{row}\n1,0,1,2,3\n"
        message = lines_of_error(
            written(tmp_path, text), feature_columns=("z", "y", "x")
        )
        assert f"a.csv:{3 if before else 2}: column {column!r}: expected" in message


@pytest.mark.parametrize("role", ["query", "header", "text", "first"])
def test_text_that_is_not_utf_8_is_one_error_with_its_line(
    tmp_path: pathlib.Path, role: str, capfd: pytest.CaptureFixture[str]
) -> None:
    text = {
        "query": "qid,label,x\na,1,1\ncafé,1,1\ncafè,1,1\n",
        "header": "qid,label,prix é\na,1,1\n",
        "text": "qid,label,x,t\na,1,1,t\na,0,1,é\n",
        "first": "qid,label,x\ncafé,1,1\ncafè,1,1\n",
    }[role]
    options = {"context_columns": ("t",)} if role == "text" else {}
    message = lines_of_error(written(tmp_path, text.encode("latin-1")), **options)
    assert "UTF-8" in message
    place = {"header": "a.csv: ", "first": "a.csv:2: column 'qid'"}
    assert place.get(role, "a.csv:3") in message
    assert "Traceback" not in capfd.readouterr().err
    message = lines_of_error(written(tmp_path, text.encode("utf-16")))
    assert "UTF-16" in message


@pytest.mark.parametrize("row", ["café,1", "café,1,2,3"])
def test_rows_of_another_length_may_be_no_utf_8(
    tmp_path: pathlib.Path, row: str, capfd: pytest.CaptureFixture[str]
) -> None:
    text = f"qid,label,x\na,1,1\n{row}\nb,1,0.5\n"
    message = lines_of_error(written(tmp_path, text.encode("latin-1")))
    assert "a.csv:3: expected 3 cells" in message
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "__index_level_0__"])
@pytest.mark.parametrize("input_format", ["csv", "parquet"])
def test_row_numbers_of_pandas_are_no_feature_and_the_chosen_columns_are_said(
    tmp_path: pathlib.Path, name: str, input_format: str
) -> None:
    table = pa.table({name: [0, 1], "qid": [1, 1], "label": [1, 0], "x": [0.5, 2.0]})
    path = str(tmp_path / "a")
    if input_format == "csv":
        pa.csv.write_csv(table, path)
    else:
        pa_parquet.write_table(table, path)
    assert read(path, input_format).values["float32"].tolist() == [[0.5], [2]]
    lines: list[str] = []
    output = str(tmp_path / "out")
    convert(path, output, input_format=input_format, report=lines.append)
    assert f"row numbers of pandas: {name!r}" in lines[0]
    assert lines[1] == "columns taken as features, 1: x"
    if name:  # asked for by name, it is a feature as any other
        lists = read(path, input_format, feature_columns=(name,))
        assert lists.values["float32"].tolist() == [[0], [1]]


@pytest.mark.parametrize("cell", ["inf", ""])
@pytest.mark.parametrize("kind", ["float", "int"])
def test_query_columns_follow_nan_as_features_do(
    tmp_path: pathlib.Path, cell: str, kind: str
) -> None:
    if kind == "int" and cell:
        pytest.skip("no whole number is infinite")
    other = "0.5" if kind == "float" else "5"
    text = f"qid,label,x,age\n1,1,1,{other}\n2,1,1,{cell}\n"
    path = written(tmp_path, text)
    options = {"context_columns": ("age",)}
    assert "a.csv:3: column 'age'" in lines_of_error(path, **options)
    values = read(path, nan="zero", **options).context["age"]
    assert values.tolist() == [[float(other)], [0]]
    if kind == "float":
        kept = read(path, nan="keep", **options).context["age"]
        np.testing.assert_array_equal(kept, [[0.5], [float(cell or "nan")]])


def test_query_columns_have_the_type_that_is_known_of_them(
    tmp_path: pathlib.Path,
) -> None:
    path = written(tmp_path, "qid,label,x,age\n1,1,1,5\n")
    known = {"age": Feature("float32", (1,), 0.0)}
    lists = read(path, context_columns=("age",), known=known)
    assert lists.context["age"].dtype == np.float32


def test_names_with_commas_stand_in_quotes(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path, 'qid,label,"price, net",x\n1,1,2,3\n1,0,4,5\n')
    columns = names('"price, net", x', "--feature_columns")
    lists = read(path, feature_columns=columns)
    assert lists.values["float32"].tolist() == [[2, 3], [4, 5]]
    with pytest.raises(ConfigError, match="comma stand in double quotes"):
        read(path, feature_columns=names("price, net", "--feature_columns"))
    with pytest.raises(ConfigError, match="--feature_columns"):
        names('"price', "--feature_columns")


def test_a_name_twice_in_the_header_is_an_error(tmp_path: pathlib.Path) -> None:
    assert "2 called 'x'" in lines_of_error(
        written(tmp_path, "qid,label,x,x\n1,1,1,2\n")
    )


PLAIN = b"qid,label,x\n1,1,0.5\n1,0,2\n"


def test_bz2_and_xz_are_read_as_gzip_is(tmp_path: pathlib.Path) -> None:
    for pack in (bz2.compress, lzma.compress):
        path = written(tmp_path, pack(PLAIN))
        assert read(path).values["float32"].tolist() == [[0.5], [2]]
        path = written(tmp_path, pack(PLAIN)[:-8])
        assert "a.csv: expected a whole" in lines_of_error(path)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize("input_format", ["csv", "libsvm", "parquet"])
def test_what_cannot_be_read_is_named(
    tmp_path: pathlib.Path, input_format: str
) -> None:
    for data, what in (
        (b"\x28\xb5\x2f\xfd" + bytes(range(40)), "zstd"),
        (POINTER, "git lfs pull"),
        (b"PK\x03\x04" + bytes(40), "zip"),
    ):
        with pytest.raises(DataError, match=rf"a\.csv: expected.*{what}"):
            read(written(tmp_path, data), input_format)
