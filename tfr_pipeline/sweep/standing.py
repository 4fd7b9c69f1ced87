"""How a study stands, for those who look on: nothing here changes it.

A study is found by the folder of its sweep or by the URL of its storage, without the
config file that describes it.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfr_pipeline import files
from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.sweep import identity, optuna_parts, storage
from tfr_pipeline.sweep.attributes import (
    BEAT,
    BUDGET,
    IDENTITY,
    MARKER,
    POINT,
    REASON,
    RUN,
    SPREAD,
    TOLD,
    WORKER,
)
from tfr_pipeline.sweep.objective import MAXIMIZE, MINIMIZE

if TYPE_CHECKING:
    import optuna

# What people read for Optuna's names of states.
STATES = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waiting",
}
# One that runs, of which the process is known to be gone.
LEFT = "left"


@dataclasses.dataclass(frozen=True)
class TrialRow:
    """A trial, as people read it.

    Attributes:
      number: Its number.
      state: A value of `STATES`, or `LEFT`.
      values: Of the objectives; empty unless it is complete.
      deviations: Of the objectives over repeats; empty without repeats.
      point: What it sets in the config.
      worker: Who is at it, or was last: `host:process`.
      started: When its worker began.
      ended: When it was finished; None before.
      reason: Why it failed.
      run: Its run directory, relative to the folder of the sweep.
      epochs: Epochs that it has reported.
    """

    number: int
    state: str
    values: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()
    point: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    worker: str = ""
    started: datetime.datetime | None = None
    ended: datetime.datetime | None = None
    reason: str = ""
    run: str = ""
    epochs: int = 0

    def seconds(self, now: datetime.datetime | None = None) -> float | None:
        """Returns how long it took, or takes until now; None if it does not run."""
        end = self.ended or (now if self.state == "running" else None)
        if self.started is None or end is None:
            return None
        return max(0.0, (end - self.started).total_seconds())


class Standing:
    """A study, looked at from outside.

    Args:
      study: Optuna's study.
      folder: The folder of the sweep; empty if it is not known.

    Attributes:
      study: As given.
      folder: As given.
      told: What its workers were told, see `tfr_pipeline.sweep`; empty if none was.
      names: Names of the objectives.
      directions: `maximize` or `minimize`, for each of them.
    """

    def __init__(self, study: optuna.Study, folder: str = ""):
        self.study, self.folder = study, folder
        self.told: dict[str, Any] = study.user_attrs.get(TOLD) or {}
        count = len(study.directions)
        plain = ["value"] if count == 1 else [f"value {i}" for i in range(count)]
        names = self.told.get("settings", {}).get("metric") or study.metric_names
        self.names: list[str] = list(names or plain)
        self.directions = [
            MAXIMIZE if direction.name == "MAXIMIZE" else MINIMIZE
            for direction in study.directions
        ]
        self._given = 0
        self.rows: list[TrialRow] = []
        self.refresh()

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.study.study_name

    def refresh(self) -> None:
        """Looks again."""
        attrs = self.study.user_attrs
        self._given = int(attrs.get(BUDGET) or 0)
        rows = [self._row(t) for t in self.study.get_trials(deepcopy=False)]
        # Beyond the budget trials wait for a larger one.
        self.rows = [
            row
            for row in rows
            if not self._given or row.number < self._given or row.state != "waiting"
        ]

    def _row(self, trial: optuna.trial.FrozenTrial) -> TrialRow:
        attrs, state = trial.user_attrs, STATES[trial.state.name]
        if state == "running":
            beat = trial.system_attrs.get(BEAT)
            worker = str(beat[0]) if isinstance(beat, list) and beat else ""
            if identity.is_alive(worker) is False:
                state = LEFT
        spread = attrs.get(SPREAD) or {}
        return TrialRow(
            number=trial.number,
            state=state,
            values=tuple(trial.values or ()) if state == "complete" else (),
            deviations=tuple(
                spread[name]["deviation"] for name in self.names if name in spread
            ),
            point=attrs.get(POINT) or trial.params,
            worker=attrs.get(WORKER, ""),
            started=trial.datetime_start,
            ended=trial.datetime_complete if trial.state.is_finished() else None,
            reason=attrs.get(REASON, ""),
            run=attrs.get(RUN, ""),
            epochs=len(trial.intermediate_values),
        )

    @property
    def budget(self) -> int:
        """Trials that there are to be."""
        known = [row.number + 1 for row in self.rows if row.state != "waiting"]
        return max([self._given, *known])

    def having(self, *states: str) -> list[TrialRow]:
        """Returns the trials in some states, in their order."""
        return [row for row in self.rows if row.state in states]

    @property
    def finished(self) -> list[TrialRow]:
        """The trials that are done, whatever came out."""
        return self.having("complete", "pruned", "failed")

    def best(self) -> list[TrialRow]:
        """Returns the complete trials, the best first; see `front` for several."""
        front = {row.number for row in self.front()}
        signs = [-1.0 if d == MAXIMIZE else 1.0 for d in self.directions]

        def rank(row: TrialRow) -> tuple[Any, ...]:
            return row.number not in front, signs[0] * row.values[0], row.number

        return sorted(self.having("complete"), key=rank)

    def front(self) -> list[TrialRow]:
        """Returns the complete trials that no other one beats, in their order.

        With one objective that is the best one.
        """
        complete = self.having("complete")
        signs = [-1.0 if d == MAXIMIZE else 1.0 for d in self.directions]
        if len(signs) == 1:
            key = lambda row: (signs[0] * row.values[0], row.number)  # noqa: E731
            return sorted(complete, key=key)[:1]
        costs = [
            [sign * value for sign, value in zip(signs, row.values, strict=True)]
            for row in complete
        ]

        def beaten(one: Sequence[float]) -> bool:
            return any(
                other != one and all(a <= b for a, b in zip(other, one, strict=True))
                for other in costs
            )

        return [
            row for row, cost in zip(complete, costs, strict=True) if not beaten(cost)
        ]

    def chosen(self, number: int | None) -> TrialRow:
        """Returns the trial of a number, or the best one.

        Raises:
          ConfigError: There is no such complete trial, or no number where there are
            several objectives and more than one that no other trial beats.
        """
        complete = self.having("complete")
        if not complete:
            failed, why = self.having("failed"), ""
            if failed:
                first = failed[0]
                why = f"; {len(failed)} failed, trial {first.number}: {first.reason}"
            raise ConfigError(
                f"study {self.name!r}: expected a complete trial, found none among "
                f"{len(self.rows)}{why}."
            )
        front = self.front()
        if number is None:
            if len(front) > 1:
                numbers = ", ".join(str(row.number) for row in front)
                raise ConfigError(
                    f"--trial: expected one of {numbers}, of which none is better than "
                    f"another in all of {', '.join(self.names)}; found none."
                )
            return front[0]
        found = [row for row in complete if row.number == number]
        if not found:
            states = {row.number: row.state for row in self.rows}
            raise ConfigError(
                f"--trial: expected a complete trial of study {self.name!r}, such as "
                f"{front[0].number}, found {number}, "
                f"which {'is ' + states[number] if number in states else 'is none'}."
            )
        return found[0]

    def seconds_left(self, now: datetime.datetime | None = None) -> float | None:
        """Returns the seconds until all trials are finished, if those go on who run.

        None if nothing is known yet: no trial is finished, or none runs. Trials take as
        long as those took, on the average, that are finished; failed ones do not count.
        """
        now = now or datetime.datetime.now()
        done = [row.seconds() for row in self.having("complete", "pruned")]
        known = [seconds for seconds in done if seconds is not None]
        running = self.having("running")
        if not known or not running:
            return None
        mean = sum(known) / len(known)
        spent = sum(min(mean, row.seconds(now) or 0.0) for row in running)
        to_do = self.budget - len(self.finished)
        return max(0.0, to_do * mean - spent) / min(len(running), max(1, to_do))


def find(place: str, url: str = "", name: str = "", other: str = "") -> Standing:
    """Returns how the study of a sweep stands.

    Args:
      place: The folder of the sweep, or the URL of its storage.
      url: The storage, if not that in the folder is meant.
      name: Which study of the storage; needed for a URL of several.
      other: The storage, if there is none in the folder.

    Raises:
      ConfigError: There is no such folder, storage or study.
      RunError: The storage cannot be reached.
    """
    folder, marker = "", {}
    if "://" in place:
        url = place
    else:
        folder = files.local(place, "FOLDER")
        marker = _marker(folder)
        url = url or _own_storage(folder, other)
        name = name or str(marker.get("study", ""))
    found = _load(url, name)
    known = found.user_attrs.get(IDENTITY)
    if marker and known != marker.get("id"):
        raise ConfigError(
            f"{folder}: expected its study in {storage.shown(url)}, found another one "
            f"by the name of {name!r}. Give the URL of its own by --storage=URL."
        )
    if not folder:
        told = found.user_attrs.get(TOLD) or {}
        folder = str(told.get("config", {}).get("model_dir") or "")
    return Standing(found, folder)


def _marker(folder: str) -> dict[str, Any]:
    path = os.path.join(folder, MARKER)
    if not os.path.isdir(folder):
        raise ConfigError(
            f"{folder}: no such folder. Expected the folder of a sweep, or the URL of "
            "its storage."
        )
    if not os.path.isfile(path):
        raise ConfigError(
            f"{folder}: expected the folder of a sweep, which has {MARKER}, found none "
            "there. It is the model_dir that `tfr-pipeline sweep` was given."
        )
    found = files.read_json(path)
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected a dict, found {found!r:.80}.")
    return found


def _own_storage(folder: str, other: str) -> str:
    url = storage.default_url(folder)
    if os.path.isfile(url.partition(":///")[2]):
        return url
    if not other:
        raise ConfigError(
            f"{folder}: its study is not in the folder: expected the storage that the "
            "sweep was given, by --storage=URL or TFR_PIPELINE_STORAGE, found neither."
        )
    return other


def _load(url: str, name: str) -> optuna.Study:
    optuna_lib = optuna_parts.load()
    scheme, _, rest = url.partition(":///")
    # Optuna would make what is not there.
    file = rest.partition("?")[0]
    if scheme in ("sqlite", "journal") and file and not os.path.isfile(file):
        raise ConfigError(f"{storage.shown(url)}: no such file.")
    connected = storage.connect(url)
    names = [study.study_name for study in connected.get_all_studies()]
    if not names:
        raise ConfigError(f"{storage.shown(url)}: expected a study, found none in it.")
    if not name and len(names) > 1:
        raise ConfigError(
            f"--name: {storage.shown(url)} has several studies, expected one of "
            f"{', '.join(sorted(names))}."
        )
    name = name or names[0]
    if name not in names:
        raise ConfigError(unknown_name("study", name, names, storage.shown(url)))
    return optuna_lib.load_study(study_name=name, storage=connected)
