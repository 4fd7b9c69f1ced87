"""`tfr-pipeline export`: makes a SavedModel of a checkpoint."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from tfr_pipeline import copies, files, urls
from tfr_pipeline.cli import arguments
from tfr_pipeline.cli.quiet import load_tensorflow
from tfr_pipeline.errors import ConfigError, DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Makes a SavedModel of the checkpoints of a run, also of one that has not "
        "ended, was started from Python, or whose data has gone: OUTPUT/<version>. "
        "With --module it makes a module of a part of the model; that takes the config "
        "and the data of the run."
    )
    add = parser.add_argument
    add("--run", required=True, type=arguments.path, help="run directory")
    add("--output", required=True, type=arguments.path, help="folder of versions")
    add("--best", action="store_true", help="the best epoch instead of the latest")
    add(
        "--version",
        type=_version,
        help="number of the version, such as a date; by default the step",
    )
    add(
        "--module",
        metavar="LAYER",
        help="this layer alone, as a module for TensorFlow Hub, into OUTPUT itself",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from tfr_pipeline import outputs

    url, args.run = args.run, _local(args.run)
    inputs = [url, *outputs.folders_of_run(args.run)]
    outputs.check_output(args.output, inputs, folder=True, what="--output")
    if args.module and urls.is_remote(args.output):
        raise ConfigError(
            f"--output: expected a folder of this machine beside --module, found "
            f"{args.output}."
        )
    if args.module and args.version is not None:
        raise ConfigError("--version: it has no effect beside --module.")
    if not args.module and os.path.isdir(os.path.join(args.run, outputs.TEMPLATE)):
        load_tensorflow()
        from tfr_pipeline.pipeline.run.template import export

        print(urls.redact(export(args.run, args.output, args.best, args.version)))
        return 0
    config = _config(args.run, bool(args.module))
    # A builder that the config names is of the user's project, as for `train`.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    load_tensorflow()
    from tfr_pipeline.experiment.build import build_pipeline

    config["model_dir"] = args.run
    config["pipeline"]["strategy"] = None  # The cluster is not there any more.
    pipeline = build_pipeline(config)
    if args.module:
        print(pipeline.export_module(args.module, args.output, best=args.best))
        return 0
    path = pipeline.export_checkpoint(args.output, args.best, args.version)
    print(urls.redact(path))
    return 0


def _version(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"expected a number, found {text!r}")
    return int(text)


def _local(run: str) -> str:
    """Returns a run directory, a local copy of what an export reads where it is remote.

    Raises:
      DataError: There is nothing.
    """
    if not urls.is_remote(run):
        return run
    return copies.fetch_folder(
        run, lambda name: name.startswith("checkpoints/") or name == "config.json"
    )


def _config(run: str, of_module: bool) -> dict[str, Any]:
    """Returns the config that a run was started with."""
    path = os.path.join(run, "config.json")
    if not os.path.exists(path):
        raise DataError(f"{path}: not found; expected a run directory of `train`.")
    if not os.path.isfile(path):
        raise DataError(f"{path}: expected a file, found a folder.")
    config = files.read_json(path)
    if not isinstance(config, dict):
        raise DataError(f"{path}: expected a JSON object, found {config!r:.60}.")
    if not isinstance(config.get("pipeline", {}), dict):
        found = config["pipeline"]
        raise DataError(f"{path}: expected an object 'pipeline', found {found!r:.60}.")
    if "pipeline" not in config and of_module:
        raise DataError(
            f"{path}: this run was started from Python, which has the code of its "
            "model. Call export_module of its pipeline there."
        )
    if "pipeline" not in config:
        raise DataError(
            f"{path}: this run was started from Python, and ended before it had "
            "written checkpoints/template, which exports are made of. Call "
            "export_checkpoint of its pipeline, or start it again: it goes on."
        )
    return config
