"""The template of a run: a SavedModel that takes the weights of any of its checkpoints.

A run writes it into `checkpoints/template` with its first checkpoint. It holds what it
takes to serve the model: functions, signatures, vocabularies, the description of the
features. So a run can be exported without its code, its config and its data.
"""

from __future__ import annotations

import collections
import os
from typing import Any

import tensorflow as tf

from tfr_pipeline import files, outputs
from tfr_pipeline.errors import DataError
from tfr_pipeline.pipeline.run.checkpoints import Checkpoints
from tfr_pipeline.pipeline.run.directory import RunDirectory
from tfr_pipeline.pipeline.run.state import RunState
from tfr_pipeline.serving import remote_versions, versions
from tfr_pipeline.serving.export import (
    EXTRA_ASSETS,
    PLACES,
    READ_ERRORS,
    export_other_weights,
)
from tfr_pipeline.serving.predictor import load

MODEL = os.path.join(outputs.TEMPLATE, versions.MODEL)


def places(model: tf.keras.Model) -> list[list[str]]:
    """Returns where the variables of a model are in the checkpoints of the model.

    Args:
      model: A Keras model.

    Returns:
      For each of `model.variables` the names that lead to it, from attribute to
      attribute.
    """
    view = tf.train.TrackableView(model)
    paths: dict[int, list[str]] = {id(model): []}
    queue = collections.deque([model])
    while queue:
        node = queue.popleft()
        for name, child in view.children(node).items():
            if id(child) not in paths:
                paths[id(child)] = [*paths[id(node)], name]
                queue.append(child)
    return [paths[id(variable)] for variable in model.variables]


class _Weights(tf.Module):
    """Weights without a model, for `Checkpoints` to restore.

    Args:
      where: See `places`.
      values: Their values.

    Attributes:
      tree: Dicts of dicts with the variables at their places.
    """

    def __init__(self, where: list[list[str]], values: list[Any]):
        super().__init__()
        variables = [tf.Variable(value) for value in values]
        tree: dict[str, Any] = {}
        for (*path, last), variable in zip(where, variables, strict=True):
            node = tree
            for name in path:
                node = node.setdefault(name, {})
            node[last] = variable
        optimizer = tf.Module()
        optimizer.iterations = tf.Variable(0, dtype=tf.int64)
        # Past what tracks attributes: it would wrap them.
        self.__dict__.update(tree=tree, weights=variables, optimizer=optimizer)

    def set_weights(self, values: list[Any]) -> None:
        """As that of a Keras model."""
        for variable, value in zip(self.weights, values, strict=True):
            variable.assign(value)


def export(
    run: str, output: str, best: bool = False, version: int | None = None
) -> str:
    """Exports a checkpoint of a run that has a template.

    Args:
      run: The run directory.
      output: Folder of versions, which then stands for this one.
      best: Takes the best epoch instead of the latest checkpoint.
      version: Number of the version; None for the step.

    Returns:
      `output/<version>`, the folder of the SavedModel.

    Raises:
      DataError: The template is damaged.
      RunError: There is no such checkpoint, it is another model's, or the export
        failed.
    """
    source = os.path.join(run, outputs.TEMPLATE)
    weights = _weights(source)
    checkpoints = Checkpoints(weights, RunDirectory(run), RunState())
    step = checkpoints.restore_for_export(weights.tree, weights.weights, best)
    number = str(step if version is None else version)
    with remote_versions.published(output) as folder:
        versions.check(folder)
        path = os.path.join(folder, number)
        export_other_weights(weights.weights, source, path, load)
        versions.publish(path)
    return os.path.join(output, number)


def _weights(source: str) -> _Weights:
    try:
        where = files.read_json(os.path.join(source, EXTRA_ASSETS, PLACES))
        reader = tf.train.load_checkpoint(os.path.join(source, "variables/variables"))
        names = reader.get_variable_to_shape_map()
        # A weight without a place would keep the value that it has in the template.
        _check_places(where, sum(name.startswith("weights/") for name in names))
        values = [
            reader.get_tensor(f"weights/{number}/.ATTRIBUTES/VARIABLE_VALUE")
            for number in range(len(where))
        ]
        return _Weights(where, values)
    except (*READ_ERRORS, TypeError, AttributeError) as error:
        raise DataError(
            f"{source}: what exports of this run are made of cannot be read ({error}). "
            "Remove that folder to make them of config.json and the data, or start the "
            "run again, which writes it anew."
        ) from error


def _check_places(where: Any, count: int) -> None:
    """Raises a ValueError if these are not places of so many weights."""
    paths = where if isinstance(where, list) else []
    right = all(
        isinstance(path, list) and path and all(isinstance(name, str) for name in path)
        for path in paths
    )
    if not right or len({tuple(path) for path in paths}) != count:
        raise ValueError(
            f"{PLACES}: expected the places of {count} weights, found {where!r:.80}"
        )
