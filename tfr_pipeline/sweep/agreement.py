"""What all workers of a study have to be told alike, and whose a folder is."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tfr_pipeline import files
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.pipeline.run import comparison
from tfr_pipeline.sweep.attributes import IDENTITY, MARKER, TOLD, TRIALS

if TYPE_CHECKING:
    import optuna

# What neither the values of trials nor their order depend on.
_FREE = comparison.FREE_LATER - {"num_epochs"}
_SHOWN = 5
_PATIENCE_SECONDS = 5.0


def told_before(study: optuna.Study, joined: bool) -> dict[str, Any]:
    """Returns what a study was told; nothing for a new one.

    Args:
      study: The study.
      joined: Whether another worker made it, who may be about to say what it is.
    """
    limit = time.monotonic() + _PATIENCE_SECONDS
    while not (found := study.user_attrs.get(TOLD, {})) and joined:
        if time.monotonic() > limit:
            break
        time.sleep(0.2)
    return found


def agree(
    study: optuna.Study, found: Mapping[str, Any], told: Mapping[str, Any]
) -> None:
    """Checks that a study was told the same, or tells a new one.

    Args:
      study: The study.
      found: See `told_before`.
      told: `config`, `space` and `settings`, as JSON.

    Raises:
      ConfigError: It was told something else; or nothing, and it has trials.
    """
    name = study.study_name
    if not found:
        if study.trials:
            raise ConfigError(
                f"--name: the storage has a study {name!r} that `tfr-pipeline sweep` "
                "did not make. Choose another name."
            )
        names = told.get("settings", {}).get("metric")
        if names:
            study.set_metric_names(names)  # for Optuna's own tools
        study.set_user_attr(IDENTITY, uuid.uuid4().hex)
        study.set_user_attr(TOLD, told)
        return
    lines = list(differences(found, told))
    if lines:
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise ConfigError(
            f"the storage has a study {name!r} of other settings: "
            f"{'; '.join(lines[:_SHOWN])}{more}. Give it the same ones, or choose "
            "another --name and model_dir."
        )


def mark(study: optuna.Study, folder: str) -> None:
    """Checks that a folder is a study's, and writes down that it is.

    Raises:
      ConfigError: It is that of another study.
    """
    known, name = study.user_attrs.get(IDENTITY, ""), study.study_name
    path = os.path.join(folder, MARKER)
    if os.path.exists(path):
        found = files.read_json(path)
        if not isinstance(found, dict) or found.get("id") != known:
            raise ConfigError(
                f"{folder}: expected the folder of study {name!r}, found that of "
                "another study, or of one that is no more. Choose another model_dir, "
                "or remove that one."
            )
        return
    if os.path.isdir(os.path.join(folder, TRIALS)):
        raise ConfigError(
            f"{folder}: expected the folder of study {name!r}, found {TRIALS}/ without "
            f"{MARKER}. Choose another model_dir, or remove that one."
        )
    files.write_text(path, json.dumps({"study": name, "id": known}) + "\n")


def differences(found: Mapping[str, Any], told: Mapping[str, Any]) -> Iterator[str]:
    """Yields a line for each setting of a study that is not the same here.

    Args:
      found: What the study was told: `config`, `space` and `settings`.
      told: The same of this worker.
    """
    before, now = found.get("space", []), told["space"]
    gone = [line.strip() for line in before if line not in now]
    new = [line.strip() for line in now if line not in before]
    for i in range(max(len(gone), len(new))):
        there = gone[i] if i < len(gone) else "nothing of it"
        here = new[i] if i < len(new) else "nothing of it"
        yield f"the space has {there!r} there and {here!r} here"
    if before != now and not gone and not new:
        yield "the space has another order"
    for part, free in (("settings", frozenset()), ("config", _FREE)):
        pairs = comparison.differences(found.get(part, {}), told[part], free)
        for key, old, value in pairs:
            yield f"{key} is {old} there and {value} here"
