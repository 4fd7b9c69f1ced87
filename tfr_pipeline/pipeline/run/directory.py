"""The run directory: what a run was told, where it stands, what came out."""

from __future__ import annotations

import atexit
import csv
import dataclasses
import io
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from importlib import metadata
from typing import Any

from tfr_pipeline import __version__, files
from tfr_pipeline.errors import ConfigError

# A run may be told to go on for longer, or to log otherwise.
_MAY_CHANGE = ("num_epochs", "model_dir")
_PACKAGES = (
    "tensorflow",
    "tf-keras",
    "tensorflow-ranking",
    "neural-structured-learning",
    "tensorflow-hub",
    "ml-collections",
    "numpy",
    "pyarrow",
)


@dataclasses.dataclass
class RunState:
    """What a resumed run has to know beside weights and optimizer.

    Attributes:
      seed: Seed of the run.
      best_value: Best value of the selection metric; None before the first.
      best_step: Step at which it was reached.
      stall_value: Best value by more than the least change that counts.
      stall_epoch: Epoch of that value, from 0.
      plateau_value: Best value that `plateau` has seen.
      plateau_epoch: Epoch of that value.
      stopped: Why training ended before its last epoch, or an empty string.
      history: One dict an epoch: `epoch`, `step`, the figures of `Progress` and the
        metrics.
    """

    seed: int = 0
    best_value: float | None = None
    best_step: int = 0
    stall_value: float | None = None
    stall_epoch: int = -1
    plateau_value: float | None = None
    plateau_epoch: int = -1
    stopped: str = ""
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def to_json(self) -> str:
        """Returns the state as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RunState:
        """Reverse of `to_json`."""
        return cls(**json.loads(text))


class RunDirectory:
    """Paths and files of a run.

    Workers other than the chief go through the same motions in a folder of their own,
    which is removed when their process ends.

    Args:
      path: The directory; made when it is first written to.
      chief: Whether this process writes into it.
    """

    def __init__(self, path: str, chief: bool = True):
        self.path = path
        self.is_ours = chief
        self._writes_to = path
        if not chief:
            self._writes_to = tempfile.mkdtemp(prefix="tfr_pipeline_worker_")
            atexit.register(shutil.rmtree, self._writes_to, ignore_errors=True)

    def join(self, *parts: str) -> str:
        """Returns a path to write to."""
        return os.path.join(self._writes_to, *parts)

    @property
    def checkpoints(self) -> str:
        """Folder of the run's checkpoints, the same for all workers."""
        return os.path.join(self.path, "checkpoints")

    def claim(self, config: dict[str, Any]) -> None:
        """Writes `config.json`, or checks that it is this run's.

        Raises:
          ConfigError: The directory holds a run with another config.
        """
        if not self.is_ours:
            return
        path = self.join("config.json")
        config = json.loads(json.dumps(config, sort_keys=True))
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                try:
                    found = json.load(file)
                except json.JSONDecodeError as error:
                    raise ConfigError(f"{path}: not valid JSON: {error}.") from error
            differing = sorted(_differences(found, config))
            if differing:
                key, old, new = differing[0]
                more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
                raise ConfigError(
                    f"{self.path} holds another run: {key} is {old} there and {new} "
                    f"here{more}. Choose another model_dir, or remove that one."
                )
        files.write_text(path, json.dumps(config, indent=1, sort_keys=True) + "\n")

    def write_environment(self, seed: int, extra: dict[str, Any]) -> None:
        """Writes `environment.json`: what it takes to repeat the run."""
        packages: dict[str, str | None] = {}
        for name in _PACKAGES:
            try:
                packages[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                packages[name] = None
        content = {
            "tfr_pipeline": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "packages": packages,
            "command": sys.argv,
            "tf_config": os.environ.get("TF_CONFIG"),
            "seed": seed,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **extra,
        }
        self.write_json("environment.json", content)

    def write_json(self, name: str, content: Any) -> None:
        """Writes a JSON file whole or not at all."""
        files.write_text(self.join(name), json.dumps(content, indent=1) + "\n")

    def write_history(self, state: RunState) -> None:
        """Writes `history.csv`, one row an epoch."""
        columns = list(dict.fromkeys(key for row in state.history for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(state.history)
        files.write_text(self.join("history.csv"), text.getvalue())


def _differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, str, str]]:
    """Returns `(key, old, new)` for each leaf that differs and may not."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            row
            for key in sorted({*old, *new})
            if key not in _MAY_CHANGE
            for row in _differences(
                old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key
            )
        ]
    return [] if old == new else [(prefix, repr(old), repr(new))]
