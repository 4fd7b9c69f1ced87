"""A process of a job that trains a trial: `tfr-pipeline train --job=FILE`.

See `jobs`. The chief asks after each epoch; what it is told goes to all workers, who
leave together, before the epoch is saved.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from tfr_pipeline import files
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.pipeline.distribute import strategies
from tfr_pipeline.pipeline.run.progress import RunCallback
from tfr_pipeline.sweep import jobs

_SECONDS = 0.05
# A trial goes on if nobody answers, as while the storage of the study is away.
_PATIENCE_SECONDS = 60.0


class _PrunedError(Exception):
    """The trial is behind others."""


def train(path: str) -> None:
    """Trains what a file of `jobs` says, to its end or until it is pruned.

    Raises:
      PipelineError: See `ModelFitPipeline.train_and_validate`.
      SystemExit: See there.
    """
    task = files.read_json(path)
    asking = [lambda: _Asking(os.path.dirname(path))] if task["asks"] else []
    pipeline = build_pipeline(task["config"], callbacks=asking)
    try:
        pipeline.train_and_validate(verbose=1)
    except _PrunedError as pruned:
        print(pruned, flush=True)


class _Asking(RunCallback):
    """Ends a run of which the worker of the sweep says that it is pruned."""

    def __init__(self, run: str):
        super().__init__()
        self._run = run
        self._agree: Any = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        strategy = self.model.distribute_strategy
        self._agree = self._agree or strategies.agreement(strategy)
        pruned = strategies.is_chief(strategy) and self._ask(epoch + 1, logs or {})
        if self._agree(int(pruned)):
            raise _PrunedError(f"pruned after epoch {epoch + 1}")

    def _ask(self, epoch: int, logs: Mapping[str, Any]) -> bool:
        values = {key: float(value) for key, value in logs.items()}
        text = json.dumps({"epoch": epoch, "logs": values})
        files.write_text(os.path.join(self._run, jobs.EPOCH), text)
        limit = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < limit:
            answer = jobs.read(os.path.join(self._run, jobs.ANSWER))
            if answer is not None and answer["epoch"] >= epoch:
                return bool(answer["pruned"])
            time.sleep(_SECONDS)
        print("no answer of the sweep's worker; the trial goes on", flush=True)
        return False
