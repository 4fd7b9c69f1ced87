"""What a worker has of a trial that it is at, and how far others have brought it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from typing import TYPE_CHECKING, Any

from tfr_pipeline.pipeline.run import lock
from tfr_pipeline.sweep.space import Point

if TYPE_CHECKING:
    import optuna

# Workers that die at a trial, one after the other, with no step between.
_DEATHS = 5


@dataclasses.dataclass(frozen=True)
class Claim:
    """A trial that this worker is at.

    Attributes:
      number: Its number.
      point: What it sets in the config.
      run: Its run directory.
      deaths: Workers that died at it in a row, none further than the one before.
      trial: Optuna's trial.
    """

    number: int
    point: Point
    run: str
    deaths: int
    trial: optuna.trial.Trial

    @property
    def hopeless(self) -> str:
        """Why it is given up at once; empty if it is not."""
        if self.deaths < _DEATHS:
            return ""
        return (
            f"{self.deaths} workers died at this trial in a row, none further than the "
            "one before: does it need more memory than there is?"
        )


def is_held(run: str) -> bool:
    """Whether a process has the lock of a run directory, or of one below it."""
    folders = [run]
    with contextlib.suppress(OSError):
        folders += [entry.path for entry in os.scandir(run) if entry.is_dir()]
    return any(lock.is_held(folder) for folder in folders)


def progress(run: str) -> int:
    """Returns a number that grows with what is done in a run directory."""
    total = 0
    for folder, _, names in os.walk(run):
        total += "metrics.json" in names
        if os.path.basename(folder) == "checkpoints":
            found = (re.fullmatch(r"ckpt-(\d+)\.index", name) for name in names)
            total += max((int(match[1]) for match in found if match), default=0)
    return total


def deaths_before(claims: Any, run: str) -> int:
    """Returns how many workers have died in a row with nothing done between."""
    deaths, before = claims if isinstance(claims, list) else (0, 0)
    return deaths + 1 if progress(run) <= before else 1
