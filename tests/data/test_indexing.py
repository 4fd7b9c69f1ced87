"""Files that `convert` did not write get an index, once."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.data.format_helpers import records, write_format
from tests.ranking_data import (
    CONTEXT_SPEC,
    EXAMPLE_SPEC,
    LABEL_SPEC,
    random_lists,
    write,
)
from tfr_pipeline.compat import tf
from tfr_pipeline.data.progress import Progress
from tfr_pipeline.data.reading import loading, scanning
from tfr_pipeline.data.reading.indexing import Indexing
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.errors import DataError

FORMATS = ["elwc", "eie", "seq", "packed"]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TFR_PIPELINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "index"


def parser(data_format="elwc", specs=EXAMPLE_SPEC):
    extra = dict([LABEL_SPEC])
    return RecordParser(CONTEXT_SPEC, specs, extra, "qid", data_format=data_format)


def indexing_of(paths, **settings):
    return Indexing([*map(str, paths)], RecordReader(**settings), parser)


def write_files(folder, data_format="elwc", count=3, compression=None, seed=0):
    """Writes lists into files of any names; returns paths and documents of each."""
    random = np.random.default_rng(seed)
    paths, lengths = [], []
    for number in range(count):
        lengths.append(random.integers(1, 9, 70 * number).tolist())
        name = f"part-{number}-c000.snappy.tfr{'.gz' if compression else ''}"
        lists = random_lists(number, lengths[-1])
        path = folder / name
        write_format(path, lists, data_format, compression, EXAMPLE_SPEC)
        paths.append(path)
    return paths, lengths


def starts_of(path):
    """Where the records of a file begin, and where the last one ends."""
    content, places = path.read_bytes(), [0]
    while places[-1] < len(content):
        size = int.from_bytes(content[places[-1] : places[-1] + 8], "little")
        places.append(places[-1] + size + 16)
    return places


@pytest.mark.parametrize("chunk", [300, 1 << 23])
@pytest.mark.parametrize("data_format", FORMATS)
def test_an_index_says_where_records_begin_and_how_many_documents_they_have(
    tmp_path, monkeypatch, data_format, chunk
):
    monkeypatch.setattr(scanning.Scan.pieces, "__defaults__", (chunk,))
    paths, lengths = write_files(tmp_path, data_format)
    found = indexing_of(paths).find()
    for path, wanted, shard in zip(paths, lengths, found, strict=True):
        assert shard.path == str(path) and shard.ranged
        assert shard.documents.tolist() == wanted
        assert shard.offsets.tolist() == starts_of(path)


@pytest.mark.parametrize("kind", ["GZIP", "ZLIB"])
def test_compressed_files_have_an_index_that_is_not_for_ranges(tmp_path, kind):
    paths, lengths = write_files(tmp_path, compression=kind)
    plain, more = write_files(tmp_path, count=2, seed=1)
    wanted = indexing_of([*paths, *plain])
    assert not wanted.ranged
    found = wanted.find()
    assert [shard.ranged for shard in found] == [False] * 3 + [True] * 2
    for shard, documents in zip(found, lengths + more, strict=True):
        assert shard.documents.tolist() == documents


def reversed_records(path):
    records = list(tf.data.TFRecordDataset(path).as_numpy_iterator())
    return tf.data.Dataset.from_tensor_slices(records[::-1])


def test_a_reader_of_ones_own_is_asked(tmp_path):
    paths, lengths = write_files(tmp_path)
    backwards = Indexing(
        [str(paths[2])], RecordReader(_eagerly(reversed_records)), parser
    )
    (found,) = backwards.find()
    assert found.documents.tolist() == lengths[2][::-1] and not found.ranged
    (other,) = indexing_of([paths[2]]).find()
    assert other.documents.tolist() == lengths[2]


def _eagerly(read):
    """Returns a reader for paths that are known only in a graph."""

    def reader(path):
        def records(name):
            return np.array([r.numpy() for r in read(name.decode())], object)

        found = tf.numpy_function(records, [path], tf.string)
        return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(found, [None]))

    reader.__qualname__ = read.__name__
    return reader


def test_an_index_is_made_once_and_said_once(tmp_path, capsys, cache_folder):
    paths, lengths = write_files(tmp_path)
    first = indexing_of(paths).find()
    said = capsys.readouterr().err
    assert (
        f"{sum(map(len, lengths))} lists indexed" in said and str(cache_folder) in said
    )
    (kept,) = cache_folder.glob("*.npz")
    before = kept.stat().st_mtime_ns
    again = indexing_of(paths).find()
    assert not capsys.readouterr().err and kept.stat().st_mtime_ns == before
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.documents, other.documents)
        np.testing.assert_array_equal(one.offsets, other.offsets)


def test_an_index_is_not_opened_files_for(tmp_path):
    paths, lengths = write_files(tmp_path, compression="GZIP")
    indexing_of(paths).find()
    for path in paths:  # nothing that could be read, of the same size and time
        found = path.stat()
        path.write_bytes(bytes(found.st_size))
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    found = indexing_of(paths).find()
    assert [shard.documents.tolist() for shard in found] == lengths


def test_what_has_changed_is_gone_through_again_and_nothing_else(
    tmp_path, capsys, monkeypatch
):
    paths, lengths = write_files(tmp_path)
    indexing_of(paths).find()
    os.utime(paths[1], ns=(1, 1))  # the same, written again
    write_format(paths[2], random_lists(5, [2, 4]), "elwc")
    capsys.readouterr()
    seen = []
    pieces = scanning.Scan.pieces

    def seeing(self, path):
        seen.append(path)
        return pieces(self, path)

    monkeypatch.setattr(scanning.Scan, "pieces", seeing)
    found = indexing_of(paths).find()
    assert seen == [str(paths[2])]
    assert [s.documents.tolist() for s in found] == [lengths[0], lengths[1], [2, 4]]
    assert "2 lists indexed" in capsys.readouterr().err
    indexing_of(paths).find()
    assert not capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"no index", None])
def test_a_damaged_index_is_made_anew(tmp_path, cache_folder, content):
    paths, lengths = write_files(tmp_path)
    indexing_of(paths).find()
    (kept,) = cache_folder.glob("*.npz")
    kept.write_bytes(kept.read_bytes()[:400] if content is None else content)
    found = indexing_of(paths).find()
    assert [shard.documents.tolist() for shard in found] == lengths


def test_other_features_of_sequences_have_an_index_of_their_own(tmp_path):
    message = tf.train.SequenceExample()
    for name, size in (("a", 3), ("b", 5)):
        for _ in range(size):
            entry = message.feature_lists.feature_list[name].feature.add()
            entry.float_list.value.append(1.0)
    path = write(tmp_path / "some", [message.SerializeToString()])
    fixed = tf.io.FixedLenFeature((1,), tf.float32, 0.0)
    loose = tf.io.RaggedFeature(tf.float32)

    def documents(**specs):
        def of(data_format):
            return RecordParser({}, specs, data_format=data_format)

        ((found,),) = (s.documents for s in Indexing([path], RecordReader(), of).find())
        return found

    for _ in range(2):
        assert documents(a=fixed) == 3
        assert documents(a=fixed, b=fixed) == 5
        assert documents(a=fixed, b=loose) == 3
        # Nothing but a parser knows how long lists are.
        assert documents(b=loose) == 5


def test_records_that_no_serializer_writes_are_parsed(tmp_path):
    some = records(random_lists(0, [3, 5, 2]), "elwc")
    some[1] += b"\x18\x05" + b"\x0a\x80\x00"  # an unknown field; an empty document
    path = write(tmp_path / "some", some)
    (found,) = indexing_of([path]).find()
    assert found.documents.tolist() == [3, 6, 2]


def test_a_cache_that_cannot_be_written_is_said_and_does_no_harm(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TFR_PIPELINE_CACHE", str(tmp_path / "file"))
    paths, lengths = write_files(tmp_path)
    found = indexing_of(paths).find()
    assert [shard.documents.tolist() for shard in found] == lengths
    assert "not kept" in capsys.readouterr().err


def truncate(path):
    os.truncate(path, path.stat().st_size - 40)


def spoil_length(path):
    content = bytearray(path.read_bytes())
    content[starts_of(path)[60] + 6] ^= 1
    path.write_bytes(content)


def spoil_structure(path):
    content = bytearray(path.read_bytes())
    content[starts_of(path)[60] + 12] ^= 255
    path.write_bytes(content)


def cut_header(path):
    os.truncate(path, starts_of(path)[60] + 7)


def cut_gzip(path):
    content = gzip.compress(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])


def no_documents(path):
    for other in path.parent.glob("part-*"):
        write(other, [b""])


@pytest.mark.parametrize(
    "spoil",
    [truncate, spoil_length, spoil_structure, cut_header, cut_gzip, no_documents],
)
def test_damage_is_explained_as_when_the_files_are_read(tmp_path, spoil):
    paths, _ = write_files(tmp_path)
    spoil(paths[2])
    with pytest.raises(DataError) as wanted:
        loading.load([*map(str, paths)], parser(), "relevance")
    with pytest.raises(DataError) as found:
        indexing_of(paths).find()
    assert str(found.value) == str(wanted.value)


def test_small_data_is_not_gone_through(tmp_path, cache_folder):
    paths, lengths = write_files(tmp_path)
    asked = []
    assert indexing_of(paths).find(lambda n: asked.append(n)) is None
    total = sum(map(sum, lengths))
    assert 0.8 * total < asked[0] < 1.25 * total
    assert not cache_folder.exists()


def test_documents_that_are_records_have_no_index(tmp_path):
    path = write_format(tmp_path / "some", random_lists(0, [3, 2]), "example")
    assert indexing_of([path]).find() is None


def test_long_work_is_shown(tmp_path, capsys, monkeypatch):
    paths, _ = write_files(tmp_path)
    update = Progress.update

    def at_once(self, done, documents):
        self._next = 0
        update(self, done, documents)

    monkeypatch.setattr(Progress, "update", at_once)
    indexing_of(paths).find()
    assert f"indexing {tmp_path}: 100%" in capsys.readouterr().err


BUILD = """
import sys
from tests.data import test_indexing
test_indexing.indexing_of(sys.argv[1:]).find()
"""


@pytest.mark.slow
def test_several_processes_go_through_files_once(tmp_path, cache_folder):
    paths, _ = write_files(tmp_path)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD, *paths], stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = [process.communicate()[1] for process in running]
    assert not any(process.returncode for process in running)
    assert sum("lists indexed" in text for text in said) == 1
    assert len([*cache_folder.glob("*.npz")]) == 1
