"""Features kept in 16 bits: read as they are, float32 in every batch."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from tests.data.conversion_helpers import all_records, sample_text, write
from tests.ranking_data import write as write_records
from tfr_pipeline.compat import tf
from tfr_pipeline.data import store
from tfr_pipeline.data.batching import windowed
from tfr_pipeline.data.batching.tensors import as_tensor
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.convert.narrow import rounded
from tfr_pipeline.data.reading.disk_lists import DiskLists
from tfr_pipeline.data.reading.place import SizeOf
from tfr_pipeline.data.records import formats
from tfr_pipeline.errors import DataError
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder

NARROW = ("float16", "bfloat16")
DTYPES = ("float32", *NARROW)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """The same lists in all dtypes, and as float32 after rounding, in ELWC."""
    folder = tmp_path_factory.mktemp("narrow")
    path = write(folder / "a.txt", sample_text(queries=12, documents=9, features=7))
    for dtype in DTYPES:
        convert(
            path,
            str(folder / dtype),
            num_shards=2,
            output_format="packed",
            feature_dtype=dtype,
        )
    return folder


def make_builder(folder, pattern=None, **hparams) -> SimpleDatasetBuilder:
    pattern = pattern or f"{folder}/train-*"
    settings = {"train_batch_size": 4, "valid_batch_size": 4, **hparams}
    return SimpleDatasetBuilder.from_features(
        Features.load(str(folder)), DatasetHparams(pattern, pattern, **settings)
    )


def flat(batch):
    return tf.nest.flatten(batch, expand_composites=True)


def with_rounded(builder, dtype):
    """Gives a builder of float32 what 16 bits leave of it."""
    block = builder.lists("train", "packed").values["float32"]
    block[...] = rounded(block, dtype)[0]
    return builder


@pytest.mark.parametrize("cache", ["memory", "folder"])
@pytest.mark.parametrize("dtype", NARROW)
def test_lists_keep_the_narrow_matrix_and_all_else_is_the_same(
    folder, tmp_path, dtype, cache
):
    cache = "" if cache == "memory" else str(tmp_path / "cache")
    wide = make_builder(folder / "float32").lists("train", "packed")
    for _ in range(2):  # written, then mapped
        found = make_builder(folder / dtype, cache=cache).lists("train", "packed")
        assert found.values["float32"].dtype.name == dtype
        assert 2 * found.values["float32"].nbytes == wide.values["float32"].nbytes
        np.testing.assert_array_equal(
            found.widened().values["float32"],
            rounded(wide.values["float32"], dtype)[0],
        )
        np.testing.assert_array_equal(found.row_splits, wide.row_splits)
        np.testing.assert_array_equal(found.labels, wide.labels)
        np.testing.assert_array_equal(found.query_ids, wide.query_ids)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"seed": 3, "cache": "folder"},
        {"list_size": 5},
        {"list_size": 5, "truncation": "sample"},
        {"list_size": 5, "truncation": "feature_2", "shuffle_examples": True},
    ],
)
@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("dtype", NARROW)
def test_batches_are_those_of_the_rounded_features_in_float32(
    folder, tmp_path, dtype, layout, settings
):
    more = {"cache": str(tmp_path)} if "cache" in settings else {}
    narrow = make_builder(folder / dtype, **{**settings, **more})
    wide = make_builder(folder / "float32", **{**settings, "cache": ""})
    with_rounded(wide, dtype)
    for split in ("train", "valid"):
        for found, expected in zip(
            narrow.make_dataset(split, layout).take(9),
            wide.make_dataset(split, layout).take(9),
            strict=True,
        ):
            for mine, other in zip(flat(found), flat(expected), strict=True):
                assert mine.dtype == other.dtype
                np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("truncation", ["first", "feature_2"])
@pytest.mark.parametrize("dtype", NARROW)
def test_windows_read_from_disk_are_those_of_the_rounded_features(
    folder, tmp_path, monkeypatch, dtype, truncation
):
    monkeypatch.setattr(windowed, "WINDOW", 900)
    monkeypatch.setattr(windowed, "BLOCK", 300)
    settings = {"seed": 3, "list_size": 5, "truncation": truncation}
    narrow = make_builder(folder / dtype, cache=str(tmp_path), **settings)
    wide = make_builder(folder / "float32", cache="memory", **settings)
    with_rounded(wide, dtype)
    assert isinstance(narrow.plan("train", "packed"), windowed.WindowedPlan)
    assert isinstance(narrow.lists("train", "packed"), DiskLists)
    for found, expected in zip(
        narrow.make_dataset("train", "packed").take(9),
        wide.make_dataset("train", "packed").take(9),
        strict=True,
    ):
        for mine, other in zip(flat(found), flat(expected), strict=True):
            assert mine.dtype == other.dtype
            np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("dtype", NARROW)
def test_the_size_of_narrow_features_is_known_before_they_are_read(folder, dtype):
    found = {}
    for name in ("float32", dtype):
        paths = sorted(map(str, (folder / name).glob("train-*")))
        reading = make_builder(folder / name)._reading()
        parser = reading.parser("packed")
        size = SizeOf(paths, parser, reading.label, reading.weight, reading.reader)
        found[name] = size.get().bytes
    # 108 documents of 7 features.
    assert found["float32"] - found[dtype] == pytest.approx(108 * 7 * 2, rel=0.1)


@pytest.mark.parametrize("dtype", NARROW)
def test_nothing_prepared_in_float32_stands_beside_narrow_features(folder, dtype):
    calls = []

    def prepare(values):
        calls.append(values)
        return {"prepared_0": values["float32"]}

    for name, count in ((dtype, 0), ("float32", 1)):
        builder = make_builder(folder / name)
        dataset = builder.make_dataset("train", "packed", prepare=prepare)
        prepared = "documents_prepared_0" in dataset.element_spec[0]
        assert (len(calls), prepared) == (count, bool(count))


def test_what_compares_documents_is_prepared_of_lists_that_stay_whole(folder):
    class Prepare:
        needs_lists = True

        def __call__(self, values, row_splits):
            assert row_splits[-1] == len(values["float32"])
            return {"prepared_0": values["float32"]}

    def prepared(split, **hparams):
        builder = make_builder(folder / "float32", **hparams)
        dataset = builder.make_dataset(split, "packed", prepare=Prepare())
        return "documents_prepared_0" in dataset.element_spec[0]

    lengths = make_builder(folder / "float32").lists("train", "packed").lengths
    assert prepared("train") and prepared("valid", list_size=2)
    assert prepared("train", list_size=int(lengths.max()))
    for truncation in ("first", "sample"):
        assert not prepared("train", list_size=2, truncation=truncation)
    assert not prepared("valid", valid_list_size=2)


@pytest.mark.parametrize("dtype", NARROW)
def test_a_narrow_tensor_shares_the_memory_of_a_block(dtype):
    block = store.Block(dtype, (4,))
    block.append(np.ones((100, 4), dtype))
    array = block.array()
    tensor = as_tensor(array)
    array[3] = 7
    assert tensor.dtype.name == dtype
    assert tf.cast(tensor[3], tf.float32).numpy().tolist() == [7, 7, 7, 7]
    del array, block  # the tensor keeps the memory
    assert tf.reduce_sum(tf.cast(tensor, tf.float32)).numpy() == 99 * 4 + 28


@pytest.mark.parametrize("dtype", NARROW)
def test_narrow_tensors_made_while_a_function_is_traced_are_no_constants(dtype):
    tensors = []

    @tf.function
    def function():
        tensors.append(as_tensor(np.arange(8).astype(dtype)))
        return tf.cast(tensors[0], tf.float32)

    expected = list(range(8))
    assert function().numpy().tolist() == expected
    assert tensors[0].numpy().astype(float).tolist() == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_record_says_what_it_holds(folder, dtype):
    for record in all_records(folder / dtype):
        assert formats.recognize(record) == "packed"
        assert formats.feature_dtype(record) == dtype


def test_other_records_hold_no_matrix():
    for record in (b"", b"\x0a", b"x" * 40, tf.train.Example().SerializeToString()):
        assert formats.feature_dtype(record) is None


def read(folder, pattern):
    return make_builder(folder, pattern).lists("train", "packed")


def test_files_of_several_dtypes_are_not_read_together(folder):
    # 12 lists in two files each: the first file of the others begins at record 0.
    pattern = ",".join(f"{folder}/{dtype}/train-00000*" for dtype in NARROW)
    message = (
        r"bfloat16/train-00000-of-00002.tfrecord: record 0: expected the feature_dtype "
        r"float16 of the first record that is read, found bfloat16. Convert files"
    )
    with pytest.raises(DataError, match=message):
        read(folder / "float16", pattern)


@pytest.mark.parametrize("dtype", NARROW)
def test_matrices_of_another_width_are_named(folder, tmp_path, dtype):
    records = []
    for record in all_records(folder / dtype):
        message = tf.train.Example.FromString(record)
        block = message.features.feature[f"packed/{dtype}"].bytes_list.value
        block[0] = block[0][: -len(block[0]) // 7]
        records.append(message.SerializeToString())
    path = write_records(tmp_path / "train", records)
    with pytest.raises(
        DataError, match=r"record 0: .*expected 7 values a document, fo"
    ):
        read(folder / dtype, path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", NARROW)
def test_a_feature_that_is_no_number_is_named(folder, tmp_path, dtype, value):
    message = tf.train.Example.FromString(all_records(folder / dtype)[0])
    block = message.features.feature[f"packed/{dtype}"].bytes_list.value
    matrix = np.array(tf.io.decode_raw(block[0], dtype))
    matrix[10] = value
    block[0] = matrix.tobytes()
    path = write_records(tmp_path / "train", [message.SerializeToString()])
    with pytest.raises(DataError, match=f"column 3 is {value} in .*1 such values"):
        read(folder / dtype, path)


def test_the_largest_float16_is_a_number(folder, tmp_path):
    message = tf.train.Example.FromString(all_records(folder / "float16")[0])
    block = message.features.feature["packed/float16"].bytes_list.value
    block[0] = np.full(len(block[0]) // 2, -65504, np.float16).tobytes()
    path = write_records(tmp_path / "train", [message.SerializeToString()])
    assert (read(folder / "float16", path).values["float32"] == -65504).all()
