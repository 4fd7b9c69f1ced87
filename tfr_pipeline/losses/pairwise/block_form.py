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
from tfr_pipeline.gains import for_ratios
from tfr_pipeline.losses.kernels.pair_blocks import Block, Ordered, Partition
from tfr_pipeline.losses.pairwise.lambda_weights import (
    NDCGLoss2PPLambdaWeight,
    PrecisionLambdaWeight,
)

_theirs: Any = tfr.losses_impl
_DCG: Any = _theirs.AbstractDCGLambdaWeight
# Maps ranks of two documents, int32 from 0, to what the pair's weight has of them.
Discount = Callable[[Any, Any], Any]
# A table of discounts holds at most this many (4 MB).
TABLE_CELLS = 1 << 20


@dataclasses.dataclass(frozen=True)
class PairWeights:
    """Weights `|v_i - v_j| D(r_i, r_j)` of pairs, lists ordered by falling score.

    Attributes:
      values: float32 `[valid]`, `v`.
      discount: `D`.
      topn: `D` is 0 if neither rank is among the first `topn`; None if it is not.
    """

    values: Any
    discount: Discount
    topn: int | None = None


@dataclasses.dataclass(frozen=True)
class RankTable:
    """Discounts of pairs of ranks, tabulated where the same ranks come up often.

    Copying a table's rows is ten times faster than looking up single numbers.

    Attributes:
      discount: `D`.
      table: float32 `[row ranks, column ranks]`, or empty.
      filled: bool scalar, whether the table is not empty.
    """

    discount: Discount
    table: Any
    filled: Any

    @classmethod
    def of(
        cls, discount: Discount, row_ranks: Any, columns: Partition, rows: Any
    ) -> RankTable:
        """Makes the table for so many ranks of rows, if there are more rows than that.

        Args:
          discount: `D`.
          row_ranks: int32 scalar, row ranks are below this.
          columns: The columns, whose ranks are their positions.
          rows: int32 scalar, number of rows.
        """
        cells = row_ranks * columns.longest
        filled = tf.logical_and(row_ranks <= rows, cells <= TABLE_CELLS)
        row_ranks = tf.where(filled, row_ranks, 0)
        table = discount(
            tf.range(row_ranks)[:, tf.newaxis], tf.range(columns.longest)[tf.newaxis, :]
        )
        return cls(discount, table, filled)

    def __call__(self, block: Block, row_ranks: Any) -> Any:
        """Returns the discounts of a block; `row_ranks` is int32 `[rows]`."""
        return tf.cond(
            self.filled,
            lambda: tf.gather(
                self.table[:, : block.width], row_ranks[block.start : block.stop]
            ),
            lambda: self.discount(
                block.rows(row_ranks), tf.range(block.width)[tf.newaxis, :]
            ),
        )


def has_block_form(weight: Any) -> bool:
    """Whether `pair_weights` below knows this lambda weight.

    A subclass that changes the formula does not count, one that fixes arguments does.
    """
    cls = type(weight)
    if isinstance(weight, _theirs.PrecisionLambdaWeight):
        formulas = [
            kind.pair_weights
            for kind in (_theirs.PrecisionLambdaWeight, PrecisionLambdaWeight)
        ]
        return cls.pair_weights in formulas and weight._topn is not None
    if isinstance(weight, _theirs.LabelDiffLambdaWeight):
        return cls.pair_weights is _theirs.LabelDiffLambdaWeight.pair_weights
    if isinstance(weight, _theirs.YetiDCGLambdaWeight):
        formula = _theirs.YetiDCGLambdaWeight.pair_weights
    else:
        formula = _DCG.pair_weights
    if isinstance(weight, _DCG):
        return cls.pair_weights is formula and cls._pair_rank_discount in (
            _theirs.DCGLambdaWeight._pair_rank_discount,
            _theirs.DCGLambdaWeightV2._pair_rank_discount,
            NDCGLoss2PPLambdaWeight._pair_rank_discount,
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
        return PairWeights(
            labels, lambda row, column: tf.ones_like(row + column, tf.float32)
        )
    if isinstance(weight, _theirs.PrecisionLambdaWeight):
        return _precision(weight, labels)
    gains = _gains(weight, ordered, labels)
    if isinstance(weight, NDCGLoss2PPLambdaWeight):
        return _loss_2_plus_plus(weight, ordered, gains)
    if isinstance(weight, _theirs.DCGLambdaWeightV2):
        return _dcg_v2(weight, ordered, gains)
    return _dcg(weight, ordered, gains)


def _no_discount(row: Any, column: Any) -> Any:
    return tf.ones_like(row + column, tf.float32)


def _precision(weight: Any, labels: Any) -> PairWeights:
    topn = weight._topn

    def crossing(row: Any, column: Any) -> Any:
        return tf.cast(tf.not_equal(row < topn, column < topn), tf.float32)

    return PairWeights(tf.cast(weight._positive_fn(labels), tf.float32), crossing, topn)


def _gains(weight: Any, ordered: Ordered, labels: Any) -> Any:
    """Gains `[valid]`, normalised and scaled as TF-Ranking does."""
    table = ordered.partition.table(labels, 0.0)
    list_size = _list_size(ordered)
    # On [batch, list] and not on all documents: a gain function may look at a list.
    gain_fn = weight._gain_fn
    if weight._normalized:
        gain_fn = for_ratios(gain_fn)
    gains = gain_fn(table)
    if weight._normalized:
        # TF-Ranking counts padding and masked documents as documents with label 0.
        table = tf.pad(table, [[0, 0], [0, list_size - tf.shape(table)[1]]])
        count = list_size if weight._topn is None else weight._topn
        best = tf.math.top_k(table, tf.minimum(count, list_size)).values
        ranks = tf.range(1, tf.shape(best)[1] + 1, dtype=tf.float32)
        ideal = gain_fn(best) * weight._rank_discount_fn(ranks)
        ideal = tf.reduce_sum(ideal, axis=1, keepdims=True)
        gains *= tf.where(ideal > 0.0, 1.0 / ideal, 0.0)
    return ordered.partition.flat(gains * tf.cast(list_size, tf.float32))


def _list_size(ordered: Ordered) -> Any:
    """What TF-Ranking's list size would be: the longest list with masked documents."""
    return tf.cast(ordered.batch.longest(), tf.int32)


def _relative_discounts(weight: Any, ordered: Ordered) -> Any:
    """`|D(d) - D(d + 1)|` of rank differences `d` from 0, 0 for none: `[longest]`."""
    longest = tf.maximum(ordered.partition.longest, 1)
    differences = tf.range(1, longest + 1, dtype=tf.float32)
    discounts = weight._rank_discount_fn(differences)
    return tf.concat([[0.0], tf.abs(discounts[:-1] - discounts[1:])], axis=0)


def _absolute_discounts(weight: Any, ordered: Ordered) -> Any:
    """`D(r)` of ranks from 1, 0 beyond `topn`: `[longest]`."""
    ranks = tf.range(1, tf.maximum(ordered.partition.longest, 1) + 1, dtype=tf.float32)
    discounts = weight._rank_discount_fn(ranks)
    if not weight._topn:
        return discounts
    return tf.where(ranks > float(weight._topn), 0.0, discounts)


def _dcg(weight: Any, ordered: Ordered, gains: Any) -> PairWeights:
    smooth = weight._smooth_fraction
    relative = (1.0 - smooth) * _relative_discounts(weight, ordered)
    absolute = smooth * _absolute_discounts(weight, ordered)

    def discount(row: Any, column: Any) -> Any:
        discounts = tf.gather(relative, tf.abs(column - row))
        if smooth > 0.0:
            swap = tf.gather(absolute, column) - tf.gather(absolute, row)
            discounts += tf.abs(swap)
        return discounts

    return PairWeights(gains, discount, weight._topn or None)


def _dcg_v2(weight: Any, ordered: Ordered, gains: Any) -> PairWeights:
    relative = _relative_discounts(weight, ordered)
    neighbours = isinstance(weight, _theirs.YetiDCGLambdaWeight)
    topn = weight._topn or None
    if topn is not None:
        ranks = tf.range(1, tf.size(relative) + 1, dtype=tf.float32)
        # The discount of rank 1 may be 1, but rank 1 is never below topn.
        below = ranks > tf.cast(topn, tf.float32)
        beyond = 1.0 - tf.where(below, weight._rank_discount_fn(ranks), 0.0)
        factors = tf.where(below, 1.0 / beyond, 1.0)

    def discount(row: Any, column: Any) -> Any:
        apart = tf.abs(column - row)
        discounts = tf.gather(relative, apart)
        if topn is not None:
            discounts *= tf.gather(factors, tf.maximum(row, column))
        return tf.where(apart == 1, discounts, 0.0) if neighbours else discounts

    return PairWeights(gains, discount)


def _loss_2_plus_plus(weight: Any, ordered: Ordered, gains: Any) -> PairWeights:
    absolute = _absolute_discounts(weight, ordered)
    relative = _dcg_v2(weight, ordered, gains).discount

    def discount(row: Any, column: Any) -> Any:
        swap = tf.gather(absolute, column) - tf.gather(absolute, row)
        return tf.abs(swap) + weight._mu * relative(row, column)

    return PairWeights(gains, discount)
