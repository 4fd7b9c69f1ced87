"""How a study stands, as lines of text."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import Any

from tfr_pipeline.sweep.domains import as_text
from tfr_pipeline.sweep.standing import LEFT, Standing, TrialRow

# More of a reason, or of a value, would hide the rest of its line.
_LONGEST = 60


def duration(seconds: float | None) -> str:
    """Returns a time as people say it.

    Example:
      >>> duration(3.21), duration(125), duration(7500), duration(None)
      ('3.2 s', '2 min 5 s', '2 h 5 min', '-')
    """
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {int(seconds) % 60} s"
    return f"{minutes // 60} h {minutes % 60} min"


def measured(row: TrialRow, names: Sequence[str]) -> str:
    """Returns the values of a trial with their names.

    Example:
      >>> measured(TrialRow(3, "complete", (0.5,), (0.01,)), ["ndcg@10"])
      'ndcg@10 0.500000 +- 0.010000'
    """
    spread = [*row.deviations, *[None] * len(names)]
    return ", ".join(
        f"{name} {number(value, deviation)}"
        for name, value, deviation in zip(names, row.values, spread, strict=False)
    )


def number(value: float, deviation: float | None = None) -> str:
    """Returns a value, with its deviation if there is one."""
    text = f"{value:.6f}" if 1e-3 < abs(value) < 1e4 else f"{value:.6g}"
    return text if deviation is None else f"{text} +- {deviation:.6f}"


def counted(standing: Standing) -> str:
    """Returns how many trials there are in each state."""
    parts = [f"{len(standing.finished)} of {standing.budget} trials finished"]
    for state in ("complete", "pruned", "failed", "running", LEFT, "waiting"):
        if found := standing.having(state):
            parts.append(f"{len(found)} {state}")
    return ", ".join(parts)


def heading(standing: Standing, now: datetime.datetime | None = None) -> list[str]:
    """Returns how far a study is, what is best, and how long it will take."""
    lines = [f"study {standing.name}: {counted(standing)}"]
    front = standing.front()
    if len(front) == 1:
        row = front[0]
        lines.append(f"best: trial {row.number}, {measured(row, standing.names)}")
    elif front:
        numbers = ", ".join(str(row.number) for row in front)
        lines.append(f"none better in all of {', '.join(standing.names)}: {numbers}")
    if len(standing.finished) < standing.budget:
        running, left = len(standing.having("running")), standing.seconds_left(now)
        said = f"about {duration(left)}" if left is not None else "not known yet"
        workers = {0: "no worker", 1: "1 worker"}.get(running, f"{running} workers")
        lines.append(f"time left: {said} ({workers})")
    return lines


def table(
    rows: Sequence[TrialRow],
    names: Sequence[str],
    now: datetime.datetime | None = None,
) -> list[str]:
    """Returns a table of trials: state, values, who is at them and since when.

    Args:
      rows: The trials.
      names: Names of the objectives.
      now: What the clock says.
    """
    now = now or datetime.datetime.now()
    columns = ["trial", "state", *names, "since", "time", "worker", ""]
    cells = [columns, *(_cells(row, len(names), now) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(_aligned, line, widths)).rstrip() for line in cells]


def _aligned(text: str, width: int) -> str:
    return text.rjust(width) if text[:1].isdigit() else text.ljust(width)


def _cells(row: TrialRow, count: int, now: datetime.datetime) -> list[str]:
    spread = [*row.deviations, *[None] * count]
    values = [
        number(*pair)
        for pair in zip(row.values, spread[: len(row.values)], strict=True)
    ]
    since = row.started.strftime("%m-%d %H:%M:%S") if row.started else "-"
    remark = row.reason
    if row.state == "running" and row.epochs:
        remark = f"epoch {row.epochs}"
    elif row.state == LEFT:
        remark = "its worker is gone; another one goes on"
    return [
        str(row.number),
        row.state,
        *(values or ["-"] * count),
        since,
        duration(row.seconds(now)),
        row.worker or "-",
        shortened(remark),
    ]


def shortened(text: str, length: int = _LONGEST) -> str:
    """Returns the beginning of a text on one line."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3] + "..."


def value_text(value: Any) -> str:
    """Returns a value of a point: text as it is, all else as JSON."""
    return value if isinstance(value, str) else as_text(value)


def point_lines(row: TrialRow) -> Iterator[str]:
    """Yields what a trial sets in the config."""
    for path, value in row.point.items():
        yield f"  {path} = {value_text(value)}"
