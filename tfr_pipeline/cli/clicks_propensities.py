"""`tfr-pipeline clicks propensities`: how likely each position is seen, from clicks."""

from __future__ import annotations

import argparse
import sys

from tfr_pipeline import urls
from tfr_pipeline.cli import arguments
from tfr_pipeline.cli.quiet import load_tensorflow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Writes a JSON file for model.position_bias.propensities. A list is a session; "
        "its id is that of the query, or the id, / and what tells sessions apart."
    )
    add = parser.add_argument
    add(
        "--input",
        required=True,
        type=arguments.patterns,
        help="sessions in TFRecord files of convert or clicks simulate",
    )
    add("--input_format", default="elwc", help="elwc, eie or seq (default: elwc)")
    add(
        "--features_file",
        default="",
        help="features.json of the sessions (default: that beside them)",
    )
    add(
        "--position_feature",
        default="position",
        help="integer feature with the position, from 1 (default: position)",
    )
    add(
        "--method",
        default="harvest",
        help="harvest, from documents that several rankers showed at several places, "
        "or em, with relevance from features (default: harvest)",
    )
    add("--output", required=True, type=arguments.path, help="JSON file to write")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from tfr_pipeline import outputs
    from tfr_pipeline.errors import ConfigError, unknown_name

    outputs.check_output(args.output, what="--output")
    load_tensorflow()
    from tfr_pipeline.clicks import estimation, logs, simulation

    if args.method not in estimation.METHODS:
        raise ConfigError(unknown_name("method", args.method, estimation.METHODS))
    log = logs.read_log(
        args.input,
        features_file=args.features_file,
        position=args.position_feature,
        input_format=args.input_format,
        report=lambda line: print(urls.shown(line), file=sys.stderr, flush=True),
    )
    found = estimation.propensities(log, args.method)
    told = {"method": args.method, "clicks": int(log.clicks.sum())}
    simulation.write_propensities(args.output, found, **told)
    shown = " ".join(f"{value:.3f}" for value in found[:10])
    print(f"{urls.redact(args.output)}: {len(found)} positions: {shown}")
    return 0
