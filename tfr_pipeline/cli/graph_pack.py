"""`tfr-pipeline graph pack`: features of neighbours in each document or example."""

from __future__ import annotations

import argparse
from typing import Any

from tfr_pipeline import urls
from tfr_pipeline.cli import arguments, graph
from tfr_pipeline.cli.graph_identify import reading, report
from tfr_pipeline.cli.quiet import load_tensorflow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Writes data in which each document or example has the features of its "
        "neighbours in a graph, NL_nbr_<i>_<feature>, and NL_nbr_<i>_weight."
    )
    graph.add_reading_arguments(parser)
    graph.add_writing_arguments(parser)
    add = parser.add_argument
    add("--graph", required=True, type=arguments.patterns, help="TSV file of the edges")
    add(
        "--unlabelled",
        type=arguments.patterns,
        help="more files, whose documents are neighbours",
    )
    add(
        "--with_unlabelled",
        action="store_true",
        help="write those of --unlabelled, too, behind the others",
    )
    add("--nodes", help="documents or queries of lists (default: documents)")
    add(
        "--max_nbrs",
        type=arguments.positive,
        default=3,
        help="neighbours at most, those of the largest weight (default: 3)",
    )
    add(
        "--add_undirected_edges",
        action="store_true",
        help="an edge leads both ways; of two weights the larger counts",
    )
    add(
        "--unknown_ids",
        default="error",
        help="edges with an id that the data has not: error or skip (default: error)",
    )
    add(
        "--self_loops",
        default="drop",
        help="edges from a node to itself: drop, or keep as NSL does (default: drop)",
    )
    add(
        "--cache",
        default="auto",
        help="where lists are while neighbours are taken from them: auto, memory, disk "
        "or a folder (default: auto)",
    )
    graph.add_runner_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    chosen = graph.chosen(args)
    load_tensorflow()
    from tfr_pipeline.errors import ConfigError
    from tfr_pipeline.graph.packing import Rules, pack

    if args.with_unlabelled and not args.unlabelled:
        raise ConfigError("--with_unlabelled: expected --unlabelled, found none.")
    rules = Rules(
        args.max_nbrs, args.add_undirected_edges, args.unknown_ids, args.self_loops
    )
    settings: dict[str, Any] = {
        "graph": args.graph,
        "unlabelled": args.unlabelled or "",
        "with_unlabelled": args.with_unlabelled,
        "rules": rules,
        "kind": args.nodes,
        "split": args.split,
        "num_shards": args.num_shards,
        "output_format": args.output_format,
        "reading": reading(args),
    }
    if chosen is not None:
        if args.cache != "auto":
            report("warning: --cache has no effect with --runner")
        from tfr_pipeline.graph import beam_jobs

        beam_jobs.pack(args.input, args.output, chosen=chosen, **settings)
        print(f"{urls.redact(args.output)}: {args.split} packed")
        return 0
    found = pack(args.input, args.output, cache=args.cache, report=report, **settings)
    degrees = ", ".join(f"{count:,} with {n}" for n, count in found.degrees.items())
    print(f"{urls.redact(args.output)}: {found.nodes:,} nodes, neighbours: {degrees}")
    return 0
