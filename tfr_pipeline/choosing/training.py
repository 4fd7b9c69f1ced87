"""Trains the runs of a cross-validation, beside other processes that do so too."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from typing import Any

from tfr_pipeline import files, gradients
from tfr_pipeline.choosing.folder import CLAIMS
from tfr_pipeline.choosing.plan import Plan, Run
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.pipeline.datasets.kept_lists import KeptLists
from tfr_pipeline.pipeline.run.console import Console

_PAUSE_SECONDS = 0.5
# Of the section `data`: which lists of files that are read once.
_OF_FOLDS = ("folds", "fold", "test_fold")


class Trainer:
    """Trains what is left of a plan in this process.

    Args:
      plan: The runs.
      kept: What has been read of their data.
      console: Says a line for each run.
    """

    def __init__(self, plan: Plan, kept: KeptLists, console: Console):
        self._plan, self._kept, self._console = plan, kept, console
        self._data = _read_of(plan.runs[0])

    def run(self) -> None:
        """Trains until every run has ended, here or elsewhere.

        Raises:
          PipelineError: See `ModelFitPipeline.train_and_validate`.
          SystemExit: SIGTERM came; what there is, is saved.
        """
        left = [run for run in self._plan.runs if not run.finished()]
        self._begun, self._trained = time.perf_counter(), 0
        while left:
            before = self._trained
            for run in left:
                with claimed(self._plan.folder, run.name) as mine:
                    if mine and not run.finished():
                        self._train(run)
            left = [run for run in left if not run.finished()]
            if left and self._trained == before:
                time.sleep(_PAUSE_SECONDS)  # Others are at them.

    def _train(self, run: Run) -> None:
        data = _read_of(run)
        if data != self._data:
            # What was read of other files would stay for good.
            self._kept, self._data = KeptLists(), data
        self._console.show(f"{run.name} ...")
        start = time.perf_counter()
        try:
            build_pipeline(run.config, kept=self._kept).train_and_validate()
        finally:
            gradients.forget_unused()
        self._trained += 1
        self._console.say(
            f"{run.name}: {_measured(run)} in {time.perf_counter() - start:.1f} s; "
            f"{self._standing()}"
        )

    def _standing(self) -> str:
        runs = self._plan.runs
        left = sum(not run.finished() for run in runs)
        done = f"{len(runs) - left} of {len(runs)} runs"
        if not left:
            return done
        workers = 1 + sum(self._trains_elsewhere(run) for run in runs)
        each = (time.perf_counter() - self._begun) / self._trained
        plural = "s" if workers > 1 else ""
        seconds = _duration(each * left / workers)
        return f"{done}, about {seconds} left ({workers} worker{plural})"

    def _trains_elsewhere(self, run: Run) -> bool:
        if run.finished():
            return False
        with claimed(self._plan.folder, run.name) as free:
            return not free


@contextlib.contextmanager
def claimed(folder: str, name: str) -> Iterator[bool]:
    """Holds a run within a block, if no other process of this machine does.

    The kernel gives it free when the process ends, in whatever way.

    Args:
      folder: The folder of all runs.
      name: Name of the run.

    Yields:
      Whether it is held here.
    """
    os.makedirs(os.path.join(folder, CLAIMS), exist_ok=True)
    with open(os.path.join(folder, CLAIMS, name), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _read_of(run: Run) -> dict[str, Any]:
    return {k: v for k, v in run.config["data"].items() if k not in _OF_FOLDS}


def _measured(run: Run) -> str:
    metrics = files.read_json(os.path.join(run.folder, "metrics.json"))
    parts = []
    for split in ("valid", "test"):
        found = metrics.get(split) or {}
        if "queries" not in found:  # several tasks: the first one stands for them
            found = next(iter(found.values()), {})
        for name in ("ndcg@10", "accuracy"):
            value = (found.get(name) or {}).get("skip")
            if value is not None:
                parts.append(f"{split} {name} {value:.4f}")
    return ", ".join(parts) or "nothing measured"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
