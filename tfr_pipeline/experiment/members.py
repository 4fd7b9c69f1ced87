"""The runs of an ensemble: their configs and folders. Needs no TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tfr_pipeline import files, urls
from tfr_pipeline.errors import ConfigError

# Says which runs an ensemble is made of.
FILE_NAME = "ensemble.json"
_OURS = (
    *(FILE_NAME, "metrics.json", "per_query.parquet", "export", "report.html"),
    "lock",
)


def members_of(config: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Returns the configs of the members of an ensemble.

    They differ in seed, from that of the config on, and in `model_dir`.

    Args:
      config: The config of the ensemble; without a seed, the first one is 0.
      count: How many members there are.

    Raises:
      ConfigError: The folder is remote, or holds a run or something else.

    Example:
      >>> found = members_of({"model_dir": "no_such_folder", "seed": 4}, 2)
      >>> [(one["seed"], one["model_dir"]) for one in found]
      [(4, 'no_such_folder/member-0'), (5, 'no_such_folder/member-1')]
    """
    if not config.get("model_dir"):
        raise ConfigError(
            "config.model_dir: a value is required (--config.model_dir=...)."
        )
    folder, first = check_folder(str(config["model_dir"])), config.get("seed") or 0
    return [
        {
            **config,
            "seed": int(first) + number,
            "model_dir": os.path.join(folder, f"member-{number}"),
        }
        for number in range(count)
    ]


def check_folder(path: str, what: str = "config.model_dir") -> str:
    """Returns where an ensemble may be written, `~` expanded.

    Args:
      path: The folder.
      what: How messages call it.

    Raises:
      ConfigError: It is remote, or holds a run of its own or something else.
    """
    folder = files.local(path, what)
    if urls.is_remote(folder):
        raise ConfigError(
            f"{what}: expected a folder of this machine for an ensemble, found "
            f"{urls.redact(folder)}. Copy it when it is done."
        )
    if not os.path.isdir(folder):
        return folder
    there = os.listdir(folder)
    foreign = [
        n for n in there if n not in _OURS and not n.startswith(("member-", "."))
    ]
    if foreign or ("export" in there and FILE_NAME not in there):
        raise ConfigError(
            f"{what}: {folder}: expected a new folder, or that of an ensemble, found "
            f"{sorted(foreign or there)[0]!r} in it. Choose another one."
        )
    return folder
