"""`tfr-pipeline train --lr_range`: which learning rate a config bears."""

from __future__ import annotations

import os
from typing import Any

from tfr_pipeline import files, urls

DEFAULT = "1e-5,1"


def ends(text: str) -> tuple[float, float]:
    """Returns both ends of a range of rates, such as `1e-5,1`.

    Raises:
      ConfigError: They are no rates.

    Example:
      >>> ends("1e-4,0.5")
      (0.0001, 0.5)
    """
    from tfr_pipeline.errors import ConfigError

    try:
        low, high = map(float, text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--lr_range: expected LOW,HIGH, such as {DEFAULT}, found {text!r}."
        ) from error
    return low, high


def run(pipeline: Any, model_dir: str, low: float, high: float) -> None:
    """Tests the rates; writes a table and a plot beside the run directory.

    Args:
      pipeline: What the config describes.
      model_dir: Its run directory, which is left alone.
      low: The lowest rate.
      high: The highest.
    """
    from tfr_pipeline.pipeline.run import lr_range

    folder = os.path.normpath(files.local(model_dir)) + "-lr_range"
    if urls.is_remote(model_dir):
        folder = model_dir.rstrip("/") + "-lr_range"
    rows = lr_range.sweep(pipeline, low, high)
    path = f"{folder}/lr_range.csv"
    files.write_text(path, lr_range.as_csv(rows))
    print(f"table: {urls.redact(path)}")
    page = _page(rows)
    if page is None:
        print("no plot: it needs Plotly, pip install 'tfr_pipeline[report]'")
    else:
        path = f"{folder}/lr_range.html"
        files.write_text(path, page)
        print(f"plot: {urls.redact(path)}")
    print(_conclusion(rows, lr_range.suggested(rows), high))


def _conclusion(rows: Any, rate: float | None, high: float) -> str:
    if rate is None:
        return "the loss never fell: look at a higher range, or at the data"
    least = min(rows, key=lambda row: row.smoothed)
    text = (
        f"the smoothed loss is least, {least.smoothed:.4g}, at the rate "
        f"{least.learning_rate:.2g}"
    )
    if least is rows[-1]:
        text += ", the last one tried: it may fall further above"
    return f"{text}; suggestion: --config.pipeline.learning_rate={rate:g}"


def _page(rows: Any) -> str | None:
    """Returns a page that shows losses by rate; None without Plotly."""
    try:
        from plotly import graph_objects
    except ImportError:
        return None
    rates = [row.learning_rate for row in rows]
    figure = graph_objects.Figure(
        [
            graph_objects.Scatter(
                x=rates,
                y=[row.loss for row in rows],
                mode="markers",
                name="batch",
                opacity=0.4,
            ),
            graph_objects.Scatter(
                x=rates, y=[row.smoothed for row in rows], mode="lines", name="smoothed"
            ),
        ]
    )
    figure.update_xaxes(type="log", title="learning rate")
    figure.update_yaxes(title="training loss")
    page: str = figure.to_html(include_plotlyjs=True)
    return page
