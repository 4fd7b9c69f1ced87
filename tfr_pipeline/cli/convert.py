"""`tfr-pipeline convert`: ranking files to TFRecord files."""

from __future__ import annotations

import argparse
import dataclasses
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
TYPE_FLAGS = ("text_columns", "categorical_columns", "types")


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
    add("--split", help="name of the split (default: train)")
    add(
        "--splits",
        help="instead, cut the input into several by a hash of the query id: names and "
        "shares that add up to 1, such as train:.8,valid:.1,test:.1",
    )
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
        "--classes",
        help="labels are classes, and each row an example of its own: how many, "
        "numbered from 0, or their names with commas between, or auto for those in the "
        "input (default: those of the splits already in OUTPUT, or none)",
    )
    add(
        "--label_transform",
        help="labels that are no grades: log, cap:TOP or quantiles:GRADES; the splits "
        "of a folder share it (default: that of the splits already in OUTPUT, or none)",
    )
    add(
        "--embed",
        action="append",
        metavar="TEXT=MODULE",
        help="a text becomes a vector by a module of TensorFlow Hub: title=PATH, or "
        "title:title_vector=PATH to keep the text as well; may be repeated",
    )
    add(
        "--unlabelled",
        action="store_true",
        help="documents need no label: a table may lack the column or have empty "
        "cells, LibSVM grades of -1; for pretraining",
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
    add("--text_columns", help="tables: comma-separated features that are text")
    add(
        "--categorical_columns",
        help="tables: comma-separated features that are categories, kept as text",
    )
    add(
        "--types",
        type=arguments.path,
        help="tables: JSON file of column names and what they are: numeric, integer, "
        "boolean, date, text, categorical, list or ragged (default: Parquet's own "
        "types, numbers of CSV)",
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
        help="NaN and infinite features: error, zero, or keep, for NaN that steps of "
        "model.preprocess take (default: error)",
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
        useless = [*TABLE_FLAGS, *TYPE_FLAGS, "features"]
    elif args.input_format in RECORD_FORMATS:
        useless = ["query_file", "num_features", "label_columns", *TYPE_FLAGS]
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
        types=_types(args),
    )


def _types(args: argparse.Namespace) -> dict[str, str]:
    """Returns what columns are, by three flags.

    Raises:
      ConfigError: They contradict each other, or the file is no such JSON.
      DataError: The file cannot be read.
    """
    from tfr_pipeline import files
    from tfr_pipeline.errors import ConfigError

    path = getattr(args, "types", None)
    found = files.read_json(path) if path else {}
    if not isinstance(found, dict) or not all(
        isinstance(kind, str) for kind in found.values()
    ):
        raise ConfigError(
            f'--types: {path}: expected JSON such as {{"title": "text", "day": "date"}}'
            f", found {found!r:.80}."
        )
    result = dict(found)
    for kind in ("text", "categorical"):
        flag = f"{kind}_columns"
        for name in names(getattr(args, flag, None), f"--{flag}"):
            if result.setdefault(name, kind) != kind:
                raise ConfigError(
                    f"--{flag}: expected one type a column, found {name!r} as "
                    f"{result[name]} and as {kind}."
                )
    return result


def runner_flags(args: argparse.Namespace) -> list[str] | None:
    """Returns the words of --runner_args, with Beam imported; None without --runner.

    Raises:
      ConfigError: They are no words, Beam is missing, or there is no --runner.
    """
    from tfr_pipeline.errors import ConfigError

    if args.runner is None:
        if args.runner_args is not None:
            raise ConfigError("--runner_args: expected --runner beside it, found none.")
        return None
    load_beam()
    try:
        return shlex.split(args.runner_args or "")
    except ValueError as error:
        raise ConfigError(
            f"--runner_args: expected words as a shell takes them, found "
            f"{args.runner_args!r} ({error})."
        ) from error


def _engine(args: argparse.Namespace) -> Engine | None:
    """Returns what runs the conversion; None for the processes of this machine."""
    flags = runner_flags(args)
    if flags is None:
        return None
    from tfr_pipeline.data.convert.beam import BeamEngine

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
    from tfr_pipeline.data.convert.cut import Cut
    from tfr_pipeline.data.sources import class_names
    from tfr_pipeline.data.sources.options import RECORD_FORMATS
    from tfr_pipeline.errors import ConfigError

    if args.splits is not None and args.split is not None:
        raise ConfigError("expected --split or --splits, found both.")
    if args.splits is not None:
        Cut.parse(args.splits)  # before anything is loaded; empty, too
    engine = _engine(args)
    if args.unlabelled and args.input_format in RECORD_FORMATS:
        raise ConfigError(
            "--unlabelled: expected csv, tsv, parquet or libsvm, found "
            f"{args.input_format}. TFRecord files without labels are read as they are: "
            "describe them in a features.json whose label has the default -1."
        )
    if args.input_format in RECORD_FORMATS or args.embed:
        load_tensorflow()
    # Of examples with classes any may be without; another name is an error.
    labelled = not args.unlabelled or args.classes is not None
    options = reading_options(args, require_label=labelled)
    if args.classes is not None:
        classes = class_names.parse(args.classes)
        options = dataclasses.replace(options, classes=classes)
    found = convert(
        args.input,
        args.output,
        input_format=args.input_format,
        split=args.split or "train",
        splits=args.splits or "",
        num_shards=args.num_shards,
        output_format=args.output_format,
        scalar_features=args.scalar_features,
        options=options,
        label_transform=args.label_transform or "",
        feature_dtype=args.feature_dtype,
        embed=args.embed or (),
        num_workers=args.workers,
        engine=engine,
    )
    for stats in found.values() if args.splits else [found]:
        what = f"{stats['queries']:,} queries, {stats['documents']:,} documents"
        if "classes" in stats:
            what = f"{stats['documents']:,} examples of {len(stats['classes'])} classes"
        print(
            f"{urls.redact(args.output)}: {stats['split']}: {what}, "
            f"{len(stats['features'])} "
            f"features in {args.num_shards} file{'s' if args.num_shards > 1 else ''}"
        )
    return 0
