"""Where a study is: what the commands that look at one have in common."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from tfr_pipeline import files
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.outputs import check_output

if TYPE_CHECKING:
    from tfr_pipeline.sweep.standing import Standing


def add_place(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say which study is meant."""
    parser.add_argument(
        "place",
        metavar="FOLDER_OR_STORAGE",
        help="the model_dir of the sweep, or the URL of its storage",
    )
    parser.add_argument(
        "--storage",
        help="URL of the storage, if it is not in the folder; "
        "TFR_PIPELINE_STORAGE does the same",
    )
    parser.add_argument("--name", help="which study, if the storage has several")


def find(args: argparse.Namespace) -> Standing:
    """Returns how the study stands that the flags name."""
    from tfr_pipeline.sweep import processes, standing

    other = os.environ.get(processes.STORAGE, "")
    return standing.find(args.place, args.storage or "", args.name or "", other)


def check_ours(path: str, what: str, sign: str) -> str:
    """Returns where a command may write: nothing is there, or its own earlier output.

    Args:
      path: Where it is to write.
      what: How messages call it.
      sign: Text that stands in the first lines of what it writes.

    Raises:
      ConfigError: Something else is there.
    """
    path = files.local(path, what)
    check_output(path, what=what)
    if os.path.isfile(path) and os.path.getsize(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            if sign not in file.read(4096):
                raise ConfigError(
                    f"{what}: {path!r} is there, and not of this command. Choose "
                    "another place, or move it away."
                )
    return path


def output_of(
    args: argparse.Namespace, standing: Standing, default: str, sign: str
) -> str:
    """Returns where `--output` says to write, else a file in the folder of the sweep.

    Raises:
      ConfigError: See `check_ours`; or neither is known.
    """
    if args.output:
        return check_ours(args.output, "--output", sign)
    if not os.path.isdir(standing.folder):
        raise ConfigError(
            f"--output: expected a file: the folder of study {standing.name!r} is not "
            "on this machine."
        )
    return check_ours(os.path.join(standing.folder, default), "--output", sign)
