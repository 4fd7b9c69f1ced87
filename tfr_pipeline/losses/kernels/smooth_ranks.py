"""Metrics at smooth ranks, with their gradient in closed form.

The smooth rank of a document is `r_i = 1/2 + sum_j sigmoid(s_j - s_i)`, the sum being
over all documents of the list (Qin et al., "A General Approximation Framework for
Direct Optimization of Information Retrieval Measures", Information Retrieval 2010,
equation 11). Sums `sum_i c_i D(r_i)` of one list have the gradient

    dL/ds_k = sum_i g_i q_ik - g_k sum_j q_kj,  g_i = c_i D'(r_i),

with `q` the sigmoid's derivative. `g_i` depends on row `i` of the pairs alone, so one
pass over rows gives both, and only documents with `c_i != 0` need a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfr_pipeline.compat import tf
from tfr_pipeline.losses.kernels.batch import Packed
from tfr_pipeline.losses.kernels.closed_form import ClosedForm
from tfr_pipeline.losses.kernels.pair_blocks import Block, Ordered, sums_over_blocks

# Maps ranks to discounts and their derivatives.
Discount = Callable[[Any], tuple[Any, Any]]
# Maps labels `[batch, longest]`, 0 for padding, to the coefficients `c` of each list.
Coefficients = Callable[[Any], Any]


def reciprocal_log(ranks: Any) -> tuple[Any, Any]:
    """`1 / log(1 + r)` and its derivative."""
    value = 1.0 / tf.math.log1p(ranks)
    return value, -tf.square(value) / (1.0 + ranks)


def reciprocal(ranks: Any) -> tuple[Any, Any]:
    """`1 / r` and its derivative."""
    value = 1.0 / ranks
    return value, -tf.square(value)


def ndcg_coefficients(labels: Any, topn: int | None = None) -> Any:
    """Gains over the ideal DCG, float32 `[batch, longest]`; 0 without relevance.

    Gains are scaled by `2^-max(y)`, which cancels and keeps large labels finite.
    """
    top = tf.reduce_max(labels, axis=1, keepdims=True)
    gains = tf.pow(2.0, labels - top) - tf.pow(2.0, -top)
    size = tf.shape(gains)[1]
    size = size if topn is None else tf.minimum(size, topn)
    ideal = tf.math.top_k(gains, size).values
    positions = tf.range(1, size + 1, dtype=tf.float32)
    ideal_dcg = tf.reduce_sum(ideal / tf.math.log1p(positions), axis=1, keepdims=True)
    return tf.math.divide_no_nan(gains, ideal_dcg)


def mrr_coefficients(labels: Any) -> Any:
    """Labels over their sum, float32 `[batch, longest]`; 0 without relevance."""
    return tf.math.divide_no_nan(labels, tf.reduce_sum(labels, axis=1, keepdims=True))


def smooth_metric_losses(
    coefficients: Coefficients, discount: Discount, batch: Packed
) -> ClosedForm:
    """Returns minus `sum_i c_i D(r_i)` of each list, as a closed form of the logits.

    Args:
      coefficients: Gives `c`.
      discount: `D`.
      batch: Labels and mask; the logits are the closed form's argument.

    Returns:
      Closed form with losses and weights `[batch]`.
    """

    def compute(logits: Any, weights: Any) -> tuple[Any, Any]:
        ordered = Ordered.of(batch)
        partition = ordered.partition
        labels = partition.table(ordered.take(batch.labels), 0.0)
        factors = partition.flat(-coefficients(labels))
        logits = ordered.take(logits)
        rows = tf.cast(tf.where(tf.not_equal(factors, 0.0))[:, 0], tf.int32)
        row_ids, row_logits, factors = (
            tf.gather(values, rows) for values in (partition.row_ids, logits, factors)
        )
        if weights is not None:
            list_weights = tf.gather(tf.gather(weights, ordered.lists), row_ids)
        # Padding is far below every score, and adds 0 to ranks and slopes.
        table = partition.table(logits, float("-inf"))

        def block_sums(block: Block) -> tuple[tuple[Any, ...], Any]:
            above = tf.sigmoid(block.columns(table) - block.rows(row_logits))
            # The document itself is counted with sigmoid(0) = 1/2.
            ranks = tf.reduce_sum(above, axis=1, keepdims=True) + 0.5
            values, slopes = (block.rows(factors) * part for part in discount(ranks))
            if weights is not None:
                slopes *= block.rows(list_weights)
            slopes = tf.broadcast_to(slopes, tf.shape(above))
            # dy * y * (1 - y) in one pass over memory.
            slopes = tf.raw_ops.SigmoidGrad(y=above, dy=slopes)
            return (values[:, 0], tf.reduce_sum(slopes, axis=1)), slopes

        (values, row_slopes), slopes = sums_over_blocks(
            row_ids, partition, block_sums, num_sums=2
        )
        slopes -= tf.math.unsorted_segment_sum(row_slopes, rows, partition.total)
        losses = tf.math.unsorted_segment_sum(values, row_ids, tf.size(ordered.lists))
        return ordered.put_lists(losses), ordered.put(slopes)

    return compute
