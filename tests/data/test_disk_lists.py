"""Lists that are read from disk while training: the same batches as from memory."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from tests.data.batch_helpers import assert_same, elements
from tests.data.format_helpers import (
    LOOSE_CONTEXT,
    LOOSE_SPEC,
    with_loose_features,
    write_format,
)
from tests.pipeline.training_helpers import make_data
from tests.ranking_data import (
    CONTEXT_SPEC,
    EXAMPLE_SPEC,
    LABEL_SPEC,
    MASK,
    WEIGHT_SPEC,
    random_lists,
)
from tfr_pipeline import files
from tfr_pipeline.compat import tf
from tfr_pipeline.data import room
from tfr_pipeline.data.batching import windowed
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.reading import disk_lists
from tfr_pipeline.data.reading.disk_lists import DiskLists
from tfr_pipeline.data.reading.ranges import RecordRange
from tfr_pipeline.data.reading.record_lists import RecordLists
from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.data.records import encode, index, tfrecord
from tfr_pipeline.data.room import Room
from tfr_pipeline.errors import DataError, RunError
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.multi_label import builder_from_features
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder

LENGTHS = [*np.random.default_rng(0).integers(1, 9, 200).tolist(), 0, 3]


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(windowed, "WINDOW", 9_000)
    monkeypatch.setattr(windowed, "BLOCK", 400)
    monkeypatch.setattr(disk_lists, "_PIECE", 100)
    monkeypatch.setattr(disk_lists, "_TASK", 300)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    lists = with_loose_features(random_lists(0, LENGTHS))
    return write_format(tmp_path_factory.mktemp("data") / "elwc", lists, "elwc")


def builder(path, cache, **kwargs):
    hparams = DatasetHparams(path, path, 8, 8, cache=str(cache), **kwargs)
    return SimpleDatasetBuilder(
        CONTEXT_SPEC, EXAMPLE_SPEC, MASK, LABEL_SPEC, hparams, WEIGHT_SPEC
    )


@pytest.mark.parametrize(
    "request_",
    [
        {"layout": "packed"},
        {"layout": "padded"},
        {"layout": "packed", "replicas": 4, "shard": (1, 2), "sized": True},
        {"layout": "packed", "start_step": 9},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"list_size": 3, "truncation": "sample"},
        {"list_size": 4, "truncation": "bm25", "shuffle_examples": True},
        {"documents_per_batch": 40, "convert_labels_to_binary": True},
        {"shuffle": False},
    ],
    ids=str,
)
def test_batches_from_disk_are_those_from_memory(path, tmp_path, settings, request_):
    memory = builder(path, "memory", **settings)
    disk = builder(path, tmp_path / "cache", **settings)
    assert isinstance(disk.lists("train", "packed"), DiskLists)
    assert disk.plan("train", "packed").windows > 3
    assert_same(elements(disk, **request_), elements(memory, **request_))


def test_validation_goes_over_every_list_once_in_order(path, tmp_path):
    disk = builder(path, tmp_path / "cache")
    found = elements(disk, "valid", layout="packed")
    assert_same(found, elements(builder(path, "memory"), "valid", layout="packed"))
    lengths = np.concatenate([labels.row_lengths() for _, labels, _ in found])
    assert lengths.tolist() == LENGTHS


def test_texts_and_ragged_features_are_read_too(tmp_path):
    specs, context = {**EXAMPLE_SPEC, **LOOSE_SPEC}, {**CONTEXT_SPEC, **LOOSE_CONTEXT}
    lists = with_loose_features(random_lists(0, LENGTHS))
    path = write_format(tmp_path / "elwc", lists, "elwc")

    def made(cache):
        hparams = DatasetHparams(path, path, 8, 8, cache=str(cache))
        return SimpleDatasetBuilder(context, specs, MASK, LABEL_SPEC, hparams)

    disk, memory = made(tmp_path / "cache"), made("memory")
    assert isinstance(disk.lists("train"), DiskLists)
    assert_same(elements(disk), elements(memory))


def test_a_file_that_was_cut_while_it_is_read_is_named(tmp_path):
    data = make_data(tmp_path)
    hparams = DatasetHparams(
        f"{data}/train-*", f"{data}/valid-*", 4, 4, cache=str(tmp_path / "cache")
    )
    made = builder_from_features(Features.load(str(data)), hparams)
    lists = made.lists("train", "packed")
    column = lists.columns["values/float32"]
    os.truncate(column.path, os.path.getsize(column.path) // 2)
    with pytest.raises(RunError, match="found the end of the file"):
        lists.read(np.arange(lists.num_lists))
    with pytest.raises(tf.errors.OpError, match="found the end of the file"):
        list(made.make_dataset("train", "packed").take(100))


def test_memory_is_used_again_when_nothing_points_to_it():
    buffers = disk_lists.Buffers()
    first = buffers.array((100, 3), np.dtype(np.float32))
    address = first.ctypes.data
    view = first[10:]
    del first
    other = buffers.array((100, 3), np.dtype(np.float32))
    assert other.ctypes.data != address  # a view is left
    del view
    assert buffers.array((90, 3), np.dtype(np.float32)).ctypes.data == address


@pytest.fixture(scope="module", params=["float32", "float16", "bfloat16"])
def packed(request, tmp_path_factory):
    """150 lists in 3 packed shards."""
    folder = tmp_path_factory.mktemp("packed")
    random = np.random.default_rng(0)
    lines = []
    for query in range(150):
        for _ in range(random.integers(1, 12)):
            values = " ".join(f"{i}:{random.normal():.3f}" for i in range(1, 9))
            lines.append(f"{random.integers(0, 3)} qid:{query} {values}")
    (folder / "text").write_text("\n".join(lines) + "\n")
    for split in ("train", "valid"):
        convert(
            str(folder / "text"),
            str(folder / "out"),
            split=split,
            num_shards=3,
            output_format="packed",
            feature_dtype=request.param,
            report=lambda line: None,
        )
    return folder / "out"


def of_packed(data, **settings):
    hparams = DatasetHparams(f"{data}/train-*", f"{data}/valid-*", 8, 8, **settings)
    return builder_from_features(Features.load(str(data)), hparams)


@pytest.fixture
def no_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(room, "memory", lambda _: Room(1000, "left, it is said"))
    monkeypatch.setenv("TFR_PIPELINE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "request_",
    [
        {"layout": "packed"},
        {"layout": "padded"},
        {"layout": "packed", "replicas": 4, "shard": (1, 2), "start_step": 7},
    ],
    ids=str,
)
def test_packed_shards_are_trained_on_without_a_copy(
    packed, tmp_path, capsys, request, request_
):
    expected = elements(of_packed(packed, cache="memory"), **request_)
    request.getfixturevalue("no_memory")
    made = of_packed(packed)
    for _ in range(2):  # the second time records are known
        assert_same(elements(made, **request_), expected)
    assert "straight from the files" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
    shard = request_.get("shard", (0, 1))
    if shard == (0, 1):
        found = elements(made, "valid", layout="packed")
        assert sum(labels.nrows() for _, labels, *_ in found) == 150


def damage_value(content, shard):
    content[(shard.offsets[7] + shard.offsets[8]) // 2] ^= 255


def damage_length(content, shard):
    content[shard.offsets[7]] ^= 1


@pytest.mark.parametrize("damage", [damage_value, damage_length])
def test_a_damaged_record_is_found_when_it_is_read(
    packed, tmp_path, monkeypatch, no_memory, damage
):
    data = shutil.copytree(packed, tmp_path / "data")
    path = data / "train-00001-of-00003.tfrecord"
    shard = index.read([str(path)])[0]
    content = bytearray(path.read_bytes())
    damage(content, shard)
    path.write_bytes(content)
    probe = files.probe
    monkeypatch.setattr(
        files, "probe", lambda p: probe(p.replace(str(data), str(packed)))
    )
    made = of_packed(data)
    with pytest.raises(Exception, match=f"{path.name}: record 7 is corrupt"):
        elements(made, layout="packed")


def test_numbers_that_are_not_finite_are_found_when_they_are_read(
    packed, tmp_path, no_memory
):
    data = shutil.copytree(packed, tmp_path / "data")
    features = Features.load(str(data))
    lists = of_packed(data, cache="memory")
    paths = [str(data / "train-00000-of-00003.tfrecord")]
    found = RecordLists(
        RecordRange(RecordReader(), index.read(paths), ((0, 50),)),
        lists._reading().parser("packed").of_stored(features.feature_dtype),
        lists._reading().label,
        None,
    )
    part = found.read(np.arange(50))
    part.values["float32"][3, 2] = np.nan
    record = encode.packed(part, features)
    path = data / "bad.tfrecord"
    with path.open("wb") as file:
        file.writelines(tfrecord.frame(record))
    offsets = np.concatenate([[0], np.cumsum([len(r) + 16 for r in record])])
    bad = index.ShardIndex(str(path), part.lengths, offsets)
    records = RecordRange(RecordReader(), [bad], ((0, 50),))
    found = RecordLists(records, found._parser, "label", None)
    with pytest.raises(DataError, match="column 2 is nan"):
        found.read(np.arange(50))
