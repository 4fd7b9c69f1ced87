"""`tfr-pipeline synthesize`: a small ranking data set with a known structure."""

from __future__ import annotations

import argparse

from tfr_pipeline import urls
from tfr_pipeline.cli import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Writes train.txt, valid.txt and test.txt: LibSVM text with query and document "
        "ids, for demos and tests."
    )
    add = parser.add_argument
    add("--output", required=True, type=arguments.path, help="folder to write into")
    add("--queries", type=int, default=600, help="training queries (default: 600)")
    add("--documents", type=int, default=40, help="mean list length (default: 40)")
    add("--features", type=int, default=30, help="features (default: 30)")
    add(
        "--drift",
        type=float,
        default=0.0,
        help="how far relevance is from what it is without drift, from 0 to 1, as on "
        "another day (default: 0)",
    )
    add("--force", action="store_true", help="replace files that are there")
    add("--seed", type=int, default=1, help="of the random numbers (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from tfr_pipeline.data.synthesize import Size, synthesize

    size = Size(args.queries, args.documents, args.features, args.drift)
    counts = synthesize(args.output, size, args.seed, force=args.force)
    for split, documents in counts.items():
        print(f"{urls.redact(args.output)}/{split}.txt: {documents:,} documents")
    return 0
