"""`MultiTaskPipeline`: a loss and metrics for each task."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.pipeline import tasks as tasks_lib
from tfr_pipeline.pipeline.fit import ModelFitPipeline
from tfr_pipeline.pipeline.simple import WEIGHTED, make_loss, make_metric

# Outputs of the signature `rank` beside the scores by task, and the log of all tasks.
_TAKEN = ("scores", "ranks", "ids", "loss")


class MultiTaskPipeline(ModelFitPipeline):
    """Pipeline for models that score several tasks, on data with a label for each.

    The scorer returns a dict of scores by task; `MultiLabelDatasetBuilder` has labels
    of the same names. The loss is the sum of the losses of the tasks, each times its
    weight in `loss_weights`. `docs/tasks.md` has an example.

    Of the hyperparameters, `loss` is one name for all tasks or a dict of names by task;
    `loss_weights` a number or a dict, in which tasks that it leaves out weigh 1;
    `loss_args` and `metrics` hold for all tasks or are dicts by task.
    `best_exporter_metric` is `loss`, the weighted sum, or a metric of a task, such as
    `click/ndcg_5`, `click/metric/ndcg_5`, `click/loss`, or its name in the logs,
    `click_metric/ndcg_5`.
    """

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that have a loss.

        Raises:
          ConfigError: `loss` is one name and the dataset builder does not name its
            tasks.
        """
        if isinstance(self._hparams.loss, Mapping):
            return tuple(self._hparams.loss)
        found = tasks_lib.of_data(self._dataset_builder)
        if not found:
            raise ConfigError(
                "loss: expected a dict of losses by task, found "
                f"{self._hparams.loss!r}. One loss for all tasks needs a "
                "MultiLabelDatasetBuilder, which says what the tasks are."
            )
        return found

    def build_loss(self) -> dict[str, tf.keras.losses.Loss]:
        """See `AbstractPipeline`."""
        hparams = self._hparams
        names = hparams.loss
        arguments = _by_task("loss_args", hparams.loss_args, self.tasks, Mapping)
        return {
            task: make_loss(
                names[task] if isinstance(names, Mapping) else names,
                hparams.loss_reduction,
                arguments.get(task, {}),
            )
            for task in self.tasks
        }

    def build_metrics(self) -> dict[str, list[tf.keras.metrics.Metric]]:
        """See `AbstractPipeline`."""
        return self._build_metrics(tasks_lib.METRIC)

    def build_weighted_metrics(self) -> dict[str, list[tf.keras.metrics.Metric]]:
        """See `AbstractPipeline`."""
        return self._build_metrics(WEIGHTED)

    def _build_metrics(self, prefix: str) -> dict[str, list[tf.keras.metrics.Metric]]:
        names = _by_task("metrics", self._hparams.metrics, self.tasks)
        return {
            task: [make_metric(name, prefix) for name in names.get(task, ())]
            for task in self.tasks
        }

    def _layout(self) -> str | None:
        """See base class; also checks everything that is by task."""
        self._check_tasks()
        return super()._layout()

    def _check_tasks(self) -> None:
        tasks, data = self.tasks, tasks_lib.of_data(self._dataset_builder)
        if not tasks:
            raise ConfigError("loss: expected losses by task, found an empty dict.")
        for task in tasks:
            if not isinstance(task, str) or not re.fullmatch(r"\w[\w.-]*", task, re.A):
                raise ConfigError(
                    "loss: expected names of tasks made of letters, digits, '_', '.' "
                    f"and '-', found {task!r}."
                )
            if task in _TAKEN:
                raise ConfigError(
                    f"loss: {task!r} cannot be the name of a task; exports and logs "
                    f"use {', '.join(_TAKEN)} themselves."
                )
            if data and task not in data:
                raise ConfigError(
                    unknown_name("task", task, data, "loss")
                    + " The dataset builder has labels for these only."
                )
        _check_loss_weights(self._hparams.loss_weights, tasks)

    def _check_model(self, model: tf.keras.Model) -> None:
        """See base class."""
        tasks_lib.check_outputs(model, self._outputs, self.tasks, "loss")
        super()._check_model(model)


def _by_task(
    setting: str, value: Any, tasks: tuple[str, ...], kind: Any = object
) -> Mapping[str, Any]:
    """Returns a setting by task: as it is, or the same for all.

    Args:
      setting: Its name.
      value: Its value; a dict is by task if its values are of `kind`.
      tasks: Names of the tasks.
      kind: What one value is.

    Raises:
      ConfigError: It is a dict by task that has another key.
    """
    several = isinstance(value, Mapping) and all(
        isinstance(item, kind) for item in value.values()
    )
    if not several:
        return dict.fromkeys(tasks, value)
    for task in value:
        if task not in tasks:
            raise ConfigError(unknown_name("task", task, tasks, setting))
    return value


def _check_loss_weights(weights: Any, tasks: tuple[str, ...]) -> None:
    if weights is None:
        return
    by_task = _by_task("loss_weights", weights, tasks)
    for task, weight in by_task.items():
        good = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not good or not 0 <= weight < math.inf:
            raise ConfigError(
                f"loss_weights: expected a number of at least 0 for {task!r}, found "
                f"{weight!r}."
            )
    if not any(by_task.get(task, 1.0) for task in tasks):
        raise ConfigError(
            "loss_weights: every task has the weight 0; nothing would be trained."
        )
