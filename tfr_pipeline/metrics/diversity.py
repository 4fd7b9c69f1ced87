"""Metrics of labels by subtopic, `[batch, list, subtopics]`.

A label of 1 or more means that the document covers the subtopic, a negative one that
the query has no such subtopic, or that there is no such document if all are negative.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.metrics.base import TwoLayouts, register, theirs
from tfr_pipeline.metrics.batch import (
    LARGEST,
    Batch,
    discounts,
    finite_weights,
    masked_scores,
    mean_over_ties,
    padded,
    sort_descending,
    tie_bounds,
)


class _Diversity(TwoLayouts):
    """A metric of labels by subtopic."""

    _topn: int | None

    def per_list(self, y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any]:
        """See base class."""
        labels, scores, weights = padded(y_true, y_pred, sample_weight)
        if labels.shape.rank not in (3, None):
            raise ConfigError(
                f"{type(self).__name__} expects labels of shape [batch, list_size, "
                f"subtopics]. Received: shape {labels.shape}."
            )
        mask = tf.reduce_any(labels >= 0.0, axis=2)
        labels = tf.clip_by_value(labels, 0.0, LARGEST)
        covers = tf.reduce_any(labels >= 1.0, axis=2)
        batch = Batch(
            labels=tf.cast(covers, tf.float32),
            scores=masked_scores(scores, mask),
            weights=finite_weights(weights, scores),
            mask=mask,
        )
        list_weights = self.list_weights(batch, batch.labels)
        return self.value(batch, labels, list_weights), list_weights

    def value(self, batch: Batch, labels: Any, list_weights: Any) -> Any:
        """Returns the metric of each list, float32 `[batch, 1]`.

        Args:
          batch: Scores, weights and mask; labels say whether any subtopic is covered.
          labels: float32 `[batch, width, subtopics]`, not negative.
          list_weights: float32 `[batch, 1]`.
        """
        raise NotImplementedError


@register
class PrecisionIAMetric(_Diversity, theirs.PrecisionIAMetric):
    """Intent-aware precision: mean precision among the first `topn`, over subtopics.

    Subtopics that no document covers do not count. Clarke et al., "Overview of the TREC
    2009 Web Track". Ties count with their expectation over random orders.

    Example:
      >>> float(PrecisionIAMetric(topn=1)([[[1.0, 0.0], [0.0, 1.0]]], [[0.9, 0.1]]))
      0.5
    """

    def value(self, batch: Batch, labels: Any, list_weights: Any) -> Any:
        """See base class."""
        covered = tf.cast(labels >= 1.0, tf.float32)
        inside = discounts(tf.shape(labels)[1], tf.ones_like, self._topn)
        bounds = tie_bounds(sort_descending(batch.scores), batch.scores)
        hits = tf.reduce_sum(covered, axis=2) * mean_over_ties(inside, *bounds)
        subtopics = tf.reduce_max(covered, axis=1)
        # The maximum over no documents is minus infinity.
        subtopics = tf.reduce_sum(tf.nn.relu(subtopics), axis=1, keepdims=True)
        size = batch.lengths
        if self._topn is not None:
            size = tf.minimum(size, float(self._topn))
        total = tf.reduce_sum(hits, axis=1, keepdims=True)
        return tf.math.divide_no_nan(total, size * subtopics)


@register
class AlphaDCGMetric(_Diversity, theirs.AlphaDCGMetric):
    """DCG that pays `1 - alpha` less each time a subtopic has been seen before.

    Clarke et al., "Novelty and Diversity in Information Retrieval Evaluation", SIGIR
    2008. Within a tie the documents that cover least stand first: the value does not
    depend on chance, nor on the order of the documents.

    Example:
      >>> float(AlphaDCGMetric(topn=1)([[[1.0, 1.0], [0.0, 1.0]]], [[0.9, 0.1]]))
      2.0
    """

    def __init__(
        self,
        name: str = "alpha_dcg_metric",
        topn: int | None = None,
        alpha: float = 0.5,
        rank_discount_fn: Callable[[Any], Any] | None = None,
        seed: int | None = None,
        dtype: Any = None,
        ragged: bool = False,
        **kwargs: Any,
    ):
        """Initializer.

        Args:
          name: Name of the metric.
          topn: Number of first positions that count; None for all.
          alpha: What a subtopic loses each time it is covered, between 0 and 1.
          rank_discount_fn: Maps positions to discounts; None stands for
            `1 / log2(1 + rank)`.
          seed: Has no effect: ties are not broken by chance.
          dtype: dtype of the metric's state.
          ragged: Kept for TF-Ranking's sake; the layout is read off the tensors.
          **kwargs: Further arguments of `tf.keras.metrics.Mean`.

        Raises:
          ConfigError: `alpha` is not between 0 and 1.
        """
        if not 0.0 <= alpha <= 1.0:
            raise ConfigError(
                f"`alpha` should be between 0 and 1. Received: alpha = {alpha}."
            )
        if seed is not None:
            warnings.warn(
                "`seed` has no effect on alpha-DCG: ties are not broken by chance.",
                stacklevel=2,
            )
        super().__init__(
            name, topn, alpha, rank_discount_fn, seed, dtype, ragged, **kwargs
        )

    def value(self, batch: Batch, labels: Any, list_weights: Any) -> Any:
        """See base class."""
        labels = tf.where(batch.mask[:, :, tf.newaxis], labels, 0.0)
        order = _worst_order(batch, labels)
        ranked, weights = (
            tf.gather(values, order, batch_dims=1) for values in (labels, batch.weights)
        )
        seen = tf.cumsum(ranked, axis=1, exclusive=True)
        gains = tf.reduce_sum(ranked * tf.pow(1.0 - self._alpha, seen), axis=2)
        discount = discounts(tf.shape(gains)[1], self._rank_discount_fn, self._topn)
        total = tf.reduce_sum(weights * gains * discount, axis=1, keepdims=True)
        return tf.math.divide_no_nan(total, list_weights)


def _worst_order(batch: Batch, labels: Any) -> Any:
    """Documents by falling score, least gain first in a tie: int32 `[batch, width]`.

    Documents of the same gain are ordered by which subtopics they cover, so that the
    order of the input does not matter.
    """
    subtopics = tf.range(tf.shape(labels)[2], dtype=tf.float32)
    mixed = tf.reduce_sum(labels * tf.sqrt(subtopics + 2.0), axis=2) * batch.weights
    gain = tf.reduce_sum(labels, axis=2) * batch.weights
    order = tf.argsort(mixed, stable=True)
    for key in (gain, -batch.scores):
        by_key = tf.argsort(tf.gather(key, order, batch_dims=1), stable=True)
        order = tf.gather(order, by_key, batch_dims=1)
    return order
