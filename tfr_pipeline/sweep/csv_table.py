"""The trials of a study as CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

from tfr_pipeline.sweep.standing import Standing
from tfr_pipeline.sweep.status_text import value_text

# The first column, and the one that tells our files from others.
SIGN = "trial,state,"


def text(standing: Standing) -> str:
    """Returns a line for each trial: number, state, values, seconds, point.

    Lists and dicts are JSON, what a trial does not have is empty. Times are local to
    the worker. Columns of keys follow `worker`, `run` and `reason`.

    Args:
      standing: The study.
    """
    paths = list(dict.fromkeys(path for row in standing.rows for path in row.point))
    deviations = any(row.deviations for row in standing.rows)
    names = list(standing.names)
    spread = [f"{name} deviation" for name in names] if deviations else []
    columns = ["trial", "state", *names, *spread, "seconds", "started", "ended"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*columns, "worker", "run", "reason", *paths])
    for row in standing.rows:
        seconds = row.seconds()
        cells: list[Any] = [row.number, row.state]
        cells += _filled(row.values, len(names))
        cells += _filled(row.deviations, len(spread))
        cells.append("" if seconds is None else f"{seconds:.3f}")
        for moment in (row.started, row.ended):
            cells.append("" if moment is None else moment.isoformat(" ", "seconds"))
        cells += [row.worker, row.run, row.reason]
        cells += [value_text(row.point[p]) if p in row.point else "" for p in paths]
        writer.writerow(cells)
    return stream.getvalue()


def _filled(values: tuple[float, ...], count: int) -> list[Any]:
    return [*map(repr, values), *[""] * count][:count]
