"""`tfr-pipeline new`: starts a project from the examples."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata

from tfr_pipeline import files, outputs, urls
from tfr_pipeline.cli import arguments, project_files
from tfr_pipeline.errors import ConfigError, RunError

_FOLDERS = ("builders", "configs", "launch")
_ENDINGS = (".py", ".sh", ".sbatch", ".yaml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Starts a project in a new or empty folder: README, requirements and a test, "
        "and the example builders, configs and launch scripts."
    )
    parser.add_argument(
        "dir", metavar="DIR", type=arguments.path, help="folder to fill"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    if urls.is_remote(args.dir):
        raise ConfigError(
            f"DIR: expected a folder of this machine, where a project is worked on, "
            f"found {args.dir!r}."
        )
    outputs.check_output(args.dir, folder=True, what="DIR")
    if os.path.isdir(args.dir) and os.listdir(args.dir):
        raise ConfigError(f"{args.dir}: expected a new or empty folder.")
    sources = example_files()
    with _filling(args.dir) as folder:
        for relative, source in sources.items():
            target = os.path.join(folder, relative)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copyfile(source, target)
            if target.endswith(".sh"):  # a wheel does not say what can be run
                os.chmod(target, 0o755)
        for relative, text in project_files.FILES.items():
            files.write_text(os.path.join(folder, relative), text)
    for relative in sorted([*sources, *project_files.FILES]):
        print(os.path.join(args.dir, relative))
    print(f"next: {os.path.join(args.dir, 'README.md')} has the first three commands")
    return 0


@contextlib.contextmanager
def _filling(folder: str) -> Iterator[str]:
    """Yields a folder whose content moves into a new or empty one, if all goes well.

    The empty one stays where it is: somebody may stand in it.
    """
    with contextlib.ExitStack() as undo:
        if not os.path.isdir(folder):
            os.makedirs(folder)
            undo.callback(os.rmdir, folder)
        with tempfile.TemporaryDirectory(
            prefix=".new.", suffix=".tmp", dir=folder
        ) as staging:
            yield staging
            for name in os.listdir(staging):
                os.rename(os.path.join(staging, name), os.path.join(folder, name))
        undo.pop_all()


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
