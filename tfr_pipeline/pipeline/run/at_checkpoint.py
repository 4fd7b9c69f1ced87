"""A run as its checkpoints have it: the model with their weights, and exports of it."""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import DataError, RunError
from tfr_pipeline.pipeline.datasets.adapter import SPLITS
from tfr_pipeline.pipeline.run import data_fingerprint
from tfr_pipeline.pipeline.run.checkpoint_files import latest
from tfr_pipeline.pipeline.run.checkpoints import Checkpoints
from tfr_pipeline.pipeline.run.comparison import FREE_LATER, differences
from tfr_pipeline.pipeline.run.directory import RunDirectory, read_json
from tfr_pipeline.pipeline.run.finish import BEST, LATEST
from tfr_pipeline.pipeline.run.state import RunState
from tfr_pipeline.serialization import plain
from tfr_pipeline.serving import remote_versions, versions
from tfr_pipeline.serving.module import export_module


def check(run: RunDirectory) -> None:
    """Checks that a run has checkpoints.

    Raises:
      RunError: It has none.
    """
    if latest(run.checkpoints) is None:
        raise RunError(
            f"{run.checkpoints}: found no checkpoint to finish a run from; train first."
        )


def has_ended(pipeline: Any) -> bool:
    """Whether nothing is left to do for a `ModelFitPipeline`.

    Its run directory is that of a run with the same settings and data, which was
    exported and evaluated when it ended. Every task of a job asks, and all hear what
    the chief sees.
    """
    ended = pipeline._run.is_ours and _is_done(pipeline)
    return bool(pipeline._role.agree(int(ended)))


def _is_done(pipeline: Any) -> bool:
    path = pipeline._run.path
    names = ("config.json", "environment.json", "metrics.json")
    config, environment, metrics = (os.path.join(path, name) for name in names)
    if not all(map(os.path.isfile, (config, environment, metrics))):
        return False
    # The first is written whenever a run begins or goes on, the last at its end.
    if os.stat(metrics).st_mtime_ns < os.stat(config).st_mtime_ns:
        return False
    # Times may be those of a copy, and the last be of a run with fewer epochs.
    content, hparams = read_json(metrics), pipeline._hparams
    if not (content.get("stopped") or content.get("epochs") == hparams.num_epochs):
        return False
    best = hparams.export_best_model and content.get("best_step") is not None
    try:
        for name in (LATEST, BEST) if best else (LATEST,):
            versions.find_export(os.path.join(path, "export", name))
    except DataError:
        return False
    told, free = plain(pipeline._told(), "config"), FREE_LATER - {"num_epochs"}
    if any(differences(read_json(config), told, free)):
        return False
    noted = read_json(environment).get("data")
    found = pipeline._data()
    return isinstance(noted, dict) and not data_fingerprint.difference(
        noted, found, SPLITS
    )


def model(pipeline: Any, best: bool = False) -> tuple[tf.keras.Model, Checkpoints, int]:
    """Returns the model of a `ModelFitPipeline` with weights of its run.

    Args:
      pipeline: The pipeline.
      best: Takes the best epoch instead of the latest checkpoint.

    Returns:
      The model, what has restored it, and the step that the weights are of.

    Raises:
      RunError: There is no such checkpoint.
    """
    pipeline._run.fetch()
    pipeline._learning.load(pipeline._run)
    layout = pipeline._layout()
    found, bare = pipeline._compile(layout, 1), pipeline._build(layout)
    checkpoints = Checkpoints(found, pipeline._run, RunState())
    step = checkpoints.restore_for_export(bare, bare.weights, best)
    return found, checkpoints, step


def export(pipeline: Any, output: str, best: bool, version: int | None) -> str:
    """See `ModelFitPipeline.export_checkpoint`."""
    found, _, step = model(pipeline, best)
    number = str(step if version is None else version)
    with remote_versions.published(output) as folder:
        path = os.path.join(folder, number)
        versions.check(folder)
        pipeline.export_saved_model(found, path)
        versions.publish(path)
    return os.path.join(output, number)


def export_part(pipeline: Any, layer: str, output: str, best: bool) -> str:
    """See `ModelFitPipeline.export_module`."""
    return export_module(model(pipeline, best)[0], layer, output)
