"""`tfr-pipeline train`: trains, evaluates and exports what a config describes."""

from __future__ import annotations

import argparse

from tfr_pipeline import files, urls
from tfr_pipeline.cli import arguments, lr_range
from tfr_pipeline.cli.quiet import load_tensorflow
from tfr_pipeline.errors import ConfigError

# Words such as --config.data.dir=DIR are for the config, not for argparse.
TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Trains, evaluates and exports what a config describes. A run that was "
        "interrupted goes on when the command is given again."
    )
    parser.epilog = (
        "--config.a.b=value overrides a value of the config, for example\n"
        "  tfr-pipeline train --config=configs/letor.py:dnn --config.data.dir=DIR \\\n"
        "    --config.model_dir=OUT --config.pipeline.num_epochs=20\n"
        "--ensemble=5 trains OUT/member-0 to OUT/member-4, and averages them in OUT."
    )
    parser.add_argument(
        "--config",
        required=True,
        type=arguments.path,
        help="FILE.py or FILE.py:argument",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="check config and data, build the model, take one step, write nothing",
    )
    parser.add_argument(
        "--accept_changed_data",
        action="store_true",
        help="let a run go on with other data than it began with",
    )
    parser.add_argument(
        "--lr_range",
        nargs="?",
        const=lr_range.DEFAULT,
        metavar="LOW,HIGH",
        help="train one pass at rates that rise, and write the loss at each into "
        f"MODEL_DIR-lr_range; the run is left alone (default: {lr_range.DEFAULT})",
    )
    parser.add_argument(
        "--ensemble",
        type=arguments.positive,
        metavar="MEMBERS",
        help="train so many, with a seed each, and average them into one model",
    )
    parser.add_argument(
        "--workers",
        type=arguments.positive,
        help="of an ensemble: train so many members at a time, in processes of their "
        "own (default: one after the other in this process)",
    )
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--unless_ended", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from tfr_pipeline.experiment import config_files as config_lib

    file = config_lib.ConfigFile(args.config, args.overrides, load_tensorflow)
    if args.job:  # of `tfr-pipeline sweep --launch`
        load_tensorflow()
        from tfr_pipeline.sweep import job_task

        job_task.train(args.job)
        return 0
    if args.lr_range is not None:
        rates = lr_range.ends(args.lr_range)
        _check_alone(args)
    config = file.config()
    if args.ensemble is not None:
        from tfr_pipeline.cli import ensembles

        return ensembles.train(args, config)
    if args.workers is not None:
        raise ConfigError("--workers: it has no effect without --ensemble.")
    from tfr_pipeline.pipeline.run.console import Console

    with Console(not args.dry_run).stage("loading TensorFlow", "TensorFlow loaded"):
        load_tensorflow()
    from tfr_pipeline.experiment.build import build_pipeline

    pipeline = build_pipeline(config)
    if args.dry_run:
        for line in pipeline.dry_run():
            print(line)
        return 0
    if args.lr_range is not None:
        lr_range.run(pipeline, config["model_dir"], *rates)
        return 0
    if args.unless_ended:  # of `--ensemble --workers`
        from tfr_pipeline.pipeline.run import at_checkpoint

        if at_checkpoint.has_ended(pipeline):
            return 0
    pipeline.train_and_validate(verbose=1, accept_changed_data=args.accept_changed_data)
    if pipeline.is_chief:
        _report(files.local(config["model_dir"]))
    return 0


def _check_alone(args: argparse.Namespace) -> None:
    """Checks that no flag says what to do with the run, beside one that does not."""
    for name in ("dry_run", "accept_changed_data", "ensemble"):
        if getattr(args, name):
            raise ConfigError(f"--{name}: expected without --lr_range, found both.")


def _report(model_dir: str) -> None:
    import os

    from tfr_pipeline.cli import classifying
    from tfr_pipeline.cli.tables import table

    metrics = files.read_json(os.path.join(model_dir, "metrics.json"))
    rows = {}
    for split in ("valid", "test"):
        found = metrics.get(split, {})
        if "queries" in found:
            rows[split] = found
        else:
            rows.update({f"{split} {task}": result for task, result in found.items()})
        if taught := metrics.get("distillation", {}).get(split):
            rows[f"{split} teacher"] = taught
    if any("accuracy" in found for found in rows.values()):
        print(table(rows, classifying.COLUMNS))
    elif rows:
        print("queries without relevant documents skipped:")
        print(table(rows))
    if metrics["stopped"]:
        print(f"stopped early: {metrics['stopped']}")
    print(
        f"{metrics['step']} steps, {metrics['seconds']['training']:.1f} s, "
        f"{metrics['documents_per_second'] or 0:,.0f} documents/s"
    )
    print(f"run directory: {urls.redact(model_dir)}")
