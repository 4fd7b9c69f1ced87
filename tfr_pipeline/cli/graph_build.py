"""`tfr-pipeline graph build`: a graph of the nodes that are alike."""

from __future__ import annotations

import argparse
from typing import Any

from tfr_pipeline import urls
from tfr_pipeline.cli import arguments, graph
from tfr_pipeline.cli.convert import names
from tfr_pipeline.cli.graph_identify import reading, report
from tfr_pipeline.cli.quiet import load_tensorflow
from tfr_pipeline.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Compares vectors of all documents, queries or examples, and writes an edge, "
        "source<TAB>target<TAB>weight, in both directions for each two that are alike."
    )
    graph.add_reading_arguments(parser)
    add = parser.add_argument
    add(
        "--output",
        required=True,
        type=arguments.path,
        help="the graph, a TSV file; OUTPUT.json beside it describes it",
    )
    add("--nodes", help="documents or queries of lists (default: documents)")
    add(
        "--features",
        help="comma-separated features that are the vector, or that --module takes "
        "(default: all of floats)",
    )
    add("--module", help="Hub module or exported encoder that makes the vectors")
    add("--signature", help="of the module (default: it is called)")
    add("--output_key", help="which output of the signature (default: the only one)")
    add(
        "--batch_size",
        type=arguments.positive,
        default=1024,
        help="nodes that the module takes at once (default: 1024)",
    )
    add("--metric", default="cosine", help="cosine or l2 (default: cosine)")
    add(
        "--threshold",
        type=float,
        help="an edge for each two whose weight, the cosine or 1 / (1 + distance), is "
        "no less",
    )
    add("--k", type=arguments.positive, help="instead, edges to the k most alike")
    add(
        "--method",
        default="auto",
        help="exact, approximate, or auto by the number of nodes (default: auto)",
    )
    add(
        "--recall",
        type=float,
        default=0.95,
        help="approximate: share of the true neighbours to find (default: 0.95)",
    )
    graph.add_runner_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from tfr_pipeline.graph.similarity import Wanted

    wanted = Wanted(args.metric, args.threshold, args.k)
    chosen = graph.chosen(args)
    if chosen is not None and args.method == "approximate":
        raise ConfigError(
            "--method=approximate: expected no --runner, with which all pairs are "
            "compared. Leave out one of them."
        )
    load_tensorflow()
    from tfr_pipeline.graph.encoders import Encoder

    encoder = Encoder(
        names(args.features, "--features"),
        args.module or "",
        args.signature,
        args.output_key,
        args.batch_size,
    )
    settings: dict[str, Any] = {
        "wanted": wanted,
        "encoder": encoder,
        "kind": args.nodes,
        "reading": reading(args),
        "report": report,
    }
    if chosen is None:
        from tfr_pipeline.graph.building import build

        settings |= {"method": args.method, "recall": args.recall}
        found = build(args.input, args.output, **settings)
    else:
        from tfr_pipeline.graph import beam_jobs

        found = beam_jobs.build(args.input, args.output, chosen=chosen, **settings)
    how = found["method"]
    if how == "approximate":
        how = f"approximate, recall {found['recall']:.3f}"
    print(
        f"{urls.redact(args.output)}: {found['nodes']:,} {found['kind']}, "
        f"{found['edges']:,} edges ({how})"
    )
    return 0
