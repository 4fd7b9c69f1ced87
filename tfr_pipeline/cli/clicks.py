"""`tfr-pipeline clicks`: simulated clicks, and propensities of positions."""

from __future__ import annotations

import argparse

from tfr_pipeline.errors import ConfigError

# The words: `cli/clicks_<word>.py`.
COMMANDS = {
    "simulate": "sessions with clicks, from graded data",
    "propensities": "how likely each position is seen, from clicks",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command: it has words in their place."""
    parser.description = "Two commands: simulate, propensities; see docs/clicks.md."
    parser.epilog = "commands, tfr-pipeline clicks COMMAND --help:\n" + "\n".join(
        f"  {name:<13} {text}" for name, text in COMMANDS.items()
    )


def run(args: argparse.Namespace) -> int:
    """Says which words there are."""
    raise ConfigError(
        f"expected a command, tfr-pipeline clicks COMMAND: {', '.join(COMMANDS)}; "
        "found none."
    )
