"""What a data set contains: counts that can be taken in parts and added."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfr_pipeline.data import ids
from tfr_pipeline.data.convert.narrow import Losses
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.oddities import Oddities
from tfr_pipeline.features import PADDING_LABEL

_QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


@dataclasses.dataclass
class Statistics:
    """Counts over lists; see `to_json` for what is derived from them.

    Attributes:
      lengths: Maps a number of documents to the number of lists that have it.
      grades: Maps a grade to the number of documents that have it.
      single: Number of lists with one document, and the query id of the first.
      irrelevant: Number of lists without a relevant document, likewise.
      repeated: Number of documents with the id of another of their list, and the first
        of them in words.
      top: The largest grade, of several tasks too; 0 without labels.
      minimum: float64 `[features]` over finite values; `inf` if there is none.
      maximum: The same, `-inf`.
      total: float64 `[features]`, sum of the finite values.
      zeros: int64 `[features]`.
      nonfinite: int64 `[features]`, NaN and infinite values.
      oddities: What deserves a word, in tables.
      losses: Values that did not survive in 16 bits; None for float32.
    """

    lengths: collections.Counter[int]
    grades: collections.Counter[float]
    single: tuple[int, str]
    irrelevant: tuple[int, str]
    repeated: tuple[int, str]
    top: float
    minimum: np.ndarray
    maximum: np.ndarray
    total: np.ndarray
    zeros: np.ndarray
    nonfinite: np.ndarray
    oddities: Oddities = dataclasses.field(default_factory=Oddities)
    losses: Losses | None = None

    @classmethod
    def of(cls, lists: Lists, losses: Losses | None = None) -> Statistics:
        """Counts some lists; `values["float32"]` are the features as written."""
        matrix = lists.values["float32"]
        finite = np.isfinite(matrix)
        nonfinite = len(matrix) - finite.sum(0)
        low = high = kept = matrix
        if nonfinite.any():
            low, high, kept = (
                np.where(finite, matrix, other) for other in (np.inf, -np.inf, 0)
            )
        grades: collections.Counter[float] = collections.Counter()
        irrelevant = np.zeros(0, np.int64)
        if lists.labels is not None:
            labels = lists.labels
            if labels.ndim > 1:  # of several tasks, the first
                labels = labels[:, 0]
            for grade, count in zip(
                *np.unique(labels, return_counts=True), strict=True
            ):
                grades[float(grade)] = int(count)
            best = np.maximum.reduceat(labels, lists.row_splits[:-1])
            irrelevant = np.flatnonzero(best <= 0)
        single = np.flatnonzero(lists.lengths == 1)
        return cls(
            lengths=collections.Counter(lists.lengths.tolist()),
            grades=grades,
            single=_counted(single, lists.query_ids),
            irrelevant=_counted(irrelevant, lists.query_ids),
            repeated=ids.repeated(lists),
            top=0.0 if lists.labels is None else float(lists.labels.max(initial=0)),
            minimum=low.min(0).astype(np.float64),
            maximum=high.max(0).astype(np.float64),
            total=kept.sum(0, dtype=np.float64),
            zeros=len(matrix) - np.count_nonzero(matrix, axis=0),
            nonfinite=nonfinite,
            losses=losses,
        )

    def add(self, other: Statistics) -> None:
        """Adds the counts of lists that come later."""
        self.lengths += other.lengths
        self.grades += other.grades
        self.single = _sum(self.single, other.single)
        self.irrelevant = _sum(self.irrelevant, other.irrelevant)
        self.repeated = _sum(self.repeated, other.repeated)
        self.top = max(self.top, other.top)
        self.minimum = np.minimum(self.minimum, other.minimum)
        self.maximum = np.maximum(self.maximum, other.maximum)
        self.total = self.total + other.total
        self.zeros = self.zeros + other.zeros
        self.nonfinite = self.nonfinite + other.nonfinite
        if self.losses is not None and other.losses is not None:
            self.losses.add(other.losses)

    @property
    def queries(self) -> int:
        """Number of lists."""
        return sum(self.lengths.values())

    @property
    def documents(self) -> int:
        """Number of documents."""
        return sum(length * count for length, count in self.lengths.items())

    def of_classes(self, classes: Sequence[str]) -> dict[str, int]:
        """Returns the number of examples by name of the class."""
        counts = self.grades
        return {name: counts[float(i)] for i, name in enumerate(classes)}

    def to_json(
        self, columns: Sequence[str], classes: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Returns the content of `<split>.stats.json`.

        Args:
          columns: Names of the features.
          classes: Names of the classes, if labels are such.
        """
        documents = self.documents
        sizes = np.array(sorted(self.lengths))
        upto = np.cumsum([self.lengths[int(size)] for size in sizes])
        finite = documents - self.nonfinite
        features: dict[str, dict[str, float | int | None]] = {}
        for number, name in enumerate(columns):
            count = int(finite[number])
            features[name] = {
                "min": float(self.minimum[number]) if count else None,
                "max": float(self.maximum[number]) if count else None,
                "mean": float(self.total[number]) / count if count else None,
                "zeros": int(self.zeros[number]) / documents,
            }
            if count < documents:
                features[name]["nonfinite"] = documents - count
            if self.losses is not None:
                features[name].update(self.losses.of_column(number))
        more: dict[str, Any] = {}
        if self.losses is not None:
            more["feature_dtype"] = self.losses.dtype
        if classes:
            more["classes"] = self.of_classes(classes)
            more["unlabelled"] = self.grades[PADDING_LABEL]
        return {
            "queries": self.queries,
            "documents": documents,
            "grades": {f"{g:g}": self.grades[g] for g in sorted(self.grades)},
            "list_length": {
                "min": int(sizes[0]),
                "mean": documents / self.queries,
                "max": int(sizes[-1]),
                "quantiles": {
                    str(q): int(sizes[np.searchsorted(upto, q * self.queries)])
                    for q in _QUANTILES
                },
            },
            "lists_with_one_document": self.single[0],
            "lists_without_relevant_documents": self.irrelevant[0],
            "documents_with_a_repeated_id": self.repeated[0],
            **more,
            "features": features,
        }


def _counted(positions: np.ndarray, names: np.ndarray) -> tuple[int, str]:
    return len(positions), str(names[positions[0]]) if len(positions) else ""


def _sum(first: tuple[int, str], second: tuple[int, str]) -> tuple[int, str]:
    return first[0] + second[0], first[1] if first[0] else second[1]
