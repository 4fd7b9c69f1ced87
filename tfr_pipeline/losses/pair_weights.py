"""TF-Ranking's lambda weights in a form for blocks of pairs.

TF-Ranking builds `[batch, list, list]` weights. Here gains and discounts are
evaluated once for each document and each rank, and a block looks them up. Weights
with `topn` that are 0 for a pair outside the first `topn` ranks say so, and such pairs
are never formed: that is LightGBM's `lambdarank_truncation_level`, and exact.

Source of the formulas: Wang et al., "The LambdaLoss Framework for Ranking Metric
Optimization", CIKM 2018, equations 9, 12 and 18.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.losses.blocks import Ordered

_theirs: Any = tfr.losses_impl
_DCG: Any = _theirs.AbstractDCGLambdaWeight
# `(row values, column values, row ranks, column ranks) -> weights`; row values have
# the shape [rows, 1], column values [rows, columns], column ranks [1, columns], all
# of them float32 and the ranks int32, counted from 0.
Combine = Callable[[Any, Any, Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class PairWeights:
    """Weights of the pairs of a batch whose lists are ordered by falling score.

    Attributes:
      values: float32 `[valid]`, what enters the weight of a document's pairs.
      combine: Makes weights of the values and ranks of two documents.
      topn: Pairs of which neither document ranks among the first `topn` have weight
        0; None if all pairs count.
    """

    values: Any
    combine: Combine
    topn: int | None = None


def has_block_form(weight: Any) -> bool:
    """Whether `pair_weights` below knows this lambda weight.

    A subclass that changes the formula does not count, one that fixes arguments does.
    """
    cls = type(weight)
    if isinstance(weight, _theirs.PrecisionLambdaWeight):
        formula = _theirs.PrecisionLambdaWeight.pair_weights
        return cls.pair_weights is formula and weight._topn is not None
    if isinstance(weight, _theirs.LabelDiffLambdaWeight):
        return cls.pair_weights is _theirs.LabelDiffLambdaWeight.pair_weights
    if isinstance(weight, (_theirs.DCGLambdaWeight, _theirs.DCGLambdaWeightV2)):
        return cls.pair_weights is _DCG.pair_weights and cls._pair_rank_discount in (
            _theirs.DCGLambdaWeight._pair_rank_discount,
            _theirs.DCGLambdaWeightV2._pair_rank_discount,
        )
    return False


def pair_weights(weight: Any, ordered: Ordered, labels: Any) -> PairWeights:
    """Returns the block form of a lambda weight.

    Args:
      weight: Lambda weight for which `has_block_form` is true.
      ordered: The batch, documents by falling score.
      labels: float32 `[valid]` in that order.
    """
    if isinstance(weight, _theirs.LabelDiffLambdaWeight):
        return PairWeights(labels, lambda row, column, *_: tf.abs(column - row))
    if isinstance(weight, _theirs.PrecisionLambdaWeight):
        return _precision(weight, labels)
    gains = _gains(weight, ordered, labels)
    if isinstance(weight, _theirs.DCGLambdaWeightV2):
        return _dcg_v2(weight, ordered, gains)
    return _dcg(weight, ordered, gains)


def _precision(weight: Any, labels: Any) -> PairWeights:
    topn = weight._topn

    def combine(row: Any, column: Any, row_rank: Any, column_rank: Any) -> Any:
        crossing = tf.not_equal(row_rank < topn, column_rank < topn)
        return tf.abs(column - row) * tf.cast(crossing, tf.float32)

    return PairWeights(tf.cast(weight._positive_fn(labels), tf.float32), combine, topn)


def _gains(weight: Any, ordered: Ordered, labels: Any) -> Any:
    """Gains `[valid]`, normalised and scaled as TF-Ranking does."""
    table = ordered.partition.table(labels, 0.0)
    list_size = _list_size(ordered)
    # On [batch, list] and not on all documents: a gain function may look at a list.
    gains = weight._gain_fn(table)
    if weight._normalized:
        # TF-Ranking counts padding and masked documents as documents with label 0.
        table = tf.pad(table, [[0, 0], [0, list_size - tf.shape(table)[1]]])
        count = list_size if weight._topn is None else weight._topn
        best = tf.math.top_k(table, tf.minimum(count, list_size)).values
        ranks = tf.range(1, tf.shape(best)[1] + 1, dtype=tf.float32)
        ideal = weight._gain_fn(best) * weight._rank_discount_fn(ranks)
        ideal = tf.reduce_sum(ideal, axis=1, keepdims=True)
        gains *= tf.where(ideal > 0.0, 1.0 / ideal, 0.0)
    return ordered.partition.flat(gains * tf.cast(list_size, tf.float32))


def _list_size(ordered: Ordered) -> Any:
    """What TF-Ranking's list size would be: the longest list with masked documents."""
    longest = tf.cast(ordered.batch.lists.bounding_shape(axis=1), tf.int32)
    return tf.maximum(longest, 1)


def _relative_discounts(weight: Any, ordered: Ordered) -> Any:
    """`|D(d) - D(d + 1)|` of rank differences `d` from 0, 0 for none: `[longest]`."""
    longest = tf.maximum(ordered.partition.longest, 1)
    differences = tf.range(1, longest + 1, dtype=tf.float32)
    discounts = weight._rank_discount_fn(differences)
    return tf.concat([[0.0], tf.abs(discounts[:-1] - discounts[1:])], axis=0)


def _dcg(weight: Any, ordered: Ordered, gains: Any) -> PairWeights:
    smooth = weight._smooth_fraction
    relative = (1.0 - smooth) * _relative_discounts(weight, ordered)
    ranks = tf.range(1, tf.maximum(ordered.partition.longest, 1) + 1, dtype=tf.float32)
    absolute = smooth * weight._rank_discount_fn(ranks)
    topn = weight._topn or None
    if topn is not None:
        absolute = tf.where(ranks > topn, 0.0, absolute)

    def combine(row: Any, column: Any, row_rank: Any, column_rank: Any) -> Any:
        discounts = 0.0
        if smooth < 1.0:
            discounts = tf.gather(relative, tf.abs(column_rank - row_rank))
        if smooth > 0.0:
            of_row, of_column = (
                tf.gather(absolute, r) for r in (row_rank, column_rank)
            )
            discounts += tf.abs(of_column - of_row)
        return tf.abs(column - row) * discounts

    return PairWeights(gains, combine, topn)


def _dcg_v2(weight: Any, ordered: Ordered, gains: Any) -> PairWeights:
    relative = _relative_discounts(weight, ordered)
    topn = weight._topn or None
    if topn is not None:
        ranks = tf.range(1, tf.size(relative) + 1, dtype=tf.float32)
        # The discount of rank 1 may be 1, but rank 1 is never below topn.
        below = ranks > tf.cast(topn, tf.float32)
        beyond = 1.0 - tf.where(below, weight._rank_discount_fn(ranks), 0.0)
        factors = tf.where(below, 1.0 / beyond, 1.0)

    def combine(row: Any, column: Any, row_rank: Any, column_rank: Any) -> Any:
        weights = tf.gather(relative, tf.abs(column_rank - row_rank))
        if topn is not None:
            weights *= tf.gather(factors, tf.maximum(row_rank, column_rank))
        return tf.abs(column - row) * weights

    return PairWeights(gains, combine)
