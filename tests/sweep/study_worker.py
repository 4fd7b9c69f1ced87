"""A worker of a study without training: what it does is written to a log.

    python -m tests.sweep.study_worker URL FOLDER TRIALS [SECONDS]

A trial is five steps, each noted in the run directory, which is locked as by a run. One
that is taken over goes on with the step that is missing.
"""

from __future__ import annotations

import os
import sys
import time

from tfr_pipeline.errors import RunError
from tfr_pipeline.pipeline.run.lock import held
from tfr_pipeline.sweep import hyper, storage
from tfr_pipeline.sweep.claims import Claim
from tfr_pipeline.sweep.settings import Settings
from tfr_pipeline.sweep.study import Study

STEPS = 5
LOG = "finished.log"


def make_study(url: str, folder: str, trials: int, **settings) -> Study:
    """Makes or joins a study of one number between 0 and 1."""
    space = hyper.product(hyper.interval("x", 0.0, 1.0))
    told = Settings.of(**{"sampler": "random", **settings})
    config = {"pipeline": {"num_epochs": STEPS}}
    return Study(storage.connect(url), "test", folder, space, told, config, trials)


def steps(claim: Claim) -> int:
    """Returns how many steps of a trial are done."""
    try:
        return os.path.getsize(os.path.join(claim.run, "steps"))
    except FileNotFoundError:
        return 0


def train(claim: Claim, seconds: float) -> float:
    """Takes the steps of a trial that are not done; returns its value."""
    with held(claim.run):
        while steps(claim) < STEPS:
            time.sleep(seconds)
            with open(os.path.join(claim.run, "steps"), "ab", buffering=0) as file:
                file.write(b".")
    return claim.point["x"]


def work(study: Study, seconds: float) -> None:
    """Works until all trials are finished."""
    while (counts := study.counts()).finished < counts.budget:
        claim = study.claim()
        if claim is None:
            time.sleep(0.05)
            continue
        with study.beating(claim) as lost:
            try:
                value = train(claim, seconds)
            except RunError:
                continue
            if not lost.is_set() and study.complete(claim, [value]):
                line = f"{claim.number} {os.getpid()} {steps(claim)}\n"
                log = os.path.join(study.folder, LOG)
                with open(log, "ab", buffering=0) as file:
                    file.write(line.encode())


if __name__ == "__main__":
    url, folder, trials, *rest = sys.argv[1:]
    study = make_study(url, folder, int(trials))
    print("joined", flush=True)
    work(study, float(rest[0]) if rest else 0.0)
