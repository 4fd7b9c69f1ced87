"""Which lists stand in which batch, where there is too much data to shuffle all of it.

Reading lists of a shuffled epoch one by one is slow on every disk, and hopeless on an
object store. So blocks of neighbouring lists are shuffled, and a window of many blocks
is read at once, in which each list may come into each batch. What is in a window
depends on the seed, the epoch and the lengths of the lists alone: not on where they
are kept, nor on how many workers share them.
"""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline import leaving
from tfr_pipeline.data.batching import plan as plans
from tfr_pipeline.data.batching.deal import deal, deal_by_length, random_numbers
from tfr_pipeline.data.batching.window import Window

BLOCK = 1 << 18  # bytes of neighbouring lists, which are read together
WINDOW = 1 << 27  # bytes that are shuffled at once; less data has a `BatchPlan`
# In memory at once, where they are read from disk: one of which batches are made, one
# that waits, one that is read; and the records that it is cut out of.
ALIVE = 3.5
# Lists are dealt out to so many shares, if batches have so many lists: any number of
# replicas that divides it has the same global batches.
SHARES = (12, 6, 4, 3, 2, 1)
_MOST_BATCHES = 512  # in a window
_WINDOWS_KEPT = 4096  # of which a plan remembers how large the batches are


class WindowedPlan:
    """Says which lists stand in which batch of which epoch, window by window.

    Training deals the lists out to shares, of neighbouring lists with about as many
    documents. A global batch takes its part of each share, a replica its own shares, so
    that one worker never needs the lists of another. Batches of a window are evened
    out: the longest list left goes to the batch that has the fewest documents.

    Args:
      lengths: int64 `[lists]`, documents a list.
      row_bytes: Bytes of a document.
      batch_size: See `BatchPlan`, as for the others.
      documents_per_batch: Likewise.
      replicas: Likewise.
      seed: Likewise.
      training: Likewise. Lists without documents are left out.
      bounds: int64 `[replicas + 1]`, the lists with which the shares of the replicas
        begin, if these are given; see `FileShares`.
      by_length: See `BatchPlan`.

    Attributes:
      steps: Global batches in one pass over the lists.
      has_few_lists: Whether there are fewer global batches than was asked for, because
        each of them has to have a list for every replica.
      shares: Number of shares; a run goes on the same with any number of replicas that
        divides it.
      dealt: What the order depends on beside the data: the number of shares, below 0
        if they were given.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        row_bytes: float,
        batch_size: int,
        documents_per_batch: int | None = None,
        replicas: int = 1,
        seed: int | None = None,
        training: bool = True,
        bounds: np.ndarray | None = None,
        by_length: bool = False,
    ):
        self._given = bounds
        lengths = np.asarray(lengths, np.int64)
        self._lists = (
            np.flatnonzero(lengths > 0) if training else np.arange(len(lengths))
        )
        self._lengths = lengths
        self.num_lists = len(self._lists)
        self.replicas = replicas
        self._seed = seed
        self._by_documents = documents_per_batch is not None
        alike = by_length and not self._by_documents
        self._deal = deal_by_length if alike else deal
        sizes = lengths[self._lists]
        self._sizes = sizes
        if documents_per_batch is not None:
            self._sizes = np.minimum(sizes, documents_per_batch)
            steps = math.ceil(int(self._sizes.sum()) / documents_per_batch)
        else:
            steps = math.ceil(self.num_lists / batch_size)
        if bounds is not None:
            bounds = np.searchsorted(self._lists, bounds)
        else:
            bounds = self._bounds(replicas)
        most = max(1, int(np.diff(bounds).min()))
        if training and seed is not None and self._given is None:
            bounds, most = self._choose_shares(steps, replicas)
        self._shares = bounds
        self.shares = len(bounds) - 1
        self.dealt = self.shares if self._given is None else -self.shares
        self.has_few_lists = training and most < steps
        self.steps = max(1, min(steps, most) if training else steps)
        self._batches = self.steps * replicas
        # The window of a share is as large, however many there are.
        window = WINDOW * max(1, self.shares / SHARES[0])
        batch = max(1.0, row_bytes * sizes.sum() / self.steps)
        self._per_window = int(min(max(window // batch, 1), _MOST_BATCHES, self.steps))
        self.windows = math.ceil(self.steps / self._per_window)
        self._blocks = [
            _blocks(sizes[a:b] * row_bytes) for a, b in itertools.pairwise(bounds)
        ]
        self._epoch: tuple[int, list[np.ndarray], np.ndarray] | None = None
        self._counts: collections.OrderedDict[int, np.ndarray] = (
            collections.OrderedDict()
        )

    def _choose_shares(self, steps: int, replicas: int) -> tuple[np.ndarray, int]:
        """Returns where shares begin, and the most steps that they have lists for."""
        each = self.num_lists / steps
        for shares in (*SHARES, replicas):
            if shares % replicas == 0 and (2 * shares <= each or shares == replicas):
                bounds = self._bounds(shares)
                most = int(np.diff(bounds).min())
                if most >= 2 * steps:
                    break
        return bounds, most

    def _bounds(self, shares: int) -> np.ndarray:
        """Cuts the lists into shares with about equally many documents."""
        ends = np.concatenate([[0], np.cumsum(self._lengths[self._lists])])
        targets = ends[-1] * np.arange(shares + 1) // shares
        bounds = np.searchsorted(ends, targets)
        bounds[0], bounds[-1] = 0, self.num_lists
        if self.num_lists >= shares:
            bounds = plans.spread(bounds[np.newaxis], 1)[0]
        return bounds

    @property
    def most_lists(self) -> int:
        """Lists of the largest local batch, where batches are cut by lists."""
        _, starts = self._arrange(0)
        counts = np.diff(starts, axis=1).reshape(self.replicas, -1, self.steps)
        return int(counts.sum(axis=1).max())

    def _arrange(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Shuffles the blocks of an epoch.

        Returns:
          The lists of each share in their order, by their place in `self._lists`; and
          where in it the part of each global batch begins, int64 `[shares, steps + 1]`.
        """
        known = self._epoch
        if known is not None and known[0] == epoch:
            return known[1], known[2]
        orders, starts = [], []
        for share, blocks in enumerate(self._blocks):
            first = self._shares[share]
            blocks_in_order = np.arange(len(blocks) - 1)
            if self._seed is not None:
                keys = random_numbers(len(blocks) - 1, self._seed, epoch, share)
                blocks_in_order = np.argsort(keys, kind="stable")
            counts = np.diff(blocks)[blocks_in_order]
            ends = np.cumsum(counts)
            offsets = np.repeat(blocks[blocks_in_order] - (ends - counts), counts)
            order = first + offsets + np.arange(len(offsets))
            orders.append(order)
            starts.append(self._cut(order, share))
        result = orders, np.array(starts)
        self._epoch = (epoch, *result)
        return result

    def _cut(self, order: np.ndarray, share: int) -> np.ndarray:
        """Returns where the parts of global batches begin, int64 `[steps + 1]`."""
        steps = np.arange(self.steps + 1, dtype=np.int64)
        if not self._by_documents:
            first, last = self._shares[share : share + 2]
            if np.diff(self._shares).min() >= 2 * self.steps:
                # Cut where equal batches of all lists end: any shares in a row have
                # equally many lists in each batch, but for one.
                starts = steps * last // self.steps - steps * first // self.steps
                return np.asarray(starts)
            # Shares take turns in having more. None has nothing.
            phase = self.steps * share // self.shares
            starts = (steps * (last - first) + phase) // self.steps
            starts[0], starts[-1] = 0, last - first
            return np.asarray(starts)
        ends = np.cumsum(self._sizes[order])
        starts = np.searchsorted(ends, steps[1:] * ends[-1] // self.steps) + 1
        starts = np.concatenate([[0], np.minimum(starts, len(order))])
        starts[-1] = len(order)
        if len(order) < self.steps:  # of validation: some batches have none of it
            return np.asarray(starts)
        return plans.spread(starts[np.newaxis], 1)[0]

    def window(self, number: int) -> Window:
        """Returns a window, counted from the first epoch."""
        epoch, place = divmod(number, self.windows)
        first = place * self._per_window
        last = min(first + self._per_window, self.steps)
        order, splits = self._dealt(epoch, number, first, last)
        order = self._lists[order]
        result = Window(
            epoch * self._batches + first * self.replicas,
            order,
            splits,
            self._sizes_of(order, splits),
        )
        self._count(number, result)
        return result

    def _dealt(
        self, epoch: int, number: int, first: int, last: int
    ) -> tuple[np.ndarray, np.ndarray]:
        orders, starts = self._arrange(epoch)
        starts = starts[:, first : last + 1]
        counts = np.diff(starts, axis=1)
        lists = [o[s[0] : s[-1]] for o, s in zip(orders, starts, strict=True)]
        if self._seed is None:
            batches = [np.repeat(np.arange(last - first), each) for each in counts]
        else:
            sizes = [self._sizes[part] for part in lists]
            batches = self._deal(sizes, counts, self._seed, number)
        order, batch = np.concatenate(lists), np.concatenate(batches)
        share = np.repeat(np.arange(self.shares), [len(part) for part in lists])
        replica = share // (self.shares // self.replicas)
        local = batch * self.replicas + replica
        places = np.argsort(local, kind="stable")
        found = np.bincount(local, minlength=(last - first) * self.replicas)
        return order[places], np.concatenate([[0], np.cumsum(found)])

    def _sizes_of(self, order: np.ndarray, splits: np.ndarray) -> np.ndarray:
        longest = np.maximum.reduceat(
            np.append(self._lengths[order], 0), splits[:: self.replicas][:-1]
        )
        every = splits[:: self.replicas]
        longest = np.where(np.diff(every) > 0, longest, 0)
        both = np.column_stack([np.diff(every), longest])
        both = np.repeat(both, self.replicas, axis=0)
        return np.column_stack([both, np.diff(splits)]).astype(np.int32)

    def _count(self, number: int, window: Window) -> np.ndarray:
        """Returns int64 `[local batches, 2]`: lists and documents; keeps it."""
        ends = np.concatenate([[0], np.cumsum(self._lengths[window.order])])
        counts = np.diff([window.splits, ends[window.splits]], axis=1).T
        self._counts[number] = counts
        while len(self._counts) > _WINDOWS_KEPT:
            self._counts.popitem(last=False)
        return counts

    def sizes(self, start_step: int = 0) -> Iterator[np.ndarray]:
        """Yields lists and documents, int64 `[2]`, of one local batch after the other.

        Args:
          start_step: Global batches to leave out, counted from the first epoch.
        """
        first, rest = self.locate(start_step)
        for number in itertools.count(first):
            counts = self._counts.get(number)
            if counts is None:
                counts = self._count(number, self.window(number))
            yield from counts[rest * self.replicas :]
            rest = 0

    def dataset(
        self,
        start_step: int = 0,
        repeat: bool = True,
        shard: tuple[int, int] = (0, 1),
        numbered: bool = False,
        sized: bool = False,
    ) -> Any:
        """Returns what `BatchPlan.dataset` returns."""

        @plans.plain
        def batches(order: Any, splits: Any, numbers: Any, sizes: Any) -> Any:
            index = tf.RaggedTensor.from_row_splits(order, splits, validate=False)
            parts = index, numbers, sizes
            return tf.data.Dataset.from_tensor_slices(parts)

        @plans.plain
        def element(index: Any, number: Any, sizes: Any) -> Any:
            index = (index, number) if numbered else index
            return (index, sizes) if sized else index

        windows = self.windows_of(lambda *parts: parts, start_step, repeat, shard)
        return windows.flat_map(batches).map(element)

    def windows_of(
        self,
        make: Callable[..., tuple[np.ndarray, ...]],
        start_step: int,
        repeat: bool,
        shard: tuple[int, int],
        specs: Sequence[tf.TensorSpec] = (),
    ) -> Any:
        """Returns a dataset of what `make` makes of one window after the other.

        While one is consumed, the next is made.

        Args:
          make: Takes what `Window.share` returns; returns four arrays like these, and
            others.
          start_step: See `BatchPlan.dataset`, as for the next two.
          repeat: Likewise.
          shard: Likewise.
          specs: Types and shapes of the other arrays.
        """
        start, rest = self.locate(start_step)
        of_window = (
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None, 3], tf.int32),
            *specs,
        )

        def part(number: np.ndarray) -> tuple[np.ndarray, ...]:
            with leaving.call():
                window = self.window(int(number))
                if number == start:
                    window = window.after(rest * self.replicas)
                return make(*window.share(self.replicas, *shard))

        @plans.plain
        def of(number: Any) -> Any:
            parts = tf.numpy_function(part, [number], [s.dtype for s in of_window])
            return tuple(
                tf.ensure_shape(tensor, spec.shape)
                for tensor, spec in zip(parts, of_window, strict=True)
            )

        if repeat:
            numbers = tf.data.Dataset.counter(start)
        else:
            numbers = tf.data.Dataset.range(start, self.windows)
        # In parallel: with the consumer, that is.
        return numbers.map(of, num_parallel_calls=1)

    def lists_of(self, worker: int, workers: int) -> tuple[int, int]:
        """Returns the first list that a worker ever needs, and the one after the last.

        Args:
          worker: Its number, from 0.
          workers: How many share the replicas.
        """
        shares = [number * self.shares // workers for number in (worker, worker + 1)]
        if self._given is not None:
            first, last = map(int, self._given[shares])
            return first, last
        first, last = map(int, self._shares[shares])
        return int(self._lists[first]), int(self._lists[last - 1]) + 1

    def locate(self, step: int) -> tuple[int, int]:
        """Returns the window of a global batch, and its place in the window."""
        epoch, step = divmod(step, self.steps)
        window, rest = divmod(step, self._per_window)
        return epoch * self.windows + window, rest

    def batch_of_step(self, step: int) -> np.ndarray:
        """Returns the indices of the lists in global batch `step` of training."""
        number, rest = self.locate(step)
        window = self.window(number)
        splits = window.splits[:: self.replicas]
        return window.order[splits[rest] : splits[rest + 1]]


def _blocks(sizes: np.ndarray) -> np.ndarray:
    """Cuts neighbouring lists into blocks of about `BLOCK` bytes.

    Args:
      sizes: float64 `[lists]`, bytes of each.

    Returns:
      int64 `[blocks + 1]`, where blocks begin; each has a list at least.
    """
    number = (np.cumsum(sizes) - sizes / 2) // BLOCK
    return np.concatenate([[0], np.flatnonzero(np.diff(number)) + 1, [len(sizes)]])
