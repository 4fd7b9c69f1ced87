"""Only the best trials keep what takes room: checkpoints and exports."""

from __future__ import annotations

import contextlib
import os
import re
import shutil

from tfr_pipeline.serving import versions
from tfr_pipeline.sweep.study import Study

_CHECKPOINT = re.compile(r"(ckpt|best)-\d+\..+|checkpoint")
_EXPORTS = ("latest_model", "best_model_by_metric")


def keep_best(study: Study, count: int) -> None:
    """Removes checkpoints and exports of finished trials but the best.

    What a run did not make stays, and so do its config, logs and metrics. A trial that
    is not among the best now never will be, so that workers may do this at once.

    Args:
      study: The study.
      count: How many trials keep theirs. Of several objectives all that no other trial
        beats do.
    """
    best = study.best()
    kept = {trial.number for trial in best[:count]}
    if len(study.settings.objectives) > 1:
        kept |= {trial.number for trial in study.optuna.best_trials}
    for trial in study.trials():
        if trial.state.is_finished() and trial.number not in kept:
            run = study.run_of(trial.number)
            with contextlib.suppress(OSError):
                for name in ["", *sorted(os.listdir(run))]:
                    if not name or name.startswith(("repeat-", "fold-")):
                        strip(os.path.join(run, name))


def strip(run: str) -> None:
    """Removes the checkpoints and the exports of a run directory."""
    folder = os.path.join(run, "checkpoints")
    for name in _names(folder):
        path = os.path.join(folder, name)
        if name == "template" and os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        elif _CHECKPOINT.fullmatch(name) and os.path.isfile(path):
            with contextlib.suppress(OSError):
                os.remove(path)
    _remove_if_empty(folder)
    for export in _EXPORTS:
        versions.remove(os.path.join(run, "export", export))
    _remove_if_empty(os.path.join(run, "export"))


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _remove_if_empty(folder: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(folder)
