"""What commands do with an ensemble: train its members, and say what came out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Any

from tfr_pipeline import urls
from tfr_pipeline.cli import classifying
from tfr_pipeline.cli.quiet import load_tensorflow
from tfr_pipeline.cli.tables import table
from tfr_pipeline.errors import ConfigError


def train(args: argparse.Namespace, config: Mapping[str, Any]) -> int:
    """Trains an ensemble by the flags of `train`; returns the exit code.

    Raises:
      ConfigError: A setting is wrong, or this is a task of a cluster.
      PipelineError: A member failed, or they cannot be averaged.
    """
    if os.environ.get("TF_CONFIG"):
        raise ConfigError(
            "--ensemble: expected one machine, found a task of a cluster (TF_CONFIG). "
            "Start a job for each member, with --config.seed and --config.model_dir "
            "of its own, then: tfr-pipeline ensemble RUN RUN ... --output=OUT."
        )
    from tfr_pipeline.experiment import member_processes
    from tfr_pipeline.experiment.members import members_of
    from tfr_pipeline.pipeline.run.console import Console

    console, workers = Console(True), args.workers or 1
    members, builder = members_of(config, args.ensemble), None
    if workers > 1 and not args.dry_run:
        # Before TensorFlow, whose threads processes had better not be forked from.
        command = ["train", f"--config={args.config}", *_without(args.overrides)]
        if args.accept_changed_data:
            command.append("--accept_changed_data")
        member_processes.train(members, command, workers, console.say)
    with console.stage("loading TensorFlow", "TensorFlow loaded"):
        load_tensorflow()
    from tfr_pipeline.experiment import ensemble
    from tfr_pipeline.experiment.build import build_pipeline

    if args.dry_run:
        for line in build_pipeline(members[0]).dry_run():
            print(line)
        return 0
    if workers == 1:
        builder = ensemble.train(
            members, console.say, accept_changed_data=args.accept_changed_data
        )
    runs = [member["model_dir"] for member in members]
    folder = os.path.dirname(runs[0])
    with console.stage("averaging the members", "members averaged"):
        content = ensemble.combine(runs, folder, builder, console.say)
    report(content, folder)
    return 0


def _without(overrides: list[str]) -> list[str]:
    """Returns overrides without those that each member has of its own."""
    own = ("--config.seed=", "--config.model_dir=")
    return [word for word in overrides if not word.startswith(own)]


def report(content: Mapping[str, Any], folder: str) -> None:
    """Prints what an ensemble and its members reach, and where it is.

    Args:
      content: That of `metrics.json`.
      folder: The folder of the ensemble.
    """
    parts = {"ensemble": content}
    parts.update({one["run"]: one for one in content["members"]})
    rows = {}
    for split in ("valid", "test"):
        for name, found in parts.items():
            measured = found.get(split) or {}
            tasks = {"": measured} if "queries" in measured else measured
            for task, result in tasks.items():
                rows[" ".join(filter(None, (split, task, name)))] = result
    if any("accuracy" in found for found in rows.values()):
        print(table(rows, classifying.COLUMNS))
    elif rows:
        print("queries without relevant documents skipped:")
        print(table(rows))
    sys.stdout.flush()
    print(f"ensemble: {urls.redact(folder)}")
