"""Studies whose trials were not trained: their values are given."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from configs import letor
from tfr_pipeline.serialization import plain
from tfr_pipeline.sweep import hyper, storage
from tfr_pipeline.sweep.settings import Settings
from tfr_pipeline.sweep.study import Study

PRUNED, RUNNING, WAITING = "pruned", "running", "waiting"
REASON = "loss is NaN, <b>it is</b>"


def space():
    """Returns a space with a condition, and a value that Optuna has no name for."""
    return hyper.product(
        hyper.interval("pipeline.learning_rate", 1e-4, 1e-1, log=True),
        hyper.categorical("model.scorer_args.hidden_layer_dims", [(4,), (8, 4)]),
        hyper.categorical("pipeline.loss", ["approx_ndcg_loss", "softmax_loss"]),
        hyper.when(
            "pipeline.loss",
            "approx_ndcg_loss",
            hyper.interval("pipeline.loss_args.temperature", 0.03, 1.0),
        ),
    )


def config_of(folder: pathlib.Path, **data: Any) -> dict[str, Any]:
    """Returns the config that points change."""
    config = letor.get_config("dnn")
    config.model_dir = str(folder)
    config.data.update(data)
    config.pipeline.num_epochs = 1
    return plain(config.to_dict(), "config", strict=True)


def make(
    folder: pathlib.Path,
    outcomes: Sequence[Any],
    trials: int | None = None,
    url: str = "",
    config: dict[str, Any] | None = None,
    **settings: Any,
) -> Study:
    """Makes a study with a trial for each outcome.

    Args:
      folder: Its folder, whose name is that of the study.
      outcomes: A value, or several for several metrics; None for a failure; or one of
        the words above.
      trials: Its budget, by default the number of outcomes.
      url: Its storage.
      config: The config that points change.
      **settings: See `Settings`.
    """
    storage_url = url or storage.default_url(str(folder))

    def join() -> Study:
        return Study(
            storage.connect(storage_url),
            os.path.basename(folder),
            str(folder),
            space(),
            Settings.of(**{"sampler": "random", **settings}),
            config or config_of(folder),
            trials or len(outcomes),
        )

    study, parked = join(), []
    for outcome in outcomes:
        # A worker is at one trial at a time.
        worker = join() if outcome in (RUNNING, WAITING) else study
        claim = worker.claim()
        assert claim is not None
        if outcome is None:
            study.fail(claim, REASON)
        elif outcome == WAITING:
            parked.append((worker, claim))
        elif outcome == PRUNED:
            study.report(claim, 1, 0.1)
            study.prune(claim)
        elif outcome != RUNNING:
            values = outcome if isinstance(outcome, list) else [outcome]
            assert study.complete(claim, values)
    for worker, claim in parked:
        worker.park(claim)
    return study
