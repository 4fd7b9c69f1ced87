"""Batches that are planned, and read, at once."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Window:
    """Some local batches in a row.

    Attributes:
      first: Number of the first one, counted from the first epoch.
      order: int64 `[lists]`, the lists of one local batch after the other.
      splits: int64 `[batches + 1]`, where local batches begin in `order`.
      sizes: int32 `[batches, 3]`; see `global_batch.take_sizes`.
    """

    first: int
    order: np.ndarray
    splits: np.ndarray
    sizes: np.ndarray

    def after(self, batches: int) -> Window:
        """Returns the window without the first so many local batches."""
        begin = self.splits[batches]
        return Window(
            self.first + batches,
            self.order[begin:],
            self.splits[batches:] - begin,
            self.sizes[batches:],
        )

    def share(self, replicas: int, worker: int, workers: int) -> tuple[np.ndarray, ...]:
        """Returns what one worker has of it.

        Returns:
          `order` and `splits` of its own batches, int64 `[own batches]` with their
          numbers, and their `sizes`.
        """
        local = replicas // workers
        numbers = np.arange(len(self.sizes))
        own = numbers[numbers // local % workers == worker]
        counts = np.diff(self.splits)[own]
        splits = np.concatenate([[0], np.cumsum(counts)])
        places = np.repeat(self.splits[own] - splits[:-1], counts)
        order = self.order[places + np.arange(splits[-1])]
        return order, splits, self.first + own, self.sizes[own]
