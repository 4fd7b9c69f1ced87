"""A folder of versions is one SavedModel too: that which was published last."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import pytest

from tests.pipeline.training_helpers import tree
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import RunError
from tfr_pipeline.serving import versions

PARTS = ("saved_model.pb", "variables/variables.index", "assets.extra/features.json")
ways = pytest.mark.parametrize("way", ["links", "hard links", "copies"])


def without_links(monkeypatch, way):
    """Makes the file system one that lacks some kinds of links."""

    def refuse(*args, **options):
        raise PermissionError(1, "no links here")

    if way != "links":
        monkeypatch.setattr(os, "symlink", refuse)
    if way == "copies":
        monkeypatch.setattr(os, "link", refuse)


def write(folder, number, parts=PARTS):
    """Writes a version whose files say which one they belong to."""
    for part in parts:
        path = folder / str(number) / part
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number))
    return str(folder / str(number))


def publish(folder, number, parts=PARTS):
    path = write(folder, number, parts)
    versions.check(str(folder))
    versions.publish(path)
    return path


def loaded(folder):
    """Returns what stands in the folder itself, by part."""
    return {p: (folder / p).read_text() for p in PARTS if (folder / p).exists()}


@ways
@pytest.mark.filterwarnings("ignore:.*TensorFlow Serving")
def test_a_folder_stands_for_the_version_published_last(tmp_path, monkeypatch, way):
    without_links(monkeypatch, way)
    for number in (5, 30, 7, 7):
        path = publish(tmp_path, number)
        assert loaded(tmp_path) == dict.fromkeys(PARTS, str(number))
        assert versions.find_export(str(tmp_path)) == path
    publish(tmp_path, 8, PARTS[:2])
    assert loaded(tmp_path) == dict.fromkeys(PARTS[:2], "8")
    assert versions.numbers(str(tmp_path)) == ["5", "7", "8", "30"]
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_smaller_number_than_the_server_takes_is_said(tmp_path):
    publish(tmp_path, 30)
    with pytest.warns(UserWarning, match=r"version 9 is the newest.*number, .* is 30"):
        publish(tmp_path, 9)


class Killed(BaseException):
    """The end of a process."""


CALLS = ("symlink", "link", "replace", "rename", "remove", "rmdir", "unlink")


@ways
def test_wherever_publishing_ends_no_parts_of_two_versions_stand_there(
    tmp_path, monkeypatch, way
):
    without_links(monkeypatch, way)
    ended = 0
    for last_call in range(100):
        folder = tmp_path / str(last_call)
        publish(folder, 1)
        write(folder, 2, PARTS[:2])
        with monkeypatch.context() as patch:
            calls = iter(range(100))

            def counted(function, calls=calls, last_call=last_call):
                def call(*args, **options):
                    if next(calls) >= last_call:
                        raise Killed
                    return function(*args, **options)

                return call

            for name in CALLS:
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                versions.publish(str(folder / "2"))
            except Killed:
                ended += 1
            else:
                break
        found = loaded(folder)
        if "saved_model.pb" in found:
            assert len(set(found.values())) == 1
        version = os.path.basename(versions.find_export(str(folder)))
        assert version in ("1", "2")
        # The next one mends it.
        versions.check(str(folder))
        versions.publish(str(folder / "2"))
        assert loaded(folder) == dict.fromkeys(PARTS[:2], "2")
    assert ended >= 2
    assert loaded(folder) == dict.fromkeys(PARTS[:2], "2")


def copy_links_left_out(source, target):
    for path in sorted(source.rglob("*")):
        if path.is_file() and not any(p.is_symlink() for p in (path, *path.parents)):
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)


def archived(source, target):
    name = shutil.make_archive(str(source.parent / "a"), "zip", source)
    shutil.unpack_archive(name, target)


COPIES = {
    "cp -r": lambda a, b: subprocess.run(["cp", "-r", a, b], check=True),
    "cp -rL": lambda a, b: subprocess.run(["cp", "-rL", a, b], check=True),
    "copytree": shutil.copytree,
    "zip": archived,
    "without links": copy_links_left_out,
    "without hidden files": lambda a, b: shutil.copytree(
        a, b, ignore=shutil.ignore_patterns(".*")
    ),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_stands_for_the_same_version_and_takes_the_next(tmp_path, kind):
    source, copy = tmp_path / "source", tmp_path / "copy"
    for number in (4, 11):
        publish(source, number)
    os.utime(source / "4" / "variables" / "variables.index", (1e9, 1e9))
    COPIES[kind](source, copy)
    shutil.rmtree(source)
    found = pathlib.Path(versions.find_export(str(copy)))
    assert loaded(found) == dict.fromkeys(PARTS, "11")
    publish(copy, 12)
    assert loaded(copy) == dict.fromkeys(PARTS, "12")
    assert versions.find_export(str(copy)) == str(copy / "12")


def test_when_the_newest_version_is_removed_the_one_before_it_counts(tmp_path):
    for number in (11, 12):
        publish(tmp_path, number)
    shutil.rmtree(tmp_path / "12")
    assert versions.find_export(str(tmp_path)) == str(tmp_path / "11")


@pytest.mark.parametrize("part", ["saved_model.pb", "variables/variables.index"])
def test_a_model_of_others_is_left_alone(tmp_path, part):
    write(tmp_path / "mine", "", [part])
    before = tree(tmp_path)
    with pytest.raises(RunError, match=rf"mine/{part}: expected a folder"):
        versions.check(str(tmp_path / "mine"))
    assert tree(tmp_path) == before


def test_tensorflow_loads_the_folder_and_the_versions_in_it(tmp_path):
    module = tf.Module()
    module.value = tf.Variable(0.0)
    for number in (1.0, 2.0):
        module.value.assign(number)
        tf.saved_model.save(module, str(tmp_path / f"{number:.0f}"))
        versions.publish(str(tmp_path / f"{number:.0f}"))
    assert tf.saved_model.load(str(tmp_path)).value == 2.0
    assert tf.keras.models.load_model(str(tmp_path)).value == 2.0
    assert tf.saved_model.load(str(tmp_path / "1")).value == 1.0
