"""`tfr-pipeline ensemble`: averages runs that are there into one model."""

from __future__ import annotations

import argparse
import contextlib
import os

from tfr_pipeline.cli import arguments
from tfr_pipeline.cli.quiet import load_tensorflow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Averages the scores of runs into one SavedModel, OUTPUT/export, which "
        "predict, evaluate and servers take as that of any run. Where all runs had the "
        "same data, OUTPUT/metrics.json has what it reaches beside each of them."
    )
    parser.epilog = (
        "  tfr-pipeline ensemble runs/a runs/b runs/c --output=OUT\n"
        "`tfr-pipeline train --ensemble=K` trains the runs, too."
    )
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        type=arguments.path,
        metavar="RUN",
        help="run directory, folder of versions or SavedModel",
    )
    add("--output", required=True, type=arguments.path, help="folder to write into")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from tfr_pipeline import outputs
    from tfr_pipeline.cli import ensembles

    outputs.check_output(args.output, args.runs, folder=True, what="--output")
    from tfr_pipeline.experiment.members import check_folder

    folder = check_folder(args.output, "--output")
    load_tensorflow()
    from tfr_pipeline.experiment import ensemble
    from tfr_pipeline.pipeline.run import lock

    new = not os.path.exists(folder)
    try:
        with lock.held(folder):
            content = ensemble.combine(args.runs, folder)
    finally:
        if new:  # of the lock alone, where nothing came of it
            with contextlib.suppress(OSError):
                os.rmdir(folder)
    ensembles.report(content, folder)
    return 0
