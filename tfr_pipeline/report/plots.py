"""The figures of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfr_pipeline.report import drawing
from tfr_pipeline.report.comparison import QueryComparison
from tfr_pipeline.report.drawing import BAD, FAINT, GOOD, GROUND, INK, MAIN, SOFT
from tfr_pipeline.report.gradients import Attributions
from tfr_pipeline.report.importance import Importance
from tfr_pipeline.report.shapes import Shape
from tfr_pipeline.report.slices import Slice

_ROW = 0.27  # inches
_COLUMNS = 3  # of shapes
_LONGEST = 26  # letters of a name


def short(name: str) -> str:
    """Returns a name that has room beside a figure."""
    if len(name) <= _LONGEST:
        return plain(name)
    half = _LONGEST // 2
    return plain(f"{name[:half]}\u2026{name[-half + 1 :]}")


def plain(text: str) -> str:
    """Returns a text that Matplotlib shows as it is, and not as mathematics."""
    return text.replace("$", r"\$")


def quality(rows: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]) -> str:
    """Draws metrics with their intervals, a color for each row."""
    with drawing.style():
        made, axes = drawing.figure(2.5)
        colors = [MAIN, drawing.SECOND, GOOD, BAD]
        shift = 0.16
        for number, (name, means) in enumerate(rows.items()):
            place = np.arange(len(metrics)) + shift * (number - (len(rows) - 1) / 2)
            mean = np.array([means[m]["skip"] for m in metrics], float)
            ends = np.array(
                [means[m].get("skip_ci") or (np.nan, np.nan) for m in metrics], float
            )
            axes.vlines(place, ends[:, 0], ends[:, 1], colors[number % 4], lw=2.2)
            color = colors[number % 4]
            axes.plot(place, mean, "o", color=color, ms=6, label=plain(name))
        axes.set_xticks(range(len(metrics)), [m.upper() for m in metrics])
        axes.grid(axis="x", visible=False)
        axes.margins(x=0.08)
        if len(rows) > 1:
            axes.legend(ncols=len(rows), loc="lower right", bbox_to_anchor=(1, 1))
        return drawing.svg(made, "quality", "metrics with 95% intervals")


def has_curves(history: Sequence[Mapping[str, float]]) -> bool:
    """Whether a history has losses or metrics."""
    return any(n in ("loss", "val_loss") or "metric/" in n for n in history[0])


def curves(history: Sequence[Mapping[str, float]], best_step: int | None) -> str:
    """Draws losses and metrics by step."""
    losses = [n for n in history[0] if n in ("loss", "val_loss")]
    metrics = [n for n in history[0] if "metric/" in n]
    groups = [group for group in (losses, metrics) if group]
    with drawing.style():
        made, grid = drawing.figure(2.8, 1, len(groups), squeeze=False)
        steps = [row.get("step", i + 1) for i, row in enumerate(history)]
        colors = [MAIN, drawing.SECOND, GOOD, BAD, FAINT]
        for axes, names in zip(grid[0], groups, strict=True):
            for number, name in enumerate(names):
                values = [row.get(name, np.nan) for row in history]
                label = plain(_label(name))
                marker = "o" if len(steps) < 30 else None
                axes.plot(
                    steps, values, color=colors[number % 5], label=label,
                    marker=marker, ms=3,
                )  # fmt: skip
            if best_step is not None:
                axes.axvline(best_step, color=FAINT, lw=1, ls=(0, (4, 3)))
            axes.set_title("Loss" if names is losses else "Metrics on validation data")
            axes.set_xlabel("step")
            axes.legend()
        return drawing.svg(made, "curves", "training curves")


def _label(name: str) -> str:
    """Returns how a legend calls a column of the history."""
    found = {"loss": "training", "val_loss": "validation"}.get(name)
    if found is not None:
        return found
    of_training = "" if name.startswith("val_") else " (training)"
    metric = name.removeprefix("val_").removeprefix("metric/")
    word, _, cutoff = metric.rpartition("_")
    if cutoff.isdigit():
        metric = f"{word.upper()}@{cutoff}"
    return metric + of_training


def lengths_and_grades(lengths: Any, grades: Mapping[str, int]) -> str:
    """Draws how long lists are, and how many documents have which grade."""
    with drawing.style():
        made, (left, right) = drawing.figure(2.3, 1, 2)
        if lengths is None:
            left.remove()
        else:
            bins = min(30, max(1, len(np.unique(lengths))))
            left.hist(lengths, bins=bins, color=MAIN, edgecolor=GROUND, lw=0.5)
            left.set_title("List lengths")
            left.set_xlabel("documents in a list")
            left.set_ylabel("lists")
            left.grid(axis="x", visible=False)
        if not grades:
            right.remove()
        else:
            total = sum(grades.values())
            shares = [100 * n / total for n in grades.values()]
            names = [plain(name) for name in grades]
            bars = right.bar(names, shares, color=MAIN, width=0.7)
            labels = [f"{share:.1f}%" for share in shares]
            right.bar_label(bars, labels, color=FAINT, fontsize=8, padding=2)
            right.set_title("Grades")
            right.set_xlabel("grade")
            right.set_ylabel("% of documents")
            right.grid(axis="x", visible=False)
            right.margins(y=0.14)
        return drawing.svg(made, "data", "list lengths and grades")


def importance(found: Sequence[Importance], metric: str) -> str:
    """Draws bars with standard errors."""
    with drawing.style():
        made, axes = drawing.figure(0.7 + _ROW * len(found))
        place = np.arange(len(found))
        losses = [one.loss for one in found]
        axes.barh(place, losses, color=MAIN, height=0.62)
        axes.errorbar(
            losses, place, xerr=[one.error for one in found], fmt="none", ecolor=INK,
            elinewidth=1.1,
        )  # fmt: skip
        axes.set_yticks(place, [short(one.name) for one in found])
        axes.tick_params(axis="y", labelcolor=INK, length=0)
        axes.invert_yaxis()
        axes.axvline(0.0, color=FAINT, lw=0.8)
        axes.set_xlabel(f"loss of {metric.upper()} when it is permuted")
        axes.grid(axis="y", visible=False)
        axes.margins(y=0.6 / len(found))
        return drawing.svg(made, "importance", "permutation importance")


def shapes(found: Sequence[Shape]) -> str:
    """Draws what features add to the score, and how many documents are where."""
    rows = math.ceil(len(found) / _COLUMNS)
    ends = [v for one in found for v in (one.effect.min(), one.effect.max())]
    room = 0.08 * (max(ends) - min(ends) or 1.0)
    with drawing.style():
        made, grid = drawing.figure(1.95 * rows, rows, _COLUMNS, squeeze=False)
        for axes, one in zip(grid.flat, found, strict=False):
            # Far values of few documents would leave no room for the others.
            low, high = np.quantile(one.values, [0.005, 0.995])
            middle = np.median(one.values)
            is_long = low >= 0 and high > 12 * max(middle, 1e-9)
            if is_long:
                positive = one.values[one.values > 0]
                least = float(np.quantile(positive, 0.1)) if len(positive) else 1.0
                axes.set_xscale("symlog", linthresh=least, linscale=0.5)
            axes.axhline(0.0, color=FAINT, lw=0.7, zorder=1)
            axes.plot(one.x, one.effect, color=MAIN)
            axes.set_ylim(min(ends) - 3 * room, max(ends) + room)
            if high > low:
                axes.set_xlim(low, high)
            _density(axes, one.values, is_long)
            axes.set_title(short(one.name), fontsize=8.5)
            axes.locator_params(axis="y", nbins=5)
            if not is_long:
                axes.locator_params(axis="x", nbins=5)
            axes.minorticks_off()
        for axes in grid.flat[len(found) :]:
            axes.remove()
        return drawing.svg(made, "shapes", "what each feature adds to the score")


def _density(axes: Any, values: np.ndarray, is_long: bool) -> None:
    """Draws on the floor of axes how many documents have which value."""
    low, high = axes.get_xlim()
    transform = axes.xaxis.get_transform()
    marks = transform.transform(np.array([low, high], float))
    edges = np.linspace(marks[0], marks[1], 33)
    counts, _ = np.histogram(transform.transform(values.astype(float)), edges)
    ends = transform.inverted().transform(edges)
    floor = axes.get_ylim()
    height = 0.16 * (floor[1] - floor[0]) * counts / max(1, counts.max())
    axes.bar(
        ends[:-1], height, np.diff(ends), bottom=floor[0], align="edge", color=SOFT,
        alpha=0.75, zorder=0.5,
    )  # fmt: skip
    axes.set_ylim(floor)


def differences(found: QueryComparison) -> str:
    """Draws the differences of all queries, wins to the left."""
    with drawing.style():
        made, axes = drawing.figure(2.3)
        values = found.differences
        place = np.arange(len(values))
        for some, color in ((values >= 0, GOOD), (values < 0, BAD)):
            axes.fill_between(
                place, 0, np.where(some, values, 0), step="mid", color=color, lw=0
            )
        axes.axhline(0.0, color=FAINT, lw=0.8)
        axes.axhline(found.mean, color=INK, lw=1, ls=(0, (4, 3)))
        axes.set_xlabel("queries, from the largest win to the largest loss")
        axes.set_ylabel(f"difference in {found.metric.upper()}")
        axes.margins(x=0.01)
        axes.grid(axis="x", visible=False)
        return drawing.svg(made, "differences", "difference by query")


def slices(groups: Mapping[str, Sequence[Slice]], overall: float, metric: str) -> str:
    """Draws the metric of slices with intervals."""
    rows = sum(len(found) + 1 for found in groups.values())
    with drawing.style():
        made, axes = drawing.figure(0.7 + _ROW * rows)
        place, labels, ticks = 0, [], []
        for name, found in groups.items():
            axes.text(
                -0.01, place, short(name), transform=axes.get_yaxis_transform(),
                ha="right", va="center", fontweight="bold", fontsize=8.5,
            )  # fmt: skip
            for one in found:
                place += 1
                labels.append(f"{short(one.name)}  (n={one.queries})")
                ticks.append(place)
                if one.interval is not None:
                    axes.hlines(place, *one.interval, MAIN, lw=2.2)
                if one.mean is not None:
                    axes.plot(one.mean, place, "o", color=MAIN, ms=5)
            place += 1
        axes.axvline(overall, color=FAINT, lw=1, ls=(0, (4, 3)))
        axes.set_yticks(ticks, labels)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(place - 0.4, -0.6)
        axes.set_xlabel(metric.upper())
        axes.grid(axis="y", visible=False)
        return drawing.svg(made, "slices", f"{metric} of parts of the queries")


def attributions(found: Attributions, names: Sequence[str], columns: Any) -> str:
    """Draws a cell for each document and feature.

    Args:
      found: What was attributed.
      names: A name for each document.
      columns: Numbers of the columns that are shown.
    """
    from matplotlib.patches import Rectangle

    values = found.values[:, columns]
    largest = float(np.abs(values).max()) or 1.0
    with drawing.style():
        made, axes = drawing.figure(1.5 + 0.3 * len(values))
        for (row, column), value in np.ndenumerate(values):
            strength = 0.08 + 0.8 * abs(value) / largest
            color = GOOD if value > 0 else BAD
            corner = column - 0.47, row - 0.45
            cell = Rectangle(corner, 0.94, 0.9, color=color, alpha=strength, lw=0)
            axes.add_patch(cell)
            axes.text(
                column, row, f"{value:+.2f}".replace("-", "\u2212"), ha="center",
                va="center", fontsize=7.5,
            )  # fmt: skip
        axes.set_xlim(-0.5, values.shape[1] - 0.5)
        axes.set_ylim(len(values) - 0.5, -0.5)
        labels = [short(found.names[i]) for i in columns]
        axes.set_xticks(range(len(labels)), labels, rotation=35, ha="left")
        axes.xaxis.tick_top()
        axes.set_yticks(range(len(names)), [short(name) for name in names])
        axes.tick_params(length=0, labelcolor=INK)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return drawing.svg(made, "attributions", "what features add to the scores")
