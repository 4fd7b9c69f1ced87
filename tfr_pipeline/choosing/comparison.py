"""Systems side by side, and whether what differs between them may be chance."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfr_pipeline.choosing.systems import System
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.metrics.bootstrap import intervals, ratio, warn_of_few
from tfr_pipeline.metrics.query_values import CONVENTIONS, SKIP, QueryValues
from tfr_pipeline.metrics.significance import holm, randomisation_test, t_test

HEADLINES = ("ndcg@10", "accuracy")
RESAMPLES = 5000
_SPLITS = ("test", "valid")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A metric under a convention.

    Attributes:
      metric: Its name.
      convention: `skip`, `zero` or `one`.
    """

    metric: str
    convention: str

    @classmethod
    def of(cls, text: str) -> Wanted:
        """Reads `ndcg@10`, or `ndcg@10.zero` for another convention than `skip`.

        Example:
          >>> Wanted.of("ndcg@10.zero")
          Wanted(metric='ndcg@10', convention='zero')
        """
        name, _, last = text.rpartition(".")
        if name and last in CONVENTIONS:
            return cls(name, last)
        return cls(text, SKIP)

    def __str__(self) -> str:
        if self.convention == SKIP:
            return self.metric
        return f"{self.metric}.{self.convention}"


def compare(
    systems: Sequence[System], baseline: int = 0, metrics: Sequence[str] = ()
) -> dict[str, Any]:
    """Compares systems with one of them, query by query.

    Args:
      systems: Two or more.
      baseline: Place of the one that the others are compared with.
      metrics: What is tested, such as `ndcg@10` or `ndcg@10.zero`; by default NDCG@10,
        or accuracy.

    Returns:
      A dict that JSON can hold: `split`; `baseline`, its name; `systems` (`name`,
      `path`, `seeds`); and `results`, one a task, with `task`, `queries`, `means` by
      system, metric and convention, and `comparisons`: `system`, `metric`,
      `convention`, `difference` (to the baseline, positive where the system has more),
      `ci` (95%, bootstrap over queries; `[None, None]` below two), `p_randomisation`,
      `p_t`, and `p_holm`, which is `p_randomisation` corrected for all comparisons
      there are. Below ten queries it warns.

    Raises:
      DataError: They have not measured the same queries, labels and conventions.
      ConfigError: A metric is unknown.
    """
    split = _split(systems)
    found = [system.values(split) for system in systems]
    tasks = [task for task in found[0] if all(task in values for values in found)]
    if not tasks:
        named = [", ".join(task or "one task" for task in values) for values in found]
        raise DataError(
            f"{systems[0].name} has {named[0]}, {systems[1].name} {named[1]}: expected "
            "a task that all have."
        )
    for system, values in zip(systems, found, strict=True):
        for task in tasks:
            _check(systems[0], found[0][task], system, values[task], split)
    results = [
        _result(task, [values[task] for values in found], systems, baseline, metrics)
        for task in tasks
    ]
    rows = [row for result in results for row in result["comparisons"]]
    warn_of_few(min((n for row in rows if (n := row["queries"])), default=0))
    corrected = holm([row["p_randomisation"] for row in rows])
    for row, p in zip(rows, corrected, strict=True):
        row["p_holm"] = p
    return {
        "split": split,
        "baseline": systems[baseline].name,
        "systems": [
            {"name": system.name, "path": system.path, "seeds": system.seeds}
            for system in systems
        ],
        "results": results,
    }


def _split(systems: Sequence[System]) -> str:
    for split in _SPLITS:
        if all(split in system.splits for system in systems):
            return split
    for system in systems:
        if len(system.splits) != 1 or system.splits != systems[0].splits:
            text = [
                f"{s.name} has {', '.join(n or 'unnamed' for n in s.splits)}"
                for s in systems
            ]
            raise DataError(
                f"{'; '.join(text)}: expected a split that all were measured on. "
                "tfr-pipeline evaluate --data=GLOB --per_query=FILE.parquet measures a "
                "model on other data."
            )
    return systems[0].splits[0]


def _check(
    one: System, values: QueryValues, other: System, others: QueryValues, split: str
) -> None:
    """Checks that two have measured the same."""
    problem = values.difference(others)
    if problem:
        raise DataError(
            f"{one.name} and {other.name}: expected the same {split or 'listed'} data "
            f"of both, found that {problem}. What was measured on other data cannot be "
            "compared query by query; tfr-pipeline evaluate --per_query=FILE.parquet "
            "measures a model on the data of the other."
        )
    problem = values.undefined_differently(others)
    if problem:
        raise DataError(f"{one.name} and {other.name}: {problem}.")
    folds = [side.fold for side in (values, others) if side.fold is not None]
    if len(folds) == 2 and not np.array_equal(folds[0], folds[1]):
        warnings.warn(
            f"{one.name} and {other.name} have other folds: their models were not "
            "trained on the same queries, which makes differences noisier.",
            stacklevel=3,
        )


def _result(
    task: str,
    found: Sequence[QueryValues],
    systems: Sequence[System],
    baseline: int,
    metrics: Sequence[str],
) -> dict[str, Any]:
    common = [name for name in found[0].values if all(name in v.values for v in found)]
    wanted = [_known(Wanted.of(name), common, found[0]) for name in metrics]
    if not wanted:
        first = next((name for name in HEADLINES if name in common), None)
        if first is None:
            known = ", ".join(common) or "none"
            raise DataError(
                f"expected {' or '.join(HEADLINES)} of all systems, found {known}. "
                "Choose by --metric."
            )
        wanted = [Wanted(first, SKIP)]
    means = {
        system.name: {
            name: {
                convention: values.mean(name, convention)
                for convention in values.conventions(name)
            }
            for name in common
        }
        for system, values in zip(systems, found, strict=True)
    }
    comparisons = [
        {"system": system.name, **_difference(values, found[baseline], item)}
        for item in wanted
        for place, (system, values) in enumerate(zip(systems, found, strict=True))
        if place != baseline
    ]
    return {
        "task": task,
        "queries": len(found[0]),
        "means": means,
        "comparisons": comparisons,
    }


def _known(wanted: Wanted, common: Sequence[str], values: QueryValues) -> Wanted:
    if wanted.metric not in common:
        raise ConfigError(unknown_name("metric", wanted.metric, common, "--metric"))
    allowed = values.conventions(wanted.metric)
    if wanted.convention not in allowed:
        raise ConfigError(
            f"--metric: {wanted.metric} has no convention {wanted.convention!r}; "
            f"expected {' or '.join(allowed)}."
        )
    return wanted


def _difference(
    values: QueryValues, baseline: QueryValues, wanted: Wanted
) -> dict[str, Any]:
    told = wanted.metric, wanted.convention
    (one, weight), (other, _) = values.terms(*told), baseline.terms(*told)
    gain, counts = (one - other)[weight > 0], weight[weight > 0]
    mean = float(ratio(np.array([gain.sum()]), np.array([counts.sum()]))[0])
    low = high = float("nan")
    if len(gain):
        ends = intervals(gain[:, np.newaxis], counts[:, np.newaxis], RESAMPLES, 0)
        low, high = (float(bound[0]) for bound in ends)
    return {
        "metric": wanted.metric,
        "convention": wanted.convention,
        "queries": len(gain),
        "difference": _number(mean),
        "ci": [_number(low), _number(high)],
        "p_randomisation": randomisation_test(gain),
        "p_t": t_test(gain),
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
