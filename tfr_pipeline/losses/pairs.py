"""Pairs of documents of one list, on dense `[batch, longest, longest]` blocks.

The one place that holds all pairs at once: a blocked or closed form replaces the
functions here without touching the losses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfr_pipeline.compat import tf


def ranks_by_score(logits: Any, mask: Any) -> Any:
    """Returns 1-based ranks by falling score, int32 `[batch, longest]`.

    Ties are ranked in the order of the documents, masked documents last.
    """
    keys = tf.where(mask, -tf.stop_gradient(logits), float("inf"))
    order = tf.argsort(keys, axis=1, stable=True)
    return tf.argsort(order, axis=1) + 1


def pair_losses(
    loss: Callable[[Any], Any], lambda_weight: Any, labels: Any, logits: Any, mask: Any
) -> Any:
    """Returns `sum_j w_ij [y_i > y_j] loss(s_i - s_j)`, float32 `[batch, longest]`.

    Args:
      loss: Maps score differences to losses, elementwise.
      lambda_weight: Object with `pair_weights(labels, ranks)`, or None for weight 1.
      labels: float32 `[batch, longest]`, -1 where `mask` is false.
      logits: float32 `[batch, longest]`.
      mask: bool `[batch, longest]`.
    """
    better = labels[:, :, tf.newaxis] > labels[:, tf.newaxis, :]
    # The better document of a pair has a label above another's, so it is valid.
    weights = tf.cast(better & mask[:, tf.newaxis, :], tf.float32)
    if lambda_weight is not None:
        ranks = ranks_by_score(logits, mask)
        weights *= lambda_weight.pair_weights(labels, ranks)
    differences = logits[:, :, tf.newaxis] - logits[:, tf.newaxis, :]
    return tf.reduce_sum(tf.stop_gradient(weights) * loss(differences), axis=2)


def approximate_ranks(logits: Any, mask: Any) -> Any:
    """Returns `1 + sum_{j != i} sigmoid(s_j - s_i)`, float32 `[batch, longest]`.

    Qin et al., "A General Approximation Framework for Direct Optimization of
    Information Retrieval Measures", Information Retrieval 2010, equation 11.
    """
    above = tf.sigmoid(logits[:, tf.newaxis, :] - logits[:, :, tf.newaxis])
    above = tf.where(mask[:, tf.newaxis, :], above, 0.0)
    # The document itself is counted with sigmoid(0) = 1/2.
    return tf.reduce_sum(above, axis=2) + 0.5
