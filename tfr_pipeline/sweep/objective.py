"""What a sweep makes better: numbers of `metrics.json`, by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from tfr_pipeline.errors import ConfigError, RunError, unknown_name

MAXIMIZE, MINIMIZE = "maximize", "minimize"
_CONVENTIONS = ("skip", "zero", "one")
# Beside the splits.
_ROOTS = (
    *("documents_per_second", "seconds", "best_value", "step", "best_step"),
    "pretraining",
)
_TIMES = ("training", "export", "evaluation")
# What an evaluation at the end of a run measures.
_METRICS = (
    *(f"{kind}@{k}" for kind in ("ndcg", "precision", "recall") for k in (1, 3, 5, 10)),
    *("ndcg", "mrr", "map", "arp", "accuracy", "macro_f1", "log_loss"),
)
_CHOOSING_ON_TEST = (
    "choosing on test data is no measurement any more: what is chosen looks better "
    "than it is. Choose by a validation metric, such as ndcg@10, and evaluate the "
    "winner on the test data, once"
)


@dataclasses.dataclass(frozen=True)
class Objective:
    """A number of `metrics.json`.

    Attributes:
      name: As it was given, such as `ndcg@10`.
      direction: `maximize` or `minimize`.
      path: Where it stands, such as `("valid", "ndcg@10", "skip")`.
    """

    name: str
    direction: str
    path: tuple[str, ...]

    @classmethod
    def of(cls, name: str, direction: str | None = None) -> Objective:
        """Returns the objective of a name.

        Args:
          name: `ndcg@10` for the validation metric under `skip`; `ndcg@10.zero` for
            another convention; `task.ndcg@10` with several tasks; or a path of
            `metrics.json`, such as `documents_per_second` or `seconds.training`.
          direction: `maximize` or `minimize`; by default what is better.

        Raises:
          ConfigError: It is unknown, or a metric of test data.
        """
        parts = [part for part in name.replace("/", ".").split(".") if part]
        if not parts:
            raise ConfigError("metric: expected a name such as ndcg@10, found none.")
        if "test" in parts[:1] or name.startswith("test_"):
            raise ConfigError(f"metric {name!r}: {_CHOOSING_ON_TEST}.")
        if parts[0] in _ROOTS:
            path = parts
            if parts[0] == "seconds" and parts[1:] not in [[name] for name in _TIMES]:
                known = [f"seconds.{part}" for part in _TIMES]
                raise ConfigError(unknown_name("metric", name, known))
        else:
            path = [] if parts[0] == "valid" else ["valid"]
            path += parts
            if path[-1] not in _CONVENTIONS:
                path.append("skip")
            if len(path) < 3:
                raise ConfigError(f"metric {name!r}: expected the name of a metric.")
            _check_metric(name, path[-2])
        if direction not in (None, MAXIMIZE, MINIMIZE):
            raise ConfigError(
                unknown_name("direction", str(direction), (MAXIMIZE, MINIMIZE))
            )
        if path == ["best_value"] and direction is None:
            raise ConfigError(
                "metric 'best_value': expected a direction, for it may be a loss: set "
                "direction='maximize' or 'minimize'."
            )
        metric = path[-2] if path[0] == "valid" else path[0]
        less = ("arp", "log_loss", "pretraining", "seconds")
        default = MINIMIZE if metric in less else MAXIMIZE
        return cls(name, direction or default, tuple(path))

    @property
    def metric(self) -> str:
        """Name of the validation metric, such as `ndcg@10`; empty for others."""
        return self.path[-2] if self.path[0] == "valid" else ""

    @property
    def log_key(self) -> str:
        """Key of an epoch's logs under which Keras measures much the same.

        Example:
          >>> Objective.of("ndcg@10").log_key
          'val_metric/ndcg_10'
        """
        task = f"{self.path[1]}_" if len(self.path) > 3 else ""
        return f"val_{task}metric/{self.metric.replace('@', '_')}"

    def read(self, metrics: Mapping[str, Any]) -> float:
        """Returns the number of a run.

        Args:
          metrics: Content of `metrics.json`.

        Raises:
          MetricError: The run has no such metric.
          RunError: It is not a finite number.
        """
        here: Any = metrics
        for i, part in enumerate(self.path):
            if not isinstance(here, Mapping) or part not in here:
                known = here if isinstance(here, Mapping) else {}
                where = ".".join(self.path[:i])
                raise MetricError(
                    unknown_name("metric", part, known, f"metrics.json, {where}")
                )
            here = here[part]
        if here is None or isinstance(here, Mapping) or not math.isfinite(here):
            raise RunError(
                f"{self.name} of this trial is {here}: expected a finite number."
            )
        return float(here)

    def better(self, one: float, other: float) -> bool:
        """Whether the one value is better than the other."""
        return one > other if self.direction == MAXIMIZE else one < other


class MetricError(ConfigError):
    """No trial of the sweep can report a metric."""


def _check_metric(name: str, metric: str) -> None:
    if metric not in _METRICS:
        raise ConfigError(unknown_name("metric", name, [*_METRICS, *_ROOTS]))
