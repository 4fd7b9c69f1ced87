"""`tfr-pipeline convert`: ranking files to TFRecord files."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from tfr_pipeline import urls
from tfr_pipeline.cli import arguments
from tfr_pipeline.cli.quiet import load_beam, load_tensorflow

if TYPE_CHECKING:
    from tfr_pipeline.data.convert.job import Engine
    from tfr_pipeline.data.sources.options import Options

TABLE_FLAGS = (
    "label_column",
    "label_columns",
    "qid_column",
    "docid_column",
    "weight_column",
    "feature_columns",
    "context_columns",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Converts ranking files to OUTPUT/SPLIT-00000-of-0000N.tfrecord, "
        "OUTPUT/features.json and OUTPUT/SPLIT.stats.json."
    )
    add = parser.add_argument
    add(
        "--input",
        required=True,
        type=arguments.patterns,
        help="path, folder, glob, or several with commas between, .gz too; - is "
        "standard input",
    )
    add(
        "--input_format",
        default="libsvm",
        help="libsvm, csv, tsv or parquet; of TFRecord files elwc, eie, seq or example "
        "(default: libsvm)",
    )
    add("--output", required=True, type=arguments.path, help="folder to write into")
    add("--split", default="train", help="name of the split (default: train)")
    add("--num_shards", type=int, default=1, help="number of files (default: 1)")
    add("--output_format", default="elwc", help="elwc or packed (default: elwc)")
    add(
        "--feature_dtype",
        default="float32",
        help="packed: what float features are kept as, float32, or float16 or bfloat16 "
        "in half the room (default: float32)",
    )
    add(
        "--scalar_features",
        action="store_true",
        help="one feature for each column instead of one vector feature",
    )
    add(
        "--num_features",
        type=int,
        help="largest feature index (default: found in the data, or that of the "
        "splits already in OUTPUT)",
    )
    add(
        "--label_transform",
        help="labels that are no grades: log, cap:TOP or quantiles:GRADES; the splits "
        "of a folder share it (default: that of the splits already in OUTPUT, or none)",
    )
    add("--workers", type=int, help="processes (default: one for each core)")
    add(
        "--runner",
        nargs="?",
        const="in_process",
        help="convert as an Apache Beam pipeline: in_process, flink, spark, dataflow, "
        "or what Beam calls a runner (--runner alone: in_process; default: none)",
    )
    add("--runner_args", help="flags of Beam, such as '--flink_master=HOST:8081'")
    add(
        "--features",
        type=arguments.path,
        help="TFRecord: features.json of the input (default: what its first records "
        "have)",
    )
    add_reading_arguments(parser)


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say how to read ranking files; shared with `predict`."""
    add = parser.add_argument
    add(
        "--query_file",
        type=arguments.patterns,
        help="LibSVM without qid: files with the list lengths, one a line; one for "
        "each input file",
    )
    add(
        "--group_by_query",
        action="store_true",
        help="bring together the rows of a query wherever they are",
    )
    add(
        "--nan",
        help="NaN and infinite features: error, zero, or keep, which `train` refuses "
        "(default: error)",
    )
    columns = "tables and TFRecord: column (feature)"
    add("--label_column", help=f"{columns} of the grade (default: label)")
    add(
        "--label_columns",
        help="tables: instead, comma-separated labels of several tasks; an empty cell "
        "is no label",
    )
    add("--qid_column", help=f"{columns} of the query id (default: qid)")
    add("--docid_column", help=f"{columns} of the document id (default: line)")
    add("--weight_column", help=f"{columns} of the document weight")
    add(
        "--feature_columns",
        help="comma-separated features (default: all other numeric columns; TFRecord: "
        "all other features)",
    )
    add(
        "--context_columns",
        help="comma-separated columns of the query (default: none; TFRecord: all "
        "features of the query)",
    )


def names(text: str | None, flag: str) -> tuple[str, ...]:
    """Returns comma-separated names; one with a comma stands in double quotes.

    Raises:
      ConfigError: A quote is not closed.

    Example:
      >>> names('a, "b,c"', "--feature_columns")
      ('a', 'b,c')
    """
    import csv

    from tfr_pipeline.errors import ConfigError

    try:
        rows = list(csv.reader([text or ""], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ConfigError(
            f"{flag}: expected comma-separated names, those with a comma in double "
            f"quotes, found {text!r} ({error})."
        ) from error
    return tuple(name.strip() for row in rows for name in row if name.strip())


def warn_useless(args: argparse.Namespace, flags: Iterable[str]) -> None:
    """Says on standard error which flags were given and are useless for the format."""
    for name in flags:
        if getattr(args, name, None) not in (None, False):
            print(
                f"warning: --{name} has no effect with --input_format="
                f"{args.input_format}",
                file=sys.stderr,
            )


def reading_options(
    args: argparse.Namespace,
    *,
    require_label: bool = True,
    known: Mapping[str, str] | None = None,
) -> Options:
    """Returns the `tfr_pipeline.data.sources.options.Options` that the flags say.

    Warns on standard error of flags that the input format makes useless.

    Args:
      args: The flags.
      require_label: Whether a table must have a label.
      known: Values of flags that were not given, such as `Features.reading`.
    """
    from tfr_pipeline.data.sources.options import RECORD_FORMATS, Options
    from tfr_pipeline.errors import ConfigError

    known = known or {}
    useless = ["query_file", "features"]
    if args.input_format == "libsvm":
        useless = [*TABLE_FLAGS, "features"]
    elif args.input_format in RECORD_FORMATS:
        useless = ["query_file", "num_features", "label_columns"]
        if getattr(args, "scalar_features", False):
            useless.append("scalar_features")  # features stay as they are
    if args.label_columns and args.label_column:
        raise ConfigError("expected --label_column or --label_columns, found both.")
    warn_useless(args, useless)

    def setting(name: str, default: str) -> str:
        given = getattr(args, name)
        return known.get(name, default) if given is None else given

    return Options(
        num_features=getattr(args, "num_features", None),
        nan=setting("nan", "error"),
        query_file=args.query_file or "",
        group_by_query=args.group_by_query,
        label_column=args.label_column or "label",
        qid_column=setting("qid_column", "") or "qid",
        docid_column=setting("docid_column", ""),
        weight_column=args.weight_column or "",
        feature_columns=names(args.feature_columns, "--feature_columns"),
        context_columns=names(args.context_columns, "--context_columns"),
        features=getattr(args, "features", None) or "",
        require_label=require_label,
        label_columns=names(args.label_columns, "--label_columns"),
    )


def _engine(args: argparse.Namespace) -> Engine | None:
    """Returns what runs the conversion; None for the processes of this machine."""
    from tfr_pipeline.errors import ConfigError

    if args.runner is None:
        if args.runner_args is not None:
            raise ConfigError("--runner_args: expected --runner beside it, found none.")
        return None
    load_beam()
    from tfr_pipeline.data.convert.beam import BeamEngine

    try:
        flags = shlex.split(args.runner_args or "")
    except ValueError as error:
        raise ConfigError(
            f"--runner_args: expected words as a shell takes them, found "
            f"{args.runner_args!r} ({error})."
        ) from error
    engine = BeamEngine(args.runner, flags)
    if args.workers is not None and not engine.in_process:
        print(
            f"warning: --workers has no effect with --runner={args.runner}",
            file=sys.stderr,
        )
    return engine


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from tfr_pipeline.data.convert.conversion import convert
    from tfr_pipeline.data.sources.options import RECORD_FORMATS

    engine = _engine(args)
    if args.input_format in RECORD_FORMATS:
        load_tensorflow()
    stats = convert(
        args.input,
        args.output,
        input_format=args.input_format,
        split=args.split,
        num_shards=args.num_shards,
        output_format=args.output_format,
        scalar_features=args.scalar_features,
        options=reading_options(args),
        label_transform=args.label_transform or "",
        feature_dtype=args.feature_dtype,
        num_workers=args.workers,
        engine=engine,
    )
    print(
        f"{urls.redact(args.output)}: {args.split}: {stats['queries']:,} queries, "
        f"{stats['documents']:,} documents, {len(stats['features'])} features in "
        f"{args.num_shards} file{'s' if args.num_shards > 1 else ''}"
    )
    return 0
