"""Shapley values: integrated gradients' place where a model has jumps.

The features of a document are changed one after the other, in a random order, from the
baseline's value to their own; each adds what the score gains in its turn, in the mean
over orders (Strumbelj and Kononenko, "Explaining prediction models and individual
predictions with feature contributions", 2014). Of each order the reverse is taken too,
which halves the work for the same error where features act in pairs. The values of
each order sum to the difference of the two scores, whatever the model is made of.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.report.gradients import Attributions, Path
from tfr_pipeline.serving.predictor import Predictor

# About so many documents are scored, in at least a pair of orders and in at most 32.
_DOCUMENTS = 1_000_000
_MOST_PAIRS = 16
# One pair of more than so many would take an hour.
_MOST_DOCUMENTS = 10_000_000


def shapley_values(
    predictor: Predictor,
    lists: Lists,
    baseline: Any = None,
    *,
    documents: Any = None,
    task: str | None = None,
    seed: int = 0,
) -> Attributions:
    """Attributes the scores of documents of one list to their features.

    Args:
      predictor: See `integrated_gradients`, as for the others.
      lists: Likewise.
      baseline: Likewise.
      documents: Likewise.
      task: Likewise.
      seed: Of the orders.

    Returns:
      The means over `orders` orders, and their `errors`.

    Raises:
      ConfigError: See `integrated_gradients`; or two orders would score more than ten
        million documents.

    Example:
      >>> def largest(predictor, lists):
      ...     found = shapley_values(predictor, lists.slice(0, 1))
      ...     return found.names[abs(found.values[0]).argmax()]
    """
    path = Path(predictor, lists, baseline, documents, task)
    random = np.random.default_rng(seed)
    count, columns = len(path.documents), len(path.names)
    moves = [np.flatnonzero(steps) for steps in path.steps]
    points = sum(len(active) + 1 for active in moves) * path.lists.num_documents
    if 2 * points > _MOST_DOCUMENTS:
        raise ConfigError(
            f"Shapley values of {count} of {path.lists.num_documents:,} documents with "
            f"{columns} features take {2 * points:,} scores; expected at most "
            f"{_MOST_DOCUMENTS:,}. Ask for fewer documents, or of a shorter list."
        )
    pairs = int(np.clip(_DOCUMENTS // max(1, 2 * points), 1, _MOST_PAIRS))
    values = np.zeros((pairs, count, columns))
    ends = np.zeros((count, 2))
    for which, active in enumerate(moves):
        for pair in range(pairs):
            order = random.permutation(active)
            for one in (order, order[::-1]):
                # Point i has the first i features of the order.
                own = np.zeros((len(one) + 1, columns))
                own[:, one] = np.tri(len(one) + 1, len(one), -1)
                scores = path.scores(np.full(len(own), which), own)
                values[pair, which, one] += np.diff(scores) / 2.0
                ends[which] = scores[[0, -1]]
    errors = None
    if pairs > 1:
        errors = values.std(axis=0, ddof=1) / pairs**0.5
    return Attributions(
        path.names, path.documents, values.mean(axis=0), ends[:, 1], ends[:, 0],
        2 * pairs, errors,
    )  # fmt: skip
