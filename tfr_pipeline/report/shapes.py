"""Shapes of additive models: what each feature adds to the score, by its value.

A generalised additive model (Hastie and Tibshirani, 1986) scores by a sum over
features. So what one adds is seen by moving it alone, whatever else a document has,
and whatever made the model: it is asked, not opened. Whether a model is additive is
seen, too: on real documents what features add sums to the score.

With query features, a GAM of Zhuang et al., WSDM 2021, weighs what the features add by
the query: then the shapes are those for one query.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.report.columns import Group, column_names, typical
from tfr_pipeline.serving.predictor import Predictor

_CHECKED = 128  # documents whose scores have to be sums
_CENTRED = 1024  # documents over which a shape has the mean 0
# How far sums may be from scores, relative to how scores differ.
_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a feature adds to the score.

    Attributes:
      name: The feature.
      x: float64 `[points]`, values of it, rising.
      effect: float64 `[points]`, what they add; 0 in the mean over documents.
      values: float64 `[documents]`, the values that documents have.
      spread: Standard deviation over documents of what it adds.
    """

    name: str
    x: np.ndarray
    effect: np.ndarray
    values: np.ndarray
    spread: float


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The features of an additive model.

    Attributes:
      shapes: Those of all single numbers, the largest spread first.
      intercept: The score of a document to which all add 0.
      left_out: Vector features that are not sums over their numbers.
      query_id: The query that they are for; empty where all have the same.
      residual: Largest difference between a score and the sum, over real documents.
      documents: How many those were.
    """

    shapes: tuple[Shape, ...]
    intercept: float
    left_out: tuple[str, ...]
    query_id: str
    residual: float
    documents: int


def additive_shapes(
    predictor: Predictor,
    lists: Lists,
    *,
    points: int = 96,
    task: str | None = None,
    seed: int = 0,
) -> Shapes:
    """Returns what each feature of an additive model adds to the score.

    Args:
      predictor: The model.
      lists: Lists, whose documents say which values are usual.
      points: About how many values of a feature are looked at.
      task: Name of the task; may be left out for a model that has one.
      seed: Of the choice of documents.

    Raises:
      ConfigError: The model is not additive, or has features that are no numbers.

    Example:
      >>> def weight_of(predictor, lists, name):
      ...     found = additive_shapes(predictor, lists).shapes
      ...     (shape,) = [one for one in found if one.name == name]
      ...     return (shape.effect[-1] - shape.effect[0]) / np.ptp(shape.x)
    """
    if predictor.loose or lists.loose_context or predictor.classes:
        raise ConfigError(
            f"{predictor.path}: shapes need a model that ranks by features that are "
            f"numbers, found {sorted({*predictor.loose, *lists.loose_context})}."
        )
    model = _Model(predictor, lists.widened(), predictor.task(task))
    random = np.random.default_rng(seed)
    checked = _some(random, model.lists.num_documents, _CHECKED)
    vectors = [
        Group(slot.name, tuple((dtype, i) for i in range(slot.start, slot.stop)))
        for dtype, slots in predictor.layout.slots.items()
        for slot in slots
    ]
    groups, left_out = _columns(predictor), []
    residual, scale = model.residual(groups, checked)
    single = [group for group in vectors if len(group.columns) == 1]
    if residual > _TOLERANCE * scale and single and len(single) < len(vectors):
        # Networks for whole vectors leave shapes of the other features.
        of_vectors, _ = model.residual(vectors, checked)
        if of_vectors <= _TOLERANCE * scale:
            left_out = [group.name for group in vectors if group not in single]
            groups, residual = single, of_vectors
    if residual > _TOLERANCE * scale:
        raise ConfigError(
            f"{predictor.path}: the model is not additive: what features add sums to "
            f"scores that are off by up to {residual:.3g}, where scores differ by "
            f"{scale:.3g} (standard deviation). Only those of a GAM have shapes."
        )
    centre = _some(random, model.lists.num_documents, _CENTRED)
    made = [model.shape(group, centre, points) for group in groups]
    found = (shape for shape, _ in made if len(shape.values))
    shapes = sorted(found, key=lambda shape: -shape.spread)
    return Shapes(
        tuple(shapes),
        model.base + sum(mean for _, mean in made),
        tuple(left_out),
        str(lists.query_ids[0]) if lists.context else "",
        residual,
        len(checked),
    )


def _columns(predictor: Predictor) -> list[Group]:
    """Returns a group for each column."""
    return [
        Group(name, ((dtype, number),))
        for dtype, names in column_names(predictor).items()
        for number, name in enumerate(names)
    ]


def _some(random: np.random.Generator, total: int, count: int) -> np.ndarray:
    return np.sort(random.choice(total, min(total, count), replace=False))


class _Model:
    """Scores documents that are alike but for one feature, each in a list alone."""

    def __init__(self, predictor: Predictor, lists: Lists, task: str):
        self._predictor, self.lists, self._task = predictor, lists, task
        self._typical = typical(lists)
        first = np.zeros(1, np.int64)
        self.base = float(self._score({}, (), first)[0])

    def _score(
        self, values: Any, columns: Sequence[tuple[str, int]], queries: np.ndarray
    ) -> np.ndarray:
        """Returns float64 `[documents]`, scores of typical documents with other values.

        Args:
          values: `[documents, columns]`, the values.
          columns: Where they stand.
          queries: int64 `[documents]`, the list whose query each belongs to.
        """
        count = len(queries)
        matrices = {
            dtype: np.tile(row, (count, 1)) for dtype, row in self._typical.items()
        }
        for place, (dtype, column) in enumerate(columns):
            matrices[dtype][:, column] = values[:, place]
        alone = Lists(
            values=matrices,
            row_splits=np.arange(count + 1),
            labels=None,
            query_ids=self.lists.query_ids[queries],
            document_ids=np.array([], object),
            context={n: value[queries] for n, value in self.lists.context.items()},
        )
        scores = self._predictor.score(alone, task=self._task)
        return scores.astype(np.float64)

    def _values(self, group: Group, documents: Any) -> np.ndarray:
        columns = [self.lists.values[d][documents, c] for d, c in group.columns]
        return np.stack(columns, axis=1)

    def residual(
        self, groups: Sequence[Group], documents: np.ndarray
    ) -> tuple[float, float]:
        """Returns how far sums are from scores at most, and how scores differ."""
        queries = self.lists.row_ids[documents]
        # Documents in their lists, with all the others, as the model ranks them.
        used, place = np.unique(queries, return_inverse=True)
        some = self.lists.take(used)
        rows = some.row_splits[place] + documents - self.lists.row_splits[queries]
        scores = self._predictor.score(some, task=self._task).astype(np.float64)[rows]
        base = self._score({}, (), queries)
        total = base.copy()
        for group in groups:
            values = self._values(group, documents)
            total += self._score(values, group.columns, queries) - base
        return float(np.abs(scores - total).max()), float(scores.std()) + 1e-6

    def shape(
        self, group: Group, documents: np.ndarray, points: int
    ) -> tuple[Shape, float]:
        """Returns the shape of a column, and the mean that was taken from it."""
        ((dtype, column),) = group.columns
        values = self._values(group, documents)
        everywhere = self.lists.values[dtype][:, column]
        x = _grid(everywhere[~np.isnan(everywhere)], points)[:, np.newaxis]
        x = x.astype(dtype)
        both = np.concatenate([x, values])
        first = np.zeros(len(both), np.int64)
        added = self._score(both, group.columns, first) - self.base
        mean = float(added[len(x) :].mean())
        return (
            Shape(
                group.name,
                x[:, 0].astype(np.float64),
                added[: len(x)] - mean,
                values[~np.isnan(values)].astype(np.float64),
                float(added[len(x) :].std()),
            ),
            mean,
        )


def _grid(values: np.ndarray, points: int) -> np.ndarray:
    """Returns values to look at: all of few, or many where there are many."""
    distinct = np.unique(values)
    if len(distinct) <= points:
        return distinct
    half = points // 2
    low, high = np.quantile(values, [0.01, 0.99])
    even = np.linspace(low, high, half)
    found = np.concatenate([np.quantile(values, np.linspace(0, 1, half)), even])
    return np.unique(found.astype(values.dtype))
