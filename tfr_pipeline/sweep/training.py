"""One trial after the other in a process that reads the data once."""

from __future__ import annotations

import math
import os
import statistics
import threading
from collections.abc import Mapping
from typing import Any

from tfr_pipeline import files, gradients
from tfr_pipeline.errors import unknown_name
from tfr_pipeline.experiment.build import build_pipeline, without_test
from tfr_pipeline.experiment.config_files import ConfigFile
from tfr_pipeline.pipeline.datasets.kept_lists import KeptLists
from tfr_pipeline.pipeline.run import comparison
from tfr_pipeline.pipeline.run.progress import RunCallback
from tfr_pipeline.serialization import plain
from tfr_pipeline.sweep.attributes import SPREAD
from tfr_pipeline.sweep.claims import Claim
from tfr_pipeline.sweep.jobs import Launcher
from tfr_pipeline.sweep.objective import MetricError
from tfr_pipeline.sweep.settings import Run, seed_of
from tfr_pipeline.sweep.study import Study

# Of the section `data`: what files are read for, not how.
_OF_BATCHES = frozenset(
    {
        *("train_batch_size", "valid_batch_size", "documents_per_batch"),
        *("list_size", "valid_list_size", "truncation", "shuffle", "shuffle_examples"),
        *("folds", "fold", "test_fold", "sessions"),
    }
)


class PrunedError(Exception):
    """The trial is behind others."""


class LostError(Exception):
    """The trial was given to another worker."""


class Trainer:
    """Trains trials of a study.

    Args:
      study: The study.
      file: The config that points change.
      launcher: Starts a job for each run, which this process trains otherwise.
    """

    def __init__(
        self, study: Study, file: ConfigFile, launcher: Launcher | None = None
    ):
        self._study, self._file, self._launcher = study, file, launcher
        self._kept = KeptLists()
        self._data: dict[str, Any] = {}

    def train(self, claim: Claim, lost: threading.Event) -> list[float]:
        """Trains a trial, or goes on where it stands; returns the objectives.

        Args:
          claim: The trial.
          lost: See `Study.beating`.

        Raises:
          PrunedError: It is not worth going on.
          LostError: See `Study.beating`.
          MetricError: It lacks the metric that trials are chosen or pruned by.
          PipelineError: See `ModelFitPipeline.train_and_validate`.
          SystemExit: SIGTERM came; what there is, is saved.
        """
        objectives = self._study.settings.objectives
        runs = []
        for number, run in enumerate(self._study.settings.runs):
            config = self.config(claim, run)
            metrics = _finished(config)
            if metrics is None:
                epochs = int((config.get("pipeline") or {}).get("num_epochs") or 1)
                watch = _Watch(self._study, claim, lost, number == 0, epochs)
                metrics = self._run(config, watch)
            runs.append([objective.read(metrics) for objective in objectives])
        columns = [list(column) for column in zip(*runs, strict=True)]
        if len(runs) > 1:
            spread = {
                objective.name: {
                    "mean": statistics.fmean(column),
                    "deviation": statistics.stdev(column),
                    "values": column,
                }
                for objective, column in zip(objectives, columns, strict=True)
            }
            self._study.note(claim, SPREAD, spread)
        return [statistics.fmean(column) for column in columns]

    def config(self, claim: Claim, run: Run) -> dict[str, Any]:
        """Returns the config of a run of a trial."""
        config = self._file.config(claim.point)
        data = {**(config.get("data") or {}), **run.data}
        config = without_test({**config, "data": data})
        config["model_dir"] = claim.run
        if run.name:
            config["model_dir"] = os.path.join(claim.run, run.name)
        told = self._study.settings.describe()
        seed = seed_of(told, config.get("seed"), claim.number, claim.point)
        config["seed"] = seed + run.repeat
        return config

    def _run(self, config: dict[str, Any], watch: _Watch) -> dict[str, Any]:
        if self._launcher is None:
            self._train_here(config, watch)
        elif self._launcher.run(plain(config, "config", strict=True), watch):
            raise PrunedError
        return files.read_json(os.path.join(config["model_dir"], "metrics.json"))

    def _train_here(self, config: dict[str, Any], watch: _Watch) -> None:
        data = {k: v for k, v in config["data"].items() if k not in _OF_BATCHES}
        if data != self._data:
            # What was read in another way would stay for good.
            self._kept, self._data = KeptLists(), data
        try:
            build_pipeline(
                config, kept=self._kept, callbacks=[lambda: watch]
            ).train_and_validate()
        finally:
            gradients.forget_unused()


class _Watch(RunCallback):
    """Reports epochs; ends a run that is to be pruned, or is no more this worker's.

    It is the callback of a run of this process, and the judge of a job.
    """

    def __init__(
        self,
        study: Study,
        claim: Claim,
        lost: threading.Event,
        reports: bool,
        epochs: int,
    ):
        super().__init__()
        self._study, self._claim, self._lost = study, claim, lost
        self._monitor = study.settings.monitor if reports else ""
        self._epochs = epochs

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        self.check()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """See `tf.keras.callbacks.Callback`."""
        if self.asks and self.judge(epoch + 1, logs or {}):
            raise PrunedError

    @property
    def asks(self) -> bool:
        """Whether epochs are reported."""
        return bool(self._monitor)

    def check(self) -> None:
        """Raises a LostError if the trial was given to another worker."""
        if self._lost.is_set():
            raise LostError

    def judge(self, epoch: int, logs: Mapping[str, Any]) -> bool:
        """Reports an epoch; returns whether the trial is behind others.

        Args:
          epoch: Epochs done, from 1.
          logs: Values of the epoch.

        Raises:
          MetricError: The one that counts is not among them.
        """
        if self._monitor not in logs:
            found = [key for key in logs if key.startswith("val_")]
            raise MetricError(
                unknown_name("value of an epoch", self._monitor, found, "pruning")
                + " Name it in pipeline.metrics, or choose another by prune_on."
            )
        value = float(logs[self._monitor])
        # A run at its end is worth its evaluation.
        return (
            math.isfinite(value)
            and self._study.report(self._claim, epoch, value)
            and epoch < self._epochs
        )


def _finished(config: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the metrics of a run that has ended, or None."""
    folder = config["model_dir"]
    place = os.path.join(folder, "metrics.json")
    if not os.path.exists(place):
        return None
    found = files.read_json(os.path.join(folder, "config.json"))
    wanted = plain(config, "config")
    if next(comparison.differences(found, wanted, comparison.FREE_LATER), None):
        return None
    return files.read_json(place)
