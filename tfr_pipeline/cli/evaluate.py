"""`tfr-pipeline evaluate`: measures a model on labelled lists."""

from __future__ import annotations

import argparse
import functools
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from tfr_pipeline.cli import against, arguments, attacks
from tfr_pipeline.cli.quiet import load_tensorflow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Measures a model on labelled lists: NDCG, MRR, MAP, precision, recall and ARP "
        "with 95% confidence intervals. The table shows the averages over queries that "
        "have a relevant document; the file has the other conventions too. For models "
        "that classify: accuracy, macro F1, log loss, and each class."
    )
    add = parser.add_argument
    add(
        "--model",
        required=True,
        type=arguments.path,
        help="SavedModel, folder of versions, or run directory",
    )
    add(
        "--data",
        required=True,
        type=arguments.patterns,
        help="glob of TFRecord files that convert wrote",
    )
    add(
        "--output",
        type=arguments.path,
        help="JSON file for all numbers; - is standard output",
    )
    add(
        "--per_query",
        type=arguments.path,
        help="file for the metrics of each query; .parquet or .tsv says which kind",
    )
    add(
        "--baselines",
        action="store_true",
        help="also measure the best single feature and random order; for classes, "
        "always the most frequent one",
    )
    add("--against", type=arguments.path, help=against.HELP)
    attacks.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    import json

    from tfr_pipeline import files, outputs, urls
    from tfr_pipeline.cli import classifying
    from tfr_pipeline.errors import ConfigError
    from tfr_pipeline.metrics.paired import paired_differences
    from tfr_pipeline.metrics.query_table import QueryTable, check_suffix

    paths = files.expand(args.data, "--data")
    report = sys.stdout
    read = [*paths, *outputs.files_of_model(args.model)]
    if args.against:
        read += outputs.files_of_model(args.against)
    if args.output:
        outputs.check_output(args.output, read, what="--output")
        if files.descriptor(args.output) == 1:
            report = sys.stderr
    if args.per_query:
        check_suffix(args.per_query, "--per_query")
        outputs.check_output(args.per_query, read, what="--per_query")
        if args.output and _same_place(args.output, args.per_query):
            raise ConfigError(f"--per_query: {args.per_query!r} is --output, too.")
    load_tensorflow()
    from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
    from tfr_pipeline.pipeline.datasets.multi_label import builder_from_features
    from tfr_pipeline.pipeline.run.measuring import labels_by_task, measure
    from tfr_pipeline.serving.predictor import Predictor

    predictor = Predictor(args.model)
    hparams = DatasetHparams("", args.data, 1, 1)
    builder = builder_from_features(predictor.features, hparams)
    lists = builder.lists("valid", "packed")
    measured = measure(predictor, lists)
    result = measured.means()
    other = None
    if args.against:
        other = against.measure_other(args.against, args.data, measured)
    under_attack = None
    if args.attack is not None:
        under_attack = attacks.measure_attacked(args, predictor, lists)
    labels = labels_by_task(predictor, lists)
    baselines, differences = {}, {}
    for task, means in result.items() if "" not in labels else [("", result)]:
        rows = {"model": means}
        if under_attack is not None:  # of a model of one score
            rows["attacked"] = under_attack
        if other is not None and task in other.tasks:
            rows["against"] = other.tasks[task].means()
            differences[task] = paired_differences(
                measured.tasks[task], other.tasks[task]
            )
        if args.baselines:
            if predictor.classes:
                found = classifying.most_frequent(labels[task], predictor.classes)
                baselines[task] = {"most frequent": found}
            else:
                baselines[task] = _baselines(predictor, lists, labels[task])
            rows.update(baselines[task])
        if task:
            print(f"task {task}", file=report)
        if predictor.classes:
            classifying.report(rows, report)
        else:
            _report_ranking(rows, report)
        if task in differences:
            print(against.line(differences[task]), file=report)
    if args.per_query:
        queries = QueryTable()
        measured.record(functools.partial(queries.add, _split(paths)))
        queries.write(args.per_query)
        print(f"per query: {urls.redact(args.per_query)}", file=report)
    if args.output:
        content: dict[str, Any] = dict(result)
        if under_attack is not None:
            content["attacked"] = under_attack
        if args.baselines:
            content["baselines"] = baselines.get("", baselines)
        if differences:
            content["differences"] = differences.get("", differences)
        files.write_text(args.output, json.dumps(content, indent=1) + "\n")
        print(f"all numbers: {urls.redact(args.output)}", file=report)
    codes = [against.verdict(found) for found in differences.values()]
    return against.together(codes) if codes else 0


def _report_ranking(rows: dict[str, Any], report: TextIO) -> None:
    """Prints a table of what was measured, and what there is to say of it."""
    from tfr_pipeline.cli.tables import interval, table

    print(table(rows), file=report)
    means, best = rows["model"], rows.get("best feature")
    if means["queries"] == means["queries_without_relevant"]:
        print(
            "no query has a relevant document, a label above 0: there is nothing "
            "to measure ('zero' and 'one' in the file are conventions)",
            file=report,
        )
    elif best:
        print(
            f"best feature: {best['feature']}, {best['first']} values first",
            file=report,
        )
    print(
        f"{means['queries']} queries ({means['queries_without_relevant']} "
        f"without a relevant document, skipped above), {means['documents']} "
        f"documents; ndcg@10 95% interval {interval(means['ndcg@10']['skip_ci'])}",
        file=report,
    )


def _same_place(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _split(paths: list[str]) -> str:
    """Returns the split whose shards these are, empty for other files."""
    names = [re.sub(r"-\d{5}-of-\d{5}\.tfrecord.*", "", p) for p in paths]
    splits = {os.path.basename(name) for name in names}
    return splits.pop() if len(splits) == 1 and names[0] != paths[0] else ""


def _baselines(predictor: Any, lists: Any, labels: Any) -> dict[str, Any]:
    """Measures what needs no model: one feature, and no order at all.

    The feature, and whether more or less of it is better, are chosen on these very
    lists, which flatters it a little.
    """
    import numpy as np

    from tfr_pipeline.metrics.evaluation import evaluate_lists

    splits = lists.row_splits

    def quality(scores: Any) -> float:
        result = evaluate_lists(labels, scores, splits, bootstrap=0)
        return result["ndcg@10"]["skip"] or 0.0

    result = {}
    candidates = (
        (quality(sign * column), name, first, sign * column)
        for name, column in _columns(predictor, lists)
        for sign, first in ((1, "highest"), (-1, "lowest"))
    )
    best = max(candidates, key=lambda candidate: candidate[0], default=None)
    if best is not None:
        _, name, first, scores = best
        measured = evaluate_lists(labels, scores, splits)
        result["best feature"] = {**measured, "feature": name, "first": first}
    # Many orders of the same lists, since one alone is noisy.
    orders = 20
    ends = np.concatenate([splits[1:] + i * splits[-1] for i in range(orders)])
    noise = np.random.default_rng(0).random(orders * lists.num_documents)
    result["random"] = evaluate_lists(
        np.tile(labels, orders), noise, np.concatenate([[0], ends]), bootstrap=0
    )
    return result


def _columns(predictor: Any, lists: Any) -> Iterator[tuple[str, Any]]:
    """Yields each column of numbers with the name it has in the data."""
    for dtype, slots in predictor.layout.slots.items():
        for slot in slots:
            names = predictor.features.example[slot.name].columns
            for i in range(slot.width):
                name = f"{slot.name}[{i}]" if slot.width > 1 else slot.name
                name = names[i] if len(names) == slot.width else name
                yield name, lists.values[dtype][:, slot.start + i].astype(dtype)
