"""Integrated gradients: which features make the score of a document what it is.

Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017,
equation 1: from a baseline `b` to the features `x` of a document, feature `i` has
`(x_i - b_i)` times the mean of `d score / d x_i` on the straight path. They sum to the
difference of the two scores. Only the document moves: the others of its list, its
texts, whole numbers and missing values, and the query stay as they are.

Networks of ReLUs have kinks, at which a sum with even steps is wrong by about a step.
So the path is cut in two again and again where the gradients in the middle of a piece
do not give the difference of the scores at its ends.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.report.columns import column_names, typical
from tfr_pipeline.serving.predictor import Predictor

_MATRIX = "float32"
_PIECES = 8  # at first
_ROUNDS = 20
# Of a document; less where many documents stand in the list, which all are scored.
_MOST_PIECES, _LEAST_PIECES, _MOST_SCORES = 4096, 64, 4_000_000
_DOCUMENTS_PER_CALL = 16384
_ROUNDING = 1e-6  # of scores in float32


class GapWarning(UserWarning):
    """Attributions do not sum to the differences of the scores."""


@dataclasses.dataclass(frozen=True)
class Attributions:
    """What features have to do with the scores of documents of one list.

    Attributes:
      names: Names of the features, `[columns]`.
      documents: int64 `[documents]`, numbers within the list.
      values: float64 `[documents, columns]`, what each adds to the score.
      scores: float64 `[documents]`.
      baseline_scores: float64 `[documents]`, with the baseline in its place.
      orders: Of Shapley values, how many orders they are the means of; else 0.
      errors: float64 `[documents, columns]`, standard errors of these means; None for
        two orders, which do not tell, and for gradients.
    """

    names: tuple[str, ...]
    documents: np.ndarray
    values: np.ndarray
    scores: np.ndarray
    baseline_scores: np.ndarray
    orders: int = 0
    errors: np.ndarray | None = None

    @property
    def gaps(self) -> np.ndarray:
        """float64 `[documents]`, what is lacking in the sums.

        That of models with jumps may be large: features cut into ranges, ranks within
        the list, `quantile_normal` where many documents have the same value. Their
        gradients do not say what they do, and `shapley_values` do.
        """
        return self.scores - self.baseline_scores - self.values.sum(axis=1)


def integrated_gradients(
    predictor: Predictor,
    lists: Lists,
    baseline: Any = None,
    *,
    documents: Any = None,
    task: str | None = None,
    tolerance: float = 1e-3,
) -> Attributions:
    """Attributes the scores of documents of one list to their features.

    Args:
      predictor: The model, an export of this package.
      lists: One list.
      baseline: float32 `[columns]`, features of the document that scores are compared
        with; by default the median of the list, see `columns.typical`.
      documents: `[chosen]`, numbers of documents in the list; all by default.
      task: Name of the task; may be left out for a model that has one.
      tolerance: How far sums may be from the differences of scores; less where scores
        of the list span less than 1, in proportion. It warns (`GapWarning`) of sums
        that are farther off, as those of models with jumps are.

    Raises:
      ConfigError: The model has several tasks, classifies, or has no features of
        float32; or there is not one list.

    Example:
      >>> def largest(predictor, lists):
      ...     found = integrated_gradients(predictor, lists.slice(0, 1))
      ...     return found.names[abs(found.values[0]).argmax()]
    """
    path = Path(predictor, lists, baseline, documents, task)
    count, columns = path.steps.shape
    span = max(float(np.ptp(predictor.score(path.lists, task=path.task))), 1e-3)
    scored = max(1, count * path.lists.num_documents)
    most = int(np.clip(_MOST_SCORES // scored, _LEAST_PIECES, _MOST_PIECES))
    tolerance *= min(1.0, span)
    values, ends = _integrals(path, count, columns, tolerance, most)
    found = Attributions(path.names, path.documents, values, ends[:, 1], ends[:, 0])
    gap = np.abs(found.gaps).max(initial=0.0)
    if not gap <= tolerance + _ROUNDING * np.abs(ends).max(initial=0.0):
        warnings.warn(
            f"{predictor.path}: integrated gradients sum to the differences of scores "
            f"to within {gap:.1g}, expected {tolerance:.1g}: the model has jumps, such "
            "as those of quantile_normal at values of many documents, or too many "
            "kinks. shapley_values sum to them whatever the model is made of.",
            GapWarning,
            stacklevel=2,
        )
    return found


class Path:
    """Scores and gradients on the way of each document from the baseline.

    Args:
      predictor: See `integrated_gradients`, as for the others.
      lists: Likewise.
      baseline: Likewise.
      documents: Likewise.
      task: Likewise.

    Attributes:
      names: Names of the features, `[columns]`.
      lists: The list, in float32.
      documents: int64 `[chosen]`.
      task: Name of the task.
      steps: float32 `[chosen, columns]`, the whole way; 0 where one of its ends is NaN.

    Raises:
      ConfigError: See `integrated_gradients`.
    """

    def __init__(
        self,
        predictor: Predictor,
        lists: Lists,
        baseline: Any,
        documents: Any,
        task: str | None,
    ):
        if predictor.packed is None or predictor.classes:
            raise ConfigError(
                f"{predictor.path}: gradients need a model of one score a document "
                "with the signature 'rank'."
            )
        if lists.num_lists != 1 or not lists.num_documents:
            raise ConfigError(
                f"expected one list with documents, found {lists.num_lists} lists of "
                f"{lists.num_documents} documents; see Lists.slice."
            )
        self.names = column_names(predictor).get(_MATRIX, ())
        if not self.names:
            raise ConfigError(
                f"{predictor.path}: the model has no features of float32."
            )
        self._predictor, self.task = predictor, predictor.task(task)
        self.lists = lists = lists.widened()
        if baseline is None:
            baseline = typical(lists)[_MATRIX]
        baseline = np.asarray(baseline, np.float32)
        if baseline.shape != (len(self.names),):
            raise ConfigError(
                f"baseline: expected the shape [{len(self.names)}], found "
                f"{list(baseline.shape)}."
            )
        if documents is None:
            documents = np.arange(lists.num_documents)
        self.documents = np.asarray(documents, np.int64)
        self._own = lists.values[_MATRIX][self.documents]
        # There is no way to NaN, or from there.
        stays = np.isnan(self._own) | np.isnan(baseline)
        self._start = np.where(stays, self._own, baseline)
        self.steps = np.where(stays, 0.0, self._own - baseline)
        self._at_once = max(1, _DOCUMENTS_PER_CALL // lists.num_documents)

    def __call__(
        self, which: np.ndarray, place: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns scores `[points]`, and gradients times the way `[points, columns]`.

        Args:
          which: int64 `[points]`, which of the documents.
          place: float64 `[points]`, how much of the way, from 0 to 1.
        """
        parts = [
            self._some(which[i : i + self._at_once], place[i : i + self._at_once])
            for i in range(0, len(which), self._at_once)
        ]
        scores, changes = zip(*parts, strict=True)
        return np.concatenate(scores), np.concatenate(changes)

    def scores(self, which: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Returns float64 `[points]`, scores without their gradients.

        Args:
          which: int64 `[points]`, which of the documents.
          place: float64 `[points, columns]`, how much of the way of each feature.
        """
        parts = []
        for i in range(0, len(which), self._at_once):
            some = slice(i, i + self._at_once)
            arguments, rows = self._arguments(which[some], place[some])
            parts.append(self._scored(arguments, rows).numpy().astype(np.float64))
        return np.concatenate(parts)

    def _arguments(self, which: Any, place: Any) -> tuple[Any, np.ndarray]:
        """Returns what the model takes, and the rows of the documents that moved."""
        copies = self.lists.take(np.zeros(len(which), np.int64))
        rows = np.arange(len(which)) * self.lists.num_documents
        rows += self.documents[which]
        at = self._start[which] + place * self.steps[which]
        # At its end a feature is that of the document itself, to the bit.
        copies.values[_MATRIX][rows] = np.where(place == 1.0, self._own[which], at)
        return self._predictor.arguments(copies), rows

    def _scored(self, arguments: Any, rows: np.ndarray) -> Any:
        packed = self._predictor.packed
        assert packed is not None
        outputs = packed(*arguments)
        found = outputs.get(self.task, next(iter(outputs.values())))
        return tf.gather(tf.reshape(found, [-1]), rows)

    def _some(self, which: Any, place: Any) -> tuple[np.ndarray, np.ndarray]:
        arguments, rows = self._arguments(which, place[:, np.newaxis])
        with tf.GradientTape() as tape:
            tape.watch(arguments[0][_MATRIX])
            own = self._scored(arguments, rows)
        gradient = tape.gradient(own, arguments[0][_MATRIX])
        if gradient is None:  # a score that depends on none of them
            change = np.zeros([len(which), self.steps.shape[1]])
        else:
            slope = tf.gather(gradient, rows).numpy().astype(np.float64)
            steps = self.steps[which]
            change = np.where(steps == 0.0, 0.0, slope * steps)
        return own.numpy().astype(np.float64), change


def _integrals(
    path: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    count: int,
    columns: int,
    tolerance: float,
    most: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Integrates along the ways of documents.

    Args:
      path: See `Path`.
      count: Number of documents.
      columns: Number of columns.
      tolerance: What the sum over a way may lack.
      most: Of so many pieces none is cut any more.

    Returns:
      `[count, columns]`, and the scores at both ends, `[count, 2]`.
    """
    marks = np.linspace(0.0, 1.0, _PIECES + 1)
    at_marks, _ = path(np.repeat(np.arange(count), len(marks)), np.tile(marks, count))
    at_marks = at_marks.reshape(count, len(marks))
    which = np.repeat(np.arange(count), _PIECES)
    start, stop = np.tile(marks[:-1], count), np.tile(marks[1:], count)
    before, after = at_marks[:, :-1].ravel(), at_marks[:, 1:].ravel()
    result = np.zeros((count, columns))
    pieces = np.full(count, _PIECES)
    for number in range(_ROUNDS):
        middle = (start + stop) / 2.0
        inside, change = path(which, middle)
        change *= (stop - start)[:, np.newaxis]
        gap = np.abs(after - before - change.sum(axis=1))
        cut = gap > tolerance / (2.0 * pieces[which])
        cut &= pieces[which] < most
        if number == _ROUNDS - 1:
            cut[:] = False
        np.add.at(result, which[~cut], change[~cut])
        if not cut.any():
            break
        pieces += np.bincount(which[cut], minlength=count)
        which = np.tile(which[cut], 2)
        start, stop = (
            np.concatenate([start[cut], middle[cut]]),
            np.concatenate([middle[cut], stop[cut]]),
        )
        before, after = (
            np.concatenate([before[cut], inside[cut]]),
            np.concatenate([inside[cut], after[cut]]),
        )
    return result, at_marks[:, [0, -1]]
