"""Batches of lists: which documents they have, how they are padded, and all of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline import global_batch
from tfr_pipeline.data.batching.gather import Tensors, arrays_of, pad
from tfr_pipeline.data.batching.loose import separate
from tfr_pipeline.data.batching.plan import plain
from tfr_pipeline.data.batching.selection import FIRST, SAMPLE, Selection, score_column
from tfr_pipeline.data.batching.windowed import WindowedPlan
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.reading.disk_lists import DiskLists
from tfr_pipeline.data.reading.record_lists import RecordLists
from tfr_pipeline.pipeline.datasets.hparams import setting
from tfr_pipeline.pipeline.datasets.kept_lists import Reading
from tfr_pipeline.pipeline.datasets.protocol import BatchRequest, Plan


def batches(
    plan: Plan,
    request: BatchRequest,
    batch: Callable[[Any], Any],
    select: Callable[[Any, Any], Any] | None,
    first: int = 0,
) -> tf.data.Dataset:
    """Returns the batches that a request is for.

    Args:
      plan: Says which lists stand in which batch.
      request: What is wanted.
      batch: Makes a batch of list indices; see `gather`.
      select: Chooses documents of lists, given their indices and the number of the
        batch; None for the first ones of each list.
      first: Number of the first list that there is; indices are counted from it.
    """
    train = request.split == "train"
    index = plan.dataset(
        request.start_step if train else 0,
        train,
        request.shard,
        numbered=select is not None,
        sized=request.sized,
    )
    # Gathering a packed batch takes a fraction of a step: more threads than the one
    # that fetches ahead would only disturb those that compute.
    parallel = None if request.layout == "packed" else tf.data.AUTOTUNE
    assemble = _assembled(request, batch, select)

    @plain
    def of_element(*element: Any) -> Any:
        *pair, sizes = element if request.sized else (*element, None)
        if request.sized and select is not None:
            (pair,) = pair
        index, number = pair if select is not None else (*pair, None)
        return assemble(index - first if first else index, number, sizes)

    return _fetched_ahead(index.map(of_element, num_parallel_calls=parallel))


def batches_from_disk(
    plan: WindowedPlan,
    request: BatchRequest,
    assembler: Callable[[Tensors], Callable[[Any], Any]],
    select: Selection | None,
    lists: DiskLists | RecordLists,
    first: int = 0,
) -> tf.data.Dataset:
    """Returns the same batches, read window by window.

    Args:
      plan: See `batches`.
      request: See `batches`.
      assembler: Returns `batch` of `batches` for the tensors of some lists.
      select: Chooses documents; None for the first ones of each list.
      lists: The lists that there are.
      first: Number of the first one.
    """
    train = request.split == "train"
    none = arrays_of(lists.read(np.zeros(0, np.int64)))

    def read(order: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
        wanted = np.sort(order)
        found = arrays_of(lists.read(wanted - first))
        return np.searchsorted(wanted, order), *others, *found.values()

    specs = [
        tf.TensorSpec(
            [None, *array.shape[1:]],
            tf.string if array.dtype == object else array.dtype,
        )
        for array in none.values()
    ]
    start = request.start_step if train else 0
    windows = plan.windows_of(read, start, train, request.shard, specs)

    @plain
    def of_window(order: Any, splits: Any, numbers: Any, sizes: Any, *rest: Any) -> Any:
        tensors = dict(zip(none, rest, strict=True))
        choose = None if select is None else functools.partial(select, tensors)
        assemble = _assembled(request, assembler(tensors), choose)
        index = tf.RaggedTensor.from_row_splits(order, splits, validate=False)
        parts = tf.data.Dataset.from_tensor_slices((index, numbers, sizes))
        return parts.map(assemble)

    return _fetched_ahead(windows.flat_map(of_window))


def _assembled(
    request: BatchRequest,
    batch: Callable[[Any], Any],
    select: Callable[[Any, Any], Any] | None,
) -> Callable[[Any, Any, Any], Any]:
    """Returns a function of list indices, batch number and sizes to a batch."""

    def assemble(index: Any, number: Any, sizes: Any) -> Any:
        chosen = index if select is None else select(index, number)
        features, *others = batch(chosen)
        if request.sized and isinstance(features, dict):
            features = {**features, global_batch.SIZES: sizes}
        return features, *others

    return assemble


def _fetched_ahead(dataset: tf.data.Dataset) -> tf.data.Dataset:
    # tf.data rewrites a dataset as a graph in which all that it captures is a constant:
    # a copy of the data, in memory even where the data is on disk.
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    return dataset.prefetch(2).with_options(options)


def padder(reading: Reading, list_size: int | None) -> Callable[[Any, Any], Any]:
    """Returns a function from a packed batch to the padded features of TF-Ranking.

    Args:
      reading: How the lists were read that batches are gathered from.
      list_size: Length of the padded lists; None for the longest in the batch.

    Returns:
      A function of features and labels, as `packed_gather` returns them, to padded
      features with the mask among them.
    """
    specs, layout = reading.specs, reading.layout
    matrices, beside = separate(reading.in_lists)
    defaults = {name: spec.default_value for name, spec in matrices.items()}
    for name, spec in specs.all_context.items():
        if not isinstance(spec, tf.io.FixedLenFeature):
            beside[name] = spec

    def padded(features: Any, labels: Any) -> dict[str, Any]:
        lengths = None if labels is None else labels.row_lengths()
        mask = specs.mask_feature_name
        return pad(features, layout, list_size, defaults, mask, beside, lengths)

    return padded


def selection(
    hparams: Any, reading: Reading, lists: Lists | RecordLists
) -> Selection | None:
    """Returns what chooses the documents that training takes of long lists.

    Args:
      hparams: A `DatasetHparams`, of TF-Ranking or ours.
      reading: How the lists were read.
      lists: The lists, with the features as they are, whatever a model makes of them.

    Returns:
      The selection; None for the first ones of each list.
    """
    name, shuffle = setting(hparams, "truncation"), setting(hparams, "shuffle_examples")
    if name == FIRST and not shuffle:
        return None
    scores = None
    if name not in (FIRST, SAMPLE):
        features = reading.features()
        described = features.example if features else {}
        columns = {key: feature.columns for key, feature in described.items()}
        specs, layout = reading.specs.example, reading.layout
        dtype, column = score_column(name, specs, columns, layout)
        scores = dtype, column
    if not shuffle and lists.lengths.max() <= (hparams.list_size or math.inf):
        return None
    seed = setting(hparams, "seed") or 0
    return Selection(hparams.list_size, scores, shuffle, seed)
