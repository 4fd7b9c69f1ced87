"""Sphinx settings: `make docs` writes docs/_build/html."""

project = "tfr_pipeline"
extensions = ["myst_parser"]
html_theme = "furo"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
