"""What commands do with an ensemble: train its members, and say what came out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from tfr_pipeline import urls
from tfr_pipeline.cli import classifying
from tfr_pipeline.cli.quiet import load_tensorflow
from tfr_pipeline.cli.tables import table
from tfr_pipeline.cluster import cluster_spec
from tfr_pipeline.errors import ConfigError

_TRAIN = ("chief", "worker")


def train(args: argparse.Namespace, config: Mapping[str, Any]) -> int:
    """Trains an ensemble by the flags of `train`; returns the exit code.

    Raises:
      ConfigError: A setting is wrong, or does not fit the job of this task.
      PipelineError: A member failed, or they cannot be averaged.
    """
    cluster = cluster_spec.read(os.environ.get("TF_CONFIG"))
    together = cluster is not None and _in_job(args, config, cluster)
    first = cluster is None or (
        cluster.index == 0
        and cluster.job == next(j for j in _TRAIN if j in cluster.jobs)
    )
    from tfr_pipeline.experiment import member_processes
    from tfr_pipeline.experiment.members import members_of
    from tfr_pipeline.pipeline.run.console import Console

    console, workers = Console(first), args.workers or 1
    members, builder = members_of(config, args.ensemble), None
    if workers > 1 and not args.dry_run:
        # Before TensorFlow, whose threads processes had better not be forked from.
        command = ["train", f"--config={args.config}", "--unless_ended"]
        command += _without(args.overrides)
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
    everybody: Callable[[int], int] = int
    if workers == 1:
        pipeline = ensemble.train(
            members,
            Console(True).say,
            together=together,
            accept_changed_data=args.accept_changed_data,
        )
        builder, everybody = pipeline.dataset_builder, pipeline._role.agree
    if first or not together:
        runs = [member["model_dir"] for member in members]
        folder = os.path.dirname(runs[0])
        with console.stage("averaging the members", "members averaged"):
            content = ensemble.combine_once(runs, folder, builder, console.say)
        if first:
            report(content, folder)
    everybody(0)  # a worker that left meanwhile would end the chief
    return 0


def _in_job(
    args: argparse.Namespace, config: Mapping[str, Any], cluster: cluster_spec.Cluster
) -> bool:
    """Returns whether all tasks of a job train each member; else each trains alone."""
    others = [job for job in (*cluster.jobs, cluster.job) if job not in _TRAIN]
    if others:
        raise ConfigError(
            "--ensemble: expected a job of workers alone, found TF_CONFIG with "
            f"{cluster} ({others[0]}). Start it without, or one for each member, with "
            "--config.seed and --config.model_dir of its own, then: tfr-pipeline "
            "ensemble RUN RUN ... --output=OUT."
        )
    if args.workers is not None:
        raise ConfigError(
            "--workers: it has no effect in a job, whose tasks train members at the "
            "same time unless pipeline.strategy lets them train each together."
        )
    if config["pipeline"].get("strategy") == "MultiWorkerMirroredStrategy":
        return True
    # The others are no peers of this one: each task trains members of its own.
    cluster_spec.leave()
    return False


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
