"""Which lists stand in which batch of which epoch.

Only indices are shuffled; a batch is gathered when it is due. The order is a function
of the seed and the epoch, so a run that is resumed at any step sees the batches that
it would have seen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.batching.deal import deal_by_length
from tfr_pipeline.data.batching.level import level

# Of so many epochs a plan remembers how large the batches are.
_EPOCHS_KEPT = 16
# Functions without control flow on tensors: to convert them takes time at the start.
plain = tf.autograph.experimental.do_not_convert


class BatchPlan:
    """Says which lists stand in which batch of which epoch.

    Args:
      lengths: int64 `[lists]`, documents a list.
      batch_size: Lists a global batch; ignored when `documents_per_batch` is given.
      documents_per_batch: About how many documents a global batch has.
      replicas: Number of replicas that share a global batch.
      seed: Orders the lists anew each epoch; None keeps them in order.
      training: Each global batch has a list for every replica, if there are as many.
        In validation replicas may have none.
      by_length: The lists of a shuffled global batch are about equally long, so that
        little of it is padding; not where it is cut by documents, for there a short
        list would count less than a long one, in a mean over many.

    Attributes:
      steps: Global batches in one pass over the lists.
      has_few_lists: Whether there are fewer global batches than was asked for, because
        each of them has to have a list for every replica.

    A global batch is `replicas` local batches in a row, and is the same for any number
    of them; only one that would have fewer lists takes some of the next. Batches of an
    epoch have nearly equal numbers of lists, so there is no small rest at the end;
    shuffled ones also have equal numbers of documents, as far as exchanges of lists
    reach, unless they go `by_length`. A list longer than the budget fills a batch by
    itself.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        documents_per_batch: int | None = None,
        replicas: int = 1,
        seed: int | None = None,
        training: bool = True,
        by_length: bool = False,
    ):
        self.num_lists = len(lengths)
        self._lengths = np.asarray(lengths, np.int64)
        self._by_documents = documents_per_batch is not None
        self._by_length = by_length and not self._by_documents
        self._sizes = self._lengths
        if documents_per_batch is not None:
            self._sizes = np.minimum(self._lengths, documents_per_batch)
            steps = math.ceil(int(self._sizes.sum()) / documents_per_batch)
        else:
            steps = math.ceil(self.num_lists / batch_size)
        most = max(1, self.num_lists // replicas)
        self.has_few_lists = training and most < steps
        self.steps = max(1, min(steps, most) if training else steps)
        self.replicas = replicas
        self._seed = seed
        self._batches = self.steps * replicas
        self._counts: dict[int, np.ndarray] = {}

    @property
    def most_lists(self) -> int:
        """Lists of the largest local batch, where batches are cut by lists."""
        return math.ceil(self.num_lists / self._batches)

    def epoch(self, epoch: Any) -> tuple[Any, Any]:
        """Returns the order of an epoch and where its local batches begin.

        Args:
          epoch: int64 scalar tensor or int.

        Returns:
          `(order, row_splits)`, int64 `[lists]` and int64 `[batches + 1]`.
        """
        order = tf.range(self.num_lists, dtype=tf.int64)
        if self._seed is None:
            return order, tf.constant(self._cut(np.arange(self.num_lists)), tf.int64)
        seed = tf.stack([tf.constant(self._seed, tf.int64), tf.cast(epoch, tf.int64)])
        order = tf.random.experimental.stateless_shuffle(order, seed=seed)
        order, splits = tf.numpy_function(self._arrange, [epoch, order], [tf.int64] * 2)
        return (
            tf.ensure_shape(order, [self.num_lists]),
            tf.ensure_shape(splits, [self._batches + 1]),
        )

    def counts(self, epoch: int) -> np.ndarray:
        """Returns int64 `[batches, 2]`: lists and documents of each local batch.

        Those without documents, which training leaves out, are not among them.
        """
        if epoch not in self._counts:
            self._count(epoch, *(part.numpy() for part in self.epoch(epoch)))
        counts = self._counts[epoch]
        return counts[counts[:, 1] > 0]

    def sizes(self, start_step: int = 0) -> Iterator[np.ndarray]:
        """Yields lists and documents, int64 `[2]`, of one local batch after the other.

        Args:
          start_step: Global batches to leave out, counted from the first epoch.
        """
        first, skip = self.locate(start_step * self.replicas)
        for epoch in itertools.count(first):
            counts = self.counts(epoch)
            yield from counts[skip:]
            skip = max(0, skip - len(counts))

    def _count(self, epoch: int, order: np.ndarray, splits: np.ndarray) -> None:
        """Keeps what an epoch has: to level its batches anew would take time."""
        ends = np.concatenate([[0], np.cumsum(self._lengths[order])])
        self._counts.pop(epoch - _EPOCHS_KEPT, None)
        self._counts[epoch] = np.diff([splits, ends[splits]], axis=1).T

    def _arrange(
        self, epoch: np.ndarray, order: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cuts a random order into batches and evens them out."""
        order, splits = order.copy(), self._cut(order)
        # Global batches first: they are the same for any number of replicas.
        if self._by_length:
            order = self._alike(int(epoch), order, splits[:: self.replicas])
        else:
            order = level(order, splits[:: self.replicas], self._sizes)
        for i in range(0, len(splits) - 1, self.replicas):
            local = splits[i : i + self.replicas + 1]
            part = slice(local[0], local[-1])
            order[part] = level(order[part], local - local[0], self._sizes)
        self._count(int(epoch), order, splits)
        return order, splits

    def _alike(self, epoch: int, order: np.ndarray, splits: np.ndarray) -> np.ndarray:
        """Puts lists of about one length into each batch, in their random order."""
        lengths = self._lengths[order]
        # Together, lists without documents would be batches without: each goes with
        # the list before it.
        places = np.where(lengths > 0, np.arange(len(lengths)), 0)
        lengths = lengths[np.maximum.accumulate(places)]
        counts = np.diff(splits)[np.newaxis]
        (batch,) = deal_by_length([lengths], counts, self._seed, epoch)
        return order[np.argsort(batch, kind="stable")]

    def _cut(self, order: np.ndarray) -> np.ndarray:
        """Returns where the local batches of an epoch begin, int64 `[batches + 1]`."""
        batches = self._batches
        if not self._by_documents:
            return np.arange(batches + 1, dtype=np.int64) * self.num_lists // batches
        # Cut where the running number of documents passes multiples of the share.
        ends = np.cumsum(self._sizes[order])
        targets = np.arange(1, batches, dtype=np.int64) * ends[-1] // batches
        inner = np.searchsorted(ends, targets, side="left") + 1
        inner = np.minimum(inner, self.num_lists)
        splits = np.concatenate([[0], inner, [self.num_lists]]).astype(np.int64)
        if self.num_lists < batches:
            return splits
        # Long lists leave batches without any: those get the next ones.
        shared = spread(splits[np.newaxis, :: self.replicas], self.replicas)[0]
        local = splits[:-1].reshape(self.steps, self.replicas)
        local = np.column_stack([shared[:-1], local[:, 1:], shared[1:]])
        local = np.clip(local, shared[:-1, np.newaxis], shared[1:, np.newaxis])
        return np.append(spread(local, 1)[:, :-1].ravel(), self.num_lists)

    def locate(self, batch: int) -> tuple[int, int]:
        """Returns `(epoch, rest)`: the batch is number `rest`, counted from that epoch.

        The epoch is the batch's own wherever no batch is left out, so that nothing has
        to be shuffled and levelled on the way there.

        Args:
          batch: Number of a local batch of training, counted from the first epoch.
        """
        if self.num_lists < self._batches or self._lengths.min() < 1:
            return 0, batch
        return divmod(batch, self._batches)

    def batch_of_step(self, step: int) -> np.ndarray:
        """Returns the indices of the lists in global batch `step` of training."""
        local = self.dataset(start_step=step).take(self.replicas)
        return np.concatenate([index.numpy() for index in local])

    def dataset(
        self,
        start_step: int = 0,
        repeat: bool = True,
        shard: tuple[int, int] = (0, 1),
        numbered: bool = False,
        sized: bool = False,
    ) -> Any:
        """Returns a `tf.data.Dataset` of int64 `[lists in a local batch]`.

        Args:
          start_step: Global batches to leave out, counted from the first epoch.
          repeat: Goes through one epoch after the other without end, and leaves out
            local batches without documents (of empty lists, or of fewer lists than
            replicas): batch normalisation has no answer to them. Otherwise one epoch,
            complete.
          shard: `(i, n)` for the share of worker `i` of `n` in each global batch.
          numbered: Gives pairs with the number of the local batch, int64 `[]`, counted
            from the first epoch.
          sized: Gives pairs of all that and int32 `[3]`; see
            `global_batch.take_sizes`.
        """
        lengths = tf.constant(self._lengths)

        @plain
        def batches(epoch: Any) -> Any:
            order, splits = self.epoch(epoch)
            ragged = tf.RaggedTensor.from_row_splits(order, splits, validate=False)
            return tf.data.Dataset.from_tensor_slices(ragged)

        skip = start_step * self.replicas
        first, rest = self.locate(skip) if repeat else (0, skip)
        if repeat:
            dataset = tf.data.Dataset.counter(first).flat_map(batches)

            @plain
            def has_documents(index: Any) -> Any:
                return tf.reduce_sum(tf.gather(lengths, index)) > 0

            dataset = dataset.filter(has_documents)
        else:
            dataset = batches(tf.constant(0, tf.int64))

        @plain
        def with_sizes(shares: Any) -> Any:
            documents = tf.gather(lengths, shares.values)
            longest = tf.reduce_max(tf.concat([documents, [0]], axis=0))
            sizes = tf.stack([tf.size(documents, tf.int64), longest])
            sizes = tf.tile(sizes[tf.newaxis, :], [shares.nrows(), 1])
            sizes = tf.concat([sizes, shares.row_lengths()[:, tf.newaxis]], axis=1)
            return shares, tf.cast(sizes, tf.int32)

        if sized:
            dataset = dataset.ragged_batch(self.replicas).map(with_sizes).unbatch()
        dataset = dataset.enumerate(first * self._batches).skip(rest)
        worker, workers = shard
        if workers > 1:
            local = self.replicas // workers
            dataset = dataset.filter(lambda i, _: i // local % workers == worker)
        if repeat:
            # Or workers would ask each other in every step whether there is a batch.
            endless = tf.data.experimental.assert_cardinality(
                tf.data.INFINITE_CARDINALITY
            )
            dataset = dataset.apply(endless)

        @plain
        def element(number: Any, index: Any) -> Any:
            index, sizes = index if sized else (index, None)
            index = (index, number) if numbered else index
            return (index, sizes) if sized else index

        return dataset.map(element)


def spread(splits: np.ndarray, least: int) -> np.ndarray:
    """Moves the inner cuts of rows so that parts have so many lists at least.

    Args:
      splits: int64 `[rows, parts + 1]`, each row rising, with `least * parts` lists at
        least from its first to its last cut.
      least: Number of lists.
    """
    steps = np.arange(splits.shape[1]) * least
    forward = np.maximum.accumulate(splits - steps, axis=1) + steps
    return np.minimum(forward, splits[:, -1:] - steps[::-1])
