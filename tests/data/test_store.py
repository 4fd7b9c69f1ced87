"""Lists grow without a second copy, and tensors share their memory."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from tests.ranking_data import EXAMPLE_SPEC, LABEL_SPEC, random_lists, write_elwc
from tfr_pipeline.compat import tf
from tfr_pipeline.data import store
from tfr_pipeline.data.batching.tensors import as_tensor
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.reading import cache
from tfr_pipeline.data.reading.loading import iterate
from tfr_pipeline.data.reading.parser import RecordParser


@given(
    st.lists(st.integers(0, 40), max_size=12),
    st.sampled_from([(), (3,), (2, 2), (0,)]),
    st.sampled_from(["float32", "int64"]),
)
@settings(max_examples=50, deadline=None)
def test_a_block_holds_what_was_appended(small_steps, counts, shape, dtype):
    random = np.random.default_rng(0)
    parts = [random.integers(0, 99, (count, *shape)).astype(dtype) for count in counts]
    block = store.Block(dtype, shape)
    for part in parts:
        block.append(part)
    wanted = np.concatenate([np.zeros((0, *shape), dtype), *parts])
    if not wanted.nbytes:  # rows without values are not counted
        return
    found = block.array()
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


@pytest.fixture(scope="module")
def small_steps():
    """Makes blocks grow often."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_STEP", 64)
        yield


def test_parts_make_the_lists_that_concatenation_makes(tmp_path):
    path = write_elwc(tmp_path / "f", random_lists(2, [3, 0, 5] * 30))
    context = {
        "query_vector": tf.io.FixedLenFeature((2,), tf.float32, [0.0, 1.0]),
        "qid": tf.io.FixedLenFeature((1,), tf.string, ""),
    }
    parser = RecordParser(context, EXAMPLE_SPEC, dict([LABEL_SPEC]), "qid", "docid")
    parts = list(iterate([path], parser, "relevance"))
    assert len(parts) > 1
    wanted, found = Lists.concatenate(parts), store.collect(parts, document_ids=True)
    for name in ("row_splits", "labels", "query_ids", "document_ids"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert found.weights is None
    for mine, other in (
        (found.values, wanted.values),
        (found.context, wanted.context),
    ):
        assert list(mine) == list(other)
        for name, array in other.items():
            np.testing.assert_array_equal(mine[name], array)
    assert store.collect(parts).document_ids.tolist() == [""] * wanted.num_documents


def test_a_tensor_shares_the_memory_of_a_block():
    block = store.Block("float32", (4,))
    block.append(np.ones((100, 4), np.float32))
    array = block.array()
    tensor = as_tensor(array)
    array[3] = 7
    assert tensor[3].numpy().tolist() == [7, 7, 7, 7]
    del array, block  # the tensor keeps the memory
    assert tf.reduce_sum(tensor).numpy() == 99 * 4 + 28


def aligned():
    block = store.Block("float32", (8,))
    block.append(np.arange(800, dtype=np.float32).reshape(-1, 8))
    return block.array()


def read_only():
    array = aligned()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "make",
    [
        lambda: aligned()[1:],  # not where TensorFlow wants its tensors
        lambda: aligned()[:, ::2],
        lambda: aligned()[:0],
        read_only,
        lambda: np.array([[b"a"], [b""]], object),
        lambda: np.array([True, False]),
    ],
)
def test_what_cannot_be_shared_is_copied(make):
    array = make()
    np.testing.assert_array_equal(as_tensor(array).numpy(), array)


def test_tensors_made_while_a_function_is_traced_are_no_constants_of_it():
    tensors = []

    @tf.function
    def function():
        tensors.append(as_tensor(aligned()))
        return tf.reduce_sum(tensors[0])

    assert function().numpy() == np.arange(800).sum()
    assert tensors[0].numpy().shape == (100, 8)


def test_a_file_larger_than_memory_can_be_mapped(tmp_path):
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    path = tmp_path / "large"
    rows = 2 * total // 4000
    try:
        with open(path, "wb") as file:
            file.truncate(rows * 4000)  # takes no room on disk
            file.seek((rows - 2) * 4000)
            file.write(np.full(1000, 5, np.float32).tobytes())
    except OSError:
        pytest.skip("needs a file system with sparse files")
    column = {"dtype": "float32", "shape": [1000], "size": rows * 4000}
    column["checksum"] = cache._checksum(str(path))
    tensor = as_tensor(cache._map(str(path), column))
    assert tf.gather(tensor, [rows - 2, 0]).numpy()[:, 0].tolist() == [5, 0]


MEMORY = """
import numpy as np
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder
from tfr_pipeline.compat import tf
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data import store

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(l.split()[1]) for l in file if l.startswith("RssAnon")) >> 10

block = store.Block("float32", (1000,))
for _ in range(50):
    block.append(np.ones((1000, 1000), np.float32))
lengths = np.full(500, 100)
splits = np.concatenate([[0], np.cumsum(lengths)])
labels = np.zeros(50000, np.float32)
ids = store.no_ids(50000)
lists = Lists({"float32": block.array()}, splits, labels, ids[:500], ids)
feature = tf.io.FixedLenFeature((1000,), tf.float32)
label = ("label", tf.io.FixedLenFeature((1,), tf.float32))
builder = SimpleDatasetBuilder(
    {}, {"x": feature}, "mask", label, DatasetHparams("a", "b", 2, 2)
)
builder.kept.get = lambda *_: lists
before = anonymous()
for _ in range(2):
    for batch in builder.make_dataset("train", "packed").take(20):
        pass
print(anonymous() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_batches_of_packed_lists_need_no_copy_of_all():
    result = subprocess.run(
        [sys.executable, "-c", MEMORY],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    megabytes = int(result.stdout)  # the lists have 190
    assert megabytes < 100
