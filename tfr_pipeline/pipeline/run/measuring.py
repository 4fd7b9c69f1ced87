"""What an exported model is measured by: whole lists, all of them or some in a row."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import DataError
from tfr_pipeline.metrics.classification import ClassMetrics
from tfr_pipeline.metrics.evaluation import NOTHING_LABELLED, QueryMetrics
from tfr_pipeline.metrics.query_table import AnyMetrics
from tfr_pipeline.serving.predictor import Predictor

Record = Callable[[str, Any, AnyMetrics], None]


def labels_by_task(predictor: Predictor, lists: Lists) -> dict[str, np.ndarray]:
    """Returns what each score of a model is measured by.

    Args:
      predictor: The model.
      lists: The lists, with labels.

    Returns:
      Labels, float32 `[documents]`, by the name of the score; by an empty text where
      there is one. Without those of tasks of which these lists have no label.
    """
    labels = _all_labels(predictor, lists)
    if not _has_several(lists):
        return labels
    return {task: column for task, column in labels.items() if (column >= 0).any()}


def _has_several(lists: Lists) -> bool:
    return lists.labels is not None and lists.labels.ndim > 1


def _all_labels(predictor: Predictor, lists: Lists) -> dict[str, np.ndarray]:
    labels = lists.labels
    assert labels is not None
    if not _has_several(lists):
        return dict.fromkeys(predictor.tasks if predictor.several else [""], labels)
    return {
        task: column
        for label, column in zip(predictor.features.labels, labels.T, strict=True)
        for task in predictor.tasks_of(label)
    }


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured of some lists in a row.

    Attributes:
      query_ids: object `[lists]`.
      tasks: What was measured of each query by the name of the score; by an empty text
        where there is one.
      several_labels: Whether the lists have several labels.
    """

    query_ids: np.ndarray
    tasks: dict[str, AnyMetrics]
    several_labels: bool

    @classmethod
    def of_part(cls, predictor: Predictor, lists: Lists) -> Measured:
        """Measures some of the lists of a split; see `whole`."""
        labels = _all_labels(predictor, lists)
        if predictor.classes:
            found = ClassMetrics.of(
                labels[""], predictor.probabilities(lists), predictor.classes
            )
            return cls(lists.query_ids, {"": found}, False)
        if "" in labels:
            scores = {"": predictor.score(lists, task=predictor.tasks[0])}
        else:
            scores = predictor.score_tasks(lists)
        splits = lists.row_splits
        return cls(
            lists.query_ids,
            {
                task: QueryMetrics.of_part(column, scores[task], splits)
                for task, column in labels.items()
            },
            _has_several(lists),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Measured]) -> Measured:
        """Returns what was measured of all parts, in order. Needs at least one."""
        return cls(
            np.concatenate([part.query_ids for part in parts]),
            {
                task: _concatenated([part.tasks[task] for part in parts])
                for task in parts[0].tasks
            },
            parts[0].several_labels,
        )

    def whole(self) -> Measured:
        """Returns it as that of a whole split, if it has all parts of that.

        Of several labels those that no document has are left out.

        Raises:
          DataError: No document has the only label.
        """
        labelled = {
            task: metrics
            for task, metrics in self.tasks.items()
            if metrics.documents.any()
        }
        if not labelled and not self.several_labels:
            raise DataError(NOTHING_LABELLED)
        return dataclasses.replace(self, tasks=labelled)

    def record(self, add: Record) -> None:
        """Calls a function with the name, query ids and metrics of each task."""
        for task, metrics in self.tasks.items():
            add(task, self.query_ids, metrics)

    def means(self) -> dict[str, Any]:
        """Returns the result of `evaluate_lists`; a dict of them for several scores."""
        if "" in self.tasks:
            return self.tasks[""].means()
        return {task: metrics.means() for task, metrics in self.tasks.items()}

    def to_bytes(self) -> bytes:
        """Returns it as bytes, to be sent to another process."""
        tasks = {}
        arrays: dict[str, Any] = {}
        for task, metrics in self.tasks.items():
            found = metrics.arrays()
            classes = metrics.classes if isinstance(metrics, ClassMetrics) else ()
            tasks[task] = [classes, list(found)]
            for place, array in enumerate(found.values()):
                arrays[f"{len(tasks)}.{place}"] = array
        head = json.dumps([self.query_ids.tolist(), tasks, self.several_labels])
        arrays["head"] = np.frombuffer(head.encode(), np.uint8)
        file = io.BytesIO()
        np.savez(file, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Measured:
        """Reverse of `to_bytes`."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            query_ids, heads, several = json.loads(arrays["head"].tobytes())
            tasks: dict[str, AnyMetrics] = {}
            for number, (task, (classes, names)) in enumerate(heads.items(), 1):
                found = {
                    n: arrays[f"{number}.{place}"] for place, n in enumerate(names)
                }
                if classes:
                    tasks[task] = ClassMetrics.of_arrays(found, classes)
                else:
                    tasks[task] = QueryMetrics.of_arrays(found)
        return cls(np.array(query_ids, object), tasks, several)


def _concatenated(parts: list[Any]) -> AnyMetrics:
    """Returns what was measured of all parts, which are of one kind, in order."""
    found: AnyMetrics = type(parts[0]).concatenate(parts)
    return found


def evaluate(
    predictor: Predictor, lists: Lists, record: Record | None = None
) -> dict[str, Any]:
    """Evaluates an exported model on whole lists; see `evaluate_lists`.

    Args:
      predictor: The model.
      lists: The lists, with labels.
      record: Called with the name of each task (empty for the only one), the query ids
        and what was measured of each query; such as `QueryTable.add` of a split.

    Returns:
      The result of `evaluate_lists`; a dict of them by `labels_by_task` where that has
      names.
    """
    measured = measure(predictor, lists)
    if record is not None:
        measured.record(record)
    return measured.means()


def measure(predictor: Predictor, lists: Lists) -> Measured:
    """Measures all lists of a split.

    Raises:
      DataError: No document has a label.
    """
    return Measured.of_part(predictor, lists).whole()
