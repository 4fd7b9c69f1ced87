"""`tfr-pipeline sweep best`: the best trial, as a config file, or trained again."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from tfr_pipeline import files
from tfr_pipeline.cli import arguments, sweep_place
from tfr_pipeline.cli.quiet import load_tensorflow
from tfr_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from tfr_pipeline.sweep.standing import Standing, TrialRow

TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Shows the best trial of a study; with several metrics, those that no other "
        "one beats in all."
    )
    parser.epilog = (
        "  tfr-pipeline sweep best SWEEP --output=best.py\n"
        "  tfr-pipeline train --config=best.py\n"
        "or, with three seeds,\n"
        "  tfr-pipeline sweep best SWEEP --train --seeds=3 --model_dir=OUT\n"
        "--config.a.b=value overrides a value, such as --config.data.dir."
    )
    sweep_place.add_place(parser)
    add = parser.add_argument
    add("--trial", type=arguments.count, help="number of another trial")
    add("--output", type=arguments.path, help="config file to write: FILE.py")
    add("--train", action="store_true", help="train, test and export it")
    add("--seeds", type=arguments.positive, help="train with so many seeds (1)")
    add("--model_dir", type=arguments.path, help="folder of the run, or of the runs")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    for flag in ("seeds", "model_dir"):
        if getattr(args, flag) and not args.train:
            raise ConfigError(f"--{flag} is for --train.")
    if args.train and not args.model_dir:
        raise ConfigError("--train: expected --model_dir=OUT, found none.")
    if args.overrides and not (args.train or args.output):
        raise ConfigError(f"{args.overrides[0]}: expected it with --output or --train.")
    standing = sweep_place.find(args)
    if args.trial is None and len(standing.front()) > 1:
        _show_front(standing)
        if not args.output and not args.train:
            return 0
    row = standing.chosen(args.trial)
    _show(standing, row)
    if not args.output and not args.train:
        return 0
    from tfr_pipeline.sweep import winner

    overrides = list(args.overrides)
    if args.model_dir:
        overrides.append(f"--config.model_dir={args.model_dir!r}")
    if args.output:
        path = sweep_place.check_ours(args.output, "--output", winner.SIGN)
        if not path.endswith(".py"):
            raise ConfigError(f"--output: expected FILE.py, found {path!r}.")
    config = winner.config_of(standing, row, overrides, load_tensorflow)
    if args.output:
        files.write_text(path, winner.as_file(standing, row, config))
        print(f"config file: {path}")
    if args.train:
        _train(winner.Retraining(config, args.seeds or 1, winner.about(standing, row)))
    return 0


def _show_front(standing: Standing) -> None:
    from tfr_pipeline.sweep import status_text

    print(f"none better in all of {', '.join(standing.names)}:")
    print("\n".join(status_text.table(standing.front(), standing.names)))


def _show(standing: Standing, row: TrialRow) -> None:
    from tfr_pipeline.sweep import status_text

    print(f"trial {row.number}: {status_text.measured(row, standing.names)}")
    for line in status_text.point_lines(row):
        print(line)
    if row.run and standing.folder:
        print(f"run directory: {os.path.join(standing.folder, row.run)}")


def _train(training: Any) -> None:
    from tfr_pipeline.pipeline.run.console import Console

    # Parts of one's own are found from where the command runs.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    console = Console(True)
    with console.stage("loading TensorFlow", "TensorFlow loaded"):
        load_tensorflow()
    from tfr_pipeline.sweep import winner

    found = winner.spread(training.run(console.say))
    for line in _table(found):
        print(line)
    print(f"run directory: {training.folder}")


def _table(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    from tfr_pipeline.cli.tables import COLUMNS, number

    width = max(map(len, found), default=0)
    several = any(
        m["deviation"] is not None for t in found.values() for m in t.values()
    )
    room = 18 if several else 10
    lines = ["queries without relevant documents skipped:"]
    if several:
        lines[0] += " mean and deviation over seeds"
    lines.append(" " * width + "".join(f"{name:>{room}}" for name in COLUMNS))
    for split, metrics in found.items():
        cells = []
        for name in COLUMNS:
            cell = metrics.get(name, {"mean": None, "deviation": None})
            text = number(cell["mean"])
            if cell["deviation"] is not None:
                text += f" +- {cell['deviation']:.4f}"
            cells.append(f"{text:>{room}}")
        lines.append(f"{split:<{width}}" + "".join(cells))
    return lines
