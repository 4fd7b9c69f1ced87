"""`tfr-pipeline predict`: ranks the documents of a file, or classifies examples."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

from tfr_pipeline.cli import arguments
from tfr_pipeline.cli.convert import (
    TABLE_FLAGS,
    add_reading_arguments,
    reading_options,
    warn_useless,
)
from tfr_pipeline.cli.quiet import load_tensorflow

_TEXT = ("libsvm", "csv", "tsv", "parquet")
_RECORDS = ("elwc", "eie", "seq", "example", "packed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Ranks documents: writes `qid docid rank score`, separated by tabs and without "
        "a header, the best document of each query first. A model that classifies: `id "
        "class` and the probability of each class, below a header. Labels are not "
        "needed."
    )
    add = parser.add_argument
    add(
        "--model",
        required=True,
        type=arguments.path,
        help="SavedModel, folder of versions, or run directory",
    )
    add(
        "--input",
        required=True,
        type=arguments.patterns,
        help="path, folder, glob, or several with commas between; - is standard input",
    )
    add(
        "--input_format",
        help="libsvm, csv, tsv, parquet; of TFRecord files elwc, eie, seq, example or "
        "packed (default: that of the training data if it was text, or libsvm)",
    )
    add(
        "--output",
        required=True,
        type=arguments.path,
        help="TSV file to write; - is standard output",
    )
    add(
        "--format",
        default="tsv",
        help="tsv, or trec for a run as trec_eval reads it, `qid Q0 docid rank score "
        "tag` (default: tsv)",
    )
    add("--task", help="the task to rank by, for a model that scores several")
    add(
        "--samples",
        type=int,
        help="scores each document so many times with dropout: the score is the mean, "
        "and a fifth column the standard deviation",
    )
    add_reading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from tfr_pipeline import files, outputs, urls
    from tfr_pipeline.cli import classifying, ranking
    from tfr_pipeline.errors import ConfigError, DataError, unknown_name

    read = files.expand(args.input, "--input", streams=True)
    if args.query_file:
        read += files.expand(args.query_file, "--query_file")
    read += outputs.files_of_model(args.model)
    outputs.check_output(args.output, read, what="--output")
    if args.input_format not in (None, *_TEXT, *_RECORDS):
        raise ConfigError(
            unknown_name("input format", args.input_format, (*_TEXT, *_RECORDS))
        )
    if args.format not in ranking.FORMATS:
        raise ConfigError(unknown_name("format", args.format, ranking.FORMATS))
    if args.samples is not None and args.format != ranking.TSV:
        raise ConfigError(
            f"--samples: expected --format={ranking.TSV}, found {args.format}, which "
            "has no column for a deviation."
        )
    load_tensorflow()
    from tfr_pipeline.data.sources import spooled
    from tfr_pipeline.serving.predictor import Predictor

    predictor = Predictor(args.model)
    classes = predictor.classes
    if classes:
        _check_for_classes(args)
    else:
        task = predictor.task(args.task)  # known before anything is read
        if args.samples is not None:
            predictor.sampled_task(args.samples, task)
    if args.input_format is None:
        args.input_format = predictor.features.reading.get("input_format", "libsvm")
    queries = documents = 0
    with (
        files.replacing(args.output) as temporary,
        open(temporary, "w", encoding="utf-8", newline="\n") as out,
        spooled.regular_files(args.input, "--input") as names,
    ):
        if classes:
            out.write(classifying.header(classes))
        for lists in _read(args, list(names), predictor):
            if classes:
                found = predictor.probabilities(lists)
                out.writelines(classifying.lines(lists, found, classes))
            elif args.samples is not None:
                sampled = predictor.sample(lists, args.samples, task)
                out.writelines(
                    ranking.lines(lists, sampled[0], args.format, sampled[1])
                )
            else:
                scores = predictor.score(lists, task=task)
                out.writelines(ranking.lines(lists, scores, args.format))
            queries += lists.num_lists
            documents += lists.num_documents
        if not documents:
            raise DataError(
                f"{args.input}: expected at least one document, found none."
            )
    print(
        f"{urls.redact(args.output)}: "
        + (
            f"{documents:,} examples classified"
            if classes
            else f"{documents:,} documents of {queries:,} queries ranked"
        ),
        file=sys.stderr if files.descriptor(args.output) == 1 else sys.stdout,
    )
    return 0


def _check_for_classes(args: argparse.Namespace) -> None:
    from tfr_pipeline.cli import ranking
    from tfr_pipeline.errors import ConfigError

    for flag, given in (
        ("--task", args.task),
        (f"--samples={args.samples}", args.samples is not None),
        (f"--format={args.format}", args.format != ranking.TSV),
    ):
        if given:
            raise ConfigError(
                f"{flag}: expected a model that ranks; {args.model!r} classifies. "
                "Leave it out."
            )


def _read(args: argparse.Namespace, paths: list[str], predictor: Any) -> Iterator[Any]:
    features = predictor.features
    if args.input_format in _RECORDS:
        from tfr_pipeline.data.reading import loading
        from tfr_pipeline.data.reading.described import check_columns
        from tfr_pipeline.data.reading.parser import RecordParser
        from tfr_pipeline.data.sources.tfrecords import named

        # The features of the model say what is read.
        warn_useless(args, (*TABLE_FLAGS, "query_file", "group_by_query", "nan"))
        data_format = loading.sniff_format(paths, wanted=args.input_format)
        check_columns(paths, features, data_format)
        parser = RecordParser(
            features.context_spec,
            features.example_spec,
            query_id=features.query_id,
            document_id=features.document_id,
            data_format=data_format,
        )
        yield from named(loading.iterate(paths, parser, None), paths)
        return
    from tfr_pipeline.data.sources.column_types import is_scalar
    from tfr_pipeline.data.sources.numbering import Numbering
    from tfr_pipeline.data.sources.source import read_lists
    from tfr_pipeline.data.sources.table_columns import known_columns
    from tfr_pipeline.data.sources.table_lists import in_order
    from tfr_pipeline.errors import ConfigError
    from tfr_pipeline.features import Feature

    if predictor.loose and args.input_format == "libsvm":
        raise ConfigError(
            f"--input_format: the model has features that are no columns of numbers "
            f"({', '.join(predictor.loose)}), which {args.input_format} files do not "
            f"have; expected one of {', '.join(_RECORDS[:-1])}."
        )
    if args.input_format == "libsvm":
        numbering = Numbering.of(features)
        args.num_features = numbering.num_features
        options = reading_options(args, require_label=False, known=features.reading)
        options = dataclasses.replace(options, classes=predictor.classes or None)
        for lists in read_lists(
            paths, args.input_format, options=options, report=_warn
        ):
            yield numbering.apply(lists)
        return
    args.num_features = predictor.layout.width("float32")
    options = reading_options(args, require_label=False, known=features.reading)
    options = dataclasses.replace(
        options,
        feature_columns=options.feature_columns or tuple(_columns(features)),
        context_columns=options.context_columns or tuple(features.context),
        known=known_columns(features),
        classes=predictor.classes or None,
    )
    columns = [
        (name, options.known.get(name, Feature())) for name in options.feature_columns
    ]
    as_read = dict(sorted(columns, key=lambda column: not is_scalar(column[1])))
    for lists in read_lists(paths, args.input_format, options=options, report=_warn):
        yield in_order(lists, as_read, options.feature_columns)


def _warn(line: str) -> None:
    print(line, file=sys.stderr)


def _columns(features: Any) -> list[str]:
    """Names of the columns of a table, as they were when the model was trained."""
    names: list[str] = []
    for name in sorted(features.example):
        names += list(features.example[name].columns) or [name]
    return names
