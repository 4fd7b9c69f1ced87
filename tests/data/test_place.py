"""Lists are kept in memory if they fit, else on disk; what fits is known before."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.data.format_helpers import write_format
from tests.pipeline.training_helpers import ROOT, environment, make_data
from tests.ranking_data import CONTEXT_SPEC, EXAMPLE_SPEC, LABEL_SPEC, random_lists
from tfr_pipeline.cluster import cluster_spec
from tfr_pipeline.data import room, store
from tfr_pipeline.data.reading import direct, loading, place
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.data.room import Room
from tfr_pipeline.errors import ConfigError, RunError
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder

GROUPS = pathlib.Path("/sys/fs/cgroup")
MB = 1 << 20


def group(root, name, **contents):
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for key, value in contents.items():
        (folder / key.replace("__", ".")).write_text(str(value))


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A place for what the kernel would say; without limits at first."""
    monkeypatch.setattr(room, "_PROC", str(tmp_path / "proc"))
    monkeypatch.setattr(room, "_GROUPS", str(tmp_path / "cgroup"))
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 900000 kB\nMemAvailable: 8192 kB")
    (tmp_path / "proc/self/status").write_text("VmSize: 10 kB\nVmData: 5 kB\n")
    return tmp_path


def test_without_groups_it_is_what_the_machine_has_free(kernel):
    assert room.memory() == Room(8 * MB, "free on this machine")


def test_groups_of_version_2_and_those_around_them_count(kernel):
    (kernel / "proc/self/cgroup").write_text("0::/job/task\n")
    unlimited = {"memory__max": "max", "memory__current": 9 * MB}
    group(kernel / "cgroup", "job/task", **unlimited)
    stat = f"anon {MB}\ninactive_file {MB}\nactive_file {MB}\n"
    limited = {"memory__max": 7 * MB, "memory__current": 6 * MB, "memory__stat": stat}
    group(kernel / "cgroup", "job", **limited)
    assert room.memory() == Room(3 * MB, "left of the 7 MiB of its control group")
    shared = room.memory(processes=3)
    assert shared.bytes == MB and "shared by 3 processes" in shared.why


def test_groups_of_version_1_count_wherever_they_are_mounted(kernel):
    text = "5:cpu,cpuacct:/else\n4:memory:/docker/abc\n0::/\n"
    (kernel / "proc/self/cgroup").write_text(text)
    # Inside a container the group's own folder is the root of what is mounted.
    group(
        kernel / "cgroup/memory",
        ".",
        memory__limit_in_bytes=5 * MB,
        memory__usage_in_bytes=2 * MB,
        memory__stat="total_inactive_file 0\n",
    )
    assert room.memory().bytes == 3 * MB
    none = 2**63 - 4096
    group(kernel / "cgroup/memory", "docker/abc", memory__limit_in_bytes=none)
    assert room.memory().bytes == 3 * MB


def test_more_is_used_than_the_limit_says(kernel):
    (kernel / "proc/self/cgroup").write_text("0::/\n")
    over = {"memory__max": MB, "memory__current": 2 * MB, "memory__stat": ""}
    group(kernel / "cgroup", ".", **over)
    assert room.memory().bytes == 0


@pytest.mark.parametrize(("kind", "flag"), [("RLIMIT_AS", "-v"), ("RLIMIT_DATA", "-d")])
def test_the_limits_of_the_shell_count(kind, flag):
    code = (
        "import resource; from tfr_pipeline.data import room\n"
        f"resource.setrlimit(resource.{kind}, (600 << 20, 600 << 20))\n"
        "found = room.memory(); print(found.bytes >> 20, found.why)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    left, _, why = done.stdout.strip().partition(" ")
    assert 100 < int(left) < 600
    assert why == f"left of the 600 MiB of `ulimit {flag}`"


def test_a_real_control_group_is_noticed():
    version_2 = (GROUPS / "cgroup.controllers").exists()
    parent = GROUPS if version_2 else GROUPS / "memory"
    folder = parent / f"tfr_pipeline_test_{os.getpid()}"
    try:
        folder.mkdir()
        limit = "memory.max" if version_2 else "memory.limit_in_bytes"
        (folder / limit).write_text(str(300 * MB))
    except OSError:
        pytest.skip("control groups cannot be made here")
    code = (
        f"import os; group = open({str(folder / 'cgroup.procs')!r}, 'w')\n"
        "group.write(str(os.getpid())); group.close()\n"
        "from tfr_pipeline.data import room; print(room.memory())"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        folder.rmdir()
    assert "left of the 300 MiB of its control group" in done.stdout


def test_room_of_a_disk_is_that_of_the_nearest_folder(tmp_path):
    found = room.disk(str(tmp_path / "not" / "yet"))
    assert found.bytes > 0 and found.why == f"free on the disk of {tmp_path}"


def size_of(paths, data_format):
    parser = RecordParser(
        CONTEXT_SPEC, EXAMPLE_SPEC, dict([LABEL_SPEC]), data_format=data_format
    )
    how = parser, LABEL_SPEC[0], None, RecordReader()
    lists = loading.load(paths, *how)
    actual = sum(
        array.nbytes + 60 * len(array) * (array.dtype == object)
        for array in store.columns(lists).values()
    )
    return place.SizeOf(paths, *how).get(), actual


@pytest.mark.parametrize("data_format", ["elwc", "eie", "seq"])
@pytest.mark.parametrize("compression", [None, "GZIP", "ZLIB"])
def test_the_size_is_known_after_a_look(tmp_path, data_format, compression):
    random = np.random.default_rng(0)
    paths = [
        write_format(
            tmp_path / f"{i}",
            random_lists(i, random.integers(1, 20, 150).tolist()),
            data_format,
            compression,
        )
        for i in range(6)
    ]
    found, actual = size_of(paths, data_format)
    assert 0.75 * actual < found.bytes < 1.3 * actual
    assert 0 < found.seconds < 60


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / "data")


def builder(data, **settings):
    hparams = DatasetHparams(f"{data}/train-*", f"{data}/valid-*", 4, 4, **settings)
    return SimpleDatasetBuilder.from_features(Features.load(str(data)), hparams)


@pytest.fixture
def little(monkeypatch, tmp_path):
    """Says that there is so much memory, and where the user's caches are."""
    monkeypatch.setenv("TFR_PIPELINE_CACHE", str(tmp_path / "caches"))

    def say(size):
        monkeypatch.setattr(room, "memory", lambda _: Room(size, "left, it is said"))

    return say


@pytest.mark.parametrize("cache", ["auto", "", None])
def test_data_that_fits_is_kept_in_memory_without_a_word(data, tmp_path, capsys, cache):
    assert type(builder(data, cache=cache).lists("train")).__name__ == "Lists"
    assert not (tmp_path / "caches").exists()
    assert capsys.readouterr() == ("", "")


def test_data_that_does_not_fit_goes_to_the_disk_and_that_is_said(
    data, tmp_path, capsys, little
):
    little(1000)
    expected = builder(data, cache="memory")
    lists = builder(data).lists("train")
    assert type(lists).__name__ == "DiskLists"
    said = capsys.readouterr().err
    assert f"kept on disk in {tmp_path / 'caches' / 'lists'}" in said
    assert "1000 B left, it is said" in said
    little(1 << 40)
    wanted = expected.lists("train").values["float32"]
    np.testing.assert_array_equal(lists.values["float32"], wanted)


@pytest.mark.parametrize("cache", ["auto", "disk", "a folder"])
def test_memory_that_is_too_little_for_training_from_disk_is_said(
    data, tmp_path, capsys, little, cache
):
    little(100 * MB)
    cache = str(tmp_path / "cache") if cache == "a folder" else cache
    assert type(builder(data, cache=cache).lists("train")).__name__ == "DiskLists"
    said = capsys.readouterr().err
    assert "warning: training from disk takes about 512 MiB of memory" in said
    assert "found 100 MiB left, it is said" in said


def test_memory_that_is_enough_for_training_from_disk_is_not_spoken_of(
    data, tmp_path, capsys, little
):
    little(600 * MB)
    builder(data, cache=str(tmp_path / "cache")).lists("train")
    assert capsys.readouterr().err == ""


def test_windows_count_among_what_training_from_disk_takes(capsys):
    windows = direct.windows(1)
    here = Room(room.RESERVE + windows, "left")
    place._warn_of_little(here, 1, 2 * windows)
    assert capsys.readouterr().err == ""
    place._warn_of_little(Room(here.bytes - 1, "left"), 1, 2 * windows)
    assert f"takes about {room.shown(here.bytes)}" in capsys.readouterr().err
    place._warn_of_little(Room(here.bytes - 1, "left"), 2, 2 * windows)
    assert capsys.readouterr().err == ""


def test_memory_that_was_asked_for_and_is_too_small_is_an_error(data, little):
    little(1000)
    with pytest.raises(ConfigError, match=r"'memory' was asked for.* 1000 B left"):
        builder(data, cache="memory").lists("train")


def test_a_disk_that_is_too_small_is_an_error_before_anything_is_written(
    data, tmp_path, monkeypatch
):
    monkeypatch.setattr(room, "disk", lambda path: Room(1000, "free, it is said"))
    with pytest.raises(RunError, match=r"need .*, found 1000 B free"):
        builder(data, cache=str(tmp_path / "cache")).lists("train")
    assert not list((tmp_path / "cache").rglob("*.bin"))


def test_a_cache_that_is_there_needs_no_room(data, tmp_path, monkeypatch):
    builder(data, cache=str(tmp_path / "cache")).lists("train")
    monkeypatch.setattr(room, "disk", lambda path: Room(0, "free, it is said"))
    builder(data, cache=str(tmp_path / "cache")).lists("train")


@pytest.mark.parametrize(
    ("tf_config", "count"),
    [
        (None, 1),
        ('{"cluster": {"worker": ["a:1", "a:2", "b:1"]}, "task": TASK}', 2),
        ('{"cluster": {"chief": ["a:1"], "worker": ["a:2"]}, "task": TASK}', 2),
        ('{"cluster": {"chief": ["a:1"], "ps": ["a:3"], "worker": ["a:2"]}, '
         '"task": TASK}', 1),
        ("not JSON", 1),
    ],
)  # fmt: skip
def test_workers_of_one_host_share_its_memory(tf_config, count):
    task = '{"type": "worker", "index": 0}'
    text = tf_config and tf_config.replace("TASK", task)
    assert cluster_spec.readers_here(text) == count


def test_tasks_that_work_alone_share_the_memory_of_their_host(monkeypatch):
    cluster = {"worker": ["a:1", "a:2", "b:1"]}
    text = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}})
    monkeypatch.setenv("TF_CONFIG", text)
    monkeypatch.setenv(cluster_spec.READERS, "")
    assert cluster_spec.readers_here(None) == 1
    cluster_spec.leave()
    assert "TF_CONFIG" not in os.environ
    assert cluster_spec.readers_here(None) == 2
    assert cluster_spec.readers_here(text.replace("a:2", "c:2")) == 1
