"""`group_by_query`: a stable sort by first appearance, in bounded memory."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.conversion_helpers import write
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.sources import grouping, libsvm_chunks
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.source import read_lists
from tfr_pipeline.errors import ConfigError, DataError

queries = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=40)


def stable_order(names: list[str]) -> list[int]:
    return sorted(range(len(names)), key=lambda row: names.index(names[row]))


def read(path: str, input_format: str, **options: object) -> Lists:
    return Lists.concatenate(
        read_lists(
            path,
            input_format,
            options=Options(group_by_query=True, **options),  # type: ignore[arg-type]
        )
    )


@pytest.fixture(params=["one bucket", "many buckets"])
def buckets(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many buckets":
        monkeypatch.setattr(grouping, "BUCKET_BYTES", 30)
        monkeypatch.setattr(libsvm_chunks, "CHUNK_BYTES", 20)


@pytest.mark.usefixtures("buckets")
def test_scattered_lines_come_together_in_the_order_of_first_appearance(
    tmp_path: pathlib.Path,
) -> None:
    @settings(max_examples=40, deadline=None)
    @given(queries)
    def check(names: list[str]) -> None:
        text = "".join(f"1 qid:{name} 1:{row}\n" for row, name in enumerate(names))
        lists = read(write(tmp_path / "a.txt", "# header\n" + text), "libsvm")
        order = stable_order(names)
        assert lists.values["float32"].ravel().tolist() == order
        assert lists.query_ids.tolist() == list(dict.fromkeys(names))
        assert lists.document_ids.tolist() == [str(row + 2) for row in order]

    check()


@pytest.mark.usefixtures("buckets")
def test_scattered_rows_of_tables_come_together_likewise(
    tmp_path: pathlib.Path,
) -> None:
    pytest.importorskip("pyarrow", exc_type=ImportError)

    @settings(max_examples=20, deadline=None)
    @given(queries)
    def check(names: list[str]) -> None:
        rows = "".join(f"{name},1,{row}\n" for row, name in enumerate(names))
        lists = read(write(tmp_path / "a.csv", "qid,label,x\n" + rows), "csv")
        order = stable_order(names)
        assert lists.values["float32"].ravel().tolist() == order
        assert lists.query_ids.tolist() == list(dict.fromkeys(names))
        assert lists.document_ids.tolist() == [str(row + 2) for row in order]

    check()


@pytest.mark.usefixtures("buckets")
def test_errors_name_the_place_in_the_input(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "a.txt", "1 qid:a 1:1\n1 qid:b 1:1\n")
    write(tmp_path / "b.txt", "\n1 qid:a 1:1\n1 qid:b 1:x\n")
    with pytest.raises(DataError, match=r"b.txt:3: expected 'index:value'"):
        read(str(tmp_path / "*.txt"), "libsvm")
    write(tmp_path / "b.txt", "1 qid:a 1:1\n1 1:x\n")
    with pytest.raises(DataError, match=r"b.txt:2: expected 'qid:ID'"):
        read(str(tmp_path / "*.txt"), "libsvm")


def test_bucket_files_are_removed(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.txt", "1 qid:a 1:1\n1 qid:b 1:1\n1 qid:a 1:2\n")
    read(path, "libsvm", work_dir=str(tmp_path))
    parts = read_lists(
        path, "libsvm", options=Options(group_by_query=True, work_dir=str(tmp_path))
    )
    next(iter(parts))
    del parts  # a reader that stops early
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_query_file_cannot_be_grouped(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.txt", "1 1:1\n")
    with pytest.raises(ConfigError, match="--query_file"):
        read(path, "libsvm", query_file=write(tmp_path / "q", "1\n"))


def test_many_queries_share_few_buckets() -> None:
    sizes = {str(n).encode(): 10 for n in range(100_000)}
    buckets = np.array(list(grouping.assign_buckets(sizes, 10).values()))
    assert buckets.max() < 256
    assert (np.diff(buckets) >= 0).all()
