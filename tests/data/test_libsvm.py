"""LibSVM text to lists: scikit-learn is the oracle; errors name file and line."""

from __future__ import annotations

import gzip
import io
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.conversion_helpers import libsvm_text, sample_text, write
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.sources import libsvm, libsvm_chunks
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.source import read_lists
from tfr_pipeline.errors import ConfigError, DataError


def read(path: str, **options: object) -> Lists:
    return Lists.concatenate(
        read_lists(path, "libsvm", options=Options(**options))  # type: ignore[arg-type]
    )


values = st.floats(allow_nan=False, allow_infinity=False, width=32)
rows = st.lists(
    st.tuples(
        st.integers(0, 4).map(float),
        st.dictionaries(st.integers(1, 12), values, max_size=12),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(rows, st.integers(1, 5))
def test_text_of_any_sparsity_reads_as_scikit_learn_reads_it(
    documents: list[tuple[float, dict[int, float]]], per_query: int
) -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn")
    text = libsvm_text(
        [
            (grade, str(number // per_query), features)
            for number, (grade, features) in enumerate(documents)
        ]
    )
    (parsed,) = libsvm.parse(libsvm_chunks.Chunk(text.encode(), "file"), 12)
    # Its parser wants ascending indices, as `dictionaries` does not give them.
    ordered = libsvm_text(
        [
            (grade, str(number // per_query), dict(sorted(features.items())))
            for number, (grade, features) in enumerate(documents)
        ]
    )
    matrix, labels, queries = datasets.load_svmlight_file(
        io.BytesIO(ordered.encode()), n_features=12, query_id=True, zero_based=False
    )
    lists = parsed.lists
    np.testing.assert_array_equal(
        lists.values["float32"], matrix.toarray().astype(np.float32)
    )
    np.testing.assert_array_equal(lists.labels, labels.astype(np.float32))
    np.testing.assert_array_equal(lists.query_ids[lists.row_ids], queries.astype(str))


def test_real_letor_parts_read_as_scikit_learn_reads_them(
    shared_data: pathlib.Path,
) -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn")
    path = str(shared_data / "clueweb09_letor" / "P3.txt.gz")
    lists = read(path)
    matrix, labels, queries = datasets.load_svmlight_file(path, query_id=True)
    np.testing.assert_array_equal(
        lists.values["float32"], matrix.toarray().astype(np.float32)
    )
    np.testing.assert_array_equal(lists.labels, labels)
    np.testing.assert_array_equal(lists.query_ids[lists.row_ids].astype(int), queries)
    assert all(name.startswith("clueweb09-") for name in lists.document_ids)


def test_a_query_file_gives_the_lists_of_text_without_query_ids(
    shared_data: pathlib.Path,
) -> None:
    folder = shared_data / "lightgbm_lambdarank"
    lists = read(
        str(folder / "rank.test.gz"), query_file=str(folder / "rank.test.query")
    )
    expected = [int(line) for line in (folder / "rank.test.query").open()]
    assert lists.lengths.tolist() == expected
    assert lists.query_ids.tolist() == [str(n + 1) for n in range(len(expected))]


def test_small_blocks_give_the_same_lists_as_large_ones(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.txt", sample_text(queries=30, documents=7))
    whole = read(path)
    for size in (1, 100, 1000, 5000):
        small = Lists.concatenate(
            parsed.lists
            for chunk in libsvm_chunks.by_query([path], size)
            for parsed in libsvm.parse(chunk, 5)
        )
        np.testing.assert_array_equal(small.values["float32"], whole.values["float32"])
        assert small.query_ids.tolist() == whole.query_ids.tolist()
        assert small.document_ids.tolist() == whole.document_ids.tolist()
    monkeypatch.setattr(libsvm, "_MAX_ELEMENTS", 50)
    pieces = list(read_lists(path, "libsvm"))
    assert len(pieces) > 10
    np.testing.assert_array_equal(
        Lists.concatenate(pieces).values["float32"], whole.values["float32"]
    )


def test_small_blocks_give_the_same_lists_with_a_query_file(
    tmp_path: pathlib.Path,
) -> None:
    text = "".join(f"1 1:{n}\n# comment\n" for n in range(1, 31))
    path = write(tmp_path / "a.txt", text)
    query_file = write(tmp_path / "a.query", "5\n1\n24\n")
    for size in (1, 40, 10_000):
        lists = Lists.concatenate(
            parsed.lists
            for chunk in libsvm_chunks.by_lengths([path], [query_file], size)
            for parsed in libsvm.parse(chunk, 1)
        )
        assert lists.lengths.tolist() == [5, 1, 24]
        assert lists.query_ids.tolist() == ["1", "2", "3"]
        assert lists.values["float32"].ravel().tolist() == list(range(1, 31))
        assert lists.document_ids.tolist() == [str(n) for n in range(1, 61, 2)]


def test_comments_blank_lines_and_windows_line_ends_are_understood(
    tmp_path: pathlib.Path,
) -> None:
    text = (
        "# a header\r\n\r\n2 qid:a-7 1:0.5  3:-1 #docid = GX008-86 inc = 1\r\n"
        "0\tqid:a-7\t2:4\t# docid = clueweb09-en0006-78-20618 \r\n"
        "  1 qid:b 1:1\r\n0 qid:b"
    )
    lists = read(write(tmp_path / "a.txt", text))
    assert lists.query_ids.tolist() == ["a-7", "b"]
    assert lists.document_ids.tolist() == [
        "GX008-86",
        "clueweb09-en0006-78-20618",
        "5",
        "6",
    ]
    assert lists.values["float32"].tolist() == [
        [0.5, 0, -1],
        [0, 4, 0],
        [1, 0, 0],
        [0, 0, 0],
    ]


@pytest.mark.parametrize(
    ("nan", "expected"), [("keep", [np.nan, np.inf]), ("zero", [0, 0])]
)
def test_nonfinite_features_are_kept_or_zeroed_on_request(
    tmp_path: pathlib.Path, nan: str, expected: list[float]
) -> None:
    path = write(tmp_path / "a.txt", "1 qid:1 1:nan 2:inf\n")
    np.testing.assert_array_equal(read(path, nan=nan).values["float32"], [expected])


GOOD = "1 qid:1 1:0.5 2:1\n0 qid:1 1:0.25 2:2\n"
BAD_LINES = {
    "a token without colon": ("1 qid:2 1:0.5 oops", "'index:value'.*'oops'"),
    "a value that is no number": ("1 qid:2 1:0.5 2:1.2.3", "'index:value'.*'2:1.2.3'"),
    "an index that is no number": ("1 qid:2 x:0.5", "'index:value'.*'x:0.5'"),
    "a label that is no number": ("good qid:2 1:0.5", "number as label.*'good'"),
    "a label that is not finite": ("nan qid:2 1:0.5", "number as label.*'nan'"),
    "a negative grade": ("-1 qid:2 1:0.5", "0 or more.*'-1'"),
    "a feature that is NaN": ("1 qid:2 1:0.5 2:nan", "finite.*'2:nan'.*--nan"),
    "a feature that is infinite": ("1 qid:2 1:-inf 2:1", "finite.*'1:-inf'"),
    "a feature beyond float32": ("1 qid:2 1:1e39 2:1", "finite.*'1:1e39'"),
    "a duplicate index": ("1 qid:2 1:0.5 1:0.5", "index 1 again"),
    "a duplicate index out of order": ("1 qid:2 2:1 1:0.5 2:1", "index 2 again"),
    "an index beyond the number": ("1 qid:2 3:0.5", "up to 2, found '3:0.5'"),
    "an index that counts from 0": ("1 qid:2 0:0.5 1:1", "from 1 on.*counts from 0"),
    "a negative index": ("1 qid:2 -1:0.5 1:1", "from 1 on"),
    "no query id": ("1 1:0.5 2:1", "expected 'qid:ID'.*--query_file"),
    "an empty query id": ("1 qid: 1:0.5 2:1", "expected 'qid:ID'"),
    "nothing but a label": ("1", "end of the line"),
    "a query that comes again": (
        "1 qid:2 1:1\n1 qid:1 1:1",
        "'1' again.*began at .*:1",
    ),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_an_error_with_file_and_line(
    case: str, tmp_path: pathlib.Path
) -> None:
    line, message = BAD_LINES[case]
    path = write(tmp_path / "bad.txt", GOOD + line + "\n" + "0 qid:9 1:0.5 2:1\n")
    number = 3 + line.count("\n")
    with pytest.raises(DataError, match=message) as caught:
        read(path, num_features=2)
    assert f"bad.txt:{number}" in str(caught.value)


def test_a_query_in_two_files_names_both_places(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "a.txt", GOOD)
    write(tmp_path / "b.txt", "1 qid:1 1:1\n")
    with pytest.raises(DataError, match=r"b.txt:1: .* began at .*a.txt:1\b"):
        read(str(tmp_path / "*.txt"))


def test_a_query_that_comes_again_in_a_later_chunk_is_an_error(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libsvm_chunks.by_query, "__defaults__", (50,))
    path = write(tmp_path / "a.txt", sample_text(queries=9) + "1 qid:q0 1:1\n")
    with pytest.raises(DataError, match=r"a.txt:28: .* began at .*a.txt:1\b"):
        read(path)


@pytest.mark.parametrize("content", ["", "\n \n", "# only a comment\n"])
def test_a_file_without_documents_is_an_error(
    content: str, tmp_path: pathlib.Path
) -> None:
    path = write(tmp_path / "a.txt", content)
    with pytest.raises(DataError, match=r"a.txt: expected at least one document"):
        read(path)


def test_missing_files_are_errors(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read(str(tmp_path / "none.txt"))
    with pytest.raises(DataError, match="no file matches"):
        read(str(tmp_path / "*.txt"))


@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_truncated_gzip_is_an_error(keep: float, tmp_path: pathlib.Path) -> None:
    data = gzip.compress(sample_text(queries=200).encode())
    path = tmp_path / "a.txt.gz"
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match=r"a.txt.gz: expected a whole gzip file"):
        read(str(path))


def test_corrupt_gzip_is_an_error(tmp_path: pathlib.Path) -> None:
    data = bytearray(gzip.compress(sample_text(queries=200).encode()))
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "a.txt.gz"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.txt\.gz"):
        read(str(path))


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ("1\n", "add up to 1 documents, but .* has 2"),
        ("2\n3\n", "add up to 5 documents, but .* has 2"),
        ("1\nx\n", r"a.query:2: expected the number .* found 'x'"),
        ("2\n0\n", r"a.query:2: expected the number .* found '0'"),
    ],
)
def test_a_query_file_that_does_not_fit_is_an_error(
    lengths: str, message: str, tmp_path: pathlib.Path
) -> None:
    path = write(tmp_path / "a.txt", "1 1:0.5\n0 1:1\n")
    with pytest.raises(DataError, match=message):
        read(path, query_file=write(tmp_path / "a.query", lengths))


def test_query_ids_beside_a_query_file_are_an_error(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.txt", GOOD)
    with pytest.raises(DataError, match=r"a.txt:1: found 'qid:1'"):
        read(path, query_file=write(tmp_path / "a.query", "2\n"))


def test_an_unknown_format_names_the_known_ones(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.txt", GOOD)
    with pytest.raises(ConfigError, match="did you mean 'libsvm'"):
        list(read_lists(path, "libsmv"))
