"""`Plan`: the runs of a cross-validation, and what its folder is of."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from tfr_pipeline import files, urls
from tfr_pipeline.choosing.folder import PLAN
from tfr_pipeline.choosing.rotations import Rotations
from tfr_pipeline.data.reading import remote_shards
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Features
from tfr_pipeline.metrics import query_table
from tfr_pipeline.pipeline.run import comparison, data_fingerprint
from tfr_pipeline.serialization import plain

# Paths, and what changes no result: the rest has to be the same.
_FREE = comparison.FREE_OF_WORKERS


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a cross-validation.

    Attributes:
      fold: Number of the fold that it is measured on, from 1.
      seed: Its seed.
      config: Its config; `model_dir` is its run directory.
    """

    fold: int
    seed: int
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of its folder, such as `fold-1-seed-42`."""
        return os.path.basename(self.folder)

    @property
    def folder(self) -> str:
        """Its run directory."""
        return str(self.config["model_dir"])

    def finished(self) -> bool:
        """Whether it has ended, and what it measured of each query is there.

        Raises:
          ConfigError: A run with other settings stands in its place.
        """
        for name in ("metrics.json", query_table.FILE_NAME):
            if not os.path.exists(os.path.join(self.folder, name)):
                return False
        found = _redacted(files.read_json(os.path.join(self.folder, "config.json")))
        wanted = _redacted(plain(self.config, "config"))
        for key, before, after in comparison.differences(found, wanted, _FREE):
            raise ConfigError(
                f"{self.folder}: {key} was {before}, is {after}: expected the run of "
                "this cross-validation. Remove it, or choose another model_dir."
            )
        return True


class Plan:
    """The runs of a cross-validation.

    Args:
      config: The config, whose `model_dir` is the folder of all runs.
      rotations: What each fold trains on.
      seeds: Number of runs a fold; their seeds count from that of the config on.

    Raises:
      ConfigError: There is no folder for it.

    Attributes:
      folder: The folder of all runs.
      runs: Them, all seeds of a fold in a row.
    """

    def __init__(self, config: Mapping[str, Any], rotations: Rotations, seeds: int):
        folder = config.get("model_dir")
        if not folder:
            raise ConfigError(
                "config.model_dir: a value is required, the folder of all runs "
                "(--config.model_dir=...)."
            )
        self.folder = files.local(str(folder), "config.model_dir")
        if urls.is_remote(self.folder):
            raise ConfigError(
                "config.model_dir: expected a folder of this machine for a "
                f"cross-validation, found {self.folder!r}."
            )
        self.rotations = rotations
        self._config = plain(config, "config", strict=True)
        first = int(config.get("seed") or 0)
        self.seeds = list(range(first, first + seeds))
        self.runs = [
            Run(fold, seed, self._config_of(data, f"fold-{fold}-seed-{seed}", seed))
            for fold, data in enumerate(rotations.data, start=1)
            for seed in self.seeds
        ]

    def _config_of(
        self, data: Mapping[str, Any], name: str, seed: int
    ) -> dict[str, Any]:
        where = os.path.join(self.folder, name)
        return {**self._config, "data": dict(data), "model_dir": where, "seed": seed}

    def describe(self) -> dict[str, Any]:
        """Returns what makes it this cross-validation and no other, as JSON."""
        return {
            "folds": len(self.rotations),
            "kind": self.rotations.kind,
            "seeds": len(self.seeds),
            "config": self._config,
            "data": self._fingerprint(),
        }

    def _fingerprint(self) -> dict[str, Any]:
        paths: list[str] = []
        for pattern in self.rotations.parts:
            found = remote_shards.paths_of(pattern)
            paths += [path for path in found if path not in paths]
        data = self.rotations.data[0]
        described = data.get("features") or data["dir"]
        return {
            "train": data_fingerprint.of_files(paths),
            "features": Features.load(described).to_json(),
        }

    def keep(self) -> bool:
        """Writes what it is of into its folder, or checks what is there.

        Returns:
          Whether it had begun before.

        Raises:
          ConfigError: The folder is of something else, or of other settings.
          DataError: It is of other data.
        """
        path, wanted = os.path.join(self.folder, PLAN), _redacted(self.describe())
        begun = os.path.exists(path)
        if begun:
            self._check(_redacted(files.read_json(path)), wanted)
        elif os.path.isdir(self.folder) and _others(self.folder):
            raise ConfigError(
                f"{self.folder}: expected a new folder, or that of a cross-validation, "
                f"found {_others(self.folder)[0]!r} in it and no {PLAN}. Choose "
                "another model_dir."
            )
        os.makedirs(self.folder, exist_ok=True)
        files.write_text(path, json.dumps(wanted, indent=1) + "\n")
        return begun

    def _check(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        changes = [
            f"{key} was {old.get(key)!r}, is {new[key]!r}"
            for key in ("folds", "kind")
            if old.get(key) != new[key]
        ]
        changes += [
            f"{key} was {before}, is {after}"
            for key, before, after in comparison.differences(
                old.get("config"), new["config"], _FREE
            )
        ]
        if (old.get("seeds") or 0) > new["seeds"]:
            changes.append(f"seeds was {old['seeds']}, is {new['seeds']}")
        again = (
            "Choose another model_dir for it, or give the command as it was; more "
            "seeds may follow later."
        )
        if changes:
            raise ConfigError(
                f"{self.folder}: it is of another cross-validation: "
                f"{'; '.join(changes)}. {again}"
            )
        changed = data_fingerprint.difference(old.get("data") or {}, new["data"])
        if changed:
            raise DataError(
                f"{self.folder}: it is a cross-validation of other data: {changed}. "
                f"{again}"
            )


def _redacted(value: Any) -> Any:
    """Returns JSON without the secrets of URLs, as files of run directories are."""
    return json.loads(urls.redact(json.dumps(value, indent=1)))


def _others(folder: str) -> list[str]:
    # A lock, and what a command before this one has left half-written.
    return [
        name
        for name in sorted(os.listdir(folder))
        if name != "lock" and not name.startswith(".")
    ]
