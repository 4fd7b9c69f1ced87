"""From a config file and flags to a space, settings and a budget, all checked."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from tfr_pipeline.errors import ConfigError
from tfr_pipeline.experiment.config_files import ConfigFile
from tfr_pipeline.sweep import hyper
from tfr_pipeline.sweep.domains import Choices, Domain, Interval
from tfr_pipeline.sweep.settings import AUTO, GRID, Settings
from tfr_pipeline.sweep.space import Point, Space


def described(file: ConfigFile, given: Mapping[str, Any]) -> tuple[Space, Settings]:
    """Returns what `get_sweep` of a config file describes.

    Args:
      file: The file.
      given: Settings of the command line, which go before those of the file; None for
        what was not said.

    Raises:
      ConfigError: The file has no `get_sweep`, or that fails; the space is empty or
        wrong; a key is none of the config, or cannot have such a value.
    """
    function = file.function("get_sweep")
    if function is None:
        raise ConfigError(
            f"{file.file}: expected a function get_sweep(hyper) beside get_config, "
            "which says what to try, found none; see docs/sweeps.md."
        )
    args: list[Any] = [hyper]
    if file.argument and len(inspect.signature(function).parameters) > 1:
        args.append(file.argument)
    try:
        found = function(*args)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{file.file}: get_sweep: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, hyper.Described):
        found = hyper.study(found)
    space, of_file = found.space, dict(found.settings)
    flags = {key: value for key, value in given.items() if value is not None}
    for kind in ("sampler", "pruner"):
        named = of_file.get(kind, AUTO)
        if named != AUTO and flags.get(kind, named) != named:
            # They are arguments of the one that is not used.
            of_file.pop(f"{kind}_args", None)
    settings = Settings.of(**{**of_file, **flags})
    space = check(space, file)
    _check_folds(space, file, settings.folds)
    return space, settings


def _check_folds(space: Space, file: ConfigFile, folds: int | None) -> None:
    data = file.config().get("data") or {}
    if data.get("test_fold") is not None or "data.test_fold" in space.domains():
        raise ConfigError(
            "data.test_fold: expected none in a sweep, which measures no test data. "
            "Leave it out, or convert the queries that are kept for the test apart."
        )
    if folds is None:
        return
    for key in ("folds", "fold"):
        if data.get(key) is not None or f"data.{key}" in space.domains():
            raise ConfigError(
                f"data.{key}: expected none, found one beside folds={folds} of the "
                "study, by which each run of a trial has its own. Leave it out."
            )


def check(space: Space, file: ConfigFile) -> Space:
    """Returns a space of which the config has every key, and takes every value.

    Intervals of whole numbers are of all numbers where the config has such.

    Raises:
      ConfigError: A key is unknown, or cannot have a value.
    """
    config = file.config()

    def as_in_config(path: str, domain: Domain) -> Domain:
        if path == "model_dir":
            raise ConfigError(
                "get_sweep: model_dir: each trial has a run directory of its own."
            )
        if isinstance(domain, Interval) and domain.whole and not domain.step:
            here: Any = config
            for part in path.split("."):
                here = here.get(part) if isinstance(here, Mapping) else None
            if isinstance(here, float) or (here is None and _is_float(path)):
                domain = domain.as_float()
        values = (
            domain.values if isinstance(domain, Choices) else (domain.low, domain.high)
        )
        for value in values:
            try:
                file.config({path: value})
            except ConfigError as error:
                raise ConfigError(f"get_sweep: {error}") from error
        return domain

    return space.replaced(as_in_config)


def settled(
    space: Space, settings: Settings, trials: int | None
) -> tuple[Settings, int]:
    """Returns the settings with the sampler that `auto` stands for, and the budget.

    Raises:
      ConfigError: There is neither a number of trials nor a last point; or a space that
        has no last point is to be counted off.
    """
    wanted = trials if trials is not None else settings.trials
    if wanted is not None and wanted < 1:
        raise ConfigError(f"--trials: expected 1 or more, found {wanted}.")
    size = None
    if space.finite:
        size = space.count() if wanted is None else space.count(wanted + 1)
    if settings.sampler == GRID and size is None:
        raise ConfigError(
            "sampler: grid counts off the points of a finite space, and this one has "
            "intervals without step. Give them steps, or choose another sampler."
        )
    if wanted is None and size is None:
        raise ConfigError(
            "--trials: expected a number of trials: the space has no last point."
        )
    budget = wanted if wanted is not None else size or 1
    name = settings.sampler
    if name == AUTO:
        name = GRID if size is not None and size <= budget else "tpe"
    if name == GRID and size is not None:
        budget = min(budget, size)
    return dataclasses.replace(settings, sampler=name), budget


def first_points(space: Space, count: int) -> list[Point]:
    """Returns the first points of a finite space."""
    return [point for point, _ in zip(space.points(), range(count), strict=False)]


def _is_float(path: str) -> bool:
    from tfr_pipeline.experiment import settings

    return settings.kinds(path) == (float,)
