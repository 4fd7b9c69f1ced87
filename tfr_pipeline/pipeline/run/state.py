"""Where a run stands, beside its weights."""

from __future__ import annotations

import dataclasses
import json


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
      shares: Into how many shares the training lists are dealt, on which their order
        depends, below 0 for shares of whole files; 0 where they are not, None if that
        is not known.
      began: What a warm start took from where, or an empty string.
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
    shares: int | None = None
    began: str = ""

    def to_json(self) -> str:
        """Returns the state as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RunState:
        """Reverse of `to_json`; takes what this version knows."""
        known = {field.name for field in dataclasses.fields(cls)}
        found = json.loads(text)
        return cls(**{key: found[key] for key in found if key in known})
