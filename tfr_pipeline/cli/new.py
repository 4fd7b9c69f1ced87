"""`tfr-pipeline new`: starts a project from the examples."""

from __future__ import annotations

import argparse
import os
import shutil
from importlib import metadata

import tfr_pipeline.cli.arguments as arguments
from tfr_pipeline import files, outputs
from tfr_pipeline.errors import ConfigError, RunError

_FOLDERS = ("builders", "configs", "launch")
_ENDINGS = (".py", ".sh", ".sbatch", ".yaml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Starts a project: copies the example builders, configs and launch scripts "
        "into a new folder."
    )
    parser.add_argument(
        "dir", metavar="DIR", type=arguments.path, help="folder to make"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    outputs.check_output(args.dir, folder=True, what="DIR")
    if os.path.isdir(args.dir) and os.listdir(args.dir):
        raise ConfigError(f"{args.dir}: expected a new or empty folder.")
    sources = example_files()
    if os.path.isdir(args.dir):
        os.rmdir(args.dir)
    with files.replacing(args.dir) as temporary:
        for relative, source in sources.items():
            target = os.path.join(temporary, relative)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copyfile(source, target)
            if target.endswith(".sh"):  # a wheel does not say what can be run
                os.chmod(target, 0o755)
    for relative in sorted(sources):
        print(os.path.join(args.dir, relative))
    print(
        f"next: cd {args.dir} && tfr-pipeline train --config=configs/letor.py:dnn "
        "--config.data.dir=DIR --config.model_dir=OUT"
    )
    return 0


def example_files() -> dict[str, str]:
    """Returns the examples: path in a project to path on this machine.

    They stand beside the package in a checkout, and under `share/` in a wheel, which
    `pip install --target` puts beside the package too.
    """
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    found = {}
    for base in (root, os.path.join(root, "share", "tfr_pipeline")):
        for folder in _FOLDERS:
            for place, _, names in os.walk(os.path.join(base, folder)):
                for name in names:
                    path = os.path.join(place, name)
                    if name.endswith(_ENDINGS):
                        found[os.path.relpath(path, base)] = path
        if "configs/letor.py" in found:
            return found
    for entry in metadata.files("tfr_pipeline") or ():
        _, share, path = str(entry).rpartition("share/tfr_pipeline/")
        if share and path.startswith(_FOLDERS) and path.endswith(_ENDINGS):
            found[path] = str(entry.locate())
    if not found:
        raise RunError("the examples are missing; install tfr_pipeline again.")
    return found
