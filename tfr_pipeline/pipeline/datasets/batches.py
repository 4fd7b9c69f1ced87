"""A `tf.data.Dataset` of the batches of a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfr_pipeline import global_batch
from tfr_pipeline.data.batching.plan import BatchPlan
from tfr_pipeline.data.batching.selection import Selection
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
