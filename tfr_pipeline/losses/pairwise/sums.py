"""Losses over pairs of documents of one list, with their gradient in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfr_pipeline.compat import tf
from tfr_pipeline.losses.kernels.batch import Packed
from tfr_pipeline.losses.kernels.closed_form import ClosedForm
from tfr_pipeline.losses.kernels.pair_blocks import (
    Block,
    Ordered,
    Partition,
    sums_over_blocks,
)
from tfr_pipeline.losses.pairwise.block_form import (
    PairWeights,
    RankTable,
    has_block_form,
    pair_weights,
)

# Maps the worse minus the better score to a loss and its derivative; minus infinity
# to (0, 0), which is how pairs that do not count are left out.
PairLoss = Callable[[Any], tuple[Any, Any]]


def logistic(difference: Any) -> tuple[Any, Any]:
    """`log(1 + exp(d))` and its derivative `sigmoid(d)`, for any `d`."""
    # softplus is three times slower on CPU, and here one exponential serves both. The
    # smaller of sigmoid(d) and sigmoid(-d) is exact where the loss hangs on it.
    slope = tf.sigmoid(difference)
    rest = tf.math.log1p(-tf.minimum(slope, 1.0 - slope))
    return tf.nn.relu(difference) - rest, slope


def hinge(difference: Any) -> tuple[Any, Any]:
    """`max(0, 1 + d)` and its derivative."""
    loss = tf.nn.relu(1.0 + difference)
    return loss, tf.cast(loss > 0.0, tf.float32)


def soft_zero_one(difference: Any) -> tuple[Any, Any]:
    """`sigmoid(d)` and its derivative."""
    loss = tf.sigmoid(difference)
    return loss, loss * (1.0 - loss)


def square(difference: Any) -> tuple[Any, Any]:
    """`d^2` and its derivative."""
    difference = tf.where(tf.math.is_inf(difference), 0.0, difference)
    return tf.square(difference), 2.0 * difference


def pair_losses(loss: PairLoss, lambda_weight: Any, batch: Packed) -> ClosedForm:
    """Returns `sum_j w_ij [y_i > y_j] loss(s_j - s_i)` of each document.

    The loss is that of the better document `i`; `w_ij` is the lambda weight, to which
    no gradient flows. Memory is O(documents) plus one block. With a lambda weight that
    has a `topn` only pairs with a document among the first `topn` are formed.

    Args:
      loss: Loss of a pair.
      lambda_weight: None, or one for which `has_block_form` is true.
      batch: Labels and mask; the logits are the closed form's argument.

    Returns:
      Closed form with losses and weights `[documents]`.
    """
    assert lambda_weight is None or has_block_form(lambda_weight)

    def compute(logits: Any, weights: Any) -> tuple[Any, Any]:
        ordered = Ordered.of(batch)
        if lambda_weight is not None:
            ordered = ordered.by_score(logits)
        labels = ordered.take(batch.labels)
        sums = _Sums(
            loss,
            labels,
            ordered.take(logits),
            None
            if lambda_weight is None
            else pair_weights(lambda_weight, ordered, labels),
            None if weights is None else ordered.take(weights),
        )
        losses, gradient = sums.all(ordered.partition)
        return ordered.put(losses), ordered.put(gradient)

    return compute


def squared_pair_losses(lambda_weight: Any, batch: Packed) -> ClosedForm:
    """Returns `sum_j w_ij ((y_i - y_j) - (s_i - s_j))^2` of each document.

    The sum is over all other documents, better and worse; `w_ij`, the lambda weight, is
    0 for equal labels. Cost as `pair_losses`.

    Args:
      lambda_weight: One for which `has_block_form` is true.
      batch: Labels and mask; the logits are the closed form's argument.

    Returns:
      Closed form with losses and weights `[documents]`.
    """

    def compute(logits: Any, weights: Any) -> tuple[Any, Any]:
        ordered = Ordered.of(batch).by_score(logits)
        labels = ordered.take(batch.labels)
        residuals = labels - ordered.take(logits)
        pairs = pair_weights(lambda_weight, ordered, labels)
        weights = None if weights is None else ordered.take(weights)
        # A pair counts for its better and for its worse document.
        better, worse = (
            _Sums(square, order, residuals, pairs, weights).all(ordered.partition)
            for order in (labels, -labels)
        )
        return ordered.put(better[0] + worse[0]), -ordered.put(better[1] + worse[1])

    return compute


class _Sums:
    """Sums over the pairs of a batch; every argument is `[valid]`, in its order."""

    def __init__(
        self,
        loss: PairLoss,
        labels: Any,
        logits: Any,
        pair_weights: PairWeights | None,
        weights: Any,
    ):
        self.loss = loss
        self.labels = labels
        self.logits = logits
        self.pair_weights = pair_weights
        self.weights = weights

    def all(self, partition: Partition) -> tuple[Any, Any]:
        """Returns losses and gradient, float32 `[valid]`."""
        topn = self.pair_weights.topn if self.pair_weights else None
        everything = tf.range(partition.total)
        if topn is None:
            return self.part(partition, everything, partition, everything)
        in_top = partition.positions() < topn
        top, below = (tf.where(part)[:, 0] for part in (in_top, ~in_top))
        top, below = tf.cast(top, tf.int32), tf.cast(below, tf.int32)
        tops = Partition.of(tf.minimum(partition.lengths, topn))
        # The better document is in the top, or it is below and the worse one is.
        losses, gradient = self.part(partition, top, partition, everything, topn)
        more = self.part(partition, below, tops, top)
        return losses + more[0], gradient + more[1]

    def part(
        self,
        partition: Partition,
        rows: Any,
        columns: Partition,
        members: Any,
        limited: int | None = None,
    ) -> tuple[Any, Any]:
        """The part of the better documents `rows` and the worse ones `members`.

        Args:
          partition: Of the batch.
          rows: int32 `[rows]`, documents, ascending.
          columns: Partition of `members`.
          members: int32 `[columns]`, documents, the first ones of each list.
          limited: Number of ranks that the rows have at most, if that is known.
        """
        labels = columns.table(tf.gather(self.labels, members), float("inf"))
        logits = columns.table(tf.gather(self.logits, members), 0.0)
        # Most documents of a list often have the lowest label: no row for them.
        lowest = tf.gather(tf.reduce_min(labels, axis=1), partition.row_ids)
        rows = tf.boolean_mask(rows, tf.gather(self.labels > lowest, rows))
        row_ids = tf.gather(partition.row_ids, rows)
        row_labels, row_logits = (
            tf.gather(values, rows) for values in (self.labels, self.logits)
        )
        weights = None if self.weights is None else tf.gather(self.weights, rows)
        form = self.pair_weights
        if form is not None:
            column_values = columns.table(tf.gather(form.values, members), 0.0)
            row_values = tf.gather(form.values, rows)
            row_ranks = tf.gather(partition.positions(), rows)
            limit = partition.longest
            limit = limit if limited is None else tf.minimum(limit, limited)
            discounts = RankTable.of(form.discount, limit, columns, tf.size(rows))

        def block_sums(block: Block) -> tuple[tuple[Any, ...], Any]:
            difference = block.columns(logits) - block.rows(row_logits)
            worse = block.columns(labels) < block.rows(row_labels)
            losses, slopes = self.loss(tf.where(worse, difference, float("-inf")))
            if form is not None:
                factors = tf.abs(block.columns(column_values) - block.rows(row_values))
                factors *= discounts(block, row_ranks)
                losses, slopes = losses * factors, slopes * factors
            if weights is not None:
                slopes *= block.rows(weights)
            return tuple(tf.reduce_sum(x, axis=1) for x in (losses, slopes)), slopes

        (losses, slopes), column_slopes = sums_over_blocks(
            row_ids, columns, block_sums, num_sums=2
        )

        def spread(values: Any, documents: Any) -> Any:
            return tf.math.unsorted_segment_sum(values, documents, partition.total)

        return (
            spread(losses, rows),
            spread(column_slopes, members) - spread(slopes, rows),
        )
