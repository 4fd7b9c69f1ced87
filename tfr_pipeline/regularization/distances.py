"""Weighted distances between nodes and their neighbours, those of NSL.

What `neural_structured_learning.lib.distances.pairwise_distance_wrapper` computes, for
nodes whose number of numbers is known only when there is a batch, and which may have
some of them only: the scores of two lists.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfr_pipeline.data.batching.plan import plain
from tfr_pipeline.regularization.settings import (
    BY_NONZERO,
    COSINE,
    JENSEN_SHANNON,
    KL,
    L1,
    L2,
    MEAN,
    OVER_BATCH,
    SOFTMAX,
    SUM,
    GraphSettings,
)

_LITTLE = 1e-7  # as in NSL: keeps logarithms finite


@plain
def total(
    settings: GraphSettings,
    sources: Any,
    targets: Any,
    weights: Any,
    places: Any,
    mask: Any = None,
) -> Any:
    """Returns the reduced distance of a batch, without the multiplier.

    Args:
      settings: Says which distance.
      sources: float32 `[edges, numbers]`.
      targets: float32 `[edges, numbers]`.
      weights: float32 `[edges]`; edges of weight 0 may be left out.
      places: Number of edges that there could have been; for
        `weighted_sum_over_batch_size`.
      mask: bool `[edges, numbers]`, which numbers both nodes have; None for all.

    Returns:
      float32 scalar, 0 without edges.

    Example:
      >>> settings = GraphSettings(max_neighbors=1, sum_over_axis=-1)
      >>> one, other = tf.constant([[1.0, 2.0]]), tf.constant([[0.0, 4.0]])
      >>> float(total(settings, one, other, tf.constant([1.0]), 1))
      5.0
    """
    if settings.transform_fn == SOFTMAX:
        sources, targets = _softmax(sources, mask), _softmax(targets, mask)
    elif mask is not None:
        sources, targets = (tf.where(mask, x, 0.0) for x in (sources, targets))
    found = _distances(settings.distance_type, sources, targets)
    together = settings.sum_over_axis is not None
    if together and settings.distance_type in (L1, L2):
        found = tf.reduce_sum(found, axis=1, keepdims=True)
    columns = tf.ones_like(found)
    if mask is not None and not together:
        columns = tf.cast(mask, found.dtype)
    weights = tf.cast(weights, found.dtype)[:, tf.newaxis] * columns
    result = tf.reduce_sum(found * weights)
    if settings.reduction == SUM:
        return result
    if settings.reduction == MEAN:
        count = tf.reduce_sum(weights)
    elif settings.reduction == BY_NONZERO:
        count = tf.cast(tf.math.count_nonzero(weights), found.dtype)
    else:
        assert settings.reduction == OVER_BATCH
        # Of lists the longest counts, as if all were padded to it.
        count = tf.cast(tf.cast(places, tf.int32) * tf.shape(found)[1], found.dtype)
    return tf.math.divide_no_nan(result, count)


def _softmax(values: Any, mask: Any) -> Any:
    if mask is None:
        return tf.nn.softmax(values)
    values = tf.nn.softmax(tf.where(mask, values, values.dtype.min))
    return tf.where(mask, values, 0.0)


def _distances(name: str, sources: Any, targets: Any) -> Any:
    """Returns `[edges, numbers]`, or `[edges, 1]` of those of vectors."""
    if name == L1:
        return tf.abs(sources - targets)
    if name == L2:
        return tf.math.squared_difference(sources, targets)
    if name == COSINE:
        product = tf.nn.l2_normalize(sources, 1) * tf.nn.l2_normalize(targets, 1)
        return 1.0 - tf.reduce_sum(product, axis=1, keepdims=True)
    checks = [*_are_chances(sources), *_are_chances(targets)]
    with tf.control_dependencies(checks):
        if name == KL:
            found = _divergence(sources, targets)
        else:
            assert name == JENSEN_SHANNON
            middle = 0.5 * (sources + targets)
            found = _divergence(sources, middle) + _divergence(targets, middle)
            found = 0.5 * found
    return tf.reduce_sum(found, axis=1, keepdims=True)


def _divergence(true: Any, other: Any) -> Any:
    return true * (tf.math.log(true + _LITTLE) - tf.math.log(other + _LITTLE))


def _are_chances(values: Any) -> list[Any]:
    message = (
        "graph.distance_type: a divergence compares probabilities, which are not below "
        "0 and have the sum 1; set graph.transform_fn='softmax' for a model whose "
        "scores are none"
    )
    checks = [
        tf.debugging.assert_non_negative(values, message),
        tf.debugging.assert_near(
            tf.reduce_sum(values, axis=1), tf.ones([], values.dtype), message=message
        ),
    ]
    return [check for check in checks if check is not None]
