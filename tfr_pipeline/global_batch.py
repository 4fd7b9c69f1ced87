"""What a replica has to know of the other replicas' share of a global batch.

Replicas have unequal numbers of lists, and their longest lists differ. A mean of the
replicas' means is then not the mean over the global batch, and what is divided by the
longest list is not what one process divides. Two numbers mend both. Datasets of this
package know them and send them along; for others, one small sum over replicas brings
them, which costs an exchange a step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from tfr_pipeline.compat import tf

# Name among the features of what a dataset sends along.
SIZES = "tfr_pipeline/global_batch"

# Replicas of one process are traced in threads of their own.
_known = threading.local()


@dataclasses.dataclass(frozen=True)
class GlobalBatch:
    """A global batch as one of its replicas sees it.

    Attributes:
      share: float32 scalar, lists of this replica, those that only fill its batch
        among them, over the mean of all replicas without those: the mean over the lists
        of the global batch is the mean over replicas of `share` times the mean over the
        replica's lists.
      longest: int32 scalar, documents of the longest list of all replicas, 1 at least;
        or an int, the width of padded lists of one size.
      real: int32 scalar, lists of this replica, the first ones of its batch, without
        those that fill it; None where batches are not filled.
    """

    share: Any
    longest: Any
    real: Any = None


def take_sizes(features: Any) -> tuple[Any, Any]:
    """Takes what a dataset has sent along out of the features.

    Returns:
      The features without it, and int32 `[3]`, or None: the lists and the longest list
      of the global batch, and the lists of the local one.
    """
    if not isinstance(features, Mapping) or SIZES not in features:
        return features, None
    rest = {name: value for name, value in features.items() if name != SIZES}
    return rest, features[SIZES]


def of(labels: Any, sizes: Any = None) -> GlobalBatch | None:
    """Returns what there is to know of the global batch.

    Without `sizes` it asks the other replicas: all have to call it in the same steps.

    Args:
      labels: Ragged `[batch, (list)]` or dense `[batch, ...]`, or a structure of such
        tensors, of which the first one counts.
      sizes: See `take_sizes`.

    Returns:
      The global batch, or None where the local batch is all of it, and where static
      shapes say that all replicas have batches of the same size.
    """
    context = tf.distribute.get_replica_context()
    replicas, filled = 1 if context is None else context.num_replicas_in_sync, False
    if replicas < 2 and sizes is None:
        return None
    first = tf.nest.flatten(labels)[0]
    if isinstance(first, tf.RaggedTensor):
        lists = tf.cast(first.nrows(), tf.int32)
        longest = tf.cast(first.bounding_shape(axis=1), tf.int32)
    else:
        # Batches of one shape that come with sizes are of a dataset that fills them.
        filled = first.shape[:2].is_fully_defined()
        if filled and sizes is None:
            return None
        lists = tf.shape(first)[0]
        longest = tf.shape(first)[1] if first.shape.rank > 1 else 1
    if sizes is not None:
        return GlobalBatch(
            share=tf.math.divide_no_nan(
                tf.cast(lists * replicas, tf.float32), tf.cast(sizes[0], tf.float32)
            ),
            # Known ahead where shapes are: a TPU cannot pad by what it computes.
            longest=first.shape[1]
            if filled and first.shape.rank > 1
            else tf.maximum(tf.maximum(longest, sizes[1]), 1),
            real=sizes[2] if filled else None,
        )
    # Every replica fills a row of its own of a matrix, so that one sum gives each of
    # them all rows, and with them a maximum. Floats, which every device can add up.
    mine = tf.cast(tf.stack([lists, longest]), tf.float32)
    row = tf.one_hot(context.replica_id_in_sync_group, replicas)
    rows = context.all_reduce(
        tf.distribute.ReduceOp.SUM, row[:, tf.newaxis] * mine[tf.newaxis, :]
    )
    total = tf.reduce_sum(rows[:, 0])
    return GlobalBatch(
        share=tf.math.divide_no_nan(mine[0] * replicas, total),
        longest=tf.maximum(tf.cast(tf.reduce_max(rows[:, 1]), tf.int32), 1),
    )


@contextlib.contextmanager
def known(batch: GlobalBatch | None) -> Iterator[None]:
    """Lets those below know the global batch, within the block and this thread."""
    before = getattr(_known, "batch", None)
    _known.batch = batch
    try:
        yield
    finally:
        _known.batch = before


def longest_list() -> Any:
    """Returns how long the longest list of the global batch is known to be at least.

    Returns:
      int32 scalar or int; 1 outside of `known`, where a batch has no other replicas.
    """
    batch = getattr(_known, "batch", None)
    return 1 if batch is None else batch.longest


def mean_of_counted(total: Any, count: Any) -> Any:
    """Returns a mean over what counts in the global batch, as one replica's loss.

    Not all lists count where some have no label, and replicas have unequal numbers of
    those that do. `share` times this, averaged over replicas, is the sum of all totals
    over the sum of all counts. Asks the other replicas: all have to call it.

    Args:
      total: float32 scalar, the sum over what counts in this replica.
      count: float32 scalar, how much that is; the mean over nothing is 0.
    """
    context = tf.distribute.get_replica_context()
    replicas = 1 if context is None else context.num_replicas_in_sync
    if replicas > 1:
        count = context.all_reduce(tf.distribute.ReduceOp.SUM, count)
        batch = getattr(_known, "batch", None)
        share = 1.0 if batch is None else batch.share
        total, count = total * float(replicas), count * share
    return tf.math.divide_no_nan(total, count)


def count_real(weights: Any) -> Any:
    """Sets the weights of lists that fill a batch to 0.

    Args:
      weights: float32 `[batch, 1]`.
    """
    batch = getattr(_known, "batch", None)
    if batch is None or batch.real is None:
        return weights
    real = tf.sequence_mask(batch.real, tf.shape(weights)[0])[:, tf.newaxis]
    return tf.where(real, weights, 0.0)


def zero_without_lists(value: Any) -> Any:
    """Returns a mean over the lists of this replica, or 0 if it has none.

    The mean over no list is NaN, and NaN times the weight 0 is NaN.

    Args:
      value: A tensor.
    """
    batch = getattr(_known, "batch", None)
    if batch is None:
        return value
    return tf.where(batch.share > 0.0, value, tf.zeros_like(value))
