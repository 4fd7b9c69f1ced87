"""Compressed files, readers of one's own, and files that end too early."""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
import pathlib
import zlib

import numpy as np
import pytest

from tests.data import conversion_helpers
from tests.data.conversion_helpers import sample_text
from tests.data.conversion_helpers import write as write_text
from tests.ranking_data import (
    CONTEXT_SPEC,
    EXAMPLE_SPEC,
    LABEL_SPEC,
    MASK,
    elwc,
    random_lists,
    write,
)
from tfr_pipeline.compat import tf
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.data.reading.wholeness import detect, refuse_damaged
from tfr_pipeline.data.records.tfrecord import frame
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder

COMPRESSIONS = ("", "GZIP", "ZLIB")
LISTS = random_lists(0, [3, 2, 4] * 4)
RECORDS = [elwc(ranked) for ranked in LISTS]


def read(*paths, **kwargs):
    pattern = ",".join(map(str, paths))
    builder = SimpleDatasetBuilder(
        CONTEXT_SPEC,
        EXAMPLE_SPEC,
        MASK,
        LABEL_SPEC,
        DatasetHparams(pattern, pattern, 4, 4, **kwargs),
        query_id="qid",
    )
    return builder.lists("valid", "packed")


def assert_has(lists, times=1):
    wanted = [ranked.context["qid"][0] for ranked in LISTS] * times
    assert lists.query_ids.tolist() == wanted
    labels = [d["relevance"][0] for ranked in LISTS for d in ranked.documents] * times
    np.testing.assert_array_equal(lists.labels, labels)


@pytest.mark.parametrize("kind", COMPRESSIONS)
def test_compression_is_found_in_the_file(tmp_path, kind):
    path = write(tmp_path / "f", RECORDS, kind)
    assert detect(path) == kind
    assert_has(read(path))
    assert_has(read(path, compression=kind.lower() or "none"))


def test_files_of_one_split_may_be_compressed_in_different_ways(tmp_path):
    paths = [
        write(tmp_path / f"{i}", RECORDS, kind)
        for i, kind in enumerate([*COMPRESSIONS, "GZIP"])
    ]
    assert_has(read(*paths), times=4)


# Sizes whose first bytes are those of a gzip and of a zlib file.
@pytest.mark.parametrize("size", [0x088B1F, 0x9C78, 0x0178])
def test_plain_files_are_not_taken_for_compressed_ones(tmp_path, size):
    path = write(tmp_path / "f", [b"x" * size])
    assert detect(path) == ""
    assert len(list(RecordReader()([path]))) == 1


@pytest.mark.parametrize("content", [b"", b"\x1f", b"1 qid:1 1:0.5\n" * 9])
def test_other_files_are_not_taken_for_compressed_ones(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    assert detect(str(tmp_path / "f")) == ""


@pytest.mark.parametrize("found", COMPRESSIONS)
@pytest.mark.parametrize("wanted", COMPRESSIONS)
def test_another_compression_than_was_said_is_named(tmp_path, found, wanted):
    if found == wanted:
        return
    path = write(tmp_path / "f", RECORDS, found)
    found, wanted = found.lower() or "none", wanted.lower() or "none"
    words = f"f: expected compression '{wanted}', found '{found}'.*'auto'"
    with pytest.raises(DataError, match=words):
        read(path, compression=wanted)


def compressed_with_cut(kind):
    """Returns a file, and where its data so far is three whole records."""
    bits = zlib.MAX_WBITS + (16 if kind == "GZIP" else 0)
    stream = zlib.compressobj(wbits=bits)
    framed = frame(RECORDS)
    first = stream.compress(b"".join(framed[:3])) + stream.flush(zlib.Z_FULL_FLUSH)
    return first + stream.compress(b"".join(framed[3:])) + stream.flush(), len(first)


@pytest.mark.parametrize("kind", ["GZIP", "ZLIB"])
@pytest.mark.parametrize("cut", ["record", "middle", "stub", "trailer", "byte"])
def test_compressed_files_that_were_cut_off_are_named(tmp_path, kind, cut):
    content, boundary = compressed_with_cut(kind)
    size = {
        "record": boundary,
        "middle": len(content) // 2,
        "stub": 30,
        "trailer": len(content) - (8 if kind == "GZIP" else 4),
        "byte": len(content) - 1,
    }[cut]
    (tmp_path / "whole").write_bytes(content)
    (tmp_path / "cut").write_bytes(content[:size])
    assert_has(read(tmp_path / "whole"))
    with pytest.raises(DataError, match=r"cut: (record \d+ is corrupt|.*was cut off)"):
        read(tmp_path / "whole", tmp_path / "cut")


def test_a_damaged_compressed_file_is_named(tmp_path):
    content = bytearray(gzip.compress(b"".join(frame(RECORDS))))
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "f").write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"f: record \d+ is corrupt"):
        read(tmp_path / "f")


# Uncompressed files


@pytest.mark.parametrize("more", [1, 4, 11])
@pytest.mark.parametrize("kind", ["", "GZIP"])
def test_a_file_cut_off_inside_a_header_names_record_and_byte(tmp_path, more, kind):
    framed = frame(RECORDS)
    content = b"".join(framed[:3]) + framed[3][:more]
    (tmp_path / "whole").write_bytes(b"".join(framed))
    (tmp_path / "cut").write_bytes(gzip.compress(content) if kind else content)
    words = rf"cut: record 3 is corrupt: at byte {sum(map(len, framed[:3]))} "
    with pytest.raises(DataError, match=words):
        read(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("kind", ["", "GZIP"])
def test_every_cut_but_those_between_records_is_found(tmp_path, kind):
    framed = frame(RECORDS[:2])
    content = b"".join(framed)
    for cut in range(len(content)):
        part = content[:cut]
        (tmp_path / "f").write_bytes(gzip.compress(part, 1) if kind else part)
        if cut in (0, len(framed[0])):
            refuse_damaged([str(tmp_path / "f")])
            continue
        number = int(cut > len(framed[0]))
        with pytest.raises(DataError, match=f"f: record {number} is corrupt: at byte"):
            refuse_damaged([str(tmp_path / "f")])


def test_every_changed_byte_is_found(tmp_path):
    framed = frame(RECORDS[:2])
    content = b"".join(framed)
    for place in range(len(content)):
        spoilt = bytearray(content)
        spoilt[place] ^= 0x55
        (tmp_path / "f").write_bytes(spoilt)
        number = int(place >= len(framed[0]))
        with pytest.raises(DataError, match=f"f: record {number} is corrupt: at byte"):
            refuse_damaged([str(tmp_path / "f")])


@pytest.mark.parametrize("shards", [1, 3])
def test_a_file_with_fewer_records_than_convert_wrote_is_named(tmp_path, shards):
    text = write_text(tmp_path / "text", sample_text(queries=8))
    convert(text, str(tmp_path / "data"), num_shards=shards)
    builder = SimpleDatasetBuilder.from_features(
        Features.load(str(tmp_path / "data")),
        DatasetHparams(f"{tmp_path}/data/train-*", "", 4, 4),
    )
    assert builder.lists("train").num_lists == 8
    *_, path = sorted((tmp_path / "data").glob("train-*"))
    written = conversion_helpers.records(path)
    path.write_bytes(b"".join(frame(written[:-1])))
    expected, found = len(written), len(written) - 1
    words = rf"{path}: expected {expected} records, as .*train.stats.json .*d {found}\."
    with pytest.raises(DataError, match=words):
        SimpleDatasetBuilder.from_features(builder.features, builder._hparams).lists(
            "train"
        )
    # Where nothing tells how many there were, there is nothing to be said.
    (tmp_path / "data" / "train.stats.json").unlink()
    again = SimpleDatasetBuilder.from_features(builder.features, builder._hparams)
    assert again.lists("train").num_lists == 7


def test_gzip_files_that_were_joined_are_whole(tmp_path):
    part = pathlib.Path(write(tmp_path / "part", RECORDS, "GZIP")).read_bytes()
    (tmp_path / "f").write_bytes(part + part)
    assert_has(read(tmp_path / "f"), times=2)


def test_readers_are_called_as_tf_ranking_calls_them(tmp_path):
    path = write(tmp_path / "f", RECORDS, "GZIP")
    assert_has(read(path, reader_args=["GZIP"]))
    assert_has(read(path, reader_args=("GZIP", 1 << 20)))

    def keyed(name, compression):
        records = tf.data.TFRecordDataset(name, compression)
        return records.map(lambda record: (tf.strings.length(record), record))

    assert_has(read(path, dataset_reader=keyed, reader_args=["GZIP"]))
    partial = functools.partial(tf.data.TFRecordDataset, compression_type="GZIP")
    assert_has(read(path, dataset_reader=partial))


def test_a_compression_beside_reader_args_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="compression: 'GZIP' stands beside reader_"):
        read(tmp_path / "f", reader_args=["GZIP"], compression="gzip")


def test_a_compression_beside_a_reader_of_ones_own_warns(tmp_path):
    path = write(tmp_path / "f", RECORDS)
    with pytest.warns(UserWarning, match="compression='GZIP' has no effect"):
        assert_has(
            read(
                path,
                dataset_reader=lambda name: tf.data.TFRecordDataset(name),
                compression="gzip",
            )
        )


def test_an_unknown_compression_is_refused():
    with pytest.raises(ConfigError, match=r"unknown compression 'gzp'.*'gzip'"):
        read("f", compression="gzp")


@pytest.mark.parametrize("kind", ["GZIP", "ZLIB"])
def test_a_cache_of_compressed_files_is_used(tmp_path, kind):
    path = write(tmp_path / "f", RECORDS, kind)
    for _ in range(2):
        assert_has(read(path, cache=str(tmp_path / "cache")))


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x28\xb5\x2f\xfd" + bytes(range(40)), "zstd -d FILE"),
        (bz2.compress(bytes(100)), "bunzip2 FILE"),
        (lzma.compress(bytes(100)), "unxz FILE"),
    ],
)
def test_a_file_that_is_no_tfrecord_is_named_by_what_it_is(tmp_path, start, words):
    sound = write(tmp_path / "a.tfrecord", RECORDS)
    path = tmp_path / "b.tfrecord"
    path.write_bytes(start)
    expected = rf"{path}: expected TFRecord, plain, gzip or zlib, found .*{words}"
    with pytest.raises(DataError, match=expected):
        read(sound, path)
    with pytest.raises(DataError, match=expected):
        convert(
            str(path),
            str(tmp_path / "out"),
            input_format="elwc",
            options=Options(label_column="relevance"),
        )
    assert not (tmp_path / "out").exists()
