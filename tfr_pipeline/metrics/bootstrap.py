"""Bootstrap intervals of means over queries. NumPy only."""

from __future__ import annotations

import warnings

import numpy as np

# Of fewer queries an interval is too narrow, and says little.
_FEW = 10
# Resampled query indices held at a time.
_CELLS = 4_000_000


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divides `[n]` by `[n]`; NaN where the denominator is 0."""
    result = np.full(len(numerator), np.nan)
    return np.divide(numerator, denominator, out=result, where=denominator > 0)


def intervals(
    numerator: np.ndarray, denominator: np.ndarray, bootstrap: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the 2.5% and 97.5% points of resampled ratios of sums.

    Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979. Queries are drawn
    with replacement; a resample in which no query defines a number is left out. A
    number that fewer than two queries define has NaN: one query shows no spread.

    Args:
      numerator: float64 `[queries, numbers]`.
      denominator: float64 `[queries, numbers]`.
      bootstrap: Number of resamples.
      seed: Seed.
    """
    queries, numbers = numerator.shape
    both = np.concatenate([numerator, denominator], axis=1)
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS // queries)
    means = []
    for start in range(0, bootstrap, block):
        size = min(block, bootstrap - start)
        drawn = rng.integers(0, queries, (size, queries))
        drawn += np.arange(size)[:, np.newaxis] * queries
        counts = np.bincount(drawn.ravel(), minlength=size * queries)
        sums = counts.reshape(size, queries).astype(np.float64) @ both
        means.append(ratio(sums[:, :numbers].ravel(), sums[:, numbers:].ravel()))
    samples = np.concatenate(means).reshape(-1, numbers)
    low, high = np.full(numbers, np.nan), np.full(numbers, np.nan)
    some = (denominator > 0).sum(axis=0) >= 2
    some &= ~np.isnan(samples).all(axis=0)
    if some.any():
        low[some], high[some] = np.nanpercentile(samples[:, some], [2.5, 97.5], axis=0)
    return low, high


def warn_of_few(queries: int) -> None:
    """Warns where too few queries were compared for an interval to be trusted."""
    if 0 < queries < _FEW:
        has = "one has no interval" if queries == 1 else "their interval says little"
        warnings.warn(
            f"only {queries} of the queries count{'s' if queries == 1 else ''}, and "
            f"{has}: compare on {_FEW} or more.",
            stacklevel=3,
        )
