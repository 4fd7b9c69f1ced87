"""The seed of a run: given, or drawn once for all that is random."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfr_pipeline import files
from tfr_pipeline.errors import DataError
from tfr_pipeline.pipeline.datasets.adapter import adapt
from tfr_pipeline.pipeline.datasets.hparams import PipelineSeed, told
from tfr_pipeline.pipeline.run.directory import RunDirectory


def choose(
    seed: int | None, run: RunDirectory, agree: Callable[[int], int]
) -> tuple[int, bool]:
    """Returns the seed of a run, the same for all its workers, and whether it is drawn.

    A run that goes on keeps the one that was drawn when it began, which its config has.

    Args:
      seed: The one that was asked for, or None.
      run: The run directory; the process that owns it draws.
      agree: Gives the largest of the workers' values to all of them.
    """
    if seed is not None:
        return seed, False
    drawn = 0
    if run.is_ours:
        found = _recorded(run.path)
        drawn = random.SystemRandom().randrange(2**31) if found is None else found
    return agree(drawn), True


def _recorded(path: str) -> int | None:
    # What is wrong with the file is said when the run claims its directory.
    with contextlib.suppress(DataError, AttributeError):
        found = files.read_json(os.path.join(path, "config.json")).get("seed")
        return found if isinstance(found, int) else None
    return None


def plant(seed: int, dataset_builder: Any) -> None:
    """Seeds TensorFlow, and a dataset builder that was not told a seed of its own."""
    tf.keras.utils.set_random_seed(seed)
    hparams = adapt(dataset_builder).hparams
    if hparams is not None and told(hparams) is None:
        hparams.seed = PipelineSeed(seed)
