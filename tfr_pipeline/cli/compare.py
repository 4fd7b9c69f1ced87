"""`tfr-pipeline compare`: systems side by side, with tests over queries."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, TextIO

from tfr_pipeline.cli import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Shows metrics side by side (of the test data if all have it, else of the "
        "validation data), and how each differs from the first: mean difference over "
        "queries, its 95% bootstrap interval, p of the paired randomisation test and "
        "of the t-test, and p corrected for all comparisons (Holm)."
    )
    parser.epilog = (
        "  tfr-pipeline compare CV/dnn CV/gam\n"
        "Seeds of a cross-validation count as their mean. docs/choosing.md says what\n"
        "the numbers do and do not show."
    )
    add = parser.add_argument
    add(
        "systems",
        nargs="+",
        metavar="RUN",
        type=arguments.path,
        help="run directory, folder of cv, or file of evaluate --per_query",
    )
    add(
        "--baseline",
        type=arguments.path,
        help="the one that others are compared with; the first by default",
    )
    add(
        "--metric",
        help="what is tested, several with commas: ndcg@10 (the default), or "
        "ndcg@10.zero by another convention",
    )
    add(
        "--output",
        type=arguments.path,
        help="JSON file for all numbers; - is standard output",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    import json

    from tfr_pipeline import files, outputs, urls
    from tfr_pipeline.choosing import comparison, systems
    from tfr_pipeline.errors import ConfigError

    paths = list(args.systems)
    baseline = 0
    if args.baseline:
        same = [os.path.realpath(path) for path in paths]
        if os.path.realpath(args.baseline) in same:
            baseline = same.index(os.path.realpath(args.baseline))
        else:
            paths.insert(0, args.baseline)
    if len(paths) < 2:
        raise ConfigError(f"expected two or more to compare, found {paths[0]!r} alone.")
    report: TextIO = sys.stdout
    if args.output:
        # Folders of cv and of seeds have their runs in them.
        runs = [*paths, *(run for p in paths for run in _folders(p))]
        read = [file for run in runs for file in outputs.files_of_model(run)]
        outputs.check_output(args.output, [*paths, *read], what="--output")
        if files.descriptor(args.output) == 1:
            report = sys.stderr
    metrics = [name.strip() for name in (args.metric or "").split(",") if name.strip()]
    found = comparison.compare(systems.find(paths), baseline, metrics)
    _report(found, report)
    if args.output:
        files.write_text(args.output, json.dumps(found, indent=1) + "\n")
        print(f"all numbers: {urls.redact(args.output)}", file=report)
    return 0


def _folders(path: str) -> list[str]:
    if not os.path.isdir(path):
        return []
    return [entry.path for entry in os.scandir(path) if entry.is_dir()]


def _report(found: dict[str, Any], report: TextIO) -> None:
    width = max(len(system["name"]) for system in found["systems"])
    seeds = {system["name"]: system["seeds"] for system in found["systems"]}
    for result in found["results"]:
        task = f"task {result['task']}, " if result["task"] else ""
        split = f"{found['split']} data, " if found["split"] else ""
        print(f"{task}{split}{result['queries']} queries:", file=report)
        for line in _means(result["means"], width, seeds):
            print(line, file=report)
        print(file=report)
        for line in _differences(result["comparisons"], width, found["baseline"]):
            print(line, file=report)
    count = sum(len(result["comparisons"]) for result in found["results"])
    print(
        f"p Holm: p corrected for {count} comparison{'s' if count > 1 else ''}; those "
        "that were tried and left out here are not counted",
        file=report,
    )


def _means(means: dict[str, Any], width: int, seeds: dict[str, int]) -> list[str]:
    from tfr_pipeline.cli.tables import COLUMNS, number

    known = next(iter(means.values()))
    columns = [name for name in COLUMNS if name in known]
    columns = columns or list(known)[:5]
    lines = [" " * width + "".join(f"{n:>10}" for n in columns) + "  seeds"]
    for name, values in means.items():
        cells = "".join(f"{number(values[n]['skip']):>10}" for n in columns)
        lines.append(f"{name:<{width}}{cells}{seeds[name]:>7}")
    return lines


def _differences(rows: list[dict[str, Any]], width: int, baseline: str) -> list[str]:
    from tfr_pipeline.cli.tables import interval

    lines = []
    said = ""
    for row in rows:
        metric = row["metric"]
        if row["convention"] != "skip":
            metric += f".{row['convention']}"
        if metric != said:
            said = metric
            lines.append(
                f"{metric}, difference to {baseline}, {row['queries']} queries:"
            )
            heads = ("difference", "95% interval", "p", "p t-test", "p Holm")
            widths = (12, 20, 10, 10, 10)
            cells = (f"{h:>{w}}" for h, w in zip(heads, widths, strict=True))
            lines.append(" " * width + "".join(cells))
        ps = (row[key] for key in ("p_randomisation", "p_t", "p_holm"))
        lines.append(
            f"{row['system']:<{width}}{_signed(row['difference']):>12}"
            f"{interval(row['ci'], '+.4f'):>20}" + "".join(f"{_p(p):>10}" for p in ps)
        )
    return lines


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"
