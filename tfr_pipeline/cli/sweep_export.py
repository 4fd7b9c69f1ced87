"""`tfr-pipeline sweep export`: the trials of a study as CSV."""

from __future__ import annotations

import argparse
import sys

from tfr_pipeline import files
from tfr_pipeline.cli import arguments, sweep_place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = "Writes the trials of a study as CSV."
    sweep_place.add_place(parser)
    parser.add_argument(
        "--output", type=arguments.path, help="FILE.csv; standard output by default"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from tfr_pipeline.sweep import csv_table

    standing = sweep_place.find(args)
    if not args.output:
        sys.stdout.write(csv_table.text(standing))
        return 0
    path = sweep_place.output_of(args, standing, "", csv_table.SIGN)
    files.write_text(path, csv_table.text(standing))
    print(f"{len(standing.rows)} trials: {path}")
    return 0
