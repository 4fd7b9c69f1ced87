"""A run as its checkpoints have it: the model with their weights, and exports of it."""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import RunError
from tfr_pipeline.pipeline.run.checkpoint_files import latest
from tfr_pipeline.pipeline.run.checkpoints import Checkpoints
from tfr_pipeline.pipeline.run.directory import RunDirectory
from tfr_pipeline.pipeline.run.state import RunState
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
