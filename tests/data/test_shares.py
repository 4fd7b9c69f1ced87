"""Each worker reads its own share of the lists, found by the index beside the data."""

from __future__ import annotations

import itertools
import os
import pathlib
import shutil
import warnings

import numpy as np
import pytest

from tests.data import batch_helpers
from tests.data.batch_helpers import assert_same
from tests.data.format_helpers import write_format
from tests.pipeline.training_helpers import make_data
from tests.ranking_data import EXAMPLE_SPEC, LABEL_SPEC, random_lists, write
from tfr_pipeline.compat import tf
from tfr_pipeline.data.batching import windowed
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.reading import ranges, scanning
from tfr_pipeline.data.reading.record_lists import RecordLists
from tfr_pipeline.data.records import index
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.multi_label import builder_from_features
from tfr_pipeline.pipeline.datasets.protocol import Split
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder


@pytest.fixture(autouse=True)
def small_windows(monkeypatch, tmp_path):
    monkeypatch.setenv("TFR_PIPELINE_CACHE", str(tmp_path / "user"))
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


@pytest.mark.parametrize("workers", [1, 3])
def test_data_without_index_has_the_batches_of_data_with_one(data, workers):
    shards = [(worker, workers) for worker in range(workers)]

    def batches():
        found = []
        for split, shard in itertools.product(("train", "valid"), shards):
            made = builder(data)
            found += elements(made, split, 30, replicas=workers, shard=shard)
            if workers > 1:
                assert made.kept._known[0][2].num_lists < 110
        return found

    wanted = batches()
    for path in [*data.glob("*.index.npz"), *data.glob("*.stats.json")]:
        path.unlink()
    for number, path in enumerate(sorted(data.glob("*.tfrecord"))):
        path.rename(data / f"{path.name[:5]}-written-by-others-{number}")
    assert_same(batches(), wanted)


def test_packed_files_without_index_are_trained_on_as_they_stand(data):
    (data / "train.index.npz").unlink()
    made = builder(data, cache="disk")
    elements(made, "train", 2)
    packed = Features.load(str(data)).data_format == "packed"
    assert isinstance(made.kept._known[0][2], RecordLists) == packed


def test_small_data_without_index_is_not_looked_through(data, monkeypatch):
    monkeypatch.setattr(windowed, "WINDOW", 1 << 20)
    monkeypatch.setattr(scanning.Scan, "pieces", None)
    (data / "train.index.npz").unlink()
    elements(builder(data), "train", 2, replicas=2, shard=(0, 2))


def test_what_is_large_and_has_few_documents_is_not_looked_through(data, monkeypatch):
    """As ELWC of many features, of which a file is so much larger than matrices."""
    (data / "train.index.npz").unlink()
    size = sum(path.stat().st_size for path in data.glob("train-*"))
    monkeypatch.setattr(windowed, "WINDOW", 2 * size - 1)
    elements(builder(data), "train", 2, replicas=2, shard=(0, 2))
    assert not pathlib.Path(os.environ["TFR_PIPELINE_CACHE"]).exists()


def compress(data):
    """Compresses the shards; leaves nothing else that `convert` wrote beside them."""
    for path in data.glob("*.tfrecord"):
        records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
        write(f"{path}.gz", records, "GZIP")
        path.unlink()
    for path in [*data.glob("*.index.npz"), *data.glob("*.stats.json")]:
        path.unlink()


def file_ends(data, made):
    """Returns the numbers of lists with which files of the training data end."""
    shards = made.kept.known_index(f"{data}/train-*", made._reading()).shards
    return np.cumsum([len(shard.documents) for shard in shards]).tolist()


@pytest.mark.parametrize("kind", ["converted", "foreign", "compressed"])
@pytest.mark.parametrize("workers", [2, 5])
def test_workers_share_whole_files(data, tmp_path, kind, workers):
    every = builder(data, sharding="none", cache="memory").lists("train", "packed")
    if kind == "foreign":
        (data / "train.index.npz").unlink()
    if kind == "compressed":
        compress(data)
    labels, queries, steps = [], [], set()
    for worker in range(workers):
        made = builder(data, sharding="files", cache=str(tmp_path / "cache"))
        plan = made.plan("train", "packed", workers)
        assert {*plan.lists_of(worker, workers)} <= {0, *file_ends(data, made)}
        steps.add(plan.steps)
        request = {"replicas": workers, "shard": (worker, workers)}
        found = elements(made, "train", plan.steps, **request)
        labels += [part for _, part, *_ in found]
        queries += made.kept._known[0][2].query_ids.tolist()
    assert len(steps) == 1
    assert queries == every.query_ids.tolist()
    assert sum(int(part.nrows()) for part in labels) == every.num_lists
    found = np.concatenate([part.values for part in labels])
    assert sorted(found) == sorted(every.labels)


def blank(path):
    """Leaves nothing of a file but its size and time."""
    state = os.stat(path)
    path.write_bytes(bytes(state.st_size))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("kind", ["converted", "compressed"])
def test_a_worker_reads_no_file_of_another(data, kind):
    if kind == "compressed":
        compress(data)
    request = {"replicas": 2, "shard": (1, 2)}
    made = builder(data, sharding="files")
    wanted = elements(made, "train", 20, **request)
    _, first = made.plan("train", "packed", 2).lists_of(0, 2)
    paths = sorted(data.glob("train-*"))
    for path, end in zip(paths, file_ends(data, made), strict=True):
        if end <= first:
            blank(path)
    found = builder(data, sharding="files")
    assert_same(elements(found, "train", 20, **request), wanted)
    # Nor do exports, and who diagnoses a loss.
    some = found.some_lists("train", np.array([first + 1, first]), "packed")
    lists = made.kept._known[0][2]
    assert some.query_ids.tolist() == lists.query_ids[[1, 0]].tolist()
    with pytest.raises(DataError, match="corrupt"):
        elements(builder(data, sharding="files"), "train", 2, replicas=2, shard=(0, 2))


def test_sharing_that_is_not_possible_says_what_is(data):
    compress(data)
    pattern = f"{data}/train-"
    with pytest.raises(ConfigError, match=f"'lists' .*compressed.*{pattern}.*'files'"):
        builder(data, sharding="lists").plan("train", "packed", 2)
    with pytest.raises(ConfigError, match=f"found 5 for 6 replicas: {pattern}.*fewer"):
        builder(data, sharding="files").plan("train", "packed", 6)
    made = builder(data, sharding="files")
    some = made.with_splits({"train": Split(f"{data}/train-*", lambda ids: ids != "")})
    with pytest.raises(ConfigError, match="of which a split has some"):
        some.plan("train", "packed", 2)
    # Validation that cannot be shared is read by all.
    assert builder(data, sharding="files").plan("valid", "packed", 3).num_lists == 50
    found = elements(made, "valid", 0, replicas=3, shard=(2, 3))
    assert sum(int(labels.nrows()) for _, labels, *_ in found) > 10


def test_examples_cannot_be_shared(tmp_path):
    lists = random_lists(0, [3] * 20)
    path = write_format(tmp_path / "train-0", lists, "example")
    hparams = DatasetHparams(path, "", 4, 4, sharding="files")
    spec = {"bm25": EXAMPLE_SPEC["bm25"]}
    made = SimpleDatasetBuilder({}, spec, "mask", LABEL_SPEC, hparams)
    with pytest.raises(ConfigError, match=r"'files' .*Example for each"):
        made.plan("train", "packed", 2)


def test_very_unequal_files_are_said(data):
    paths = sorted(data.glob("train-*"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        builder(data, sharding="files").plan("train", "packed", 2)
    records = [*tf.data.TFRecordDataset(str(paths[0])).as_numpy_iterator()]
    for path in (data / "train.index.npz", data / "train.stats.json"):
        path.unlink()
    write(paths[0], records * 9)
    with pytest.warns(UserWarning, match=r"files': 5 files make shares of [\d,]+ to "):
        plan = builder(data, sharding="files").plan("train", "packed", 2)
    assert plan.lists_of(0, 2) == (0, 9 * len(records))


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
