"""One worker among those who share the trials of a study: whose a trial is.

A worker of this machine is dead if its process is gone. One of another machine is if
its beat has stood still for `GRACE` beats, by the clock of the one who looks, and
nobody holds the lock of the run directory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tfr_pipeline.errors import ConfigError
from tfr_pipeline.sweep import identity, optuna_parts
from tfr_pipeline.sweep.attributes import BEAT, CLAIMS
from tfr_pipeline.sweep.claims import deaths_before, is_held

if TYPE_CHECKING:
    import optuna

# Seconds between two beats, and how many are missed before somebody is taken for dead.
BEAT_SECONDS = "TFR_PIPELINE_SWEEP_BEAT"
_BEAT_SECONDS, GRACE = 10.0, 6
_PATIENCE_SECONDS = 15.0


def beat_seconds() -> float:
    """Returns the seconds between two beats; `GRACE` times that is a worker's end."""
    try:
        return float(os.environ.get(BEAT_SECONDS, "") or _BEAT_SECONDS)
    except ValueError as error:
        raise ConfigError(f"{BEAT_SECONDS}: expected a number of seconds.") from error


@contextlib.contextmanager
def alone(folder: str) -> Iterator[None]:
    """Keeps others who share the folder of a sweep from claiming within a block.

    For others, the storage and the lock of the run directory decide. A worker who
    cannot reach the storage stops nobody for long.
    """
    with open(os.path.join(folder, "claims.lock"), "ab") as file:
        limit = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < limit:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    break  # a file system without locks
            time.sleep(0.02)
        yield


class Ownership:
    """What this worker, under a name of its own, holds and may take.

    Args:
      storage: Optuna's storage.

    Attributes:
      worker: The worker as others are told: `host:process`.
    """

    def __init__(self, storage: optuna.storages.BaseStorage):
        self._optuna = optuna_parts.load()
        self._storage = storage
        self._me = f"{identity.here()}:{uuid.uuid4().hex[:8]}"
        self.worker = identity.short(self._me)
        # What was seen of others: the beat, and when.
        self._seen: dict[int, tuple[Any, float]] = {}

    def holds(self, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether a trial, as the storage has it now, is this worker's."""
        owner = trial.system_attrs.get(BEAT) or [""]
        return not trial.state.is_finished() and owner[0] == self._me

    def take(self, trial: optuna.trial.FrozenTrial, run: str) -> int | None:
        """Takes a trial that was parked, or whose worker is dead.

        Args:
          trial: The trial.
          run: Its run directory.

        Returns:
          How many workers have died at it in a row; None if it is not to be had.
        """
        state = self._optuna.trial.TrialState
        died = trial.state == state.RUNNING and self._is_stale(trial, run)
        if not died and trial.state != state.WAITING:
            return None
        trial_id = trial._trial_id
        try:
            if died:
                self._storage.set_trial_state_values(trial_id, state.WAITING)
            taken = self._storage.set_trial_state_values(trial_id, state.RUNNING)
        except self._optuna.exceptions.UpdateFinishedTrialError:
            return None
        if not taken or is_held(run):
            return None  # Another one was faster, or was taken for dead too early.
        self._beat(trial_id, 0)
        return deaths_before(trial.system_attrs.get(CLAIMS), run) if died else 0

    def create(self, study: optuna.Study) -> int:
        """Makes a trial that is this worker's from the start; returns its id."""
        state = self._optuna.trial.TrialState.RUNNING
        template = self._optuna.trial.create_trial(
            state=state, system_attrs={BEAT: [self._me, 0]}
        )
        return self._storage.create_new_trial(study._study_id, template)

    @contextlib.contextmanager
    def beating(self, trial_id: int) -> Iterator[threading.Event]:
        """Says within a block, every few seconds, that the worker is alive.

        Yields:
          Set when the trial was given to another worker, who had seen no beat.
        """
        lost, ended = threading.Event(), threading.Event()

        def beat() -> None:
            count = 0
            while not ended.wait(beat_seconds()):
                count += 1
                with contextlib.suppress(Exception):  # the next beat tries again
                    if not self.holds(self._storage.get_trial(trial_id)):
                        lost.set()
                        return
                    self._beat(trial_id, count)

        thread = threading.Thread(target=beat, daemon=True, name="sweep-beat")
        thread.start()
        try:
            yield lost
        finally:
            ended.set()

    def _beat(self, trial_id: int, count: int) -> None:
        self._storage.set_trial_system_attr(trial_id, BEAT, [self._me, count])

    def _is_stale(self, trial: optuna.trial.FrozenTrial, run: str) -> bool:
        """Whether nobody is at a trial, although it is said to run."""
        beat = trial.system_attrs.get(BEAT)
        worker = beat[0] if isinstance(beat, list) and beat else ""
        alive = identity.is_alive(worker)
        if worker == self._me or alive is False:
            return not is_held(run)
        if alive:
            return False  # It may only have lost its connection to the storage.
        now = time.monotonic()
        before, since = self._seen.setdefault(trial.number, (beat, now))
        if before != beat:
            self._seen[trial.number] = beat, now
            return False
        return now - since >= GRACE * beat_seconds() and not is_held(run)
