"""Shares of whole files, for files that cannot be read from the middle."""

from __future__ import annotations

import numpy as np

from tfr_pipeline.data.batching.plan import spread


class FileShares:
    """Files in a row, dealt out as evenly by documents as whole files can be.

    Args:
      lengths: int64 `[lists]`, documents a list.
      counts: int64 `[files]`, lists of each file.
      training: Whether lists without documents do not count.
    """

    def __init__(self, lengths: np.ndarray, counts: np.ndarray, training: bool):
        firsts = np.cumsum(counts) - counts
        ends = np.concatenate([[0], np.cumsum(lengths)])
        documents = ends[firsts + counts] - ends[firsts]
        some = (documents if training else counts) > 0
        # Those without any go with the one before them.
        self._firsts, self._end = firsts[some], len(lengths)
        self._ends = np.concatenate([[0], np.cumsum(documents[some])])

    @property
    def most(self) -> int:
        """The most shares of which each has lists."""
        return len(self._firsts)

    def bounds(self, shares: int) -> np.ndarray:
        """Returns the lists with which shares begin, int64 `[shares + 1]`.

        Args:
          shares: Their number, `most` at most.
        """
        cuts = self._cut(shares)
        return np.concatenate([[0], self._firsts[cuts[1:-1]], [self._end]])

    def documents(self, shares: int) -> np.ndarray:
        """Returns the documents of each share, int64 `[shares]`."""
        return np.diff(self._ends[self._cut(shares)])

    def _cut(self, shares: int) -> np.ndarray:
        """Returns the files with which shares begin, int64 `[shares + 1]`."""
        targets = self._ends[-1] * np.arange(shares + 1) // shares
        cuts = np.array([self._nearest(target, 0, self.most) for target in targets])
        cuts[0], cuts[-1] = 0, self.most
        cuts = spread(cuts[np.newaxis], 1)[0]
        # Each cut in turn goes to the middle of those beside it, as long as that makes
        # neighbours more alike.
        moved = True
        while moved:
            moved = False
            for place in range(1, shares):
                low, high = int(cuts[place - 1]), int(cuts[place + 1])
                middle = (self._ends[low] + self._ends[high]) / 2
                best = self._nearest(middle, low + 1, high - 1)
                gain = self._off(middle, cuts[place]) - self._off(middle, best)
                if gain > 0:
                    cuts[place], moved = best, True
        return cuts

    def _off(self, middle: float, file: int) -> float:
        return abs(float(self._ends[file]) - middle)

    def _nearest(self, documents: float, low: int, high: int) -> int:
        """Returns the file, of some, before which there are about so many documents."""
        after = int(np.searchsorted(self._ends[low : high + 1], documents)) + low
        after = min(after, high)
        before = max(low, after - 1)
        return min(before, after, key=lambda file: self._off(documents, file))
