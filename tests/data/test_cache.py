"""The cache on disk: the same lists, whole, rebuilt when it must be."""

from __future__ import annotations

import fcntl
import glob
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent import futures

import numpy as np
import pytest

from tests.pipeline.training_helpers import ROOT, environment, make_data
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError, DataError, RunError
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("source"))


@pytest.fixture
def data(source, tmp_path):
    """A copy that a test may change."""
    return pathlib.Path(shutil.copytree(source, tmp_path / "data"))


def make_builder(data, cache, **hparams):
    settings = DatasetHparams(
        f"{data}/train-*", f"{data}/valid-*", 4, 4, cache=str(cache), **hparams
    )
    return SimpleDatasetBuilder.from_features(Features.load(str(data)), settings)


def assert_same(found, expected):
    np.testing.assert_array_equal(found.row_splits, expected.row_splits)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.query_ids, expected.query_ids)
    assert found.values.keys() == expected.values.keys()
    for dtype, block in expected.values.items():
        np.testing.assert_array_equal(found.values[dtype], block)


def test_a_second_run_maps_what_the_first_one_parsed(data, tmp_path, parses):
    memory = make_builder(data, "memory").lists("train", "packed")
    assert len(parses) == 1
    for _ in range(2):
        found = make_builder(data, tmp_path / "cache").lists("train", "packed")
        assert_same(found, memory)
    assert len(parses) == 2
    assert not list((tmp_path / "cache").rglob("*.tmp"))


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_batches_are_those_of_memory(data, tmp_path, layout):
    batches = [
        list(make_builder(data, cache, seed=3).make_dataset("train", layout).take(12))
        for cache in ("", tmp_path / "cache")
    ]
    for found, expected in zip(*batches, strict=True):
        tf.nest.map_structure(
            lambda a, b: np.testing.assert_array_equal(a, b),
            tf.nest.flatten(found, expand_composites=True),
            tf.nest.flatten(expected, expand_composites=True),
        )


def test_changed_files_are_parsed_anew(data, tmp_path, parses):
    cache = tmp_path / "cache"
    before = make_builder(data, cache).lists("train", "packed")
    train, valid = (sorted(data.glob(f"{name}-*"))[0] for name in ("train", "valid"))
    train.write_bytes(valid.read_bytes())
    (data / "train.stats.json").unlink()  # else records would be missing
    after = make_builder(data, cache).lists("train", "packed")
    assert after.num_documents != before.num_documents
    assert_same(after, make_builder(data, "").lists("train", "packed"))
    os.utime(train, ns=(1, 1))  # the same size, another time
    make_builder(data, cache).lists("train", "packed")
    assert len(parses) == 4


def test_other_settings_have_a_cache_of_their_own(data, tmp_path, parses):
    cache = tmp_path / "cache"
    for binary in (False, True, False, True):
        builder = make_builder(data, cache, convert_labels_to_binary=binary)
        labels = builder.lists("train", "packed").labels
        assert (labels.max() > 1) is not binary
    assert 1 <= len(parses) <= 2


def blocks(cache):
    return sorted(glob.glob(f"{cache}/**/*.bin", recursive=True), key=os.path.getsize)


@pytest.mark.parametrize(
    "how", ["shorter", "changed", "gone", "no meta", "folder", "other", "number"]
)
def test_a_damaged_cache_is_noticed_and_made_anew(data, tmp_path, how):
    cache = tmp_path / "cache"
    expected = make_builder(data, "").lists("train", "packed")
    make_builder(data, cache).lists("train", "packed")
    largest = pathlib.Path(blocks(cache)[-1])
    content = bytearray(largest.read_bytes())
    if how == "shorter":
        largest.write_bytes(content[:-7])
    elif how == "changed":
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
    elif how == "gone":
        largest.unlink()
    elif how == "folder":
        largest.unlink()
        largest.mkdir()
    elif how == "other":
        meta = largest.parent / "meta.json"
        content = json.loads(meta.read_text())
        content["columns"]["lengths"]["shape"] = [0]
        meta.write_text(json.dumps(content))
    elif how == "number":
        (largest.parent / "meta.json").write_text("7")
    else:
        (largest.parent / "meta.json").write_text("{")
    with pytest.warns(UserWarning, match="is damaged"):
        assert_same(make_builder(data, cache).lists("train", "packed"), expected)
    assert_same(make_builder(data, cache).lists("train", "packed"), expected)


READ = """
import sys
from tests.data.test_cache import make_builder
lists = make_builder(sys.argv[1], sys.argv[2]).lists("train", "packed")
print(lists.num_documents, float(lists.values["float32"].sum(dtype="float64")))
"""


def start(data, cache):
    return subprocess.Popen(
        [sys.executable, "-c", READ, str(data), str(cache)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_processes_that_build_at_once_all_get_whole_lists(data, tmp_path):
    cache = tmp_path / "cache"
    running = [start(data, cache) for _ in range(3)]
    found = {process.communicate(timeout=200)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    lists = make_builder(data, "").lists("train", "packed")
    total = float(lists.values["float32"].sum(dtype="float64"))
    assert found == {f"{lists.num_documents} {total}\n"}
    assert not list(cache.rglob("*.tmp"))


def test_a_killed_builder_leaves_nothing_that_is_taken_for_a_cache(data, tmp_path):
    cache = tmp_path / "cache"
    slow = READ.replace(
        "lists = ",
        "import time\n"
        "from tfr_pipeline.data.reading import loading\n"
        "original = loading.iterate\n"
        "def iterate(*a, **k):\n"
        "    for part in original(*a, **k):\n"
        "        yield part\n"
        "        time.sleep(100)\n"
        "loading.iterate = iterate\n"
        "lists = ",
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow, str(data), str(cache)],
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.DEVNULL,
    )
    deadline = time.time() + 100
    while not list(cache.rglob("*.tmp")) and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(cache.rglob("*.tmp"))
    expected = make_builder(data, "").lists("train", "packed")
    assert_same(make_builder(data, cache).lists("train", "packed"), expected)
    assert not list(cache.rglob("*.tmp"))


def test_who_waits_for_a_cache_says_for_whom(data, tmp_path, capfd):
    cache = tmp_path / "cache"
    make_builder(data, cache).lists("train", "packed")
    (lock,) = cache.rglob("lock")
    assert lock.read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    with open(lock) as held, futures.ThreadPoolExecutor(1) as pool:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = pool.submit(make_builder(data, cache).lists, "train", "packed")
        said = ""
        while "waiting" not in said:
            assert not waiting.done()
            said += capfd.readouterr().err
            time.sleep(0.01)
        fcntl.flock(held, fcntl.LOCK_UN)
        waiting.result(60)
    assert f"cache: waiting for {lock.read_text()} to build {lock.parent}" in said


def test_a_folder_that_cannot_be_made_is_named(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Name another folder, or 'memory'"):
        make_builder(data, tmp_path / "file" / "cache").lists("train", "packed")


def test_what_is_no_folder_is_refused(data):
    with pytest.raises(
        ConfigError, match="expected 'auto', 'memory', 'disk' or a folder"
    ):
        DatasetHparams("a", "b", 1, 1, cache=3)


def test_a_full_disk_is_reported_and_leaves_nothing(data, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(RunError, match=f"cache: {tmp_path}.* cannot be used"):
            make_builder(data, tmp_path / "cache").lists("train", "packed")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "cache").rglob("*.bin"))


def test_bad_data_is_no_matter_of_the_cache(data, tmp_path):
    train = sorted(data.glob("train-*"))[0]
    train.write_bytes(train.read_bytes()[:-3])
    with pytest.raises(DataError, match=f"{train.name}: record .* is corrupt"):
        make_builder(data, tmp_path / "cache").lists("train", "packed")
    assert not list((tmp_path / "cache").rglob("*.bin"))


def test_a_cache_of_features_that_are_not_kept_warns(data, tmp_path):
    builder = make_builder(data, tmp_path / "cache")
    name = next(iter(builder._example_feature_spec))
    builder._example_feature_spec[name] = tf.io.RaggedFeature(
        tf.float32, name, [tf.io.RaggedFeature.UniformRowLength(1)]
    )
    with pytest.warns(UserWarning, match="cache=.* has no effect: only features"):
        builder.build_train_dataset()
    assert not (tmp_path / "cache").exists()
