"""A study as one HTML page, which needs nothing but itself.

The plots are Optuna's, drawn by plotly.js, which stands in the page. What the page may
load from elsewhere is nothing, and it says so to the browser.
"""

from __future__ import annotations

import datetime
import html
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tfr_pipeline.errors import ConfigError
from tfr_pipeline.sweep import page_frame, status_text
from tfr_pipeline.sweep.objective import MINIMIZE
from tfr_pipeline.sweep.standing import Standing, TrialRow

# Stands in the first lines of pages that are made here.
SIGN = page_frame.SIGN
_BEST, _FAILED = 10, 5
# Slices side by side, and lines of a legend that are still of use.
_SLICES, _LEGEND = 3, 20
# From what is common to what is best: seen on light and on dark ground.
_SCALE = [[0.0, "#93a4bd"], [0.5, "#c78a5b"], [1.0, "#f06a00"]]
_BEHIND = [[0.0, "#93a4bd"], [1.0, "#4c8bf5"]]
_OF_FRONT = [[0.0, "#ffb27a"], [1.0, "#f06a00"]]
_FAINT = "#8793a3"
_BY_TIME = [[0.0, "#7fa7ff"], [1.0, "#f06a00"]]


def make(standing: Standing, now: datetime.datetime | None = None) -> str:
    """Returns the page.

    Args:
      standing: The study.
      now: What the clock says.

    Raises:
      ConfigError: Plotly is not installed.
    """
    plotlyjs = _plotlyjs()
    figures: list[str] = []
    body = [_summary(standing, now or datetime.datetime.now()), _best_table(standing)]
    for title, about, make_figure in _plots(standing):
        body.append(f"<h2>{_text(title)}</h2>")
        if isinstance(make_figure, str):
            body.append(f'<p class="note">{_text(make_figure)}</p>')
            continue
        body.append(f"<p>{_text(about)}</p>" if about else "")
        try:
            made = make_figure()
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            reason = " ".join(str(error).split())
            body.append(f'<p class="note">It needs other trials: {_text(reason)}</p>')
            continue
        for figure in made:
            body.append(f'<div class="plot" id="plot{len(figures)}"></div>')
            figures.append(_as_json(figure))
    body += [_failures(standing), _space(standing)]
    return page_frame.page(
        f"Study {standing.name}", "\n".join(filter(None, body)), figures, plotlyjs
    )


def _plotlyjs() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ConfigError(
            f"plots need Plotly ({error}). Install it with: pip install "
            "'tfr_pipeline[report]'"
        ) from error
    return get_plotlyjs()


def _text(text: object) -> str:
    return html.escape(str(text))


# Text and tables


def _summary(standing: Standing, now: datetime.datetime) -> str:
    lines = status_text.heading(standing, now)
    items = "".join(f"<li>{_text(line)}</li>" for line in lines)
    written = now.strftime("%Y-%m-%d %H:%M")
    items += f"<li>page of {written}</li>"
    return f"<h1>Study {_text(standing.name)}</h1><ul>{items}</ul>"


def _best_table(standing: Standing) -> str:
    rows = standing.best()[:_BEST]
    title = f"<h2>Best {_BEST}</h2>"
    if not rows:
        return f'{title}<p class="note">No trial is complete yet.</p>'
    front = {row.number for row in standing.front()}
    paths = list(dict.fromkeys(path for row in rows for path in row.point))
    heads = ["trial", *standing.names, "time", *paths]
    lines = ["<tr>" + "".join(f"<th>{_text(head)}</th>" for head in heads) + "</tr>"]
    for row in rows:
        cells = [str(row.number), *_values(row), status_text.duration(row.seconds())]
        cells += [
            _short(row.point[path]) if path in row.point else "" for path in paths
        ]
        line = "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        mark = ' class="front"' if row.number in front else ""
        lines.append(f"<tr{mark}>{line}</tr>")
    note = ""
    if len(front) > 1:
        note = "<p>No other trial is better in all metrics than those in bold.</p>"
    return f'{title}{note}<div class="wide"><table>{"".join(lines)}</table></div>'


def _values(row: TrialRow) -> list[str]:
    spread = [*row.deviations, *[None] * len(row.values)]
    pairs = zip(row.values, spread, strict=False)
    return [status_text.number(*pair).replace("+-", "\u00b1") for pair in pairs]


def _short(value: Any) -> str:
    is_float = isinstance(value, float)
    return f"{value:.6g}" if is_float else status_text.value_text(value)


def _failures(standing: Standing) -> str:
    failed = standing.having("failed")
    if not failed:
        return ""
    items = "".join(
        f"<li>trial {row.number}: {_text(row.reason or 'reason unknown')}</li>"
        for row in failed[:_FAILED]
    )
    more = len(failed) - _FAILED
    rest = f"<p>and {more} more</p>" if more > 0 else ""
    return f"<h2>Failed</h2><ul>{items}</ul>{rest}"


def _space(standing: Standing) -> str:
    space = standing.told.get("space")
    if not space:
        return ""
    settings = json.dumps(standing.told.get("settings", {}), indent=1)
    lines = "\n".join(space)
    return (
        f"<h2>Search space</h2><pre>{_text(lines)}</pre>"
        f"<details><summary>settings</summary><pre>{_text(settings)}</pre></details>"
    )


# Plots: title, what is seen, and what makes the figures, or why there are none.
_Plot = tuple[str, str, Callable[[], Sequence[Any]] | str]


def _plots(standing: Standing) -> Iterator[_Plot]:
    complete = len(standing.having("complete"))
    several = len(standing.names) > 1
    if several:
        yield (
            "Pareto front",
            "No other trial is better in all metrics than those of the front.",
            _if(complete, 1, lambda: [_front(standing)]),
        )
    for index, name in enumerate(standing.names):
        yield from _plots_of(standing, index, f" of {name}" if several else "")
    if any(row.epochs for row in standing.rows):
        yield (
            "Values by epoch",
            "Trials are pruned by these values; those that end early were.",
            lambda: [_intermediate(standing)],
        )


def _if(
    found: int, needed: int, make_figure: Callable[[], Sequence[Any]]
) -> Callable[[], Sequence[Any]] | str:
    if found >= needed:
        return make_figure
    return f"It needs {needed} complete trials or more, and there are {found}."


def _plots_of(standing: Standing, index: int, of: str) -> Iterator[_Plot]:
    import optuna.visualization as plots

    study, name = standing.study, standing.names[index]
    several = len(standing.names) > 1
    options: dict[str, Any] = {"target_name": name}
    if several:
        options["target"] = lambda trial: trial.values[index]
    complete = [
        t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"
    ]
    count = len(complete)
    params = list(dict.fromkeys(key for trial in complete for key in trial.params))
    labels = _labels(params)
    better = "less" if standing.directions[index] == MINIMIZE else "more"
    yield (
        f"History{of}",
        f"A dot is a trial; of {name}, {better} is better.",
        _if(
            count,
            1,
            lambda: [plots.plot_optimization_history(study, **options)],
        ),
    )
    if not params:
        if count:
            yield f"Parameters{of}", "", "No parameter has more than one value."
        return
    yield (
        f"Parallel coordinates{of}",
        "A line is a trial, the better the more orange. Keys that a trial does not "
        "have are None.",
        _if(
            count,
            2,
            lambda: [_parallel(plots, study, labels, better == "less", options)],
        ),
    )
    yield (
        f"Importances{of}",
        "How much each key has to do with being among the best tenth of the trials "
        "(PED-ANOVA); fifty trials say more than ten.",
        _if(
            count,
            4,
            lambda: [_importances(plots, study, labels, better == "less", options)],
        ),
    )
    yield (
        f"Slices{of}",
        "One key at a time; later trials are more orange.",
        _if(count, 2, lambda: _slices(plots, study, params, labels, options)),
    )


def _labels(params: Sequence[str]) -> dict[str, str]:
    """Returns short names for keys: the last part, where that is one key's only."""
    last = {key: key.partition(" when ")[0].rpartition(".")[2] for key in params}
    names = list(last.values())
    return {key: last[key] if names.count(last[key]) == 1 else key for key in params}


def _parallel(
    plots: Any, study: Any, labels: dict[str, str], less: bool, options: Any
) -> Any:
    figure = plots.plot_parallel_coordinate(study, **options)
    for trace in figure.data:
        if trace.mode == "lines" and trace.y and trace.y[0] is not None:
            # The first axis is the metric's, from 0 to 1.
            trace.line.color = _color(1.0 - trace.y[0] if less else trace.y[0])
            trace.opacity = 0.8
        elif trace.marker.colorscale is not None:
            trace.marker.update(colorscale=_SCALE, reversescale=less)
    # Optuna sorts the others, and cuts their names.
    names = [options["target_name"], *(labels[key] for key in sorted(labels))]
    figure.update_xaxes(ticktext=names)
    figure.update_annotations(font_color=_FAINT)
    return figure


def _color(place: float) -> str:
    """Returns a color of `_SCALE`."""
    from plotly.colors import sample_colorscale

    return str(sample_colorscale(_SCALE, [min(max(place, 0.0), 1.0)])[0])


def _importances(
    plots: Any, study: Any, labels: dict[str, str], less: bool, options: Any
) -> Any:
    target = options.get("target")
    if target is not None and not less:
        # Whatever the direction, of a target less is better.
        options = {**options, "target": lambda trial: -target(trial)}
    with warnings.catch_warnings():  # of that, and of few trials
        warnings.simplefilter("ignore")
        figure = plots.plot_param_importances(study, **options)
    for trace in figure.data:
        trace.y = [labels.get(key, key) for key in trace.y]
    figure.update_yaxes(title=None)
    return figure


def _slices(
    plots: Any, study: Any, params: list[str], labels: dict[str, str], options: Any
) -> list[Any]:
    figures = []
    for start in range(0, len(params), _SLICES):
        some = params[start : start + _SLICES]
        figure = plots.plot_slice(study, params=some, **options)
        figure.for_each_xaxis(
            lambda axis: axis.update(
                title_text=labels.get(axis.title.text, axis.title.text)
            )
        )
        figure.update_traces(marker_colorscale=_BY_TIME)
        figure.update_layout(width=None)
        figures.append(figure)
    return figures


def _intermediate(standing: Standing) -> Any:
    import optuna.visualization as plots

    figure = plots.plot_intermediate_values(standing.study)
    settings = standing.told.get("settings", {})
    name = settings.get("prune_on") or standing.names[0]
    values = [y for trace in figure.data for y in trace.y or ()]
    # Workers turn round what is better the other way than the metric.
    turned = bool(values) and "loss" in name and max(values) <= 0
    figure.update_layout(
        xaxis_title="epoch",
        yaxis_title=f"-{name}" if turned else name,
        showlegend=len(figure.data) <= _LEGEND,
    )
    return figure


def _front(standing: Standing) -> Any:
    import optuna.visualization as plots

    if len(standing.names) > 3:
        raise ValueError("there are more than three metrics.")
    figure = plots.plot_pareto_front(standing.study, target_names=standing.names)
    for trace in figure.data:
        if trace.marker.colorscale is not None:
            best = "Best" in str(trace.marker.colorbar.title.text)
            trace.marker.colorscale = _OF_FRONT if best else _BEHIND
    return figure


def _as_json(figure: Any) -> str:
    # What stands above each plot is its title; colours are the page's.
    figure.update_layout(title=None, template=None)
    return figure.to_json()
