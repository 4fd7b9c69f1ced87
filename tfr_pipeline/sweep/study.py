"""A study: trials that workers share out among themselves, each finished once.

The budget counts numbers of trials: a study of 40 ends when the trials 0 to 39 are
finished. What a worker leaves undone, another one takes over, under the same number
and in the same run directory:

| state of the trial | means |
|---|---|
| running | a worker is at it; it says so every few seconds in `BEAT` |
| waiting | parked: its worker was stopped, or died and was found dead |
| complete, pruned, failed | finished; the first word counts, whoever says another |

Whose a trial is, and whether its worker is dead: see `ownership`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfr_pipeline.sweep import agreement, optuna_parts
from tfr_pipeline.sweep import storage as storage_lib
from tfr_pipeline.sweep.attributes import (
    BUDGET,
    CLAIMS,
    POINT,
    REASON,
    RUN,
    TRIALS,
    WORKER,
)
from tfr_pipeline.sweep.claims import Claim, progress
from tfr_pipeline.sweep.domains import Choices, Domain
from tfr_pipeline.sweep.objective import MAXIMIZE
from tfr_pipeline.sweep.ownership import Ownership, alone
from tfr_pipeline.sweep.plan import first_points, settled
from tfr_pipeline.sweep.settings import AUTO, GRID, Settings
from tfr_pipeline.sweep.space import Point, Space

if TYPE_CHECKING:
    import optuna

_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Counts:
    """How far a study is.

    Attributes:
      budget: Trials that it is to have.
      complete: Trials with a value.
      pruned: Trials that were stopped early.
      failed: Trials that ended with an error.
      running: Trials that a worker is at.
      waiting: Trials that were parked.
    """

    budget: int
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    running: int = 0
    waiting: int = 0

    @property
    def finished(self) -> int:
        """Trials that are done, whatever came out."""
        return self.complete + self.pruned + self.failed


class Study:
    """A study, made or joined; see the module.

    Args:
      storage: See `storage.connect`.
      name: Its name.
      folder: The folder of the sweep, with the run directories below `trials/`.
      space: The search space.
      settings: The settings.
      config: The config that points change.
      trials: How many trials there are to be; all points of a finite space by default.

    Attributes:
      optuna: Optuna's study.
      budget: How many trials there are to be.
      settings: The settings, with the sampler that `auto` stands for.
      joined: Whether the study was there already.

    Raises:
      ConfigError: There is no budget; or the study was made with other settings, or the
        folder belongs to another one.
      RunError: The storage cannot be reached.
    """

    def __init__(
        self,
        storage: optuna.storages.BaseStorage,
        name: str,
        folder: str,
        space: Space,
        settings: Settings,
        config: Mapping[str, Any],
        trials: int | None = None,
    ):
        self._optuna = optuna_parts.load()
        self.storage, self.folder, self.space = storage, folder, space
        self.settings, self.budget = settled(space, settings, trials)
        self._points: list[Point] = []
        self._ownership = Ownership(storage)
        pipeline = config.get("pipeline") or {}
        self.epochs = int(pipeline.get("num_epochs") or 1)
        pruner = optuna_parts.pruner(self.settings, self.epochs)
        optuna_parts.sampler(self.settings, 0)
        told = {
            "config": dict(config),
            "space": space.describe(),
        }
        os.makedirs(folder, exist_ok=True)
        with alone(self.folder):
            self.optuna, self.joined = self._make(name, pruner)
            before = agreement.told_before(self.optuna, self.joined)
            if settings.sampler == AUTO and before:
                sampler = before["settings"]["sampler"]
                self.settings = dataclasses.replace(self.settings, sampler=sampler)
            told["settings"] = self.settings.describe()
            agreement.agree(self.optuna, before, told)
            agreement.mark(self.optuna, folder)
        if self.settings.sampler == GRID:
            self._points = first_points(space, self.budget)
            self.budget = min(self.budget, len(self._points))
        # For those who look on; whoever works at the study is told by its command.
        if self.optuna.user_attrs.get(BUDGET) != self.budget:
            self.optuna.set_user_attr(BUDGET, self.budget)

    def _make(self, name: str, pruner: Any) -> tuple[optuna.Study, bool]:
        directions = [objective.direction for objective in self.settings.objectives]
        args = {"study_name": name, "storage": self.storage, "pruner": pruner}
        try:
            return self._optuna.create_study(directions=directions, **args), False
        except self._optuna.exceptions.DuplicatedStudyError:
            return self._optuna.load_study(**args), True

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.optuna.study_name

    # What there is to do

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """Returns the trials within the budget, in their order."""
        found = self.optuna.get_trials(deepcopy=False)
        return [trial for trial in found if trial.number < self.budget]

    def counts(self) -> Counts:
        """Returns how far the study is."""
        found = dict.fromkeys(("complete", "pruned", "fail", "running", "waiting"), 0)
        for trial in self.trials():
            found[trial.state.name.lower()] += 1
        return Counts(self.budget, failed=found.pop("fail"), **found)

    def claim(self) -> Claim | None:
        """Takes a trial for this worker, if there is one to take now.

        Returns:
          One that was parked or whose worker is dead, else a new one. None if all there
          are have a worker, or are finished; `counts` tells.
        """
        found, limit = None, time.monotonic() + storage_lib.patience()
        while True:
            try:
                # Nobody is kept waiting because this worker has lost its connection.
                with alone(self.folder), storage_lib.at_once(self.storage):
                    found = self._seize()
                break
            except storage_lib.StorageError:
                if time.monotonic() > limit:
                    raise
            self.counts()  # waits for the storage
        if found is None:
            return None
        trial_id, number, deaths = found
        run = self.run_of(number)
        key, value = CLAIMS, [deaths, progress(run)]
        self.storage.set_trial_system_attr(trial_id, key, value)
        self.storage.set_trial_user_attr(trial_id, WORKER, self._ownership.worker)
        self.storage.set_trial_user_attr(trial_id, RUN, f"{TRIALS}/{number:05d}")
        trial, point = self._choose(trial_id, number)
        self.storage.set_trial_user_attr(trial_id, POINT, point)
        return Claim(number, point, run, deaths, trial)

    def _seize(self) -> tuple[int, int, int] | None:
        """Makes this worker the owner of a trial: returns its id, number and deaths."""
        trials = self.trials()
        for trial in trials:
            deaths = self._ownership.take(trial, self.run_of(trial.number))
            if deaths is not None:
                return trial._trial_id, trial.number, deaths
        if len(trials) >= self.budget:
            return None
        trial_id = self._ownership.create(self.optuna)
        number = self.storage.get_trial(trial_id).number
        if number < self.budget:
            return trial_id, number, 0
        # Two workers took the last one. It is there if the budget grows.
        waiting = self._optuna.trial.TrialState.WAITING
        self.storage.set_trial_state_values(trial_id, waiting)
        return None

    def _choose(self, trial_id: int, number: int) -> tuple[Any, Point]:
        """Returns the point of a trial: what it was given before, or is given now."""
        study = self.optuna
        study.sampler = optuna_parts.sampler(self.settings, number)
        study._thread_local.cached_all_trials = None  # as `Study.ask` does
        if not self._points:
            trial = self._optuna.trial.Trial(study, trial_id)

            def draw(name: str, domain: Domain) -> Any:
                if isinstance(domain, Choices) and domain.single:
                    return domain.values[0]
                return domain.suggest(trial, name)

            return trial, self.space.draw(draw, {})
        point, domains = self._points[number], self.space.domains()
        known = self.storage.get_trial(trial_id).params
        for path, value in point.items():
            domain = domains[path]
            if path not in known and not domain.single:
                distribution = domain.distribution()
                label = distribution.to_internal_repr(domain.label_of(value))
                self.storage.set_trial_param(trial_id, path, label, distribution)
        return self._optuna.trial.Trial(study, trial_id), point

    def run_of(self, number: int) -> str:
        """Returns the run directory of a trial."""
        return os.path.join(self.folder, TRIALS, f"{number:05d}")

    def waits_for(self) -> str:
        """Says which trials run elsewhere, and where."""
        running = self._optuna.trial.TrialState.RUNNING
        found = [trial for trial in self.trials() if trial.state == running]
        return ", ".join(
            f"trial {trial.number} ({trial.user_attrs.get(WORKER, 'no worker')})"
            for trial in found[:_SHOWN]
        )

    # What becomes of a trial

    def beating(
        self, claim: Claim
    ) -> contextlib.AbstractContextManager[threading.Event]:
        """Says within a block that a worker is at a trial; see `Ownership.beating`."""
        return self._ownership.beating(claim.trial._trial_id)

    def report(self, claim: Claim, epoch: int, value: float) -> bool:
        """Notes what an epoch came to; returns whether the trial is to be pruned.

        Args:
          claim: The trial.
          epoch: Epochs done, from 1.
          value: Value of `Settings.monitor`.
        """
        known = self.storage.get_trial(claim.trial._trial_id).intermediate_values
        if epoch not in known:
            # Optuna compares by the direction of the objective.
            claim.trial.report(-value if self._reversed else value, epoch)
        return claim.trial.should_prune()

    @property
    def _reversed(self) -> bool:
        """Whether trials are pruned by a value that is better the other way round."""
        lower_better = "loss" in self.settings.monitor or "arp" in self.settings.monitor
        return lower_better == (self.settings.objectives[0].direction == MAXIMIZE)

    def note(self, claim: Claim, key: str, value: Any) -> None:
        """Notes something of a trial that is not finished."""
        self.storage.set_trial_user_attr(claim.trial._trial_id, key, value)

    def complete(self, claim: Claim, values: list[float]) -> bool:
        """Finishes a trial with the values of the objectives; see `_finish`."""
        return self._finish(claim, "COMPLETE", values)

    def prune(self, claim: Claim) -> bool:
        """Finishes a trial that is behind others."""
        return self._finish(claim, "PRUNED")

    def fail(self, claim: Claim, reason: str) -> bool:
        """Finishes a trial that cannot go on."""
        with contextlib.suppress(self._optuna.exceptions.UpdateFinishedTrialError):
            self.note(claim, REASON, reason)
        return self._finish(claim, "FAIL")

    def _finish(
        self, claim: Claim, state: str, values: list[float] | None = None
    ) -> bool:
        """Tells what came of a trial.

        Returns:
          Whether it counts; not if another worker was taken for its own.
        """
        if not self._ownership.holds(self.storage.get_trial(claim.trial._trial_id)):
            return False
        wanted = self._optuna.trial.TrialState[state]
        try:
            self.optuna.tell(claim.number, values, wanted)
        except (self._optuna.exceptions.UpdateFinishedTrialError, ValueError):
            # Optuna's words for a trial that is not running any more.
            found = self.storage.get_trial(claim.trial._trial_id).state
            if found.name == "RUNNING":
                raise
            return False
        return True

    def park(self, claim: Claim) -> None:
        """Leaves a trial for another worker, who goes on from its checkpoint."""
        trial = self.storage.get_trial(claim.trial._trial_id)
        if trial.state.name != "RUNNING" or not self._ownership.holds(trial):
            return
        state = self._optuna.trial.TrialState.WAITING
        with contextlib.suppress(self._optuna.exceptions.UpdateFinishedTrialError):
            self.storage.set_trial_state_values(claim.trial._trial_id, state)

    # What came of the study

    def best(self) -> list[optuna.trial.FrozenTrial]:
        """Returns the complete trials, the best first.

        With several objectives those come first that no other one beats in all.
        """
        complete = self._optuna.trial.TrialState.COMPLETE
        done = [trial for trial in self.trials() if trial.state == complete]
        if len(self.settings.objectives) == 1:
            sign = -1.0 if self.settings.objectives[0].direction == MAXIMIZE else 1.0
            return sorted(
                done, key=lambda trial: (sign * trial.values[0], trial.number)
            )
        front = {trial.number for trial in self.optuna.best_trials}
        return sorted(done, key=lambda t: (t.number not in front, t.number))
