"""A worker: claims trials and trains them until the study is finished."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
import traceback
from collections.abc import Iterator

from tfr_pipeline import files, urls
from tfr_pipeline.errors import RunError
from tfr_pipeline.experiment.config_files import ConfigFile
from tfr_pipeline.pipeline.run.console import Console
from tfr_pipeline.sweep import keeping, storage, tensorboard
from tfr_pipeline.sweep.claims import Claim, is_held
from tfr_pipeline.sweep.jobs import Launcher
from tfr_pipeline.sweep.objective import MetricError
from tfr_pipeline.sweep.processes import MORE
from tfr_pipeline.sweep.standing import Standing
from tfr_pipeline.sweep.study import Study
from tfr_pipeline.sweep.training import LostError, PrunedError, Trainer

_LONGEST_PAUSE = 5.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Worker:
    """Trains trials of a study in this process.

    Args:
      study: The study.
      file: The config that points change.
      launcher: See `Trainer`.
      keep: How many trials keep their checkpoints and exports.
      seconds: No trial begins so many seconds from now; None for no limit.
      most: Trials after which the worker leaves; None for no limit.
      give_up: Failures in a row, with no success before, that end the sweep.
      console: Says how it goes.
    """

    def __init__(
        self,
        study: Study,
        file: ConfigFile,
        *,
        launcher: Launcher | None = None,
        keep: int = 1,
        seconds: float | None = None,
        most: int | None = None,
        give_up: int = 5,
        console: Console | None = None,
    ):
        self._study, self._keep, self._most = study, keep, most
        self._trainer = Trainer(study, file, launcher)
        self._end = None if seconds is None else time.monotonic() + seconds
        self._give_up = give_up
        before = [trial for trial in study.trials() if trial.state.name == "FAIL"]
        self._failed_before = {trial.number for trial in before}
        self._console = console or Console(True)

    def run(self) -> int:
        """Works until every trial of the budget is finished.

        Returns:
          The exit code: 0; or `MORE` if the worker leaves before.

        Raises:
          RunError: The first trials have all failed, the disk is full, or the storage
            is gone.
          ConfigError: No trial can report what they are chosen by.
          SystemExit: SIGTERM came; the code is 143, the trial is parked.
        """
        done, pause, said = 0, 0.25, ""
        while True:
            self._check_failures()
            counts = self._study.counts()
            if counts.finished >= counts.budget:
                return 0
            if self._end is not None and time.monotonic() >= self._end:
                self._console.say(
                    f"the time is up: {counts.finished} of {counts.budget} trials are "
                    "finished; the same command goes on"
                )
                return 0
            if self._most is not None and done >= self._most:
                return MORE
            claim = self._study.claim()
            if claim is not None:
                self._work(claim)
                done, pause = done + 1, 0.25
                continue
            waits_for = self._study.waits_for()
            if waits_for and waits_for != said:
                said = waits_for
                self._console.say(f"waiting for {waits_for}")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _check_failures(self) -> None:
        """Raises a RunError if nothing but failures came of this study."""
        trials = [trial for trial in self._study.trials() if trial.state.is_finished()]
        failed = [trial for trial in trials if trial.state.name == "FAIL"]
        new = [trial for trial in failed if trial.number not in self._failed_before]
        if len(failed) < len(trials) or len(new) < self._give_up:
            return
        first = new[0]
        raise RunError(
            f"all {len(new)} trials so far have failed, the first one, trial "
            f"{first.number}, because: {first.user_attrs.get('reason', 'unknown')} "
            f"(more in {self._study.run_of(first.number)}/error.txt). Mend that; the "
            "same command goes on with the next trials."
        )

    def _work(self, claim: Claim) -> None:
        started = time.perf_counter()
        try:
            with self._study.beating(claim) as lost:
                self._attempt(claim, lost, started)
        except (SystemExit, KeyboardInterrupt):
            # Whoever sends SIGTERM has not long to wait.
            storage.hurry(self._study.storage)
            self._study.park(claim)
            self._console.say(f"trial {claim.number}: parked; another worker goes on")
            raise

    def _attempt(self, claim: Claim, lost: threading.Event, started: float) -> None:
        study = self._study
        if claim.hopeless:
            self._fail(claim, claim.hopeless)
            return
        try:
            values = self._trainer.train(claim, lost)
        except PrunedError:
            if study.prune(claim):
                self._tell(claim, "pruned", started)
        except LostError:
            self._console.say(
                f"trial {claim.number}: given to another worker, who had not heard of "
                "this one for long"
            )
        except storage.StorageError:
            raise
        except MetricError as error:
            self._fail(claim, str(error))
            raise
        except Exception as error:
            if is_held(claim.run):
                self._console.say(f"trial {claim.number}: another worker is at it")
                time.sleep(1.0)
            elif (cause := _no_room(error)) is not None:
                study.park(claim)
                raise RunError(
                    f"{claim.run}: no room left on the disk ({cause.strerror}). Trial "
                    f"{claim.number} is parked. Make room; the same command goes on."
                ) from error
            else:
                self._fail(claim, " ".join(str(error).split()) or repr(error), error)
        else:
            if study.complete(claim, values):
                names = [objective.name for objective in study.settings.objectives]
                pairs = zip(names, values, strict=True)
                text = ", ".join(f"{name} {value:.4f}" for name, value in pairs)
                self._tell(claim, text, started)
        keeping.keep_best(study, self._keep)
        # They can be written by the next worker, too.
        with contextlib.suppress(OSError):
            tensorboard.write_missing(Standing(study.optuna, study.folder))

    def _fail(self, claim: Claim, reason: str, error: Exception | None = None) -> None:
        reason = urls.shown(reason)[:2000]
        if error is not None:
            trace = urls.shown("".join(traceback.format_exception(error)))
            try:
                os.makedirs(claim.run, exist_ok=True)
                files.write_text(os.path.join(claim.run, "error.txt"), trace)
            except OSError:
                pass  # The reason is in the study.
        if self._study.fail(claim, reason):
            self._console.say(f"trial {claim.number}: failed: {reason}")

    def _tell(self, claim: Claim, text: str, started: float) -> None:
        study, counts = self._study, self._study.counts()
        best = study.best()
        standing = ""
        if best and len(study.settings.objectives) == 1:
            value = best[0].values[0]
            standing = f"; best {value:.4f} of trial {best[0].number}"
        seconds = time.perf_counter() - started
        self._console.say(
            f"trial {claim.number}: {text} in {seconds:.1f} s{standing}; "
            f"{counts.finished} of {counts.budget} finished"
        )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _no_room(error: BaseException) -> OSError | None:
    """Returns what says that a disk is full, among the causes of an error."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            return cause
        # TensorFlow has errors of its own.
        if "No space left on device" in str(cause) or "Disk quota" in str(cause):
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None
