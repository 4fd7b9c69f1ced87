"""Parses the words of a command line; what is wrong with them is one line."""

from __future__ import annotations

import argparse
import re
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


def positive(text: str) -> int:
    """Type of a flag that takes a number from 1 on."""
    value = count(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {text!r}")
    return value


def count(text: str) -> int:
    """Type of a flag that takes a number from 0 on."""
    if not re.fullmatch(r"\d{1,9}", text):
        raise argparse.ArgumentTypeError(f"expected a whole number, found {text!r}")
    return int(text)
