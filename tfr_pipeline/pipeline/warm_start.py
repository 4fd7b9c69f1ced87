"""`PipelineHparams.warm_start`: what a run begins with, and when its layers train."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from tfr_pipeline import files
from tfr_pipeline.errors import ConfigError, unknown_name

_WHERE = "warm_start"
_KEYS = {
    "from": "source",
    "layers": "layers",
    "statistics": "statistics",
    "frozen": "frozen",
    "unfreeze_epoch": "unfreeze_epoch",
    "unfreeze_rate": "unfreeze_rate",
}
REFIT, KEEP = "refit", "keep"


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """The setting, checked; see `docs/training.md`.

    Attributes:
      source: `from`: a run directory, a checkpoint or an export; empty for a run that
        begins with weights of its own.
      layers: Globs of the layers or weights that are taken from there.
      statistics: `refit`: preprocessing learns of the data of this run; `keep`:
        features with the same steps have what was learnt there.
      frozen: Globs of the layers that do not train; empty for none.
      unfreeze_epoch: The epoch, from 0, in which those train for the first time; None
        for never.
      unfreeze_rate: Factor of their learning rate from then on.
    """

    source: str = ""
    layers: tuple[str, ...] = ("*",)
    statistics: str = REFIT
    frozen: tuple[str, ...] = ()
    unfreeze_epoch: int | None = None
    unfreeze_rate: float = 1.0

    @classmethod
    def of(cls, value: Mapping[str, Any] | None) -> WarmStart:
        """Returns the setting that a dict is, None being that of no warm start.

        Raises:
          ConfigError: A key is unknown, a value cannot be, or has no effect.
        """
        if value is None:
            return cls()
        if not isinstance(value, Mapping):
            raise ConfigError(f"{_WHERE}: expected a dict, found {value!r:.80}.")
        for key in value:
            if key not in _KEYS:
                raise ConfigError(unknown_name("key", key, _KEYS, _WHERE))
        given = {key: item for key, item in value.items() if item not in (None, "", ())}
        if "from" in given:
            given["from"] = _path(given["from"])
        for key in ("layers", "frozen"):
            if key in given:
                given[key] = _globs(key, given[key])
        if (statistics := given.get("statistics", REFIT)) not in (REFIT, KEEP):
            where = f"{_WHERE}.statistics"
            raise ConfigError(unknown_name("value", statistics, (REFIT, KEEP), where))
        _check_numbers(given)
        _check_effect(given)
        return cls(**{_KEYS[key]: item for key, item in given.items()})


def _path(value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(
            f"{_WHERE}.from: expected the path of a run, a checkpoint or an export, "
            f"found {value!r:.80}."
        )
    return files.local(value, f"{_WHERE}.from")


def _globs(key: str, value: Any) -> tuple[str, ...]:
    globs = (value,) if isinstance(value, str) else value
    if not isinstance(globs, list | tuple) or not all(
        isinstance(glob, str) and glob.strip("!") for glob in globs
    ):
        raise ConfigError(
            f"{_WHERE}.{key}: expected a glob of names of layers, or several, found "
            f"{value!r:.80}."
        )
    return tuple(globs)


def _check_numbers(given: Mapping[str, Any]) -> None:
    epoch, rate = given.get("unfreeze_epoch", 0), given.get("unfreeze_rate", 1.0)
    if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
        raise ConfigError(
            f"{_WHERE}.unfreeze_epoch: expected a number of epochs, or None for never, "
            f"found {epoch!r:.80}."
        )
    if not isinstance(rate, int | float) or not 0 < rate < math.inf:
        raise ConfigError(
            f"{_WHERE}.unfreeze_rate: expected a positive factor of the learning rate, "
            f"found {rate!r:.80}."
        )


def _check_effect(given: Mapping[str, Any]) -> None:
    needs = {
        "layers": "from",
        "statistics": "from",
        "unfreeze_epoch": "frozen",
        "unfreeze_rate": "unfreeze_epoch",
    }
    for key, other in needs.items():
        if key in given and other not in given:
            raise ConfigError(
                f"{_WHERE}.{key}: it has no effect without {_WHERE}.{other}."
            )
