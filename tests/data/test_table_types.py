"""Columns of tables become features by what they are, and come back as they were."""

from __future__ import annotations

import datetime
import gzip
import json
import pathlib
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.conversion_helpers import all_records, write
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.sources import csv_files, table_files
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.source import read_lists
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder

pa = pytest.importorskip(
    "pyarrow", reason="needs a working pyarrow", exc_type=ImportError
)
pa_parquet = pytest.importorskip("pyarrow.parquet")

TEXT = (
    "qid,label,price,stock,brand,title,day,tags,vector,uid\n"
    'a,1,0.5,true,3,"Hallo, ""x""\nzwei",2024-01-05,x|y,1|2.5,123456789012\n'
    "a,0,,false,,,,,3|4,5\n"
    "b,1,2,,007,ö,1969-12-31,z,5|6,7\n"
)
TYPES = {
    "brand": "categorical",
    "title": "text",
    "day": "date",
    "tags": "list",
    "vector": "list",
    "uid": "integer",
}


def read(path: str, input_format: str = "csv", **options: Any) -> Lists:
    return Lists.concatenate(read_lists(path, input_format, options=Options(**options)))


def error_of(path: str, input_format: str = "csv", **options: Any) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        read(path, input_format, **options)
    return str(caught.value)


def texts(lists: Lists, name: str) -> list[list[str]]:
    column = lists.loose[name]
    rows = range(len(column.lengths))
    return [[item.decode() for item in column.row(row).tolist()] for row in rows]


def table_of(columns: dict[str, Any]) -> Any:
    """Returns a table of one query with these columns."""
    count = len(next(iter(columns.values())))
    return pa.table({"qid": [1] * count, "label": [1] + [0] * (count - 1), **columns})


def parquet(folder: pathlib.Path, columns: dict[str, Any]) -> str:
    pa_parquet.write_table(table_of(columns), folder / "a.parquet")
    return str(folder / "a.parquet")


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("share", [1, 0.8])
def test_columns_of_text_files_are_what_their_types_say(
    tmp_path: pathlib.Path, ending: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = TEXT.replace("\n", ending).encode()
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(csv_files, "_BLOCK_BYTES", int(share * len(content)))
    lists = read(str(tmp_path / "a.csv.gz"), types=TYPES, nan="keep")
    assert lists.row_splits.tolist() == [0, 2, 3]
    assert lists.document_ids.tolist() == ["2", "4", "5"]
    np.testing.assert_array_equal(
        lists.values["float32"],
        np.float32(
            [
                [0.5, 1, 19727, 1, 2.5],
                [np.nan, 0, np.nan, 3, 4],
                [2, np.nan, -1, 5, 6],
            ]
        ),
    )
    assert lists.values["int64"].tolist() == [[123456789012], [5], [7]]
    assert texts(lists, "brand") == [["3"], [""], ["007"]]
    assert texts(lists, "title") == [[f'Hallo, "x"{ending}zwei'], [""], ["ö"]]
    assert texts(lists, "tags") == [["x", "y"], [], ["z"]]


def test_parquet_is_taken_by_its_own_types(tmp_path: pathlib.Path) -> None:
    noon = datetime.datetime(2024, 1, 5, 12)
    zone = datetime.timezone(datetime.timedelta(hours=2))
    columns = {
        "price": pa.array([0.5, None], pa.float64()),
        "count": pa.array([None, 3], pa.int32()),
        "stock": pa.array([True, None]),
        "day": pa.array([noon.date(), None], pa.date32()),
        "seen": pa.array([noon.replace(tzinfo=zone), None], pa.timestamp("ns", "UTC")),
        "brand": pa.array(["x", None]).dictionary_encode(),
        "title": pa.array(["a", None], pa.large_string()),
        "vector": pa.array([[1.0, 2.0], [3.0, None]], pa.list_(pa.float64(), 2)),
        "like": pa.array([[1, 2], [3, 4]], pa.list_(pa.int16())),
        "clicks": pa.array([[1, 2], None], pa.list_(pa.int64())),
        "prices": pa.array([[1.5], []], pa.large_list(pa.float32())),
        "tags": pa.array([["u", None], None], pa.list_(pa.string())),
    }
    path = parquet(tmp_path, columns)
    kept = {"clicks": "ragged"}
    lines: list[str] = []
    convert(
        path,
        str(tmp_path / "out"),
        input_format="parquet",
        options=Options(nan="keep", types=kept),
        report=lines.append,
    )
    features = Features.load(str(tmp_path / "out")).example
    assert features["features"].columns == ("price", "count", "stock", "day", "seen")
    types = ("numeric", "numeric", "boolean", "date", "date")
    assert features["features"].types == types
    found = {
        name: (feature.dtype, feature.kind, feature.shape, *feature.types)
        for name, feature in features.items()
        if name != "features"
    }
    assert found == {
        "brand": ("string", "fixed", (1,), "categorical"),
        "title": ("string", "fixed", (1,), "text"),
        "vector": ("float32", "fixed", (2,), "list"),
        "like": ("int64", "fixed", (2,), "list"),
        "clicks": ("int64", "ragged", (), "list"),
        "prices": ("float32", "ragged", (), "list"),
        "tags": ("string", "ragged", (), "list"),
    }
    assert "price, count, stock (boolean), day (date)" in lines[0]
    lists = read(path, "parquet", nan="keep", types=kept)
    nan = np.nan
    np.testing.assert_array_equal(
        lists.values["float32"],
        np.float32(
            [[0.5, nan, 1, 19727, 19727 + 10 / 24, 1, 2], [nan, 3, *[nan] * 3, 3, nan]]
        ),
    )
    assert lists.values["int64"].tolist() == [[1, 2], [3, 4]]
    assert texts(lists, "brand") == [["x"], [""]]
    assert texts(lists, "title") == [["a"], [""]]
    assert texts(lists, "tags") == [["u", ""], []]
    assert lists.loose["clicks"].values.tolist() == [1, 2]
    assert lists.loose["clicks"].lengths.tolist() == [2, 0]
    assert lists.loose["prices"].lengths.tolist() == [1, 0]


def test_query_columns_have_types_too(tmp_path: pathlib.Path) -> None:
    path = write(
        tmp_path / "a.csv",
        "qid,label,x,query,since,terms\nq,1,1,red shoes,2024-01-05,red|shoes\n"
        "q,0,2,red shoes,2024-01-05,red|shoes\nr,0,2,hat,2024-01-06,hat\n",
    )
    types = {"query": "text", "since": "date", "terms": "list"}
    lists = read(path, types=types, context_columns=tuple(types))
    assert lists.context["query"].tolist() == [["red shoes"], ["hat"]]
    assert lists.context["since"].tolist() == [[19727], [19728]]
    assert lists.loose_context["terms"].values.tolist() == [b"red", b"shoes", b"hat"]
    assert lists.loose_context["terms"].lengths.tolist() == [2, 1]
    assert lists.values["float32"].tolist() == [[1], [2], [2]]


@pytest.mark.parametrize("share", [1, 0.6])
def test_values_that_vary_within_a_query_are_counted_and_named(
    tmp_path: pathlib.Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "qid,label,x,season,size,terms,same\n"
        "q,1,1,summer,0.5,a|b,1\nq,0,2,summer,0.5,a|b,1\n"
        "r,1,1,winter,1.5,c,2\nr,0,2,,1.5,c,2\nr,0,3,spring,1.5,c,2\n"
        "s,1,1,fall,,d,3\ns,0,2,winter,2,e,3\n"
    )
    monkeypatch.setattr(csv_files, "_BLOCK_BYTES", int(share * len(text)))
    columns = ("season", "size", "terms", "same")
    options = Options(context_columns=columns, types={"terms": "list"}, nan="keep")
    lines: list[str] = []
    convert(
        write(tmp_path / "a.csv", text),
        str(tmp_path / "out"),
        input_format="csv",
        options=options,
        report=lines.append,
    )
    told = "has several values in"
    assert [line for line in lines if told in line] == [
        f"warning: column 'season' of the query {told} 2 lists, of which the first is "
        f"taken, e.g. {tmp_path}/a.csv:5: column 'season': '' after 'winter'",
        f"warning: column 'size' of the query {told} a list, of which the first is "
        f"taken, e.g. {tmp_path}/a.csv:8: column 'size': 2.0 after None",
        f"warning: column 'terms' of the query {told} a list, of which the first is "
        f"taken, e.g. {tmp_path}/a.csv:8: column 'terms': ['e'] after ['d']",
    ]


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
# What a CSV cell cannot tell from a missing one, or from two items, is left out.
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="|\0"))
items = words.map("t{}".format)  # no number, which it would be taken for
days = st.dates(datetime.date(1800, 1, 1), datetime.date(2200, 1, 1))
rows = st.lists(
    st.tuples(
        st.none() | finite,
        st.none() | st.booleans(),
        st.none() | words,
        st.none() | words,
        st.none() | days,
        st.none() | st.lists(items, max_size=3),
        st.none() | st.lists(finite, max_size=3),
        st.integers(-(2**63), 2**63 - 1),
    ),
    min_size=1,
    max_size=12,
)
NAMES = ("price", "stock", "brand", "title", "day", "tags", "numbers", "uid")
KINDS = ("numeric", "boolean", "categorical", "text", "date", "ragged")
ALL = dict(zip(NAMES, (*KINDS, "ragged", "integer"), strict=True))
STORED = (
    *(pa.float32(), pa.bool_(), pa.string(), pa.string(), pa.date32()),
    *(pa.list_(pa.string()), pa.list_(pa.float32()), pa.int64()),
)


@pytest.mark.parametrize("input_format", ["csv", "parquet"])
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rows=rows)
def test_a_table_comes_back_from_its_shards_as_it_was(
    input_format: str, rows: list[tuple[Any, ...]], tmp_path: pathlib.Path
) -> None:
    columns: dict[str, Any] = {
        name: pa.array(values, kind)
        for name, values, kind in zip(
            NAMES, zip(*rows, strict=True), STORED, strict=True
        )
    }
    types = ALL
    path, output = str(tmp_path / "a"), str(tmp_path / "out")
    if input_format == "parquet":
        pa_parquet.write_table(table_of(columns), path)
        types = {"uid": "integer", "tags": "ragged", "numbers": "ragged"}
    else:
        for name in ("tags", "numbers"):
            cells = columns[name].to_pylist()
            columns[name] = ["|".join(map(str, cell or [])) for cell in cells]
        # What numbers are is seen in the first rows, unless there is none.
        columns["numbers"] = [cell or "0.5" for cell in columns["numbers"]]
        pa.csv.write_csv(table_of(columns), path)
    convert(
        path,
        output,
        input_format=input_format,
        options=Options(nan="zero", types=types, feature_columns=NAMES),
        report=lambda line: None,
    )
    pattern = f"{output}/train-*"
    builder = SimpleDatasetBuilder.from_features(
        Features.load(output), DatasetHparams(pattern, pattern, 1, 1)
    )
    lists = builder.lists("train")
    epoch = datetime.date(1970, 1, 1)
    for row, wanted in enumerate(rows):
        price, stock, brand, title, day, tags, numbers, uid = wanted
        days_since = (day - epoch).days if day else 0
        expected = np.float32([price or 0, stock or 0, days_since])
        np.testing.assert_array_equal(lists.values["float32"][row], expected)
        assert lists.values["int64"][row].tolist() == [uid]
        assert texts(lists, "brand")[row] == [brand or ""]
        assert texts(lists, "title")[row] == [title or ""]
        assert texts(lists, "tags")[row] == (tags or [])
        if input_format != "parquet" and not numbers:
            numbers = [0.5]
        found = lists.loose["numbers"].row(row)
        np.testing.assert_array_equal(found, np.float32(numbers or []))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,1,x,1,2024-01-05,1|2,1", "'price': expected a number, found 'x'.*"
         "--text_columns=price"),
        ("a,1,1,maybe,2024-01-05,1|2,1", "'stock': expected true or false"),
        ("a,1,1,1,05.01.2024,1|2,1", "'day': expected a date as 2024-01-31"),
        ("a,1,1,1,2024-01-05,1|b,1", "'vector': expected whole numbers with '|' be"),
        ("a,1,1,1,2024-01-05,1|2|3,1", "'vector': expected a list of 2.*'ragged'"),
        ("a,1,1,1,2024-01-05,,1", "'vector': expected a list of 2 numbers, found no"),
        ("a,1,1,1,2024-01-05,1|2,1.5", "'uid': expected a whole number, found '1.5'"),
        ("a,1,1,1,2024-01-05,1|2,", "'uid': expected a whole number, found an empty"),
        ("a,1,1,,2024-01-05,1|2,1", "'stock': expected a finite float32, found an e"),
        ("a,x,1,1,2024-01-05,1|2,1", r"'label': expected a number, found 'x'\.$"),
    ],
)  # fmt: skip
def test_a_bad_cell_is_an_error_with_file_line_and_column(
    tmp_path: pathlib.Path, line: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What lists are like is seen in the good row.
    monkeypatch.setattr(table_files, "SAMPLED", 1)
    text = "qid,label,price,stock,day,vector,uid\na,1,0.5,1,2024-01-05,1|2,3\n"
    path = write(tmp_path / "bad.csv", f"{text}{line}\na,1,1,1,2024-01-05,1|2,1\n")
    kinds = {"price": "numeric", "stock": "boolean", "day": "date", "vector": "list"}
    with pytest.raises(DataError, match=message.replace("|", r"\|")) as caught:
        read(path, types={**kinds, "uid": "integer"})
    assert "bad.csv:3: column" in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "types", "message"),
    [
        ({"x": ["1", "b"]}, {"x": "numeric"}, "a.parquet:2: column 'x': expected a nu"),
        ({"x": ["2024-01-05", "5.1."]}, {"x": "date"}, ":2: .* a date .*found '5.1.'"),
        ({"x": [b"ok", b"\xff"]}, {"x": "text"}, ":2: column 'x': expected text in UT"),
        ({"x": [1, 2]}, {"x": "date"}, ":1: column 'x': expected a date"),
        ({"x": [0.5, 1.5]}, {"x": "categorical"}, "expected categories, found numbers"),
        ({"x": [0.5, 1.5]}, {"x": "integer"}, ":1: column 'x': expected a whole num"),
        ({"x": [[1, 2], [3]]}, {}, None),
        ({"x": [[[1]], [[3]]]}, {}, "'x': expected lists of numbers or of texts"),
        ({"x": [1, 2]}, {"x": "list"}, "'x': expected lists, or texts with"),
        ({"x": [{"a": 1}] * 2}, {}, "expected at least one feature column"),
    ],
)
def test_a_column_of_parquet_that_is_something_else_is_an_error(
    tmp_path: pathlib.Path, columns: Any, types: Any, message: str | None
) -> None:
    path = parquet(tmp_path, columns)
    if message is None:
        assert read(path, "parquet", types=types).loose["x"].lengths.tolist() == [2, 1]
        return
    with pytest.raises(DataError, match=message):
        read(path, "parquet", types=types)


def test_text_that_is_no_utf8_is_an_error_with_its_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.csv").write_bytes(
        b"qid,label,x,title\n1,1,1,gut\n1,1,1,sch\xf6n\n1,0,1,\n"
    )
    message = error_of(str(tmp_path / "a.csv"), types={"title": "text"})
    assert "a.csv:3: column 'title': expected text in UTF-8" in message
    assert "a text id" not in message


def test_types_that_cannot_be_are_errors(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.csv", "qid,label,price,title\n1,1,0.5,a\n1,0,1,b\n")
    message = error_of(path, types={"prize": "text"})
    assert "(type text); did you mean 'price'" in message
    message = error_of(path, types={"title": "txt"})
    assert "'title' 'txt'" in message and "did you mean 'text'" in message
    assert "the column of a label" in error_of(path, types={"label": "text"})
    message = error_of(path, types={"price": "categorical"})
    assert "column 'price': expected categories" in message
    assert "--text_columns=title" in error_of(path, feature_columns=("title",))


def test_flags_and_a_file_say_the_types(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tfr_pipeline.cli.main import main

    path = write(tmp_path / "a.csv", TEXT)
    kinds = write(
        tmp_path / "types.json",
        json.dumps({k: v for k, v in TYPES.items() if k not in ("title", "brand")}),
    )
    flags = ["convert", f"--input={path}", "--input_format=csv", "--nan=keep"]
    flags += [f"--output={tmp_path / 'out'}", f"--types={kinds}"]
    typed = [*flags, "--text_columns=title", "--categorical_columns=brand"]
    assert main(typed) == 0
    features = Features.load(str(tmp_path / "out"))
    assert features.example["title"].types == ("text",)
    assert features.example["brand"].types == ("categorical",)
    assert features.example["uid"].dtype == "int64"
    # Another split is taken for what the first was, without the flags.
    assert main([*flags[:5], "--split=valid"]) == 0
    assert Features.load(str(tmp_path / "out")) == features
    capsys.readouterr()
    assert main([*flags, "--text_columns=day"]) == 2
    assert "found 'day' as date and as text" in capsys.readouterr().err
    write(tmp_path / "types.json", '["title"]')
    assert main(flags) == 2
    assert "expected JSON such as" in capsys.readouterr().err
    packed = [f"--output={tmp_path / 'packed'}", "--output_format=packed"]
    assert main([*flags[:4], *packed, "--text_columns=title"]) == 2
    assert "found title. Use --output_format=elwc" in capsys.readouterr().err
    assert not (tmp_path / "packed").exists()


def test_whole_numbers_that_are_rounded_are_a_warning(tmp_path: pathlib.Path) -> None:
    text = "qid,label,uid,price\n1,1,16777217,1e9\n1,0,1,2.5\n"
    path = write(tmp_path / "a.csv", text)
    lines: list[str] = []
    output = str(tmp_path / "out")
    convert(path, output, input_format="csv", report=lines.append)
    (found,) = [line for line in lines if "rounded as float32" in line]
    assert "uid" in found and "price" not in found
    lines.clear()
    options = Options(types={"uid": "integer"})
    convert(
        path,
        str(tmp_path / "exact"),
        input_format="csv",
        options=options,
        report=lines.append,
    )
    assert not [line for line in lines if "rounded" in line]


def test_rows_of_a_query_are_brought_together_with_their_texts(
    tmp_path: pathlib.Path,
) -> None:
    text = "qid,label,x,title\na,1,1,A1\nb,0,2,B1\na,0,3,A2\n"
    path = write(tmp_path / "a.csv", text)
    lists = read(path, types={"title": "text"}, group_by_query=True)
    assert texts(lists, "title") == [["A1"], ["A2"], ["B1"]]
    assert lists.values["float32"].tolist() == [[1], [3], [2]]


def test_files_are_read_as_the_first_is(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_files, "_BLOCK_ELEMENTS", 256)
    first = {"x": [[1.0, 2.0]], "brand": pa.array(["a"]).dictionary_encode()}
    pa_parquet.write_table(table_of(first), tmp_path / "1.parquet")
    table = pa.table({"qid": [2], "label": [1], "x": [[3.0]], "brand": ["b"]})
    pa_parquet.write_table(table, tmp_path / "2.parquet")
    message = error_of(str(tmp_path / "*.parquet"), "parquet")
    assert "2.parquet:1: column 'x': expected a list of 2 numbers" in message
    lists = read(str(tmp_path / "*.parquet"), "parquet", types={"x": "ragged"})
    assert lists.loose["x"].lengths.tolist() == [2, 1]
    assert texts(lists, "brand") == [["a"], ["b"]]


def test_a_beam_pipeline_writes_the_same_records(tmp_path: pathlib.Path) -> None:
    beam = pytest.importorskip("tfr_pipeline.data.convert.beam", exc_type=ImportError)
    path = write(tmp_path / "a.csv", TEXT)
    written = {}
    for name, engine in (
        ("processes", None),
        ("beam", beam.BeamEngine("in_process", [])),
    ):
        convert(
            path,
            str(tmp_path / name),
            input_format="csv",
            options=Options(types=TYPES, nan="keep"),
            report=lambda line: None,
            engine=engine,
        )
        written[name] = all_records(tmp_path / name)
        assert Features.load(str(tmp_path / name)).example["tags"].kind == "ragged"
    assert len(written["beam"]) == 2
    assert written["beam"] == written["processes"]
