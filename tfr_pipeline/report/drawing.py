"""Figures of Matplotlib as SVG that stands in a page and has its colours and letters.

A figure is drawn with placeholders for colours, which become variables of the page's
style: so it is light or dark as the page is. Texts stay texts.
"""

from __future__ import annotations

import contextlib
import html
import io
import re
from collections.abc import Iterator
from typing import Any

from tfr_pipeline.errors import ConfigError

# Placeholders, and what the style of the page calls them.
INK, FAINT, LINE, GROUND = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
MAIN, SECOND, GOOD, BAD = "#0a0b05", "#0a0b06", "#0a0b07", "#0a0b08"
SOFT = "#0a0b09"
_VARIABLES = {
    INK: "ink",
    FAINT: "faint",
    LINE: "line",
    GROUND: "ground",
    MAIN: "main",
    SECOND: "second",
    GOOD: "good",
    BAD: "bad",
    SOFT: "soft",
}
WIDTH = 8.6  # inches; the page scales
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": FAINT,
    "axes.facecolor": "none",
    "axes.titlesize": 9.5,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
}
_FONT = re.compile(r"font-family:[^;\"]*")
_FONT_SHORT = re.compile(r"(font: [^;\"]*?px )[^;\"]*")


def require() -> None:
    """Checks that what pages are made with is installed.

    Raises:
      ConfigError: It is not; it says how to get it.
    """
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"a report needs Matplotlib and Jinja2 ({error}). Install them with: pip "
            "install 'tfr_pipeline[report]'"
        ) from error


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Figures that are made in this block look like the page."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def figure(height: float, rows: int = 1, columns: int = 1, **settings: Any) -> Any:
    """Returns a figure of the width of the page, and its axes, within `style`.

    Args:
      height: In inches.
      rows: Rows of axes.
      columns: Columns of axes.
      **settings: More for `Figure.subplots`.
    """
    from matplotlib.figure import Figure

    made = Figure(figsize=(WIDTH, height))
    return made, made.subplots(rows, columns, **settings)


def svg(made: Any, name: str, about: str) -> str:
    """Returns a figure as an element of a page.

    Args:
      made: The figure.
      name: A word that no other figure of the page has: ids begin with it.
      about: What is seen, for those who do not see it.
    """
    import matplotlib

    out = io.BytesIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        made.savefig(out, format="svg", metadata=dict.fromkeys(_METADATA))
    text = out.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'xlink:href="#', f'href="#{name}-', text)
    text = text.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var(--{variable})")
    text = _FONT.sub("font-family: inherit", text)
    text = _FONT_SHORT.sub(r"\1inherit", text)
    # Its size is that of its place.
    text = re.sub(r'(<svg [^>]*?)\bheight="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg [^>]*?)\bwidth="[^"]*"', r"\1", text, count=1)
    label = html.escape(about, quote=True)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()


_METADATA = ("Date", "Creator", "Format", "Type")
