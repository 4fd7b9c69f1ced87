"""Sums over pairs of documents of one list, in blocks of bounded size.

A block is a run of rows (documents) times all columns (other documents of the rows'
lists). Lists are ordered by falling length, so a block has rows of similar lists and
is as wide as the first of them: short lists do not pay for long ones, and memory does
not grow with the square of the longest list.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from tfr_pipeline.compat import tf
from tfr_pipeline.losses.kernels.batch import Packed, take_cells

# 2 MB of float32: on one thread no slower than what fits the cache of a core, and large
# enough to be shared out among threads (a quarter of it is 25% slower on two).
BLOCK_PAIRS = 1 << 19
# Rows of a block at least, since a block costs about 0.1 ms however small it is.
BLOCK_ROWS = 16


@dataclasses.dataclass(frozen=True)
class Partition:
    """Items, each of a list; lists in the order of falling length.

    Attributes:
      row_ids: int32 `[items]`, the list of each item, ascending.
      lengths: int32 `[batch]`, items of each list, falling.
      starts: int32 `[batch]`, the first item of each list.
      total: int32 scalar, the number of items.
      longest: int32 scalar, the longest list's length.
    """

    row_ids: Any
    lengths: Any
    starts: Any
    total: Any
    longest: Any

    @classmethod
    def of(cls, lengths: Any) -> Partition:
        """Makes the partition of lists of these lengths."""
        total = tf.reduce_sum(lengths)
        return cls(
            row_ids=tf.repeat(tf.range(tf.size(lengths)), lengths),
            lengths=lengths,
            starts=tf.cumsum(lengths, exclusive=True),
            total=total,
            longest=tf.reduce_max(tf.concat([lengths, [0]], axis=0)),
        )

    def positions(self) -> Any:
        """Returns the 0-based position of each item in its list, int32 `[items]`."""
        return tf.range(self.total) - tf.gather(self.starts, self.row_ids)

    def table(self, values: Any, fill: Any) -> Any:
        """Pads `[items]` to `[batch, longest]`."""
        splits = tf.concat([self.starts, [self.total]], axis=0)
        ragged = tf.RaggedTensor.from_row_splits(values, splits, validate=False)
        return ragged.to_tensor(fill)

    def flat(self, table: Any) -> Any:
        """Takes the items `[items]` back out of a table `[batch, longest]`."""
        return take_cells(table, self.lengths)


@dataclasses.dataclass(frozen=True)
class Ordered:
    """The valid documents of a batch, lists in the order of falling length.

    Attributes:
      partition: Into lists, of valid documents only.
      documents: int32 `[valid]`, where each document is in the batch.
      lists: int32 `[batch]`, where each list is in the batch.
      batch: The batch.
    """

    partition: Partition
    documents: Any
    lists: Any
    batch: Packed

    @classmethod
    def of(cls, batch: Packed) -> Ordered:
        """Orders a batch."""
        counts = tf.cast(batch.sum(tf.cast(batch.mask, tf.int32)), tf.int32)
        lists = tf.argsort(counts, direction="DESCENDING", stable=True)
        documents = batch.ragged(tf.range(tf.size(batch.labels)))
        documents = tf.gather(documents, lists).values
        return cls(
            partition=Partition.of(tf.gather(counts, lists)),
            documents=tf.boolean_mask(documents, tf.gather(batch.mask, documents)),
            lists=lists,
            batch=batch,
        )

    def by_score(self, logits: Any) -> Ordered:
        """Orders the documents of each list by falling logit; ties keep their order."""
        table = self.partition.table(self.take(logits), float("-inf"))
        order = tf.math.top_k(table, tf.shape(table)[1]).indices
        order = self.partition.flat(order + self.partition.starts[:, tf.newaxis])
        return dataclasses.replace(self, documents=tf.gather(self.documents, order))

    def take(self, values: Any) -> Any:
        """Takes `[documents]` of the batch in this order: `[valid]`."""
        return tf.gather(values, self.documents)

    def put(self, values: Any) -> Any:
        """Puts `[valid]` back: `[documents]` of the batch, 0 for masked ones."""
        return tf.math.unsorted_segment_sum(
            values, self.documents, tf.size(self.batch.labels)
        )

    def put_lists(self, values: Any) -> Any:
        """Puts `[batch]` back into the order of the batch."""
        return tf.math.unsorted_segment_sum(values, self.lists, tf.size(self.lists))


@dataclasses.dataclass(frozen=True)
class Block:
    """One block of pairs.

    Attributes:
      start, stop: The block's rows.
      first, last: The lists of the first and of the last row.
      width: Columns.
      ids: int32 `[rows of the block]`, the list of each, counted from `first`.
    """

    start: Any
    stop: Any
    first: Any
    last: Any
    width: Any
    ids: Any

    def rows(self, values: Any) -> Any:
        """Cuts `[rows]` to this block's, as a column `[rows of the block, 1]`."""
        return values[self.start : self.stop, tf.newaxis]

    def columns(self, table: Any) -> Any:
        """Spreads a table `[batch, longest]` over the block `[rows, width]`."""
        part = table[self.first : self.last + 1, : self.width]
        return tf.gather(part, self.ids)


BlockFunction = Callable[[Block], tuple[tuple[Any, ...], Any]]


def sums_over_blocks(
    row_ids: Any, columns: Partition, function: BlockFunction, num_sums: int
) -> tuple[list[Any], Any]:
    """Runs a function over blocks of pairs and gathers its sums.

    Args:
      row_ids: int32 `[rows]`, the list of each row, ascending.
      columns: Columns of each list.
      function: Maps a block to `num_sums` sums over columns, float32
        `[rows of the block]` each, and to float32 `[rows of the block, width]` that
        is to be summed over rows.
      num_sums: How many sums over columns there are.

    Returns:
      Sums over columns, float32 `[rows]` each, and sums over rows, float32
      `[columns]`.
    """
    num_rows = tf.size(row_ids)
    positions = columns.positions()

    def body(start: Any, *sums: Any) -> tuple[Any, ...]:
        first = row_ids[start]
        width = columns.lengths[first]
        rows = tf.maximum(BLOCK_PAIRS // tf.maximum(width, 1), BLOCK_ROWS)
        stop = tf.minimum(start + rows, num_rows)
        last = row_ids[stop - 1]
        ids = row_ids[start:stop] - first
        over_columns, cells = function(Block(start, stop, first, last, width, ids))
        # The ids are sorted: unlike on vectors, this is the fast one on matrices.
        over_rows = tf.reshape(tf.math.segment_sum(cells, ids), [-1])
        low = columns.starts[first]
        high = columns.starts[last] + columns.lengths[last]
        cell = (columns.row_ids[low:high] - first) * width + positions[low:high]
        parts = [tf.pad(part, [[start, num_rows - stop]]) for part in over_columns]
        over_rows = tf.gather(over_rows, cell)
        parts.append(tf.pad(over_rows, [[low, columns.total - high]]))
        return stop, *(total + part for total, part in zip(sums, parts, strict=True))

    zeros = [tf.zeros([num_rows]) for _ in range(num_sums)]
    start = tf.constant(0)
    result = tf.while_loop(
        lambda start, *_: start < num_rows,
        body,
        (start, *zeros, tf.zeros([columns.total])),
        shape_invariants=(start.shape, *[tf.TensorShape([None])] * (num_sums + 1)),
        parallel_iterations=1,
    )
    return list(result[1:-1]), result[-1]
