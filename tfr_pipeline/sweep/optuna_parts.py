"""Samplers and pruners of Optuna, by the names that settings have for them."""

from __future__ import annotations

import importlib
import warnings
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfr_pipeline.errors import ConfigError
from tfr_pipeline.sweep.settings import Settings

if TYPE_CHECKING:
    import optuna

_SAMPLERS = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    # Points are counted off; nothing is left to sample.
    "grid": "RandomSampler",
    "qmc": "QMCSampler",
    "cmaes": "CmaEsSampler",
    "gp": "GPSampler",
    "nsgaii": "NSGAIISampler",
}
_PRUNERS = {
    "none": "NopPruner",
    "median": "MedianPruner",
    "hyperband": "HyperbandPruner",
    "asha": "SuccessiveHalvingPruner",
}
_NEEDS = {"cmaes": ("cmaes",), "gp": ("torch", "scipy"), "qmc": ("scipy",)}
# One sequence, which all workers draw from.
_SHARED = ("qmc", "cmaes")


def load() -> Any:
    """Imports Optuna.

    Raises:
      ConfigError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            f"a sweep needs Optuna ({error}). Install it with: pip install "
            "'tfr_pipeline[sweep]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def sampler(settings: Settings, number: int) -> optuna.samplers.BaseSampler:
    """Returns the sampler for a trial.

    Where samplers have no memory of their own, each trial has a seed of its own: then
    it does not matter which worker draws for it.

    Args:
      settings: The settings.
      number: Number of the trial.

    Raises:
      ConfigError: An argument is unknown, or a package is missing.
    """
    name = settings.sampler
    for package in _NEEDS.get(name, ()):
        try:
            importlib.import_module(package)
        except ImportError as error:
            needed = " ".join(_NEEDS[name])
            raise ConfigError(
                f"sampler {name!r} needs {package} ({error}). Install it with: pip "
                f"install {needed}"
            ) from error
    seed = settings.seed
    if name not in _SHARED:
        seed = zlib.crc32(f"{settings.seed} {number}".encode())
    args: dict[str, Any] = {"seed": seed}
    if name in ("qmc", "cmaes", "gp"):
        args["warn_independent_sampling"] = False
    if name == "tpe":
        args["constant_liar"] = True
    return _make("sampler", _SAMPLERS, name, {**args, **settings.sampler_args})


def pruner(settings: Settings, epochs: int) -> optuna.pruners.BasePruner:
    """Returns the pruner of a study.

    Args:
      settings: The settings.
      epochs: Epochs of a whole run.

    Raises:
      ConfigError: An argument is unknown.
    """
    args: dict[str, Any] = {}
    if settings.pruner == "hyperband":
        args = {"max_resource": epochs}
    elif settings.pruner == "asha":
        args = {"min_resource": 1}
    return _make("pruner", _PRUNERS, settings.pruner, {**args, **settings.pruner_args})


def _make(
    kind: str, names: Mapping[str, str], name: str, args: Mapping[str, Any]
) -> Any:
    parts = importlib.import_module(f"optuna.{kind}s")
    try:
        return getattr(parts, names[name])(**args)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{kind}_args: {name}: {error}") from error
