"""Parses the words of a command line; what is wrong with them is one line."""

from __future__ import annotations

import argparse
from typing import NoReturn

from tfr_pipeline import files
from tfr_pipeline.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose complaints are as those of the commands."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with exit code 2."""
        self.exit(2, f"error: {message} (flags: {self.prog} --help)\n")


def path(text: str) -> str:
    """Type of a flag that takes a path: `~` is expanded, an empty one is an error."""
    try:
        return files.local(text, "path")
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def patterns(text: str) -> str:
    """Type of a flag that takes paths or globs; `files.expand` expands them."""
    path(text)
    return text
