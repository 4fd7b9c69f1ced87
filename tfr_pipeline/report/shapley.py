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
from tfr_pipeline.report.gradients import Attributions, Path
from tfr_pipeline.serving.predictor import Predictor

# About so many documents are scored, in at least a pair of orders and in at most 32.
_DOCUMENTS = 400_000
_MOST_PAIRS = 16


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
      The means over `orders` orders.

    Raises:
      ConfigError: See `integrated_gradients`.

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
    pairs = int(np.clip(_DOCUMENTS // (2 * points), 1, _MOST_PAIRS))
    values = np.zeros((count, columns))
    ends = np.zeros((count, 2))
    for which, active in enumerate(moves):
        for _ in range(pairs):
            order = random.permutation(active)
            for one in (order, order[::-1]):
                # Point i has the first i features of the order.
                own = np.zeros((len(one) + 1, columns))
                own[:, one] = np.tri(len(one) + 1, len(one), -1)
                scores = path.scores(np.full(len(own), which), own)
                values[which, one] += np.diff(scores)
                ends[which] = scores[[0, -1]]
    values /= 2 * pairs
    names, scores = path.names, ends[:, 1]
    return Attributions(names, path.documents, values, scores, ends[:, 0], 2 * pairs)
