"""`tfr-pipeline clicks simulate`: sessions with clicks, from graded data."""

from __future__ import annotations

import argparse
import os
import sys

from tfr_pipeline import urls
from tfr_pipeline.cli import arguments
from tfr_pipeline.cli.quiet import load_tensorflow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Writes sessions as `convert` writes lists: documents in the order in which "
        "they were shown, with their features, the integer feature `position`, and the "
        "label 1 for a click. By pbm, OUTPUT/propensities.json has the true ones."
    )
    add = parser.add_argument
    add(
        "--input",
        required=True,
        type=arguments.patterns,
        help="graded lists: path, glob, or several with commas between, .gz too",
    )
    add("--input_format", default="libsvm", help="as of convert (default: libsvm)")
    add("--output", required=True, type=arguments.path, help="folder to write into")
    add("--split", default="train", help="name of the split (default: train)")
    add(
        "--sessions",
        type=arguments.positive,
        default=10000,
        help="number of sessions, each of a query at random (default: 10000)",
    )
    add(
        "--model",
        default="pbm",
        help="pbm (position-based), cascade, or dcm (dependent clicks) (default: pbm)",
    )
    add(
        "--ranker",
        default="weak:1,weak:2",
        help="who ordered the documents: weak:NUMBER, a linear model of few grades; "
        "feature:NUMBER; random; a file of `predict`; several with commas between "
        "share the sessions (default: weak:1,weak:2)",
    )
    add(
        "--share",
        type=float,
        default=0.01,
        help="share of the queries that a weak ranker learns from (default: 0.01)",
    )
    add(
        "--eta",
        type=float,
        default=1.0,
        help="pbm: position k is seen with (1/k)^eta; dcm: so falls the chance to go "
        "on after a click (default: 1)",
    )
    add(
        "--stay",
        type=float,
        default=0.8,
        help="dcm: the chance to go on after a click on the first (default: 0.8)",
    )
    add(
        "--noise",
        type=float,
        default=0.1,
        help="how likely a document of grade 0 is clicked once seen (default: 0.1)",
    )
    add(
        "--largest_grade",
        type=float,
        help="grade of what is always clicked once seen (default: that of the data)",
    )
    add(
        "--depth",
        type=arguments.count,
        default=10,
        help="documents that a session shows, 0 for all (default: 10)",
    )
    add("--num_shards", type=arguments.positive, default=1, help="files (default: 1)")
    add(
        "--seed", type=arguments.count, default=1, help="of random numbers (default: 1)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    load_tensorflow()
    from tfr_pipeline.clicks import models, simulation

    path = os.path.join(args.output, "propensities.json")
    known = _known(path, args)
    sessions = simulation.Sessions(
        count=args.sessions,
        model=models.click_model(args.model, args.eta, args.stay),
        depth=args.depth,
        noise=args.noise,
        largest=args.largest_grade,
        seed=args.seed,
    )
    found = simulation.simulate_files(
        args.input,
        args.output,
        ranker=args.ranker,
        sessions=sessions,
        input_format=args.input_format,
        split=args.split,
        num_shards=args.num_shards,
        share=args.share,
        report=lambda line: print(urls.shown(line), file=sys.stderr, flush=True),
    )
    rates = found["clicks_by_position"]
    if args.model == "pbm":
        # Another split may have shown fewer documents.
        true = models.examination(max(len(rates), known), args.eta)
        simulation.write_propensities(path, true, method="true", eta=args.eta)
    print(
        f"{urls.redact(args.output)}: {args.split}: {found['sessions']:,} sessions, "
        f"{found['documents']:,} documents, {found['clicks']:,} clicks"
    )
    shown = " ".join(f"{rate:.3f}" for rate in rates[:10])
    print(f"share clicked by position: {shown}")
    return 0


def _known(path: str, args: argparse.Namespace) -> int:
    """Returns for how many positions sessions that are there have propensities.

    Raises:
      ConfigError: The sessions to come have others: one file is of all splits.
    """
    from tfr_pipeline import files
    from tfr_pipeline.errors import ConfigError

    if not files.exists(path):
        return 0
    found = files.read_json(path)
    found = found if isinstance(found, dict) else {}
    asked = args.eta if args.model == "pbm" else None
    if found.get("method") != "true" or found.get("eta") != asked:
        raise ConfigError(
            f"{urls.redact(path)}: expected none, or those of --model=pbm "
            f"--eta={args.eta}; found method={found.get('method')!r} "
            f"eta={found.get('eta')}. All sessions in a folder have one model of "
            "clicks: give another --output, or remove the file if none trains by it."
        )
    return len(found["propensities"])
