"""Batches of lists: which documents they have, how they are padded, and all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfr_pipeline import global_batch
from tfr_pipeline.data.batching.gather import pad
from tfr_pipeline.data.batching.loose import separate
from tfr_pipeline.data.batching.plan import BatchPlan
from tfr_pipeline.data.batching.selection import FIRST, SAMPLE, Selection, score_column
from tfr_pipeline.data.batching.tensors import as_tensor
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.pipeline.datasets.hparams import setting
from tfr_pipeline.pipeline.datasets.kept_lists import Reading
from tfr_pipeline.pipeline.datasets.protocol import BatchRequest


def batches(
    plan: BatchPlan,
    request: BatchRequest,
    batch: Callable[[Any], Any],
    select: Selection | None,
) -> tf.data.Dataset:
    """Returns the batches that a request is for.

    Args:
      plan: Says which lists stand in which batch.
      request: What is wanted.
      batch: Makes a batch of list indices; see `packed_gather`.
      select: Chooses documents; None for the first ones of each list.
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

    def assemble(index: Any, sizes: Any) -> Any:
        features, *others = batch(index)
        if isinstance(features, dict):
            features = {**features, global_batch.SIZES: sizes}
        return features, *others

    if select is not None:
        choose = select
        if request.sized:
            index = index.map(lambda pair, sizes: (choose(*pair), sizes))
        else:
            index = index.map(choose)
    if request.sized:
        dataset = index.map(assemble, num_parallel_calls=parallel)
    elif select is not None:
        dataset = index.map(lambda *chosen: batch(chosen), num_parallel_calls=parallel)
    else:
        dataset = index.map(batch, num_parallel_calls=parallel)
    dataset = dataset.prefetch(2)
    # tf.data rewrites a dataset as a graph in which all that it captures is a constant:
    # a copy of the data, in memory even where the data is on disk.
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    return dataset.with_options(options)


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


def selection(hparams: Any, reading: Reading, lists: Lists) -> Selection | None:
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
        scores = as_tensor(lists.values[dtype]), column
    if not shuffle and lists.lengths.max() <= (hparams.list_size or math.inf):
        return None
    seed = setting(hparams, "seed") or 0
    return Selection(lists, hparams.list_size, scores, shuffle, seed)
