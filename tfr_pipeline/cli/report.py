"""`tfr-pipeline report`: a run as one HTML page."""

from __future__ import annotations

import argparse
import os
import sys

from tfr_pipeline.cli import arguments
from tfr_pipeline.cli.quiet import load_tensorflow

_DOCUMENTS = 20_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Writes a page about a run: its quality with intervals, its data and training, "
        "which features matter, the shapes of a GAM, one list explained, slices, and "
        "how to repeat it. The page loads nothing from elsewhere. It needs Matplotlib "
        "and Jinja2: pip install 'tfr_pipeline[report]'."
    )
    add = parser.add_argument
    add("--run", required=True, type=arguments.path, help="run directory, or its URL")
    add(
        "--output",
        type=arguments.path,
        help="FILE.html; by default report.html in the run directory",
    )
    add(
        "--baseline",
        type=arguments.path,
        help="another run directory: wins and losses by query against it",
    )
    add(
        "--data",
        type=arguments.patterns,
        help="glob of labelled TFRecord files to ask the model about; by default the "
        "test data of the run, or else its validation data",
    )
    add("--task", help="of several scores, the one that is looked at (default: first)")
    add("--query", help="id of the query whose list is explained")
    add(
        "--documents",
        type=arguments.positive,
        default=_DOCUMENTS,
        help="ask the model about lists of about so many documents, at random where "
        f"there are more (default: {_DOCUMENTS})",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from tfr_pipeline import files, outputs, urls

    join = urls.join if urls.is_remote(args.run) else os.path.join
    own = join(args.run, "report.html")
    output = args.output or own
    # A page of before is no part of what is read.
    read = [path for path in outputs.files_of_model(args.run) if path != own]
    if args.baseline:
        read += outputs.files_of_model(args.baseline)
    if args.data:
        read += files.expand(args.data, "--data")
    outputs.check_output(output, read, what="--output")
    load_tensorflow()
    from tfr_pipeline.report import page

    text = page.make(
        args.run,
        baseline=args.baseline,
        data=args.data or "",
        task=args.task,
        query=args.query,
        documents=args.documents,
        say=lambda line: print(line, file=sys.stderr),
    )
    files.write_text(output, text)
    print(f"page: {urls.redact(output)}")
    return 0
