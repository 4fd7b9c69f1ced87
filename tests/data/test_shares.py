"""Each worker reads its own share of the lists, found by the index beside the data."""

from __future__ import annotations

import os
import pathlib
import shutil

import numpy as np
import pytest

from tests.data import batch_helpers
from tests.data.batch_helpers import assert_same
from tests.pipeline.training_helpers import make_data
from tfr_pipeline.compat import tf
from tfr_pipeline.data.batching import windowed
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.reading import ranges
from tfr_pipeline.data.records import index
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.multi_label import builder_from_features


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(windowed, "WINDOW", 9_000)
    monkeypatch.setattr(windowed, "BLOCK", 400)
    monkeypatch.setattr(ranges, "_PIECE", 3_000)


@pytest.fixture(scope="module", params=["elwc", "packed"])
def source(request, tmp_path_factory):
    """200 lists in 5 files, 50 in 2."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    number = 0
    for split, count, shards in (("train", 200, 5), ("valid", 50, 2)):
        lines = []
        for query in range(count):
            for _ in range(random.integers(1, 12)):
                values = " ".join(f"{i}:{random.normal():.3f}" for i in range(1, 9))
                lines.append(
                    f"{random.integers(0, 3)} qid:{split}{query} {values} "
                    f"# docid = d{number}"
                )
                number += 1
        text = folder / f"{split}.txt"
        text.write_text("\n".join(lines) + "\n")
        convert(
            str(text),
            str(folder / "out"),
            split=split,
            num_shards=shards,
            output_format=request.param,
            report=lambda line: None,
        )
    return folder / "out"


@pytest.fixture
def data(source, tmp_path):
    return pathlib.Path(shutil.copytree(source, tmp_path / "data"))


def builder(data, **settings):
    hparams = DatasetHparams(f"{data}/train-*", f"{data}/valid-*", 16, 16, **settings)
    return builder_from_features(Features.load(str(data)), hparams)


def elements(made, split, count, **request):
    return batch_helpers.elements(made, split, count, layout="packed", **request)


def test_the_index_says_where_lists_begin_and_how_long_they_are(data):
    paths = sorted(map(str, data.glob("train-*")))
    found = index.read(paths)
    lengths = builder(data).lists("train").lengths
    assert sum(len(shard.documents) for shard in found) == 200
    assert np.concatenate([shard.documents for shard in found]).tolist() == [*lengths]
    for path, shard in zip(paths, found, strict=True):
        assert shard.offsets[-1] == os.path.getsize(path)
        content = pathlib.Path(path).read_bytes()
        for offset, record in zip(
            shard.offsets[:-1], tf.data.TFRecordDataset(path), strict=True
        ):
            size = int.from_bytes(content[offset : offset + 8], "little")
            assert content[offset + 12 : offset + 12 + size] == record.numpy()


@pytest.mark.parametrize("cache", ["memory", "folder"])
@pytest.mark.parametrize("workers", [2, 3, 4])
def test_workers_have_the_batches_of_one_process_between_them(
    data, tmp_path, cache, workers
):
    cache = "memory" if cache == "memory" else str(tmp_path / "cache")
    for split, count in (("train", 30), ("valid", 0)):
        whole = builder(data, sharding="none")
        wanted = elements(whole, split, count * workers, replicas=workers)
        kept = []
        for worker in range(workers):
            made = builder(data, cache=cache)
            shard = worker, workers
            found = elements(made, split, count, replicas=workers, shard=shard)
            assert_same(found, wanted[worker::workers])
            kept.append(made.kept._known[0][2])
        every = whole.lists(split)
        ids = [query for lists in kept for query in lists.query_ids]
        assert ids == every.query_ids.tolist()
        sizes = [lists.num_documents for lists in kept]
        assert max(sizes) < 1.25 * every.num_documents / workers


def test_small_data_is_shared_only_when_that_is_asked_for(data, monkeypatch):
    monkeypatch.setattr(windowed, "WINDOW", 1 << 30)
    for sharding, read in (("auto", 200), ("lists", 100)):
        made = builder(data, sharding=sharding)
        elements(made, "train", 2, replicas=2, shard=(0, 2))
        lists = made.kept._known[0][2]
        assert abs(lists.num_lists - read) < 20


def test_data_without_index_is_read_by_everyone_unless_sharing_is_asked_for(data):
    (data / "train.index.npz").unlink()
    made = builder(data)
    elements(made, "train", 2, replicas=2, shard=(0, 2))
    assert made.kept._known[0][2].num_lists == 200
    with pytest.raises(ConfigError, match="sharding: 'lists' needs files"):
        builder(data, sharding="lists").plan("train", "packed", 2)


def test_an_unknown_sharding_is_named(data):
    with pytest.raises(ConfigError, match=r"sharding.*'list'.*lists"):
        builder(data, sharding="list")


def spoil_size(data):
    path = data / "train-00002-of-00005.tfrecord"
    os.truncate(path, path.stat().st_size - 40)
    return path


def spoil_content(data):
    path = data / "train-00002-of-00005.tfrecord"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def spoil_index(data):
    path = data / "train.index.npz"
    os.truncate(path, 300)
    return path


def replace_index(data):
    shutil.copy(data / "valid.index.npz", data / "train.index.npz")
    return data / "train.index.npz"


@pytest.mark.parametrize(
    "spoil", [spoil_size, spoil_content, spoil_index, replace_index]
)
def test_an_index_that_does_not_fit_is_an_error_that_names_the_file(data, spoil):
    path = spoil(data)
    with pytest.raises(DataError, match="Convert the data again") as error:
        elements(builder(data), "train", 2, replicas=2, shard=(1, 2))
    assert str(path) in str(error.value)


def test_a_damaged_record_of_the_share_is_found_and_named(data, monkeypatch):
    monkeypatch.setattr("tfr_pipeline.files.probe", lambda path: (0, 0))
    content = dict(np.load(data / "train.index.npz"))
    content["probes"] *= 0
    np.savez(data / "train.index.npz", **content)
    path = spoil_content(data)
    with pytest.raises(DataError, match=f"{path.name}: record .* is corrupt"):
        elements(builder(data), "train", 2, replicas=1, shard=(0, 1))
        elements(builder(data), "train", 2, replicas=2, shard=(0, 2))
        elements(builder(data), "train", 2, replicas=2, shard=(1, 2))


def test_a_second_conversion_replaces_the_index(tmp_path):
    data = make_data(tmp_path / "one")
    before = index.read(sorted(map(str, data.glob("train-*"))))
    assert before is not None
    # A conversion that fails leaves the old one as it was.
    with pytest.raises(DataError):
        convert(str(tmp_path / "none"), str(data), split="train")
    assert index.read(sorted(map(str, data.glob("train-*")))) is not None


def test_some_lists_are_read_without_the_others(data):
    every = builder(data, sharding="none", cache="memory").lists("train", "packed")
    made = builder(data)
    numbers = np.array([199, 3, 4, 5, 77, 0])
    found = made.some_lists("train", numbers, "packed")
    wanted = every.take(numbers)
    assert found.query_ids.tolist() == wanted.query_ids.tolist()
    np.testing.assert_array_equal(found.row_splits, wanted.row_splits)
    np.testing.assert_array_equal(found.values["float32"], wanted.values["float32"])
    np.testing.assert_array_equal(found.labels, wanted.labels)
    assert not made.kept._known


def test_the_index_is_fetched_with_remote_shards(data, tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("TFR_PIPELINE_CACHE", str(tmp_path / "cache"))
    store = fsspec.filesystem("memory")
    for path in data.iterdir():
        store.pipe(f"/shares/{path.name}", path.read_bytes())
    made = builder("memory://shares")
    wanted = elements(builder(data), "train", 9, replicas=2, shard=(1, 2))
    assert_same(elements(made, "train", 9, replicas=2, shard=(1, 2)), wanted)
    assert made.kept._known[0][2].num_lists < 120
    store.rm("/shares", recursive=True)


def test_lists_of_ones_own_making_are_not_planned_by_an_index(data):
    made = builder(data)

    class Own(type(made)):
        def lists(self, split, layout="padded"):
            lists = super().lists(split, layout)
            return lists.take(np.arange(0, lists.num_lists, 2))

    own = Own.from_features(made.features, made.hparams)
    assert own.plan("train", "packed", 2).num_lists == 100
    found = elements(own, "train", 7, replicas=2)
    assert sum(int(labels.nrows()) for _, labels, *_ in found) > 0
