"""Slurm's short form of a list of nodes, such as `n[1-3,07]`, written out."""

from __future__ import annotations

import itertools
import re

from tfr_pipeline.errors import ConfigError

_COMMA_OUTSIDE_BRACKETS = re.compile(r",(?![^\[\]]*\])")
_NAME = re.compile(r"(?:[^\[\],\s]|\[[^\[\]]*\])+")
_PIECE = re.compile(r"\[([^\[\]]*)\]|([^\[\]]+)")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)
_MOST = 65536


def expand(text: str) -> list[str]:
    """Returns the names of a node list, in its order.

    `scontrol show hostnames` does the same where there is a Slurm; SLURM_JOB_NODELIST
    is what this is for. The width of a range's first number is kept, and a name may
    have several brackets, of which the last varies fastest.

    Args:
      text: Names and ranges, with commas between them.

    Raises:
      ConfigError: The text is no node list.

    Example:
      >>> expand("n[1-3,07],login")
      ['n1', 'n2', 'n3', 'n07', 'login']
      >>> expand("rack[1-2]node[09-10]")
      ['rack1node09', 'rack1node10', 'rack2node09', 'rack2node10']
    """
    names: list[str] = []
    for part in _COMMA_OUTSIDE_BRACKETS.split(text):
        if not _NAME.fullmatch(part.strip()):
            raise _error(text, repr(part))
        pieces = [
            [literal] if literal else _numbers(text, ranges)
            for ranges, literal in _PIECE.findall(part.strip())
        ]
        count = 1
        for piece in pieces:
            count *= len(piece)
        if len(names) + count > _MOST:
            raise _error(text, f"more than {_MOST} names")
        names += map("".join, itertools.product(*pieces))
    return names


def _numbers(text: str, ranges: str) -> list[str]:
    """Writes out what stands between two brackets."""
    found: list[str] = []
    for part in ranges.split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last = match.groups() if match else ("", "")
        last = last or first
        if not first or int(last) < int(first):
            raise _error(text, f"the range {part!r}")
        if int(last) - int(first) >= _MOST:
            raise _error(text, f"more than {_MOST} names")
        width = len(first)
        found += (f"{n:0{width}}" for n in range(int(first), int(last) + 1))
    return found


def _error(text: str, found: str) -> ConfigError:
    return ConfigError(
        f"node list {text!r}: expected names with ranges, such as n[1-3,07] or a,b2. "
        f"Found: {found}."
    )
