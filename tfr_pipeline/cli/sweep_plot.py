"""`tfr-pipeline sweep plot`: a study as one HTML page."""

from __future__ import annotations

import argparse

from tfr_pipeline import files
from tfr_pipeline.cli import arguments, sweep_place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Writes a page with the history of a study, its best trials, and what its keys "
        "do. The page loads nothing from elsewhere. It needs Plotly: pip install "
        "'tfr_pipeline[report]'."
    )
    sweep_place.add_place(parser)
    parser.add_argument(
        "--output",
        type=arguments.path,
        help="FILE.html; by default sweep.html in the folder of the sweep",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from tfr_pipeline.sweep import page

    standing = sweep_place.find(args)
    path = sweep_place.output_of(args, standing, "sweep.html", page.SIGN)
    files.write_text(path, page.make(standing))
    print(f"page: {path}")
    return 0
