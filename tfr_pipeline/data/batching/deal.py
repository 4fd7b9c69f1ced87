"""The lists of a window, dealt out to batches; random numbers that stay the same."""

from __future__ import annotations

import numpy as np

# Among so many batches lists are sorted by length: the more, the less padding; the
# fewer, the more batches differ from epoch to epoch.
_ALIKE = 16


def deal(
    sizes: list[np.ndarray], counts: np.ndarray, seed: int | None, number: int
) -> list[np.ndarray]:
    """Deals the lists of a window out to its batches, as evenly as it can.

    Longest first: of the longest lists that are left, one for each batch, the longest
    goes to the batch with the fewest documents, and so on. Shares come one after the
    other, so that the sums over the first of them are even, and over any in a row.

    Args:
      sizes: Documents of the lists of each share.
      counts: int64 `[shares, batches]`, how many lists a batch takes of a share.
      seed: Orders lists of one length.
      number: Number of the window, likewise.

    Returns:
      For each share the batch of each list, int64 `[lists]`.
    """
    # Fractions of a document: which batch begins is chance.
    totals = random_numbers(counts.shape[1], seed or 0, number, 1) / 2.0**64
    found = []
    for share, (lengths, wanted) in enumerate(zip(sizes, counts, strict=True)):
        keys = random_numbers(len(lengths), seed or 0, number, 2, share)
        falling = np.lexsort([keys, -lengths])
        batch, start = np.empty(len(lengths), np.int64), 0
        for deep in range(int(wanted.max(initial=0))):
            takes = np.flatnonzero(wanted > deep)
            takes = takes[np.argsort(totals[takes], kind="stable")]
            lists = falling[start : start + len(takes)]
            batch[lists] = takes
            totals[takes] += lengths[lists]
            start += len(takes)
        found.append(batch)
    return found


def deal_by_length(
    sizes: list[np.ndarray], counts: np.ndarray, seed: int | None, number: int
) -> list[np.ndarray]:
    """Deals the lists of a window out so that those of a batch are about equally long.

    Random lists for every `_ALIKE` batches, which are random ones, too, are sorted by
    length and cut into batches. Shares have their shortest lists in the same batches.

    Args:
      sizes: See `deal`, as for the others; lists of one length are in a random order.
      counts: Likewise.
      seed: Likewise.
      number: Likewise.

    Returns:
      See `deal`.

    Example:
      >>> import numpy as np
      >>> deal_by_length([np.array([7, 1, 8, 2])], np.array([[2, 2]]), 0, 0)
      [array([0, 1, 0, 1])]
    """
    batches = counts.shape[1]
    ranked = np.argsort(random_numbers(batches, seed or 0, number, 3), kind="stable")
    groups = np.arange(batches) * -(-batches // _ALIKE) // max(1, batches)
    found = []
    for share, (lengths, wanted) in enumerate(zip(sizes, counts, strict=True)):
        keys = random_numbers(len(lengths), seed or 0, number, 4, share)
        shuffled = np.argsort(keys, kind="stable")
        takes = wanted[ranked]
        rising = np.lexsort([lengths[shuffled], np.repeat(groups, takes)])
        batch = np.empty(len(lengths), np.int64)
        batch[shuffled[rising]] = np.repeat(ranked, takes)
        found.append(batch)
    return found


def random_numbers(count: int, *seeds: int) -> np.ndarray:
    """Returns random uint64 `[count]`, the same for the same seeds on any machine.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), which NumPy's generators, whose
    numbers may change between versions, do not have.
    """
    state = np.zeros(1, np.uint64)
    for seed in seeds:
        state = _mixed(state + np.array([seed % 2**64], np.uint64))
    steps = np.arange(1, count + 1, dtype=np.uint64)
    return _mixed(state + steps * np.uint64(0x9E3779B97F4A7C15))


def _mixed(state: np.ndarray) -> np.ndarray:
    state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return state ^ state >> np.uint64(31)
