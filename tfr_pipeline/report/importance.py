"""Permutation importance: how much NDCG is lost when a feature says nothing.

Breiman, "Random Forests", 2001; Fisher, Rudin and Dominici, JMLR 2019. A feature is
permuted among the documents of each list. A ranking is made of differences within
lists, so that is what a feature can give; and each list keeps the values it has, where
a permutation of all documents would put those of one query beside those of another, at
which no model was trained. What does not differ within lists therefore has none.
Query features are permuted among lists.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.metrics.evaluation import QueryMetrics
from tfr_pipeline.pipeline.run.measuring import labels_by_task
from tfr_pipeline.report.columns import Group, groups_of
from tfr_pipeline.serving.predictor import Predictor


@dataclasses.dataclass(frozen=True)
class Importance:
    """What was lost without a feature.

    Attributes:
      name: The feature, or the group.
      loss: NDCG with it minus NDCG without, mean over queries and permutations.
      error: Standard error of that over queries, of which each has the mean over
        permutations.
    """

    name: str
    loss: float
    error: float


def permutation_importance(
    predictor: Predictor,
    lists: Lists,
    features: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    *,
    task: str | None = None,
    cutoff: int = 10,
    repeats: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], Any] | None = None,
) -> list[Importance]:
    """Returns how much NDCG rests on each feature, the most first.

    All documents are scored once for each feature and permutation. The permutations
    are the same for all features.

    Args:
      predictor: The model.
      lists: Labelled lists; see `columns.sample` for some of many.
      features: Names, or names by group; see `columns.groups_of`.
      task: Name of the task; may be left out for a model that has one.
      cutoff: `k` of NDCG@k.
      repeats: Number of permutations.
      seed: Seed of the permutations.
      progress: Called with how many features are done, and how many there are.

    Raises:
      ConfigError: The model has several tasks, or classifies, or has no such feature.
      DataError: There are fewer than two queries with a relevant document, or no
        labels.

    Example:
      >>> def most(predictor, lists):
      ...     found = permutation_importance(predictor, lists)
      ...     return [one.name for one in found if one.loss > 2 * one.error]
    """
    if predictor.classes:
        raise ConfigError(
            f"{predictor.path}: the importance is that for NDCG, expected a model that "
            "ranks; it classifies."
        )
    if repeats < 1:
        raise ConfigError(f"repeats: expected 1 or more, found {repeats}.")
    task = predictor.task(task)
    groups = groups_of(predictor, features)
    labels = labels_of(predictor, lists, task)
    lists = lists.widened()

    def ndcg(moved: Lists) -> np.ndarray:
        scores = predictor.score(moved, task=task)
        metrics = QueryMetrics.of(labels, scores, lists.row_splits, [cutoff])
        return metrics.values[f"ndcg@{cutoff}"]

    before = ndcg(lists)
    counts = ~np.isnan(before)
    if counts.sum() < 2:
        raise DataError(
            f"permutation importance: expected at least two queries with a relevant "
            f"document, to tell what is lost from chance; found {int(counts.sum())} "
            f"among {lists.num_lists}. Take more lists."
        )
    orders = list(_orders(lists, repeats, seed))
    result = []
    for number, group in enumerate(groups):
        losses = [before - ndcg(moved) for moved in _moved(lists, group, orders)]
        loss = np.mean(losses, axis=0)[counts]
        error = loss.std(ddof=1) / np.sqrt(len(loss))
        result.append(Importance(group.name, float(loss.mean()), float(error)))
        if progress is not None:
            progress(number + 1, len(groups))
    return sorted(result, key=lambda one: -one.loss)


def labels_of(predictor: Predictor, lists: Lists, task: str) -> np.ndarray:
    """Returns float32 `[documents]`, what a score is measured by.

    Raises:
      DataError: The lists have no labels for it.
    """
    labels = labels_by_task(predictor, lists) if lists.labels is not None else {}
    found = labels.get(task, labels.get(""))
    if found is None:
        raise DataError(
            f"{predictor.path}: expected lists with labels for {task!r}, found "
            f"{', '.join(labels) or 'none'}."
        )
    return found


_Orders = tuple[np.ndarray, np.ndarray]


def _orders(lists: Lists, repeats: int, seed: int) -> Sequence[_Orders]:
    """Returns orders of documents within their lists, and of lists."""
    random, rows = np.random.default_rng(seed), lists.row_ids
    return [
        (
            np.lexsort((random.random(lists.num_documents), rows)),
            random.permutation(lists.num_lists),
        )
        for _ in range(repeats)
    ]


def _moved(lists: Lists, group: Group, orders: Sequence[_Orders]) -> Any:
    """Yields lists of which one group of features is in other orders."""
    # One copy of the matrices that change, whatever the number of orders.
    dtypes = dict.fromkeys(dtype for dtype, _ in group.columns)
    values = {**lists.values, **{dtype: lists.values[dtype].copy() for dtype in dtypes}}
    for documents, queries in orders:
        for dtype, column in group.columns:
            values[dtype][:, column] = lists.values[dtype][documents, column]
        yield dataclasses.replace(
            lists,
            values=values,
            loose=lists.loose
            | {name: lists.loose[name].take(documents) for name in group.loose},
            context={
                name: value[queries] if name in group.context else value
                for name, value in lists.context.items()
            },
            loose_context={
                name: value.take(queries) if name in group.context else value
                for name, value in lists.loose_context.items()
            },
        )
