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
from tfr_pipeline.data.reading import direct, disk_lists
from tfr_pipeline.data.reading.disk_lists import DiskColumn, DiskLists
from tfr_pipeline.data.reading.ranges import RecordRange
from tfr_pipeline.data.reading.record_lists import RecordLists
from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.data.records import encode, index, tfrecord, wire
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
    monkeypatch.setattr(disk_lists, "_DIRECT", 0)


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


@pytest.fixture
def beyond_memory(monkeypatch):
    """Files are read past the page cache."""
    monkeypatch.setattr(direct, "is_worth_it", lambda size: True)


@pytest.fixture
def past_cache(tmp_path):
    """A file of which the kernel keeps nothing, and what stands in it."""
    values = np.random.default_rng(0).random((2500, 3), np.float32)
    path = tmp_path / "values"
    path.write_bytes(values.tobytes())
    if not direct._is_possible(str(path)):
        pytest.skip("the file system has no O_DIRECT")
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path, values


def test_rows_that_are_read_past_the_page_cache_are_those_of_the_file(past_cache):
    path, values = past_cache
    column = DiskColumn(str(path), "float32", (3,), beyond_memory=True)
    # From the first row to the last; across, before and behind multiples of 4096.
    starts, ends = (
        np.array([0, 300, 683, 1024, 2000]),
        np.array([2, 683, 684, 1999, 2500]),
    )
    found = column.read(starts, ends - starts)
    expected = [values[a:b] for a, b in zip(starts, ends, strict=True)]
    np.testing.assert_array_equal(found, np.concatenate(expected))
    with path.open("rb") as file, pytest.raises(BlockingIOError):
        os.preadv(file.fileno(), [bytearray(4096)], 8192, os.RWF_NOWAIT)


def test_short_runs_are_left_to_the_page_cache(past_cache, monkeypatch):
    monkeypatch.setattr(disk_lists, "_DIRECT", 100)
    path, values = past_cache
    column = DiskColumn(str(path), "float32", (3,), beyond_memory=True)
    found = column.read(np.array([700, 900]), np.array([3, 3]))
    np.testing.assert_array_equal(found, values[[700, 701, 702, 900, 901, 902]])
    with path.open("rb") as file:
        assert os.preadv(file.fileno(), [bytearray(4)], 8400, os.RWF_NOWAIT) == 4


def test_a_file_system_without_direct_reads_is_read_in_the_ordinary_way():
    path = "/proc/version"
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        column = DiskColumn(path, "uint8", (), beyond_memory=True)
        with open(path, "rb") as file:
            content = file.read()
        found = column.read(np.array([5]), np.array([len(content) - 5]))
        assert found.tobytes() == content[5:]
    else:
        pytest.skip("/proc has O_DIRECT")


@pytest.mark.parametrize(
    ("size", "left", "worth_it"),
    [(900, 1000, False), (1100, 1000, True), (0, -1, True)],
)
def test_what_the_kernel_can_keep_is_left_to_it(monkeypatch, size, left, worth_it):
    taken = room.RESERVE + direct.windows(1)
    monkeypatch.setattr(room, "memory", lambda _: Room(taken + left, "left"))
    assert direct.is_worth_it(size) == worth_it


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_batches_past_the_page_cache_are_those_from_memory(
    path, tmp_path, beyond_memory, layout
):
    disk = builder(path, tmp_path / "cache")
    assert all(column.beyond_memory for column in disk.lists("train").columns.values())
    expected = elements(builder(path, "memory"), layout=layout)
    assert_same(elements(disk, layout=layout), expected)


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


@pytest.mark.parametrize("past_page_cache", [False, True])
def test_a_file_that_was_cut_while_it_is_read_is_named(
    tmp_path, monkeypatch, past_page_cache
):
    monkeypatch.setattr(direct, "is_worth_it", lambda size: past_page_cache)
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


def some_of(data):
    """Returns 50 lists as they stand in a shard, and what they are read with."""
    features = Features.load(str(data))
    reading = of_packed(data, cache="memory")._reading()
    parser = reading.parser("packed").of_stored(features.feature_dtype)
    shards = index.read([str(data / "train-00000-of-00003.tfrecord")])
    records = RecordRange(RecordReader(), shards, ((0, 50),))
    found = RecordLists(records, parser, reading.label, None)
    return found.read(np.arange(50)), features, parser


def of_records(path, records, lengths, parser):
    """Returns lists of records that are written to a file."""
    with path.open("wb") as file:
        file.writelines(tfrecord.frame(records))
    offsets = np.concatenate([[0], np.cumsum([len(r) + 16 for r in records])])
    shards = [index.ShardIndex(str(path), lengths, offsets)]
    ranges = RecordRange(RecordReader(), shards, ((0, len(records)),))
    return RecordLists(ranges, parser, "label", None)


def test_numbers_that_are_not_finite_are_found_when_they_are_read(
    packed, tmp_path, no_memory
):
    part, features, parser = some_of(packed)
    part.values["float32"][3, 2] = np.nan
    records = encode.packed(part, features)
    found = of_records(tmp_path / "bad.tfrecord", records, part.lengths, parser)
    with pytest.raises(DataError, match="column 2 is nan"):
        found.read(np.arange(50))


def test_records_may_have_their_entries_in_any_order(packed, tmp_path, no_memory):
    part, features, parser = some_of(packed)
    random = np.random.default_rng(0)
    records = []
    for record in encode.packed(part, features):
        entries = list(tf.train.Example.FromString(record).features.feature.items())
        random.shuffle(entries)
        entries = [wire.bytes_entry(k, v.bytes_list.value) for k, v in entries]
        records.append(wire.example(*entries))
    found = of_records(tmp_path / "other.tfrecord", records, part.lengths, parser)
    for numbers in (np.arange(0, 50, 2), np.arange(50)):  # some are known the 2nd time
        lists, expected = found.read(numbers), part.take(numbers)
        np.testing.assert_array_equal(lists.labels, expected.labels)
        np.testing.assert_array_equal(
            lists.values["float32"], expected.values["float32"]
        )


def test_a_matrix_of_another_size_than_the_index_says_is_an_error(
    packed, tmp_path, no_memory
):
    part, features, parser = some_of(packed)
    lengths = part.lengths.copy()
    lengths[[3, 4]] += [1, -1]
    records = encode.packed(part, features)
    found = of_records(tmp_path / "bad.tfrecord", records, lengths, parser)
    with pytest.raises(
        DataError, match=r"bad.tfrecord: lists 0 to 49: .* has \d+ bytes"
    ):
        found.read(np.arange(50))
