"""`tfr-pipeline cv`: cross-validates what a config describes."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from tfr_pipeline.cli import arguments
from tfr_pipeline.cli.quiet import load_tensorflow

if TYPE_CHECKING:
    from tfr_pipeline.choosing.plan import Plan
    from tfr_pipeline.pipeline.run.console import Console

TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Trains a config on folds of the training queries, with several seeds, and "
        "measures each on queries that it has not seen: of each fold's run, one fold "
        "is measured, the one before it validates, and the others train. What was "
        "interrupted goes on when the command is given again."
    )
    parser.epilog = (
        "  tfr-pipeline cv --config=configs/letor.py:dnn --config.data.dir=DIR \\\n"
        "    --config.model_dir=CV --folds=5 --seeds=3\n"
        "trains CV/fold-1-seed-42 and so on, and writes CV/cv.json and\n"
        "CV/per_query.parquet, which tfr-pipeline compare takes; see docs/choosing.md."
    )
    add = parser.add_argument
    add("--config", required=True, type=arguments.path, help="FILE.py[:argument]")
    add(
        "--folds",
        type=arguments.positive,
        help="folds by query of the training files (5 by default); where data.dir has "
        "Fold1, Fold2 and so on, as LETOR has, these are the folds",
    )
    add(
        "--parts",
        type=arguments.patterns,
        help="folders or globs of files, with commas between, or a glob of folders: "
        "each is a part, and the parts are the folds",
    )
    add("--seeds", type=arguments.positive, default=1, help="runs a fold")
    add("--workers", type=arguments.positive, default=1, help="processes that train")
    add("--dry_run", action="store_true", help="show the runs, write nothing")
    add("--cores", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    if args.cores:  # of a worker that `--workers` started
        os.sched_setaffinity(0, {int(core) for core in args.cores.split(",")})
    from tfr_pipeline.experiment.config_files import ConfigFile
    from tfr_pipeline.pipeline.run.console import Console

    config = ConfigFile(args.config, args.overrides, load_tensorflow).config()
    console = Console(True)
    with (Console(False) if args.cores else console).stage(
        "loading TensorFlow", "TensorFlow loaded"
    ):
        load_tensorflow()
    from tfr_pipeline.choosing import queries, summary
    from tfr_pipeline.choosing.plan import Plan
    from tfr_pipeline.choosing.rotations import rotations_of
    from tfr_pipeline.compat import tf
    from tfr_pipeline.experiment.build import build_pipeline
    from tfr_pipeline.pipeline.datasets.kept_lists import KeptLists
    from tfr_pipeline.pipeline.run import lock

    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "0":
        # Each run has a model of its own, which is traced: it would warn of that.
        tf.get_logger().setLevel("ERROR")
    plan = Plan(config, rotations_of(config, args.folds, args.parts or ""), args.seeds)
    if args.cores:
        _train(plan, KeptLists(), console)
        return 0
    build_pipeline(plan.runs[0].config)  # what it refuses is refused at once
    queries.warn_of_sources(plan.runs[0].config)
    kept = KeptLists()
    sizes = queries.check(plan.rotations, kept)
    if args.dry_run:
        _show(plan, sizes)
        return 0
    with lock.held(plan.folder):
        begun = plan.keep()
        console.say(_begins(plan, sizes, begun))
        if args.workers > 1:
            del kept
            code = _workers(args, console)
            if code:
                return code
            kept = KeptLists()
        # What a worker has left is left: there is nothing, as a rule.
        _train(plan, kept, console)
        found = summary.write(plan)
    _report(found, plan)
    return 0


def _train(plan: Plan, kept: Any, console: Console) -> None:
    from tfr_pipeline.choosing.training import Trainer

    Trainer(plan, kept, console).run()


def _workers(args: argparse.Namespace, console: Console) -> int:
    """Trains in processes of their own; returns the exit code."""
    from tfr_pipeline.sweep.processes import Processes

    words = [*args.overrides, f"--config={args.config}", f"--seeds={args.seeds}"]
    words += [f"--folds={args.folds}"] if args.folds else []
    words += [f"--parts={args.parts}"] if args.parts else []
    return Processes(["cv", *words], "", args.workers).run()


def _begins(plan: Plan, sizes: list[int] | None, begun: bool) -> str:
    runs = len(plan.runs)
    done = sum(run.finished() for run in plan.runs)
    seeds = len(plan.seeds)
    plural = "s" if seeds > 1 else ""
    text = f"{len(plan.rotations)} folds x {seeds} seed{plural} = {runs} runs"
    if sizes:
        low, high = min(sizes), max(sizes)
        each = f"{low}" if low == high else f"{low} to {high}"
        text += f", {sum(sizes)} queries are measured, {each} in a fold"
    return text + (f"; {done} are there already" if begun else "")


def _show(plan: Plan, sizes: list[int] | None) -> None:
    print(_begins(plan, sizes, False))
    for run in plan.runs:
        data = run.config["data"]
        if data.get("folds"):
            told = f"validates on fold {data['fold']} of {data['folds']} (from 0), "
            told += f"is measured on fold {data['test_fold']}"
        elif data.get("train"):
            told = ", ".join(f"{s} {data[s]}" for s in ("train", "valid", "test"))
        else:
            told = str(data["dir"])
        print(f"{run.name}: {told}")


def _report(found: dict[str, Any], plan: Plan) -> None:
    from tfr_pipeline.cli.tables import COLUMNS

    measured = found.get("test") or {}
    tasks = {"": measured} if "queries" in measured else measured
    for task, result in tasks.items():
        of_task = f"task {task}, " if task else ""
        columns = [name for name in COLUMNS if name in result]
        if columns:
            print(f"{of_task}queries without relevant documents skipped:")
        else:
            columns = [name for name in ("accuracy", "log_loss") if name in result]
            print(f"{of_task}{result['queries']} examples:")
        for line in _lines(result, columns):
            print(line)
    print(f"more: {os.path.join(plan.folder, 'cv.json')}")


def _lines(result: dict[str, Any], columns: list[str]) -> list[str]:
    from tfr_pipeline.cli.tables import number

    cells = [result[name]["skip"] for name in columns]
    rows = {"": columns}
    for fold in range(len(cells[0]["folds"])):
        rows[f"fold {fold + 1}"] = [number(cell["folds"][fold]) for cell in cells]
    for key, text in (
        ("mean", "mean over queries"),
        ("standard_error", "standard error"),
        ("fold_deviation", "deviation of folds"),
        ("seed_deviation", "deviation of seeds"),
    ):
        rows[text] = [number(cell[key]) for cell in cells]
    width = max(map(len, rows))
    return [
        f"{name:<{width}}" + "".join(f"{cell:>10}" for cell in row)
        for name, row in rows.items()
    ]
