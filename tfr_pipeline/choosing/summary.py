"""What a cross-validation has measured: `cv.json` and `per_query.parquet`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfr_pipeline import files
from tfr_pipeline.choosing.folder import SUMMARY
from tfr_pipeline.choosing.plan import Plan
from tfr_pipeline.data.sources.table_files import arrow
from tfr_pipeline.metrics import query_table
from tfr_pipeline.metrics.bootstrap import ratio
from tfr_pipeline.metrics.query_values import QueryValues, by_seed, by_task, read

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("test", "valid")


def write(plan: Plan) -> dict[str, Any]:
    """Writes the files of a cross-validation whose runs have all ended.

    Returns:
      The content of `cv.json`: `folds`, `seeds`, `kind`, `runs`, and for `test` and
      `valid` a result of `summarise`; a dict of them by task if there are several.

    Raises:
      DataError: A run has measured nothing, or seeds of a fold other queries.
    """
    table = _together(plan)
    content: dict[str, Any] = {
        "kind": plan.rotations.kind,
        "folds": len(plan.rotations),
        "seeds": plan.seeds,
        "runs": [run.name for run in plan.runs],
    }
    for split in SPLITS:
        found = {task: summarise(by_seed(rows)) for task, rows in by_task(table, split)}
        if found:
            content[split] = found[""] if list(found) == [""] else found
    pa = arrow()
    measured = table.filter(pa.compute.equal(table["split"], SPLITS[0]))
    path = os.path.join(plan.folder, query_table.FILE_NAME)
    with files.replacing(path) as temporary:
        pa.parquet.write_table(measured, temporary)
    files.write_text(
        os.path.join(plan.folder, SUMMARY), json.dumps(content, indent=1) + "\n"
    )
    return content


def _together(plan: Plan) -> pa.Table:
    """Returns the rows of all runs, with the columns `fold` and `seed`."""
    pa = arrow()
    tables = []
    for run in plan.runs:
        table = read(os.path.join(run.folder, query_table.FILE_NAME))
        for place, (name, value) in enumerate(
            (("fold", run.fold), ("seed", run.seed)), start=2
        ):
            column = pa.array(np.full(table.num_rows, value, np.int64))
            table = table.add_column(place, name, column)
        tables.append(table)
    return pa.concat_tables(tables, promote_options="default")


def summarise(seeds: Sequence[QueryValues]) -> dict[str, Any]:
    """Returns means and how they vary, by metric and convention.

    A query's value is the mean of its seeds. The standard error is over queries, as if
    each were drawn anew and the models stayed: it says nothing of other training
    queries, for which no unbiased estimate exists (Bengio and Grandvalet, "No Unbiased
    Estimator of the Variance of K-Fold Cross-Validation", JMLR 2004).

    Args:
      seeds: What each seed has measured of the same queries.

    Returns:
      `queries`, and by metric and convention `mean`, `standard_error`,
      `fold_deviation` and `seed_deviation` (between the means of folds, and of seeds),
      and these means as `folds` and `seeds`. A number is None where no query defines
      it, or there is but one of what would deviate.

    Example:
      >>> one = QueryValues(np.array(["a", "b"], object), {},
      ...     {"mrr": np.array([1.0, 0.5])}, np.array([1, 2]))
      >>> found = summarise([one])["mrr"]["skip"]
      >>> found["mean"], found["standard_error"], found["folds"]
      (0.75, 0.25, [1.0, 0.5])
    """
    whole = QueryValues.mean_of(seeds)
    fold = whole.fold if whole.fold is not None else np.ones(len(whole), np.int64)
    numbers = np.unique(fold)
    result: dict[str, Any] = {"queries": len(whole)}
    for metric in whole.values:
        result[metric] = {}
        for convention in whole.conventions(metric):
            total, weight = whole.terms(metric, convention)
            folds = [_mean(total[fold == n], weight[fold == n]) for n in numbers]
            means = [values.mean(metric, convention) for values in seeds]
            mean = _mean(total, weight)
            result[metric][convention] = {
                "mean": mean,
                "standard_error": _standard_error(total, weight),
                "fold_deviation": _deviation(folds),
                "seed_deviation": _deviation(means),
                "folds": folds,
                "seeds": means,
            }
    return result


def _mean(total: np.ndarray, weight: np.ndarray) -> float | None:
    found = float(ratio(np.array([total.sum()]), np.array([weight.sum()]))[0])
    return None if np.isnan(found) else found


def _standard_error(total: np.ndarray, weight: np.ndarray) -> float | None:
    """Of a weighted mean, by linearisation; of equal weights deviation / sqrt(n)."""
    mean, count = _mean(total, weight), int((weight > 0).sum())
    if mean is None or count < 2:
        return None
    squares = float(np.sum((total - mean * weight) ** 2))
    return float(np.sqrt(squares * count / (count - 1)) / weight.sum())


def _deviation(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) > 1 else None
