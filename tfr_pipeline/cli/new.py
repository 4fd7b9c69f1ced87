"""`tfr-pipeline new`: starts a project from the examples."""

from __future__ import annotations

import argparse
import os
import shutil
from importlib import metadata

from tfr_pipeline import files
from tfr_pipeline.errors import ConfigError, RunError

_FOLDERS = ("builders", "configs", "launch")
_ENDINGS = (".py", ".sh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Starts a project: copies the example builders, configs and launch scripts "
        "into a new folder."
    )
    parser.add_argument("dir", metavar="DIR", help="folder to make")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
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
            path = os.path.join(base, folder)
            for name in sorted(os.listdir(path)) if os.path.isdir(path) else ():
                if name.endswith(_ENDINGS):
                    found[f"{folder}/{name}"] = os.path.join(path, name)
        if "configs/letor.py" in found:
            return found
    for entry in metadata.files("tfr_pipeline") or ():
        parts = entry.parts
        if "share" in parts and parts[-2] in _FOLDERS:
            found[f"{parts[-2]}/{parts[-1]}"] = str(entry.locate())
    if not found:
        raise RunError("the examples are missing; install tfr_pipeline again.")
    return found
