"""Propensities of positions, estimated from clicks.

Both methods fit `P(click) = p_k r_u`, the position-based model, by expectation
maximisation; they differ in what `u` is. Propensities are relative to the first
position: no click log tells more.
"""

from __future__ import annotations

import numpy as np

from tfr_pipeline.clicks.logs import Log
from tfr_pipeline.clicks.rankers import standardized
from tfr_pipeline.errors import ConfigError, DataError, unknown_name

METHODS = ("harvest", "em")
# Probabilities stay off 0, which expectation maximisation never leaves, and off 1.
_LEAST = 1e-6
_ROUNDS = 1000
_TOLERANCE, _ENOUGH = 1e-7, 1e-4
# Of the regression: the penalty keeps weights finite where clicks can be told apart.
_RIDGE = 1.0


def propensities(log: Log, method: str = "harvest") -> np.ndarray:
    """Returns the propensities of positions, the first being 1.

    Args:
      log: What was shown and clicked.
      method: `harvest`, from documents that several rankers showed at several
        positions, see `harvest`; `em`, from features, see `regression_em`.

    Returns:
      float64 `[positions]`.

    Raises:
      ConfigError: There is no such method.
      DataError: The log has too little to tell.
    """
    if method not in METHODS:
        raise ConfigError(unknown_name("method", method, METHODS, "--method"))
    if not len(log.clicks) or not log.clicks.sum():
        raise DataError("clicks: expected clicks, found none in the log.")
    return harvest(log) if method == "harvest" else regression_em(log)


def harvest(log: Log) -> np.ndarray:
    """Returns propensities from documents that were shown at several positions.

    Intervention harvesting, the estimator `AllPairs` (Agarwal et al., "Estimating
    Position Bias without Intrusive Interventions", WSDM 2019): for each two positions,
    documents that were shown at both are compared with themselves, clicks weighted by
    one over how often they were shown there. The weighted clicks are those of a model
    `p_k r_kk'`, whose likelihood is maximised. Which ranker a session got must not
    depend on its query.

    Args:
      log: A log of several rankers.

    Returns:
      float64 `[positions]`, the first 1.

    Raises:
      DataError: A position is not connected with the first.

    Example:
      >>> log = Log(np.array([0, 0]), np.array([1, 2]), np.array([80, 80]),
      ...           np.array([40, 10]))
      >>> harvest(log).round(3).tolist()
      [1.0, 0.25]
    """
    last = int(log.positions.max())
    documents = int(log.documents.max()) + 1
    shown = np.zeros((documents, last))
    clicked = np.zeros((documents, last))
    shown[log.documents, log.positions - 1] = log.shown
    clicked[log.documents, log.positions - 1] = log.clicks
    there = shown > 0
    rate = np.divide(clicked, shown, where=there, out=np.zeros_like(shown))
    # A document counts at one position as much as it does at the other, whatever the
    # number of sessions: as much as the rarer of the two can bear.
    clicks, misses = np.zeros((last, last)), np.zeros((last, last))
    for k in range(last):
        both = there & there[:, [k]]
        both[:, k] = False
        size = np.where(
            both, 2 / (1 / np.maximum(shown, 1) + 1 / np.maximum(shown[:, [k]], 1)), 0.0
        )
        clicks[k] = (size * rate[:, [k]]).sum(axis=0)
        misses[k] = (size * (1 - rate[:, [k]])).sum(axis=0)
    _check_connected(clicks + misses > 0)
    first, second = np.nonzero(np.triu(clicks + misses + (clicks + misses).T, 1))
    pairs = np.arange(len(first))
    positions = np.concatenate([first, second])
    return _fit(
        positions,
        np.concatenate([pairs, pairs]),
        np.concatenate([clicks[first, second], clicks[second, first]]),
        np.concatenate([misses[first, second], misses[second, first]]),
        last,
    )


def _check_connected(compared: np.ndarray) -> None:
    reached = np.zeros(len(compared), bool)
    reached[0] = True
    for _ in range(len(compared)):
        reached |= compared[reached].any(axis=0)
    if not reached.all():
        lost = 1 + int(np.argmin(reached))
        raise DataError(
            "clicks: expected documents that were shown at several positions, found "
            f"none that connect position {lost} with the first. Log several rankers, "
            "or use --method=em."
        )


def _fit(
    positions: np.ndarray,
    units: np.ndarray,
    clicks: np.ndarray,
    misses: np.ndarray,
    last: int,
) -> np.ndarray:
    """Fits `p_k r_u` by expectation maximisation.

    Args:
      positions: int64 `[rows]`, from 0.
      units: int64 `[rows]`, from 0.
      clicks: float64 `[rows]`.
      misses: float64 `[rows]`, impressions without a click.
      last: Number of positions.
    """
    p = 1.0 / np.arange(1, last + 1) ** 0.5
    r = np.full(int(units.max()) + 1, 0.5)
    total_p = np.bincount(positions, clicks + misses, minlength=last)
    total_r = np.bincount(units, clicks + misses)
    for _ in range(_ROUNDS):
        seen, liked = _unclicked(p[positions], r[units])
        new = np.bincount(positions, clicks + misses * seen, minlength=last) / total_p
        r = np.bincount(units, clicks + misses * liked) / total_r
        # Only products are known: the first propensity is 1 by convention.
        new = np.clip(new, _LEAST, None)
        scale = max(new[0], r.max() * new[0])
        new, r = (
            np.clip(new / scale, _LEAST, 1.0),
            np.clip(r * scale, _LEAST, 1 - _LEAST),
        )
        change = float(np.abs(new - p).max())
        p = new
        if change < _TOLERANCE:
            break
    return np.minimum(p / p[0], 1.0)


def _unclicked(p: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns how likely what was not clicked was examined, and was attractive."""
    missed = np.maximum(1 - p * r, _LEAST)
    return p * (1 - r) / missed, r * (1 - p) / missed


def regression_em(log: Log) -> np.ndarray:
    """Returns propensities with attraction as a function of features.

    Regression EM (Wang et al., "Position Bias Estimation for Unbiased Learning to Rank
    in Personal Search", WSDM 2018), with a logistic regression on standardised
    logarithms of features where the paper has trees. One ranker is enough; what its
    order tells of relevance and the regression does not is taken for position bias.

    Args:
      log: A log with features.

    Returns:
      float64 `[positions]`, the first 1.

    Raises:
      DataError: The log has no features.
    """
    if log.features is None or not log.features.shape[1]:
        raise DataError("clicks: expected features of documents for --method=em.")
    matrix = standardized(log.features)
    matrix = np.concatenate([matrix, np.ones((len(matrix), 1))], axis=1)
    positions, last = log.positions - 1, int(log.positions.max())
    clicks, misses = log.clicks.astype(float), (log.shown - log.clicks).astype(float)
    shown = np.bincount(positions, log.shown, minlength=last)
    of_documents = np.bincount(log.documents, log.shown, minlength=len(matrix))
    p = 1.0 / np.arange(1, last + 1) ** 0.5
    weights = np.zeros(matrix.shape[1])
    rates = np.full(len(matrix), 0.5)
    for _ in range(_ROUNDS):
        seen, liked = _unclicked(p[positions], rates[log.documents])
        expected = np.bincount(positions, clicks + misses * seen, minlength=last)
        new = np.clip(expected / np.maximum(shown, 1), _LEAST, 1.0)
        likes = np.bincount(log.documents, clicks + misses * liked, len(matrix))
        weights = _newton(matrix, likes, of_documents, weights)
        rates = _sigmoid(matrix @ weights)
        # The first position is one that all see: what is left is relevance.
        new /= new[0]
        change = float(np.abs(new - p).max())
        p = np.clip(new, _LEAST, 1.0)
        if change < _ENOUGH:
            break
    return p


def _newton(
    matrix: np.ndarray, likes: np.ndarray, shown: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Takes one step of a penalised logistic regression of `likes` of `shown`."""
    rates = _sigmoid(matrix @ weights)
    slopes = shown * rates * (1 - rates)
    penalty = _RIDGE * np.ones(len(weights))
    penalty[-1] = 0.0
    gradient = matrix.T @ (likes - shown * rates) - penalty * weights
    hessian = (matrix * slopes[:, None]).T @ matrix + np.diag(penalty + _LEAST)
    return weights + np.linalg.solve(hessian, gradient)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(values / 2))
