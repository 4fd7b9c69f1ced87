"""What is written is whole or absent; a pattern finds files or says so."""

from __future__ import annotations

import contextlib
import os
import pathlib

import pytest

from tfr_pipeline.errors import ConfigError, DataError, RunError
from tfr_pipeline.files import expand, read_json, replacing, write_text


def tree(folder: pathlib.Path) -> dict[str, str | None]:
    """Returns everything below a folder: file contents, None for folders."""
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    target = tmp_path / "a" / "file.txt"
    with replacing(str(target)) as temporary:
        pathlib.Path(temporary).write_text("new")
        assert not target.exists()
    assert tree(tmp_path) == {"a": None, "a/file.txt": "new"}


@pytest.mark.parametrize("name", ["old.txt", "new.txt", "new/deep/file.txt"])
def test_a_failed_write_leaves_files_and_folders_as_they_were(tmp_path, name):
    (tmp_path / "old.txt").write_text("old")
    target = tmp_path / name
    before = tree(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        with replacing(str(target)) as temporary:
            pathlib.Path(temporary).write_text("half")
            raise KeyboardInterrupt
    assert tree(tmp_path) == before


@pytest.mark.parametrize("existing", [True, False])
def test_a_failed_write_leaves_folders_as_they_were(tmp_path, existing):
    target = tmp_path / "folder"
    if existing:
        target.mkdir()
        (target / "kept").write_text("old")
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="stop"):
        with replacing(str(target), ["kept"]) as temporary:
            os.makedirs(os.path.join(temporary, "deep"))
            pathlib.Path(temporary, "deep", "half").write_text("half")
            raise ValueError("stop")
    assert tree(tmp_path) == before


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "stale").write_text("old")
    with replacing(str(target), ["stale"]) as temporary:
        os.mkdir(temporary)
        pathlib.Path(temporary, "fresh").write_text("new")
    assert tree(tmp_path) == {"folder": None, "folder/fresh": "new"}


@pytest.mark.parametrize("late", [True, False])
def test_a_folder_with_the_files_of_others_is_never_replaced(tmp_path, late):
    target = tmp_path / "folder"
    (target / "deep").mkdir(parents=True)
    (target / "ours").write_text("old")
    foreign = target / "deep" / "theirs"
    if not late:
        foreign.write_text("precious")
    with pytest.raises(RunError, match=r"found 'deep/theirs' in it"):
        with replacing(str(target), ["ours"]) as temporary:
            os.mkdir(temporary)
            foreign.write_text("precious")
    assert tree(tmp_path) == {
        "folder": None,
        "folder/deep": None,
        "folder/deep/theirs": "precious",
        "folder/ours": "old",
    }


@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_path_is_not_the_working_directory(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "precious").write_text("kept")
    with pytest.raises(ConfigError, match="expected a path, found nothing"):
        with replacing(path) as temporary:
            os.mkdir(temporary)
    assert tree(tmp_path) == {"precious": "kept"}


@pytest.mark.parametrize("kind", ["file", "nothing"])
def test_a_link_is_followed(tmp_path, kind):
    link = tmp_path / "link"
    real = tmp_path / "deep" / "real"
    real.parent.mkdir()
    link.symlink_to("deep/real")
    if kind == "file":
        real.write_text("old")
    with replacing(str(link)) as temporary:
        pathlib.Path(temporary).write_text("new")
    assert os.readlink(link) == "deep/real"
    assert real.read_text() == "new"
    assert os.listdir(real.parent) == ["real"]


def test_a_link_to_a_folder_is_followed(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    (real / "kept").write_text("old")
    link = tmp_path / "link"
    link.symlink_to(real)
    with replacing(str(link), ["kept"]) as temporary:
        os.mkdir(temporary)
        pathlib.Path(temporary, "fresh").write_text("new")
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]
    assert os.listdir(link) == ["fresh"]
    assert os.readlink(link) == str(real)


@pytest.mark.parametrize("old_is_folder", [True, False])
def test_a_file_and_a_folder_do_not_replace_each_other(tmp_path, old_is_folder):
    target = tmp_path / "x"
    if old_is_folder:
        target.mkdir()
        (target / "kept").write_text("old")
    else:
        target.write_text("old")
    before = tree(tmp_path)
    with pytest.raises((OSError, RunError)):
        with replacing(str(target)) as temporary:
            if old_is_folder:
                pathlib.Path(temporary).write_text("new")
            else:
                os.mkdir(temporary)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("fails", [True, False])
def test_a_pipe_stays_one_and_takes_the_whole_content_or_none(tmp_path, fails):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # Open for both, so that nobody waits for the other end.
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    with contextlib.suppress(ValueError):
        with replacing(str(pipe)) as temporary:
            pathlib.Path(temporary).write_text("whole")
            if fails:
                raise ValueError
    assert pipe.is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]
    if fails:
        with pytest.raises(BlockingIOError):
            os.read(reader, 100)
    else:
        assert os.read(reader, 100) == b"whole"
    os.close(reader)


def test_a_device_stays_one(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(os.devnull)
    before = os.stat(os.devnull)
    write_text(str(link), "gone")
    assert os.stat(os.devnull) == before
    assert os.readlink(link) == os.devnull


@pytest.mark.parametrize("path", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_is_appended_to_in_order(path, capfdbinary):
    os.write(1, b"before\n")
    write_text(path, "whole\n")
    os.write(1, b"after\n")
    # The file behind standard output is neither cut nor replaced.
    assert capfdbinary.readouterr().out == b"before\nwhole\nafter\n"


def test_text_is_written_with_unix_line_ends(tmp_path):
    write_text(str(tmp_path / "t"), "ä\nb\n")
    assert (tmp_path / "t").read_bytes() == "ä\nb\n".encode()


def test_patterns_find_each_file_once_in_order(tmp_path):
    for name in ("b-1", "b-0", "a"):
        (tmp_path / name).write_text("")
    (tmp_path / "b-folder").mkdir()
    found = expand(f"{tmp_path}/b-*,{tmp_path}/a,{tmp_path}/b-0")
    assert [os.path.basename(path) for path in found] == ["b-0", "b-1", "a"]
    assert expand([f"{tmp_path}/a"]) == [f"{tmp_path}/a"]


def test_blanks_after_a_comma_do_not_matter(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text("")
    assert len(expand(f"{tmp_path}/a, {tmp_path}/b")) == 2


def test_a_file_with_brackets_in_its_name_is_found(tmp_path):
    path = tmp_path / "part[1].txt"
    path.write_text("")
    assert expand(str(path)) == [str(path)]


@pytest.mark.parametrize(
    "pattern, words",
    [
        ("{}/no-*", "no file matches '{}/no-*'"),
        ("{}/none", "no such file '{}/none'"),
        ("{}/a,{}/none", "no such file '{}/none'"),
        ("{}/empty", "no file in the folder '{}/empty'"),
        ("", "found nothing"),
        (",", "found nothing"),
        ([], "found nothing"),
    ],
)
def test_a_pattern_without_files_is_named(tmp_path, pattern, words):
    (tmp_path / "a").write_text("")
    (tmp_path / "empty").mkdir()
    if isinstance(pattern, str):
        pattern = pattern.replace("{}", str(tmp_path))
    with pytest.raises(DataError) as error:
        expand(pattern, "training data")
    assert words.replace("{}", str(tmp_path)) in str(error.value)
    assert "training data" in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("a,b/x-*", ["a,b/x-1", "a,b/x-2"]),
        ("a,b/x-1,a,b/x-2,c", ["a,b/x-1", "a,b/x-2", "c"]),
        ("c, a,b/x-2", ["c", "a,b/x-2"]),
        ("c,d", ["c,d"]),
        ("d,c", ["d", "c"]),
        ("~/c,~/a,b/x-*", ["c", "a,b/x-1", "a,b/x-2"]),
        ("a,b", ["a,b/x-1", "a,b/x-2"]),
    ],
)
def test_commas_separate_names_and_may_be_part_of_one(
    tmp_path, monkeypatch, pattern, wanted
):
    (tmp_path / "a,b").mkdir()
    for name in ("a,b/x-1", "a,b/x-2", "a,b/.hidden", "c", "d", "c,d"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = [os.path.relpath(path) for path in expand(pattern)]
    assert found == wanted


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[" * 100_000, b"9" * 5000, None]
)
def test_what_is_no_json_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{path}: (not valid JSON|cannot be read): "):
        read_json(str(path))
