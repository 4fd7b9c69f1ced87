# ruff: noqa: F811
"""Large data in a store: each worker fetches its own bytes, once or in each epoch."""

from __future__ import annotations

import re
import subprocess
import sys
import threading

import numpy as np
import pytest

pytest.importorskip("fsspec")

from tests.cli.command_helpers import LETOR, SMALL
from tests.data.batch_helpers import assert_same, elements
from tests.object_store import ObjectStore
from tests.pipeline.training_helpers import environment
from tests.remote_stores import FaultyFileSystem, faulty, object_storage, s3  # noqa: F401
from tfr_pipeline import remote, remote_ranges, retries
from tfr_pipeline.cli.main import main
from tfr_pipeline.compat import tf
from tfr_pipeline.data.batching import windowed
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.reading import ranges, remote_shards
from tfr_pipeline.data.reading.record_lists import RecordLists
from tfr_pipeline.data.reading.remote_column import RemoteColumn
from tfr_pipeline.errors import ConfigError, DataError, RunError
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.multi_label import builder_from_features
from tfr_pipeline.pipeline.run import data_fingerprint

PLACE = "faulty://d/data"


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(windowed, "WINDOW", 9_000)
    monkeypatch.setattr(windowed, "BLOCK", 400)
    monkeypatch.setattr(ranges, "_PIECE", 3_000)
    monkeypatch.setattr(remote_ranges, "PIECE", 3_000)
    monkeypatch.setattr(remote_ranges, "_AHEAD", 9_000)
    monkeypatch.setattr(retries, "_FIRST_PAUSE", 0.02)


@pytest.fixture(scope="module", params=["elwc", "packed"])
def data(request, tmp_path_factory):
    """200 lists in 5 files, 50 in 2."""
    return make_data(tmp_path_factory.mktemp("data"), request.param)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("packed"), "packed")


def make_data(folder, output_format):
    random = np.random.default_rng(0)
    for split, count, shards in (("train", 200, 5), ("valid", 50, 2)):
        lines = []
        for query in range(count):
            for _ in range(random.integers(1, 12)):
                values = " ".join(f"{i}:{random.normal():.3f}" for i in range(1, 9))
                lines.append(f"{random.integers(0, 3)} qid:{split}{query} {values}")
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
        convert(
            str(folder / f"{split}.txt"),
            str(folder / "out"),
            split=split,
            num_shards=shards,
            output_format=output_format,
            report=lambda line: None,
        )
    return folder / "out"


def upload(data, place=PLACE):
    """Puts the files of a conversion into a store, the markers last."""
    for path in sorted(data.iterdir(), key=lambda path: path.suffix == ".json"):
        remote.put(str(path), f"{place}/{path.name}")


def builder(place, **settings):
    hparams = DatasetHparams(f"{place}/train-*", f"{place}/valid-*", 16, 16, **settings)
    return builder_from_features(Features.load(str(place)), hparams)


def batches(made, split="train", count=60, worker=0, workers=1):
    return elements(
        made,
        split,
        count,
        layout="packed",
        replicas=workers,
        shard=(worker, workers),
    )


def sent_of_shards(store):
    return sum(size for path, size in store.sent if "/train-" in path)


def size_of(data, split="train"):
    return sum(path.stat().st_size for path in data.glob(f"{split}-*"))


def without_room(monkeypatch):
    monkeypatch.setattr(remote_shards, "LEFT_FREE", 1 << 60)


@pytest.mark.parametrize("room", ["room", "no room"])
@pytest.mark.parametrize("cache", ["memory", "disk", "auto"])
@pytest.mark.parametrize("workers", [1, 2])
def test_batches_of_remote_data_are_those_of_local_data(
    data, faulty, monkeypatch, workers, cache, room
):
    upload(data)
    if room == "no room":
        without_room(monkeypatch)
    for split in ("train", "valid"):
        for worker in range(workers):
            share = {"worker": worker, "workers": workers}
            wanted = batches(builder(data), split, **share)
            made = builder(PLACE, cache=cache)
            assert_same(batches(made, split, **share), wanted)


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_worker_fetches_its_own_share_once(data, faulty, cache, tmp_path):
    upload(data)
    total = size_of(data)
    # Checksums of parts of files this small are of all of them.
    probed = remote.at_once(remote.stat, remote.glob(f"{PLACE}/train-*"))
    probed = sum(entry.size for entry in probed)
    for worker in range(2):
        faulty.sent.clear()
        batches(builder(PLACE, cache=cache), worker=worker, workers=2)
        sent = sent_of_shards(faulty) - (probed if not worker else 0)
        assert 0.4 * total < sent < 0.65 * total
    faulty.sent.clear()
    batches(builder(PLACE, cache=cache), worker=0, workers=2)
    assert sent_of_shards(faulty) < 0.15 * total


def test_without_room_for_a_copy_each_epoch_reads_the_store(
    packed, faulty, monkeypatch, capfd, tmp_path
):
    upload(packed)
    without_room(monkeypatch)
    made = builder(PLACE, cache="disk")
    steps = made.plan("train", "packed", 2).steps
    batches(made, count=steps, worker=1, workers=2)
    assert isinstance(made.kept._known[0][2], RecordLists)
    said = capfd.readouterr().err
    assert re.search(rf"{PLACE}, lists \d+ to 199: ", said)
    assert "read from the store in each epoch" in said and "free on the disk" in said
    faulty.sent.clear()
    batches(made, count=3 * steps, worker=1, workers=2)
    share = size_of(packed) / 2
    assert 2.5 * share < sent_of_shards(faulty) < 5 * share  # with windows read ahead
    cached = list((tmp_path / "cache").rglob("train-*"))
    assert not cached


def test_a_copy_of_the_whole_is_used_for_parts_of_it(packed, faulty, capfd):
    upload(packed)
    batches(builder(PLACE, cache="disk"))
    faulty.sent.clear()
    batches(builder(PLACE, cache="disk"), worker=1, workers=2)
    assert sent_of_shards(faulty) < 0.15 * size_of(packed)
    assert "from the cache in" in capfd.readouterr().err


def test_small_data_is_fetched_whole(packed, faulty, monkeypatch, tmp_path):
    upload(packed)
    monkeypatch.setattr(windowed, "WINDOW", 1 << 30)
    batches(builder(PLACE), worker=1, workers=2)
    files = (tmp_path / "cache" / "files").rglob("train-*.tfrecord")
    assert sum(path.stat().st_size for path in files) == size_of(packed)


@pytest.mark.parametrize("gone", ["train.index.npz", "train.stats.json"])
def test_data_without_index_is_fetched_whole_and_parts_of_a_split_are_refused(
    packed, faulty, gone, tmp_path
):
    upload(packed)
    remote.remove(f"{PLACE}/{gone}")
    made = builder(PLACE, cache="disk")
    if gone == "train.stats.json":
        with pytest.raises(DataError, match="a conversion is under way"):
            made.plan("train", "packed")
    else:
        batches(made)
        assert not (tmp_path / "cache" / "ranges").exists()


def overwrite(path, content):
    remote.write(f"{PLACE}/{path}", content)


def other_content(data, name):
    content = bytearray((data / name).read_bytes())
    content[len(content) // 2] ^= 1
    overwrite(name, bytes(content))


def shorter(data, name):
    content = (data / name).read_bytes()[:300]
    overwrite(name, content)


def nothing(data, name):
    remote.remove(f"{PLACE}/{name}")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (other_content, "was written anew"),
        (shorter, "was written anew: found 300 bytes"),
        (nothing, "is gone"),
    ],
)
def test_a_shard_that_changes_while_training_is_an_error_that_names_it(
    packed, faulty, monkeypatch, change, found
):
    upload(packed)
    without_room(monkeypatch)
    name = "train-00002-of-00005.tfrecord"
    made = builder(PLACE, cache="disk")
    batches(made, count=3)
    change(packed, name)
    with pytest.raises(tf.errors.OpError) as error:
        batches(made)
    assert f"{PLACE}/{name}: expected the file that this run" in str(error.value)
    assert found in str(error.value)


@pytest.mark.parametrize("change", [other_content, shorter, nothing])
def test_a_shard_that_changes_before_it_is_fetched_is_named(packed, faulty, change):
    upload(packed)
    made = builder(PLACE, cache="disk")
    made.plan("train", "packed")
    name = "train-00002-of-00005.tfrecord"
    change(packed, name)
    with pytest.raises(DataError, match=name):
        batches(made)


def test_lists_that_are_parsed_are_of_the_data_that_was_planned(
    data, faulty, monkeypatch
):
    upload(data)
    without_room(monkeypatch)
    made = builder(PLACE, cache="memory")
    made.plan("train", "packed")
    name = "train-00003-of-00005.tfrecord"
    other_content(data, name)
    with pytest.raises(DataError, match=rf"{name}: expected the file that this run"):
        batches(made)


@pytest.mark.parametrize("change", [other_content, shorter])
def test_a_shard_that_the_index_does_not_fit_is_refused(packed, faulty, change):
    upload(packed)
    name = "train-00002-of-00005.tfrecord"
    change(packed, name)
    with pytest.raises(DataError, match=name) as error:
        builder(PLACE).plan("train", "packed")
    assert "onver" in str(error.value)  # convert again, or it is under way


@pytest.mark.parametrize("room", ["room", "no room"])
def test_a_damaged_record_is_named_by_file_and_number(
    data, faulty, monkeypatch, room, tmp_path
):
    name = "train-00002-of-00005.tfrecord"
    spoilt = tmp_path / "spoilt"
    spoilt.mkdir()
    for path in data.iterdir():
        (spoilt / path.name).write_bytes(path.read_bytes())
    offsets = [0]
    for record in tf.data.TFRecordDataset(str(data / name)):
        offsets.append(offsets[-1] + 16 + len(record.numpy()))
    content = bytearray((data / name).read_bytes())
    content[offsets[17] + 20] ^= 1
    (spoilt / name).write_bytes(content)
    index = dict(np.load(spoilt / "train.index.npz"))
    index["probes"] *= 0
    np.savez(spoilt / "train.index.npz", **index)
    monkeypatch.setattr("tfr_pipeline.files.probe", lambda path: (0, 0))
    if room == "no room":
        without_room(monkeypatch)
    upload(spoilt)
    made = builder(PLACE, cache="disk")
    with pytest.raises(Exception, match=f"{PLACE}/{name}: record 17 is corrupt"):
        batches(made)


def test_what_fails_for_a_moment_is_tried_again(packed, faulty, monkeypatch, capfd):
    upload(packed)
    without_room(monkeypatch)
    wanted = batches(builder(packed))
    failed = set()

    def fails_once(call, path):
        if call == "cat_file" and path not in failed:
            failed.add(path)
            raise ConnectionError("the store is away")

    faulty.watch = fails_once
    assert_same(batches(builder(PLACE, cache="disk")), wanted)
    assert len(failed) > 5


def test_what_fails_for_long_is_an_error_without_the_secrets_of_the_url(
    faulty, monkeypatch
):
    url = "faulty://ann:secret@d/a?token=abc"
    remote.write(url, b"0123456789")
    entry = remote.stat(url)
    column = RemoteColumn(url, entry)
    found = column.read(np.array([7, 2]), np.array([2, 3]))
    assert found.tobytes() == b"78234"
    monkeypatch.setenv("TFR_PIPELINE_REMOTE_PATIENCE", "0.2")

    def fails(call, path):
        raise ConnectionError("the store is away")

    faulty.watch = fails
    with pytest.raises(RunError, match="the store is away") as error:
        column.read(np.array([7, 2]), np.array([2, 3]))
    faulty.watch = None
    remote.write(url, b"01234567")
    with pytest.raises(DataError, match="was written anew: found 8 bytes") as other:
        column.read(np.array([7, 2]), np.array([2, 3]))
    for said in (str(error.value), str(other.value)):
        assert "***@d/a?token=***" in said
        assert "secret" not in said and "abc" not in said


def test_a_disk_that_fills_up_is_an_error_that_says_what_to_do(
    packed, faulty, monkeypatch
):
    upload(packed)

    def full(file, content, place):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(remote_ranges.os, "pwrite", full)
    with pytest.raises(RunError, match=r"No space left.*TFR_PIPELINE_CACHE=FOLDER"):
        batches(builder(PLACE, cache="disk"))


def test_the_fingerprint_of_data_is_that_of_local_files(packed, faulty):
    upload(packed)
    faulty.sent.clear()
    found = data_fingerprint.of_builder(builder(PLACE))
    assert found == data_fingerprint.of_builder(builder(packed))
    assert not any(path.endswith(".npz") for path, _ in faulty.sent)


def test_large_files_are_probed_by_parts_of_them(faulty, tmp_path):
    from tfr_pipeline import files

    content = np.random.default_rng(0).bytes(1_000_000)
    (tmp_path / "a").write_bytes(content)
    remote.write("faulty://d/a", content)
    assert files.probe("faulty://d/a") == files.probe(str(tmp_path / "a"))
    assert sum(size for _, size in faulty.sent) == 16 * 4096


def test_a_remote_cache_is_refused_before_anything_is_read(faulty):
    with pytest.raises(ConfigError, match=r"data\.cache.*TFR_PIPELINE_CACHE"):
        DatasetHparams("faulty://d/a", "faulty://d/b", 8, 8, cache="s3://bucket/cache")
    assert not faulty.sent


@pytest.mark.parametrize("what", ["changes", "goes away"])
def test_training_ends_in_one_line_that_says_what_became_of_the_data(
    packed, faulty, monkeypatch, capsys, tmp_path, what
):
    upload(packed)
    without_room(monkeypatch)
    monkeypatch.setenv("TFR_PIPELINE_REMOTE_PATIENCE", "0.3")
    name = "train-00002-of-00005.tfrecord"
    reads = []

    def watch(call, path):
        if not path.endswith(name) or call != "cat_file":
            return
        reads.append(path)
        if len(reads) > 60 and what == "goes away":
            raise ConnectionError("the store is away")
        if len(reads) == 60 and what == "changes":
            other_content(packed, name)

    faulty.watch = watch
    words = [
        *("train", f"--config={LETOR}:dnn", f"--config.data.dir={PLACE}", *SMALL),
        *(f"--config.model_dir={tmp_path}/run", "--config.data.cache=disk"),
        "--config.pipeline.num_epochs=500",
    ]
    assert main(words) == 1
    errors = [x for x in capsys.readouterr().err.splitlines() if "error: " in x]
    found = {
        "changes": "expected the file that this run began to read",
        "goes away": "ConnectionError: the store is away",
    }
    assert errors[-1].startswith(f"error: {PLACE}/{name}: {found[what]}")
    assert "Traceback" not in errors[-1]


LEAVE = """
import sys, time
import fsspec
from tests.data.test_remote_shards import builder, upload
from tests.remote_stores import FaultyFileSystem
from tfr_pipeline.data.batching import windowed
from tfr_pipeline.data.reading import remote_shards
import pathlib

fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
windowed.WINDOW, windowed.BLOCK, remote_shards.LEFT_FREE = 9_000, 400, 1 << 60
upload(pathlib.Path(sys.argv[1]))
made = builder("faulty://d/data", cache="disk")
made.plan("train", "packed")
batches = iter(made.make_dataset("train", "packed"))
next(batches)
away = []
def slow(call, path):
    away.append(call)
    time.sleep(3.0)
FaultyFileSystem.watch = slow
while not away:
    next(batches)
print("leaving", flush=True)
"""


@pytest.mark.slow
def test_a_process_ends_while_lists_are_read_from_a_store(packed, tmp_path):
    # `batches` is alive to the last: its threads want the interpreter.
    done = subprocess.run(
        [sys.executable, "-c", LEAVE, str(packed)],
        env=environment(TFR_PIPELINE_CACHE=str(tmp_path / "cache")),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.stdout, done.returncode) == ("leaving\n", 0), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("room", ["room", "no room"])
def test_a_server_that_is_killed_and_comes_back_disturbs_nothing(
    packed, s3: ObjectStore, monkeypatch, tmp_path, room
):
    place = f"s3://bucket/{tmp_path.name}"
    upload(packed, place)
    if room == "no room":
        without_room(monkeypatch)
    wanted = batches(builder(packed), worker=1, workers=2)
    made = builder(place, cache="disk")
    made.plan("train", "packed", 2)
    found = []
    if room == "no room":
        request = {"replicas": 2, "shard": (1, 2)}
        rest = iter(made.make_dataset("train", "packed", **request))
        found.append(next(rest))
    s3.kill()
    back = threading.Thread(target=s3.start)
    back.start()
    if room == "no room":
        found += [next(rest) for _ in wanted[1:]]
    else:
        found = batches(made, worker=1, workers=2)
    back.join()
    assert_same(found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["other", "shorter", "gone"])
def test_on_a_server_a_shard_that_changes_is_named(
    packed, s3: ObjectStore, monkeypatch, tmp_path, change
):
    place = f"s3://bucket/{tmp_path.name}"
    upload(packed, place)
    without_room(monkeypatch)
    made = builder(place, cache="disk")
    batches(made, count=3)
    name = "train-00002-of-00005.tfrecord"
    content = (packed / name).read_bytes()
    if change == "gone":
        remote.remove(f"{place}/{name}")
    else:
        cut = 300 if change == "shorter" else len(content)
        remote.write(f"{place}/{name}", content[:cut].replace(b"\x00", b"\x01"))
    with pytest.raises(tf.errors.OpError, match=f"{place}/{name}: expected the file"):
        batches(made)
