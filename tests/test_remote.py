# ruff: noqa: F811
"""Remote files: listed, read, written; tried again, or explained in a line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("fsspec")

from tests.remote_stores import faulty, object_storage, s3  # noqa: F401
from tfr_pipeline import remote, urls
from tfr_pipeline.errors import DataError, RunError


@pytest.fixture(params=["memory", "file", "s3"])
def place(request, tmp_path):
    """A folder in memory, on a file system with real folders, and on a real server."""
    if request.param == "file":
        return f"file://{tmp_path}/place"
    if request.param == "memory":
        return f"memory://{tmp_path}/place"
    request.getfixturevalue("s3")
    return f"s3://bucket/{tmp_path.name}/place"


def test_files_are_found_below_a_folder_and_by_wildcards(place):
    for name in ("a-0.txt", "a-1.txt", "deep/b.txt"):
        remote.write(urls.join(place, name), name.encode())
    remote.write(f"{place}-other", b"not below it")
    assert list(remote.find(place)) == ["a-0.txt", "a-1.txt", "deep/b.txt"]
    assert list(remote.find(place, deep=False)) == ["a-0.txt", "a-1.txt"]
    assert list(remote.glob(f"{place}/a-*")) == [f"{place}/a-0.txt", f"{place}/a-1.txt"]
    assert remote.glob(f"{place}/c-*") == {}


def test_a_file_is_told_from_a_folder_and_from_nothing(place):
    remote.write(f"{place}/a", b"12345")
    assert remote.stat(f"{place}/a").size == 5
    assert remote.stat(place) is None
    assert remote.stat(f"{place}/b") is None
    assert remote.find(f"{place}/nothing") == {}


def test_another_content_has_another_tag_however_it_is_looked_at(place):
    remote.write(f"{place}/a", b"one")
    first = remote.stat(f"{place}/a")
    assert first == remote.find(place)["a"] == remote.glob(f"{place}/*")[f"{place}/a"]
    remote.write(f"{place}/a", b"two")
    assert remote.stat(f"{place}/a") != first


def test_a_range_is_the_bytes_of_the_whole(place):
    content = os.urandom(1000)
    remote.write(f"{place}/a", content)
    assert remote.read(f"{place}/a") == content
    assert remote.read_range(f"{place}/a", 17, 600) == content[17:617]
    assert remote.read_range(f"{place}/a", 17, 0) == b""
    with pytest.raises(DataError, match=r"expected 10 bytes at byte 995, found 5"):
        remote.read_range(f"{place}/a", 995, 10)
    with pytest.raises(remote.GoneError, match=r"/b: no such"):
        remote.read_range(f"{place}/b", 0, 1)


def test_a_file_that_is_there_is_no_new_one(place):
    assert remote.write(f"{place}/a", b"mine", new=True)
    assert not remote.write(f"{place}/a", b"theirs", new=True)
    assert remote.read(f"{place}/a") == b"mine"


def test_put_and_remove_and_get(place, tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    entry = remote.put(str(tmp_path / "file"), f"{place}/file")
    assert entry == remote.stat(f"{place}/file")
    remote.get(f"{place}/file", entry, str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == b"x" * 100_000
    remote.remove(f"{place}/file")
    remote.remove(f"{place}/file")
    assert remote.stat(f"{place}/file") is None


def test_what_fails_for_a_moment_is_tried_again(faulty, capsys):
    remote.write("faulty://a", b"1")
    left = [TimeoutError("slow"), OSError(5, "reset")]

    def watch(call, path):
        if call == "cat_file" and left:
            raise left.pop()

    faulty.watch = watch
    assert remote.read("faulty://a") == b"1"
    assert capsys.readouterr().err.count("trying again") == 1


def test_what_fails_for_long_is_an_error_that_names_it(faulty):
    def watch(call, path):
        raise ConnectionError("refused")

    faulty.watch = watch
    with pytest.raises(RunError, match=r"^faulty://a: ConnectionError: refused"):
        remote.read("faulty://a")


def test_names_that_lead_out_of_the_folder_are_refused(faulty):
    remote.write("faulty://a/b/x", b"1")
    store = faulty.store
    store["/a/b/../../../etc/passwd"] = store.pop("/a/b/x")
    with pytest.raises(DataError, match=r"found one called '\.\./"):
        remote.find("faulty://a/b")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://no-such-bucket/data", "no such bucket"),
        ("nothing://a/b", "expected a URL that fsspec knows"),
    ],
)
def test_what_is_not_there_is_named(s3, url, message):
    with pytest.raises((DataError, RunError), match=f"^{url}: .*{message}"):
        remote.find(url)


def test_without_credentials_it_says_which_are_missing(s3, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(RunError, match=r"no credentials .*AWS_ACCESS_KEY_ID"):
        remote.find("s3://bucket/data")


def test_with_wrong_credentials_access_is_denied(s3, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(RunError, match=r"access was denied") as caught:
        remote.find("s3://bucket/data")
    assert "wrong-secret" not in str(caught.value)


def test_without_the_extra_it_says_how_to_get_it():
    code = "import sys; sys.modules['fsspec'] = None\n"
    code += "from tfr_pipeline.cli.main import main\n"
    code += "sys.exit(main(['convert', '--input=s3://b/a', '--output=gs://b/c']))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "gs://b/c" in done.stderr
    assert "pip install 'tfr_pipeline[gcs]'" in done.stderr
