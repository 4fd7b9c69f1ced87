"""What there is in the data of a run: lists, documents, grades, lengths."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from tfr_pipeline import files, urls
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import DataError, RunError

_MANY_GRADES = 10


@dataclasses.dataclass(frozen=True)
class Statistics:
    """A split in numbers.

    Attributes:
      lists: Number of lists.
      documents: Number of documents.
      grades: Documents by grade, rising; by the name of their class.
      lengths: `min`, `mean`, `max` and `quantiles` of documents a list.
      without_relevant: Lists without a relevant document.
    """

    lists: int
    documents: int
    grades: dict[str, int]
    lengths: dict[str, Any]
    without_relevant: int

    @classmethod
    def from_json(cls, found: Any) -> Statistics:
        """Returns what `convert` counted, the content of `<split>.stats.json`."""
        grades = found.get("classes") or found.get("grades", {})
        return cls(
            int(found["queries"]),
            int(found["documents"]),
            {str(name): int(n) for name, n in grades.items()},
            dict(found.get("list_length", {})),
            int(found.get("lists_without_relevant_documents", 0)),
        )


def count(lists: Lists, labels: Any = None) -> Statistics:
    """Counts what there is in lists.

    Args:
      lists: Lists with documents.
      labels: `[documents]`; those of the lists by default. Negative ones, and those of
        more than ten values, have no grade.

    Example:
      >>> def grades(lists):
      ...     return count(lists).grades
    """
    labels = lists.labels if labels is None else labels
    grades: dict[str, int] = {}
    without = 0
    if labels is not None and np.ndim(labels) == 1:
        values, counts = np.unique(labels[labels >= 0], return_counts=True)
        if len(values) <= _MANY_GRADES:
            pairs = zip(values, counts, strict=True)
            grades = {f"{value:g}": int(number) for value, number in pairs}
        some = np.bincount(lists.row_ids[labels > 0], minlength=lists.num_lists)
        without = int((some == 0).sum())
    lengths = lists.lengths
    points = (0.1, 0.25, 0.5, 0.75, 0.9)
    return Statistics(
        lists.num_lists,
        lists.num_documents,
        grades,
        {
            "min": int(lengths.min()),
            "mean": float(lengths.mean()),
            "max": int(lengths.max()),
            "quantiles": {str(p): float(np.quantile(lengths, p)) for p in points},
        },
        without,
    )


def of_folder(folder: str | None) -> dict[str, Statistics]:
    """Returns by split what `convert` counted; nothing of what it did not write.

    Args:
      folder: The folder that `convert` filled, or its URL.
    """
    found: dict[str, Statistics] = {}
    if not folder:
        return {}
    for split in ("train", "valid", "test"):
        name = f"{split}.stats.json"
        path = (
            urls.join(folder, name)
            if urls.is_remote(folder)
            else os.path.join(os.path.expanduser(folder), name)
        )
        try:
            if files.exists(path):
                found[split] = Statistics.from_json(files.read_json(path))
        except (DataError, RunError, KeyError, TypeError, ValueError, AttributeError):
            continue  # what is said of data is no reason to say nothing of the model
    return found
