"""The frame of an HTML page with plots: its style, light and dark, and its script."""

from __future__ import annotations

import html
from collections.abc import Sequence

SIGN = '<meta name="generator" content="tfr-pipeline sweep plot">'

# Nothing comes from elsewhere.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; worker-src blob:"
)

_STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1c2430; --faint: #5b6675;
  --line: #d5dbe3; --raised: #f4f6f9; --accent: #c25400; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14181e; --ink: #e4e8ee; --faint: #9aa6b5; --line: #333c48;
    --raised: #1c222b; --accent: #ff9a4a; } }
body { background: var(--ground); color: var(--ink); margin: 0 auto; padding: 1.5rem;
  max-width: 70rem; font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p { color: var(--faint); max-width: 48rem; }
.note { border-left: 3px solid var(--accent); padding-left: 0.7rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
td { font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.7rem; text-align: left; border-bottom: 1px solid var(--line);
  white-space: nowrap; } th { background: var(--raised); font-weight: 600; }
tr.front td { font-weight: 600; }
pre { background: var(--raised); padding: 0.8rem; overflow-x: auto; font-size: 13px; }
.plot { width: 100%; height: 26rem; overflow-x: auto; }
"""

_SCRIPT = """
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function themed(layout) {
  const style = getComputedStyle(document.documentElement);
  const get = (name) => style.getPropertyValue(name).trim();
  const axis = { gridcolor: get("--line"), zerolinecolor: get("--line"),
    linecolor: get("--line"), automargin: true };
  return { ...layout, autosize: true, paper_bgcolor: get("--ground"),
    plot_bgcolor: get("--ground"),
    font: { color: get("--ink"), family: "system-ui, sans-serif" },
    margin: { t: 30, ...(layout.margin || {}) },
    template: { layout: { xaxis: axis, yaxis: axis,
      scene: { xaxis: axis, yaxis: axis, zaxis: axis },
      colorway: ["#4c8bf5", "#f06a00", "#2ba84a", "#c2407c", "#8e6bd8", "#00a3a3"],
      hoverlabel: { bgcolor: get("--raised"), font: { color: get("--ink") } } } } };
}
function draw() {
  figures.forEach((figure, index) => Plotly.react("plot" + index, figure.data,
    themed(figure.layout), { responsive: true, displaylogo: false }));
}
draw();
dark.addEventListener("change", draw);
"""


def page(title: str, body: str, figures: Sequence[str], plotlyjs: str) -> str:
    """Returns a page.

    Args:
      title: Its title, as text.
      body: What stands in it, as HTML, with a `<div class="plot" id="plot0">` and so on
        for the figures.
      figures: Figures of Plotly, as JSON.
      plotlyjs: The script that draws them.
    """
    # Within a script, `<` may begin its end.
    data = ",\n".join(figure.replace("<", "\\u003c") for figure in figures)
    scripts = (
        f"<script>{plotlyjs}</script>\n"
        f"<script>const figures = [\n{data}\n];\n{_SCRIPT}</script>\n"
    )
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"{SIGN}\n"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n{scripts if figures else ''}</body>\n</html>\n"
    )
