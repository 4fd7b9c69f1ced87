"""`tfr-pipeline sweep status`: how a study stands."""

from __future__ import annotations

import argparse

from tfr_pipeline.cli import sweep_place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Shows the trials of a study, what is best so far, who is at what, and how "
        "long it will take. It may be given while workers work."
    )
    sweep_place.add_place(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from tfr_pipeline.sweep import status_text

    standing = sweep_place.find(args)
    lines = status_text.heading(standing)
    if standing.rows:
        lines += ["", *status_text.table(standing.rows, standing.names)]
    print("\n".join(lines))
    return 0
