"""Tables of metrics for terminals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = ("ndcg@1", "ndcg@5", "ndcg@10", "mrr", "map")


def table(
    rows: Mapping[str, Mapping[str, Any]], columns: tuple[str, ...] = COLUMNS
) -> str:
    """Returns a table of the headline numbers: queries without relevance skipped.

    A dash stands where no query has a relevant document.

    Args:
      rows: Maps a name to a result of `evaluate_lists`.
      columns: Metrics to show.

    Example:
      >>> table({"model": {"mrr": {"skip": 0.5}}}, ("mrr",)).split()
      ['mrr', 'model', '0.5000']
    """
    width = max(len(name) for name in rows)
    lines = [" " * width + "".join(f"{name:>10}" for name in columns)]
    for name, result in rows.items():
        cells = "".join(f"{number(result[column]['skip']):>10}" for column in columns)
        lines.append(f"{name:<{width}}{cells}")
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Returns a metric with four digits, or a dash where no query defines it."""
    return "-" if value is None else f"{value:.4f}"


def interval(ends: Sequence[float | None] | None, form: str = ".4f") -> str:
    """Returns an interval as `low to high`, or a dash where there is none.

    Example:
      >>> interval([0.25, 0.5]), interval([None, None])
      ('0.2500 to 0.5000', '-')
    """
    low, high = ends or (None, None)
    return "-" if low is None or high is None else f"{low:{form}} to {high:{form}}"
