"""Whether a difference between two rankings may be chance: tests over queries.

NumPy only. A test asks of the differences of the queries whether their mean would be as
far from 0 if the two rankings were equally good.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# So many differences that are not 0 have all their signs tried.
_EXACT = 14
_CELLS = 4_000_000
_TINY = 1e-300
_STEPS = 1000


def randomisation_test(
    differences: np.ndarray, resamples: int = 20_000, seed: int = 0
) -> float | None:
    """Returns p of the paired randomisation test, two-sided.

    Were both rankings equally good, each query's difference could as well have the
    other sign: p is the share of sign flips whose mean is as far from 0 as the one that
    was found. Of up to 14 differences that are not 0 all flips are tried; of more,
    random ones, and the one that was found counts as one of them, so that p is never
    below `1 / (resamples + 1)`. Fisher, "The Design of Experiments", 1935; Smucker,
    Allan and Carterette, "A Comparison of Statistical Significance Tests for
    Information Retrieval Evaluation", CIKM 2007.

    Args:
      differences: float64 `[queries]`, without NaN; times its weight, for a mean that
        weighs queries.
      resamples: Number of random flips.
      seed: Seed of the flips.

    Returns:
      p; None without queries.

    Example:
      >>> randomisation_test(np.array([0.1, 0.2, 0.3, 0.0]))
      0.25
    """
    if not len(differences):
        return None
    values = np.asarray(differences, np.float64)
    values = values[values != 0.0]
    # A flip whose sum is the same but for rounding counts.
    bound = abs(values.sum()) - 1e-12 * np.abs(values).sum()
    count = len(values)
    if count <= _EXACT:
        numbers = np.arange(1 << count)[:, np.newaxis]
        signs = 1 - 2 * ((numbers >> np.arange(count)) & 1)
        return float(np.mean(np.abs(signs @ values) >= bound))
    random, far = np.random.default_rng(seed), 0
    block = max(1, _CELLS // count)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        bits = random.integers(0, 256, (size, (count + 7) // 8), np.uint8)
        flipped = np.unpackbits(bits, axis=1, count=count).astype(np.float64) @ values
        far += int(np.sum(np.abs(values.sum() - 2.0 * flipped) >= bound))
    return (1 + far) / (1 + resamples)


def t_test(differences: np.ndarray) -> float | None:
    """Returns p of Student's paired t-test, two-sided.

    Args:
      differences: See `randomisation_test`.

    Returns:
      p; None of fewer than two queries. 1 where all differences are 0.

    Example:
      >>> round(t_test(np.array([0.1, 0.2, 0.3, 0.0])), 4)
      0.1027
    """
    values = np.asarray(differences, np.float64)
    count = len(values)
    if count < 2:
        return None
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    if deviation == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    t, free = mean / deviation * math.sqrt(count), count - 1.0
    return _beta_ratio(free / (free + t * t), free / 2.0, 0.5)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Returns p values corrected for how many there are.

    If all that are below 0.05 are taken for differences, the chance that any of them is
    none is at most 0.05. Holm, "A Simple Sequentially Rejective Multiple Test
    Procedure", 1979.

    Args:
      values: p of each test; None of those that could not be made.

    Example:
      >>> holm([0.01, 0.04, None, 0.03])
      [0.03, 0.06, None, 0.06]
    """
    known = sorted((p, place) for place, p in enumerate(values) if p is not None)
    result: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        result[place] = highest
    return result


def _beta_ratio(x: float, a: float, b: float) -> float:
    """Returns the regularised incomplete beta function, for `0 < x <= 1`.

    By its continued fraction: Abramowitz and Stegun, 26.5.8, with Lentz's method.
    """
    if x >= 1.0:
        return 1.0
    front = math.exp(
        math.lgamma(a + b)
        - math.lgamma(a)
        - math.lgamma(b)
        + a * math.log(x)
        + b * math.log1p(-x)
    )
    # The fraction converges quickly on one side only.
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _fraction(x, a, b) / a
    return 1.0 - front * _fraction(1.0 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1.0 / _not_zero(1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, _STEPS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _not_zero(1.0 + term * d)
            c = _not_zero(1.0 + term / c)
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
