"""`tfr-pipeline graph identify`: an id for each document or example."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from tfr_pipeline import urls
from tfr_pipeline.cli import graph
from tfr_pipeline.cli.quiet import load_tensorflow

if TYPE_CHECKING:
    from tfr_pipeline.graph.dataset import Reading


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Writes data in which each document has an id that is unique in its list: that "
        "which it has, or a hash of its content. The same data gives the same ids."
    )
    graph.add_reading_arguments(parser)
    graph.add_writing_arguments(parser)
    graph.add_runner_arguments(parser)


def reading(args: argparse.Namespace) -> Reading:
    """Returns how the flags say that data is read."""
    from tfr_pipeline.graph.dataset import Reading

    features = args.features_file or ""
    return Reading(args.input_format, features, args.id_feature, args.label_column)


def report(line: str) -> None:
    """Shows a line that is no result."""
    print(urls.shown(line), file=sys.stderr, flush=True)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    chosen = graph.chosen(args)
    load_tensorflow()
    settings: dict[str, Any] = {
        "split": args.split,
        "num_shards": args.num_shards,
        "output_format": args.output_format,
        "reading": reading(args),
        "report": report,
    }
    if chosen is None:
        from tfr_pipeline.graph.identification import identify

        found = identify(args.input, args.output, **settings)
    else:
        from tfr_pipeline.graph import beam_jobs

        found = beam_jobs.identify(args.input, args.output, chosen=chosen, **settings)
    print(
        f"{urls.redact(args.output)}: {args.split}: {found.documents:,} documents, "
        f"{found.nodes:,} nodes, {found.made:,} ids made, {found.renamed:,} changed"
    )
    return 0
