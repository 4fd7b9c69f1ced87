"""`--label_transform`: counts, prices and the like made into grades.

The gain of a grade is `2^grade - 1`, which suits grades from 0 to 4 or so: of counts,
the largest decides alone, and from 128 on float32 has no such number. Labels of 0 and
below (irrelevant, unknown) stay as they are.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfr_pipeline.errors import ConfigError, DataError

_KINDS = ("log", "cap:TOP", "quantiles:GRADES")
_MAX_GRADES = 32
# Columns of labels, each with the number of documents by label.
Counts = list[collections.Counter[float]]


@dataclasses.dataclass(frozen=True)
class LabelTransform:
    """One of three ways to make grades.

    Attributes:
      kind: `log` makes `log2(1 + label)`, whose gain is the label; `cap` makes what is
        above `number` equal to it; `quantiles` makes grades from 1 to `number - 1` with
        about as many documents each.
      number: See `kind`; 0 for `log`.
      thresholds: `quantiles`: for each column of labels the largest label of each
        grade but the last, from 1 on. Empty until they are known: see `fitted`.

    Example:
      >>> LabelTransform.parse("cap:4")(np.float32([0, 3, 40])).tolist()
      [0.0, 3.0, 4.0]
    """

    kind: str
    number: float = 0.0
    thresholds: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def parse(cls, text: str) -> LabelTransform:
        """Reads the value of the flag.

        Raises:
          ConfigError: It is none of `log`, `cap:TOP` and `quantiles:GRADES`.
        """
        kind, _, number = text.partition(":")
        if text == "log":
            return cls("log")
        value = float(number) if re.fullmatch(r"\d{1,3}(\.\d+)?", number) else 0.0
        if kind == "cap" and value > 0:
            return cls(kind, value)
        if kind == "quantiles" and value in range(2, _MAX_GRADES + 1):
            return cls(kind, value)
        raise ConfigError(
            f"--label_transform: expected {', '.join(_KINDS)} with TOP above 0 and 2 "
            f"to {_MAX_GRADES} GRADES, found {text!r}."
        )

    def __str__(self) -> str:
        """The value of the flag."""
        return f"{self.kind}:{self.number:g}" if self.number else self.kind

    def to_json(self) -> dict[str, Any]:
        """Returns what `features.json` has."""
        result: dict[str, Any] = {"flag": str(self)}
        if self.thresholds:
            result["thresholds"] = [list(column) for column in self.thresholds]
        return result

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> LabelTransform:
        """Reverse of `to_json`.

        Raises:
          DataError: It was not written by `to_json`.
        """
        try:
            thresholds = tuple(
                tuple(float(bound) for bound in column)
                for column in value.get("thresholds", ())
            )
            return dataclasses.replace(cls.parse(value["flag"]), thresholds=thresholds)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{where}: expected label_transform as `convert` writes it, found "
                f"{value!r}."
            ) from error

    @property
    def needs_labels(self) -> bool:
        """Whether the labels of the data must be known first."""
        return self.kind == "quantiles" and not self.thresholds

    def fitted(self, counts: Counts) -> LabelTransform:
        """Returns the transform with the thresholds of these labels."""
        grades = int(self.number) - 1
        columns = []
        for column in counts:
            labels = np.array(sorted(label for label in column if label > 0))
            bounds: set[float] = set()
            if len(labels):
                upto = np.cumsum([column[label] for label in labels.tolist()])
                wanted = upto[-1] * np.arange(1, grades) / grades
                found = labels[np.searchsorted(upto, wanted)]
                bounds = {float(bound) for bound in found if bound < labels[-1]}
            columns.append(tuple(sorted(bounds)))
        return dataclasses.replace(self, thresholds=tuple(columns))

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Returns the grades, float32, of labels `[documents]` or `[documents, tasks]`.

        Raises:
          DataError: The thresholds are those of another number of tasks.
        """
        if self.kind == "log":
            grades = np.log2(1 + np.maximum(labels, 0, dtype=np.float64))
        elif self.kind == "cap":
            grades = np.minimum(labels, self.number)
        else:
            columns = labels.reshape(len(labels), -1).T
            if len(columns) != len(self.thresholds):
                raise DataError(
                    f"label_transform: expected {len(self.thresholds)} labels a "
                    f"document, found {len(columns)}."
                )
            grades = np.stack(
                [
                    1 + np.searchsorted(bounds, column)
                    for bounds, column in zip(self.thresholds, columns, strict=True)
                ],
                axis=1,
            ).reshape(labels.shape)
        return np.where(labels > 0, grades, labels).astype(np.float32)


def total(counts: Counts, more: Counts) -> Counts:
    """Returns the sum of two counts; the first may be empty."""
    return [a + b for a, b in zip(counts, more, strict=True)] if counts else more


def count(labels: np.ndarray | None) -> Counts:
    """Returns the number of documents by label, for each column of labels."""
    if labels is None:
        return []
    return [
        collections.Counter(dict(zip(*map(np.ndarray.tolist, found), strict=True)))
        for found in (
            np.unique(column, return_counts=True)
            for column in labels.reshape(len(labels), -1).T
        )
    ]
