"""The cores of a machine, dealt out to processes that compute beside each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def shares(workers: int, cores: Sequence[int]) -> list[list[int]]:
    """Deals out cores.

    Args:
      workers: How many processes there are.
      cores: The cores of this process.

    Returns:
      The cores of each; one each, some of them shared, if there are not enough.

    Example:
      >>> shares(2, [0, 1, 2, 5]), shares(3, [0, 1])
      ([[0, 1], [2, 5]], [[0], [1], [0]])
    """
    if workers > len(cores):
        return [[cores[i % len(cores)]] for i in range(workers)]
    ends = [i * len(cores) // workers for i in range(workers + 1)]
    return [list(cores[a:b]) for a, b in itertools.pairwise(ends)]


def environment_of(cores: Sequence[int]) -> dict[str, str]:
    """Returns the variables that keep TensorFlow to so many threads as there are cores.

    Args:
      cores: The cores of a process.

    Example:
      >>> environment_of([0, 1])["OMP_NUM_THREADS"]
      '2'
    """
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
    return dict.fromkeys(names, str(len(cores)))
