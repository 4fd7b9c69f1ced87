# ruff: noqa: F811
"""Copies of remote files: fetched once, whole, never of two states."""

from __future__ import annotations

import json
import os
import pathlib

import pytest

pytest.importorskip("fsspec")

from tests.remote_stores import faulty  # noqa: F401
from tfr_pipeline import copies, files, remote, remote_splits, urls
from tfr_pipeline.errors import DataError, RunError

pytestmark = pytest.mark.usefixtures("faulty")


def put_split(sizes=(3, 4), **changes):
    """Writes what `convert` does for a split, but for the content."""
    remote.write("faulty://d/features.json", b"{}")
    for i, size in enumerate(sizes):
        name = f"train-{i:05d}-of-{len(sizes):05d}.tfrecord"
        remote.write(f"faulty://d/{name}", b"x" * size)
    stats = {"num_shards": len(sizes), "shard_bytes": list(sizes), **changes}
    remote.write("faulty://d/train.stats.json", json.dumps(stats).encode())


def fetched(calls):
    return sorted(path for call, path in calls if call == "get_file")


@pytest.fixture
def calls(faulty):
    found = []
    faulty.watch = lambda call, path: found.append((call, path))
    return found


def test_what_has_not_changed_is_fetched_once(calls):
    remote.write("faulty://d/a.txt", b"one")
    first = files.expand("faulty://d/*.txt")
    assert pathlib.Path(first[0]).read_bytes() == b"one"
    assert files.expand("faulty://d/a.txt") == first
    assert fetched(calls) == ["/d/a.txt"]


def test_another_content_has_another_place_and_the_old_copy_stays(calls):
    remote.write("faulty://d/a.txt", b"one")
    (first,) = files.expand("faulty://d/a.txt")
    remote.write("faulty://d/a.txt", b"two")
    (second,) = files.expand("faulty://d/a.txt")
    assert pathlib.Path(first).read_bytes() == b"one"
    assert pathlib.Path(second).read_bytes() == b"two"


def test_messages_name_the_url_for_its_copy():
    remote.write("faulty://d/a.txt", b"one")
    (path,) = files.expand("faulty://d/a.txt")
    assert str(DataError(f"{path}: broken")) == "faulty://d/a.txt: broken"
    assert urls.origin(path) == "faulty://d/a.txt"


def test_a_list_may_mix_urls_and_local_files(tmp_path):
    (tmp_path / "b,c.txt").write_bytes(b"local")
    remote.write("faulty://d/a.txt", b"remote")
    found = files.expand(f"faulty://d/a.txt,{tmp_path}/b,c.txt,faulty://d/a.*")
    assert [pathlib.Path(p).read_bytes() for p in found] == [b"remote", b"local"]


def test_a_folder_is_its_files_without_hidden_ones():
    for name in ("a", ".hidden", "_marker", "deep/b"):
        remote.write(f"faulty://d/{name}", b"1")
    assert files.expand("faulty://d", fetch=False) == ["faulty://d/a"]


@pytest.mark.parametrize("pattern", ["faulty://d/none", "faulty://d/none-*"])
def test_nothing_is_an_error_that_names_the_pattern(pattern):
    with pytest.raises(DataError, match=r"no .*file.* 'faulty://d/none"):
        files.expand(pattern)


@pytest.mark.parametrize("change", ["changed", "gone"])
def test_what_changes_while_it_is_fetched_is_an_error(faulty, change):
    remote.write("faulty://d/a.txt", b"one")

    def watch(call, path):
        if call == "get_file":
            faulty.watch = None
            if change == "gone":
                # The driver has opened it; others may still remove it.
                content = faulty.store.pop("/d/a.txt")
                faulty.store["/d/a.txt"] = content
                faulty.watch = lambda call, path: faulty.store.pop("/d/a.txt", None)
            else:
                remote.write("faulty://d/a.txt", b"another one")

    faulty.watch = watch
    with pytest.raises(DataError, match=r"^faulty://d/a.txt: "):
        files.expand("faulty://d/a.txt")
    assert not [name for _, _, names in os.walk(copies.root()) for name in names]


def test_a_whole_split_comes_with_its_statistics():
    put_split()
    found = files.expand("faulty://d/train-*")
    assert [os.path.getsize(path) for path in found] == [3, 4]
    for path in found:
        assert os.path.exists(os.path.join(os.path.dirname(path), "train.stats.json"))


def test_a_split_without_its_marker_is_refused():
    put_split()
    remote.remove("faulty://d/train.stats.json")
    with pytest.raises(DataError, match=r"conversion is under way, or was interrupted"):
        files.expand("faulty://d/train-*")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_shards": 3, "shard_bytes": [3, 4, 5]}, "is not of this|is missing"),
        ({"shard_bytes": [3, 5]}, "has 4 bytes instead of 5"),
    ],
)
def test_a_split_that_its_marker_does_not_fit_is_refused(changes, problem):
    put_split(**changes)
    with pytest.raises(DataError, match=problem):
        files.expand("faulty://d/train-*")


def test_who_reads_shards_in_place_may_ask_whether_they_are_whole():
    put_split()
    found = files.expand("faulty://d/train-*", fetch=False)
    assert [url.startswith("faulty://d/train-0") for url in found] == [True, True]
    remote_splits.check_splits(found)
    remote.remove("faulty://d/train.stats.json")
    with pytest.raises(DataError, match=r"conversion is under way"):
        remote_splits.check_splits(found)


def test_shards_of_others_need_no_marker():
    remote.write("faulty://d/train-00000-of-00009.tfrecord", b"x")
    assert len(files.expand("faulty://d/train-*")) == 1


def test_a_folder_is_fetched_as_it_was_at_one_time(faulty):
    remote.write("faulty://m/a", b"old")
    remote.write("faulty://m/b", b"old")

    def watch(call, path):
        if call == "get_file":  # once, in the middle
            faulty.watch = None
            remote.write("faulty://m/a", b"newer")
            remote.write("faulty://m/b", b"newer")

    faulty.watch = watch
    place = pathlib.Path(copies.fetch_folder("faulty://m"))
    assert {p.read_bytes() for p in place.iterdir()} == {b"newer"}


def test_no_room_is_an_error_before_anything_is_fetched(monkeypatch, calls):
    remote.write("faulty://d/a.txt", b"one")
    usage = type("Usage", (), {"free": 2})
    monkeypatch.setattr(copies.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(RunError, match=r"expected room for 3 bytes .*found 2"):
        files.expand("faulty://d/a.txt")
    assert not fetched(calls)


def test_an_output_is_written_whole_or_kept_here(faulty):
    def watch(call, path):
        if call == "put_file":
            raise ConnectionError("refused")

    with pytest.raises(ZeroDivisionError), files.replacing("faulty://o/a") as temporary:
        pathlib.Path(temporary).write_text("half")
        raise ZeroDivisionError
    assert remote.stat("faulty://o/a") is None
    faulty.watch = watch
    with pytest.raises(RunError, match=r"is kept in (.*)\.$") as caught:
        files.write_text("faulty://o/a", "whole")
    kept = str(caught.value).rpartition(" ")[2].rstrip(".")
    assert pathlib.Path(kept).read_text() == "whole"
    faulty.watch = None
    files.write_text("faulty://o/a", "whole")
    assert remote.read("faulty://o/a") == b"whole"
