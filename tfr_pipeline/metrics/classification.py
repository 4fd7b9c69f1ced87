"""Evaluation of examples of classes in one pass, with confidence intervals. NumPy only.

Examples without a class are left out, which is what `skip` stands for here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfr_pipeline.errors import DataError
from tfr_pipeline.metrics.bootstrap import intervals

# Resampled counts held at a time.
_CELLS = 4_000_000
_LEAST = float(np.finfo(np.float32).eps)  # probability, as scikit-learn has it


@dataclasses.dataclass(frozen=True)
class ClassMetrics:
    """What was measured of each example.

    Attributes:
      classes: Names of the classes.
      label: int64 `[examples]`, the class; -1 for none.
      predicted: int64 `[examples]`, the likeliest class, of equals the first.
      log_loss: float64 `[examples]`, minus the logarithm of the probability of the
        class; NaN for examples without one.
    """

    classes: tuple[str, ...]
    label: np.ndarray
    predicted: np.ndarray
    log_loss: np.ndarray

    @classmethod
    def of(
        cls, labels: Any, probabilities: Any, classes: Sequence[str]
    ) -> ClassMetrics:
        """Measures examples.

        Args:
          labels: `[examples]`, numbers of classes, negative for none.
          probabilities: `[examples, classes]`.
          classes: Names of the classes.

        Raises:
          DataError: The shapes disagree, a label is no number of a class, or a
            probability is NaN.

        Example:
          >>> found = ClassMetrics.of([0, 1], [[0.9, 0.1], [0.8, 0.2]], ["a", "b"])
          >>> found.means(bootstrap=0)["accuracy"]["skip"]
          0.5
        """
        labels = np.asarray(labels, np.float64)
        probabilities = np.asarray(probabilities, np.float64)
        if labels.ndim != 1 or probabilities.shape != (len(labels), len(classes)):
            raise DataError(
                f"expected labels [examples] and probabilities [examples, "
                f"{len(classes)}], found {labels.shape} and {probabilities.shape}."
            )
        if np.isnan(probabilities).any():
            raise DataError(
                "expected probabilities, found NaN. The model diverged or a feature is "
                "not finite."
            )
        label = np.where(labels >= 0, labels, -1).astype(np.int64)
        if (label >= len(classes)).any() or (label != np.maximum(labels, -1)).any():
            raise DataError(
                f"expected labels from 0 to {len(classes) - 1}, or -1, found others."
            )
        own = np.full(len(label), np.nan)
        some = label >= 0
        own[some] = probabilities[some, label[some]]
        return cls(
            tuple(classes),
            label,
            probabilities.argmax(axis=1),
            -np.log(np.clip(own, _LEAST, 1.0)),
        )

    @property
    def documents(self) -> np.ndarray:
        """int64 `[examples]`, 1 for those with a class."""
        return (self.label >= 0).astype(np.int64)

    @property
    def values(self) -> dict[str, np.ndarray]:
        """float64 `[examples]` by name; NaN for examples without a class."""
        right = (self.label == self.predicted).astype(np.float64)
        accuracy = np.where(self.label >= 0, right, np.nan)
        return {"accuracy": accuracy, "log_loss": self.log_loss}

    def skip(self, name: str) -> np.ndarray:
        """Returns float64 `[examples]`, NaN for those that do not count."""
        return self.values[name]

    def columns(self) -> dict[str, np.ndarray]:
        """Returns what a table has of each example beside `values`."""
        names = np.array([*self.classes, None], object)
        return {"class": names[self.label], "predicted": names[self.predicted]}

    def confusion(self) -> np.ndarray:
        """Returns int64 `[classes, classes]`: examples of a class, taken for another.

        Example:
          >>> ClassMetrics.of([0, 0], [[1, 0], [0, 1]], ["a", "b"]).confusion().tolist()
          [[1, 1], [0, 0]]
        """
        count, some = len(self.classes), self.label >= 0
        cells = self.label[some] * count + self.predicted[some]
        return np.bincount(cells, minlength=count * count).reshape(count, count)

    @staticmethod
    def concatenate(parts: Sequence[ClassMetrics]) -> ClassMetrics:
        """Returns what was measured of all parts, in order. Needs at least one."""
        names = ("label", "predicted", "log_loss")
        return ClassMetrics(
            parts[0].classes,
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in names
            ),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns all but the names of the classes, to be sent to another process."""
        return {
            "label": self.label,
            "predicted": self.predicted,
            "log_loss": self.log_loss,
        }

    @classmethod
    def of_arrays(
        cls, arrays: Mapping[str, np.ndarray], classes: Sequence[str]
    ) -> ClassMetrics:
        """Reverse of `arrays`."""
        return cls(tuple(classes), **arrays)

    def means(self, bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
        """Returns what `metrics.json` has of a split.

        Args:
          bootstrap: Number of resamples of the examples; 0 for no intervals.
          seed: Seed of the resampling.

        Returns:
          `accuracy`, `macro_f1` (the mean over classes that are among labels or
          predictions, as in scikit-learn) and `log_loss`, each a dict of `skip`, the
          mean over labelled examples, and `skip_ci`, its 95% percentile bootstrap
          interval; None where nothing is labelled, the bounds also where one example
          is. `classes` has for each class by name its `examples`, how many were
          `predicted`, `precision`, `recall` and `f1`.
          `queries` counts examples, `documents` those with a class, `unlabelled` the
          others.
        """
        counts = self.confusion()
        rows, columns = counts.sum(axis=1), counts.sum(axis=0)
        right = counts.diagonal()
        some = self.label >= 0
        total = int(some.sum())
        means: dict[str, Any] = dict.fromkeys(("accuracy", "macro_f1", "log_loss"))
        if total:
            means = {
                "accuracy": float(right.sum() / total),
                "macro_f1": float(_macro_f1(right, rows, columns)),
                "log_loss": float(self.log_loss[some].mean()),
            }
        result: dict[str, Any] = {name: {"skip": mean} for name, mean in means.items()}
        if bootstrap:
            for name, ends in self._intervals(counts, bootstrap, seed).items():
                result[name]["skip_ci"] = ends
        f1 = _ratio(2 * right, rows + columns)
        precision, recall = _ratio(right, columns), _ratio(right, rows)
        result["classes"] = {
            name: {
                "examples": int(rows[i]),
                "predicted": int(columns[i]),
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
            }
            for i, name in enumerate(self.classes)
        }
        result["queries"] = len(self.label)
        result["documents"] = total
        result["unlabelled"] = len(self.label) - total
        return result

    def _intervals(
        self, counts: np.ndarray, bootstrap: int, seed: int
    ) -> dict[str, list[float | None]]:
        total = int(counts.sum())
        if total < 2:
            nothing: list[float | None] = [None, None]
            return dict.fromkeys(("accuracy", "macro_f1", "log_loss"), nothing)
        # Drawing examples with replacement is drawing cells of the matrix.
        label, predicted = np.nonzero(counts)
        shares = counts[label, predicted] / total
        rng = np.random.default_rng(seed)
        block = max(1, _CELLS // max(len(shares), len(self.classes)))
        accuracy, macro_f1 = [], []
        for start in range(0, bootstrap, block):
            size = min(block, bootstrap - start)
            drawn = rng.multinomial(total, shares, size)
            right = self._by_class(label, np.where(label == predicted, drawn, 0))
            rows = self._by_class(label, drawn)
            columns = self._by_class(predicted, drawn)
            accuracy.append(right.sum(axis=1) / total)
            macro_f1.append(_macro_f1(right, rows, columns))
        losses = self.log_loss[self.label >= 0][:, np.newaxis]
        low, high = intervals(losses, np.ones_like(losses), bootstrap, seed)
        return {
            "accuracy": _ends(accuracy),
            "macro_f1": _ends(macro_f1),
            "log_loss": [float(low[0]), float(high[0])],
        }

    def _by_class(self, numbers: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Sums int64 `[resamples, cells]` over the cells of a class."""
        sums = np.zeros((len(self.classes), len(drawn)), np.int64)
        np.add.at(sums, numbers, drawn.T)
        return sums.T


def _ratio(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Divides; 0 where both are 0."""
    return np.divide(one, other, out=np.zeros(one.shape), where=other > 0)


def _macro_f1(right: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns the mean F1 `[...]` over classes, of counts `[..., classes]`."""
    both = rows + columns
    return _ratio(2 * right, both).sum(axis=-1) / (both > 0).sum(axis=-1)


def _ends(samples: list[np.ndarray]) -> list[float | None]:
    low, high = np.percentile(np.concatenate(samples), [2.5, 97.5])
    return [float(low), float(high)]
