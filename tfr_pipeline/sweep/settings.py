"""What there is to say of a study beside its space."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.sweep.objective import Objective

AUTO, GRID = "auto", "grid"
SAMPLERS = (AUTO, "tpe", "random", GRID, "qmc", "cmaes", "gp", "nsgaii")
PRUNERS = ("none", "median", "hyperband", "asha")
FIXED, PER_TRIAL = "fixed", "per_trial"


@dataclasses.dataclass(frozen=True)
class Run:
    """One of the runs of a trial.

    Attributes:
      name: Name of its folder in that of the trial, which is its own if this is empty.
      repeat: What is added to the seed of the trial.
      data: What it sets in the section `data` of the config.
    """

    name: str
    repeat: int
    data: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What all workers of a study are told alike.

    Attributes:
      metric: What trials are chosen by, see `Objective.of`; several for several
        objectives.
      direction: `maximize` or `minimize`, for each metric; what is better by default.
      sampler: Name of the sampler. `auto` takes each point of a finite space once if
        there are trials for all of them, and TPE otherwise.
      sampler_args: Arguments of Optuna's sampler.
      pruner: Name of the pruner.
      pruner_args: Arguments of Optuna's pruner.
      prune_on: Key of an epoch's logs, such as `val_loss`, by which trials are pruned;
        by default the metric as Keras measures it.
      repeats: Runs a trial, with seeds one after the other; their mean counts.
      folds: Folds by query of the training data, see `DatasetHparams`; each repeat of a
        trial is a run for each fold. None: no folds.
      seeds: `fixed`: all trials have the seed of the config; `per_trial`: each has one
        of its own, made of that and its number.
      seed: Seed of the sampler.
      trials: How many trials the study gets, if the command does not say.
    """

    metric: tuple[str, ...] = ("ndcg@10",)
    direction: tuple[str | None, ...] = (None,)
    sampler: str = AUTO
    sampler_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pruner: str = "none"
    pruner_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prune_on: str = ""
    repeats: int = 1
    folds: int | None = None
    seeds: str = FIXED
    seed: int = 0
    trials: int | None = None

    @classmethod
    def of(cls, **values: Any) -> Settings:
        """Makes settings of what a config file and flags say.

        Args:
          **values: Fields, None for their defaults; a `metric` or `direction` may be
            one name, or several with commas between them.

        Raises:
          ConfigError: A setting is unknown or wrong.
        """
        cls.check_names(values)
        values = {key: value for key, value in values.items() if value is not None}
        for key in ("metric", "direction"):
            if key in values:
                values[key] = _names(values[key])
        settings = cls(**values)
        count = len(settings.metric)
        if settings.direction == (None,):
            settings = dataclasses.replace(settings, direction=(None,) * count)
        settings._check()
        return settings

    @classmethod
    def check_names(cls, names: Iterable[str]) -> None:
        """Raises a ConfigError for the name of a setting that there is not."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in names:
            if name not in known:
                raise ConfigError(unknown_name("setting", name, known, "hyper.study"))

    def _check(self) -> None:
        count = len(self.metric)
        if not count:
            raise ConfigError("metric: expected at least one, found none.")
        if len(self.direction) != count:
            raise ConfigError(
                f"direction: expected {count}, one for each metric, found "
                f"{len(self.direction)}."
            )
        for name, chosen, known in (
            ("sampler", self.sampler, SAMPLERS),
            ("pruner", self.pruner, PRUNERS),
            ("seeds", self.seeds, (FIXED, PER_TRIAL)),
        ):
            if chosen not in known:
                raise ConfigError(unknown_name(name, str(chosen), known))
        for name, number in (("repeats", self.repeats), ("trials", self.trials)):
            if number is not None and (type(number) is not int or number < 1):
                raise ConfigError(f"{name}: expected 1 or more, found {number!r}.")
        if self.folds is not None and (type(self.folds) is not int or self.folds < 2):
            raise ConfigError(f"folds: expected 2 or more, found {self.folds!r}.")
        if type(self.seed) is not int or self.seed < 0:
            raise ConfigError(f"seed: expected 0 or more, found {self.seed!r}.")
        for name, args in (
            ("sampler_args", self.sampler_args),
            ("pruner_args", self.pruner_args),
        ):
            if not isinstance(args, Mapping):
                raise ConfigError(f"{name}: expected a dict, found {args!r}.")
        if count > 1 and self.pruner != "none":
            raise ConfigError(
                f"pruner: expected none with {count} metrics, found {self.pruner!r}: "
                "there is no one value by which a trial would be behind others."
            )
        if count > 1 and self.sampler == "cmaes":
            raise ConfigError(
                "sampler: cmaes knows one metric only; for several there are tpe, gp, "
                "nsgaii, random, qmc and grid."
            )
        assert self.objectives

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives in their order.

        Raises:
          ConfigError: One is unknown, or a metric of test data.
        """
        pairs = zip(self.metric, self.direction, strict=True)
        return tuple(Objective.of(name, direction) for name, direction in pairs)

    @property
    def monitor(self) -> str:
        """Key of an epoch's logs by which trials are pruned; empty if they are not."""
        if self.pruner == "none":
            return ""
        objective = self.objectives[0]
        if not self.prune_on and not objective.metric:
            raise ConfigError(
                f"pruner: {objective.name} is known at the end of a run only. Name a "
                "value that each epoch has: prune_on='val_loss', for example."
            )
        return self.prune_on or objective.log_key

    @property
    def runs(self) -> list[Run]:
        """The runs of a trial, one repeat after the other."""
        repeats: list[tuple[str, int]] = [("", 0)]
        folds: list[tuple[str, dict[str, Any]]] = [("", {})]
        if self.repeats > 1:
            repeats = [(f"repeat-{n + 1}", n) for n in range(self.repeats)]
        if self.folds is not None:
            folds = [
                (f"fold-{n + 1}", {"folds": self.folds, "fold": n})
                for n in range(self.folds)
            ]
        return [
            Run("-".join(filter(None, (repeat, fold))), number, data)
            for repeat, number in repeats
            for fold, data in folds
        ]

    def describe(self) -> dict[str, Any]:
        """Returns what has to be the same for all who work at a study, as JSON."""
        found = dataclasses.asdict(self)
        del found["trials"]
        found["metric"], found["direction"] = (
            [getattr(objective, name) for objective in self.objectives]
            for name in ("name", "direction")
        )
        found["sampler_args"] = dict(self.sampler_args)
        found["pruner_args"] = dict(self.pruner_args)
        return found


def _names(value: Any) -> tuple[Any, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value)


def seed_of(
    settings: Mapping[str, Any], seed: int | None, number: int, point: Mapping[str, Any]
) -> int:
    """Returns the seed of the first run of a trial.

    Args:
      settings: What `Settings.describe` returns.
      seed: The seed of its config.
      number: Number of the trial.
      point: What it sets in the config.
    """
    seed = settings["seed"] if seed is None else seed
    if settings["seeds"] == PER_TRIAL and "seed" not in point:
        return zlib.crc32(f"{seed} {number}".encode()) >> 1
    return int(seed)
