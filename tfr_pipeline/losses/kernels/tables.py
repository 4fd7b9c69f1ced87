"""Losses of whole lists that are computed on tables `[batch, list_size]`."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.compat import tf

# Stands for minus infinity: its sums and differences are finite, so are gradients.
LOWEST = -1e30


def list_weights(labels: Any, sample_weight: Any) -> Any:
    """Returns mean weights by label, `[batch, 1]`, or 1.0 if there are none.

    The same as `Packed.list_weights`, on tables.

    Args:
      labels: float32 `[batch, list_size]`, not negative.
      sample_weight: None, a scalar, `[batch, 1]` or `[batch, list_size]`.
    """
    if sample_weight is None:
        return 1.0
    weighted = tf.reduce_sum(labels * sample_weight, axis=1, keepdims=True)
    return tf.math.divide_no_nan(weighted, tf.reduce_sum(labels, 1, keepdims=True))


def log_sum_exp_below(labels: Any, values: Any, mask: Any) -> Any:
    """Returns `log sum_{y_j < y_i} exp(v_j)` of each document, `LOWEST` for no `j`.

    One sort and one scan instead of all pairs.

    Args:
      labels: float32 `[batch, list_size]`, `y`.
      values: float32 `[batch, list_size]`, `v`.
      mask: bool `[batch, list_size]`; masked documents are nobody's `j`.
    """
    keys = tf.where(mask, labels, float("inf"))
    order = tf.argsort(keys, axis=1, stable=True)
    ordered = tf.gather(keys, order, batch_dims=1)
    values = tf.gather(tf.where(mask, values, LOWEST), order, batch_dims=1)
    sums = tf.math.cumulative_logsumexp(values, axis=1, exclusive=True)
    # The first document with the same label has summed all that are below.
    first = tf.searchsorted(ordered, keys, side="left")
    sums = tf.gather(sums, first, batch_dims=1)
    return tf.where(first > 0, tf.maximum(sums, LOWEST), LOWEST)
