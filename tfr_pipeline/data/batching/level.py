"""Batches of lists with equally many documents.

Steps of equal size let replicas end at the same time, and the kernels that oneDNN
compiles for each number of rows are compiled once instead of at every step.
"""

from __future__ import annotations

import bisect

import numpy as np

# Exchanges of lists that are tried before a batch is left as it is.
_ATTEMPTS = 4


def level(order: np.ndarray, splits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Exchanges lists with later batches until batches have equally many documents.

    Args:
      order: int64 `[lists]`, lists in their random order.
      splits: int64 `[batches + 1]`, where batches begin in it.
      lengths: int64 `[lists]`, documents of each list.

    Returns:
      int64 `[lists]`, the same lists; each batch has as many of them as before. The
      last batches get what is left and may differ; where one of them would be larger
      than the largest was, the order stays as it is.

    Example:
      >>> import numpy as np
      >>> level(np.arange(4), np.array([0, 2, 4]), np.array([5, 5, 1, 1]))
      array([3, 1, 2, 0])
    """
    batches = len(splits) - 1
    given, sizes = order, lengths[order]
    if batches < 2:
        return order
    order = order.copy()
    largest = _largest(sizes, splits)
    share, rest = divmod(int(sizes.sum()), batches)
    # Positions of lists by length, in rising order: partners are taken from the end.
    by_size: dict[int, list[int]] = {}
    for position, size in enumerate(sizes.tolist()):
        by_size.setdefault(size, []).append(position)
    known = sorted(by_size)

    def exchange(here: int, there: int) -> None:
        size = int(sizes[here])
        by_size[int(sizes[there])].pop()
        bisect.insort(by_size[size], there)
        if known[bisect.bisect_left(known, size) % len(known)] != size:
            bisect.insort(known, size)
        for array in (order, sizes):
            array[here], array[there] = array[there], array[here]

    for batch in range(batches - 1):
        first, last = int(splits[batch]), int(splits[batch + 1])
        for _ in range(_ATTEMPTS):
            missing = share + (batch < rest) - int(sizes[first:last].sum())
            if not missing:
                break
            best = None
            for here in range(first, last):
                wanted = int(sizes[here]) + missing
                size = _nearest(known, by_size, wanted, last)
                if size is None:
                    continue
                left = abs(wanted - size)
                if left < abs(missing) and (best is None or left < best[0]):
                    best = (left, here, by_size[size][-1])
                if not left:
                    break
            if best is None:
                break
            exchange(*best[1:])
    return order if _largest(sizes, splits) <= largest else given


def _largest(sizes: np.ndarray, splits: np.ndarray) -> int:
    ends = np.concatenate([[0], np.cumsum(sizes)])[splits]
    return int(np.diff(ends).max())


def _nearest(
    known: list[int], by_size: dict[int, list[int]], wanted: int, last: int
) -> int | None:
    """Returns the length next to `wanted` that a list of a later batch has.

    Lengths that no later batch has are taken out of `known`.
    """
    while known:
        place = bisect.bisect_left(known, wanted)
        around = known[max(0, place - 1) : place + 1]
        size = min(around, key=lambda size: abs(size - wanted))
        if by_size[size] and by_size[size][-1] >= last:
            return size
        known.remove(size)
    return None
