"""Names of tasks: what data, model and logs call them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.pipeline import classes
from tfr_pipeline.pipeline.datasets.adapter import adapt

# Prefix of the names of metrics, after TF-Ranking; monitors of callbacks rely on it.
METRIC = "metric/"


def of_data(dataset_builder: Any) -> tuple[str, ...]:
    """Returns the tasks that there are labels for; none for one label, or if unknown.

    Args:
      dataset_builder: A dataset builder, ours or TF-Ranking's.
    """
    return adapt(dataset_builder).tasks


def name_outputs(model: tf.keras.Model) -> tuple[str, ...]:
    """Names the outputs of a model, if it has a dict of them, by the keys of the dict.

    Keras calls the loss and the metrics of an output after the layer it comes from,
    which is the task only as long as nobody adds an operation.

    Returns:
      The keys, none for a model with one output that is no dict.
    """
    outputs = getattr(model, "output", None)
    if not isinstance(outputs, dict):
        return ()
    model.output_names = sorted(outputs)  # the order in which Keras flattens a dict
    return tuple(outputs)


def check_outputs(
    model: tf.keras.Model,
    outputs: tuple[str, ...],
    wanted: tuple[str, ...],
    setting: str,
) -> None:
    """Checks that a model scores some tasks.

    Args:
      model: A model. What one that is not functional returns is known too late.
      outputs: What `name_outputs` returned.
      wanted: The tasks; none for anything.
      setting: Where they come from.

    Raises:
      ConfigError: It does not.
    """
    if not wanted or not hasattr(model, "output"):
        return
    if not outputs:
        raise ConfigError(
            f"expected a model with the outputs {', '.join(wanted)}, found one without "
            "names. Let the scorer return a dict of scores by task."
        )
    for task in wanted:
        if task not in outputs:
            raise ConfigError(
                unknown_name("task", task, outputs, setting)
                + " The model has scores for these only."
            )


def check_numbers(
    model: tf.keras.Model, losses: Any, metrics: dict[str, list[Any]], scorer: Any
) -> None:
    """Checks that a scorer gives as many numbers a document as its loss takes.

    Args:
      model: A model. What one that is not functional returns is known too late.
      losses: A loss, or a dict of them by task. Of other libraries' losses it is not
        known what they take.
      metrics: See `by_task`.
      scorer: Whom the error names.

    Raises:
      ConfigError: It gives another number, or metrics are to rank by several.
    """
    outputs = getattr(model, "output", None)
    if outputs is None:
        return
    by_name = outputs if isinstance(outputs, dict) else {"": outputs}
    for task, output in by_name.items():
        loss = losses.get(task) if isinstance(losses, dict) else losses
        found = output.shape[2] if output.shape.rank == 3 else 1
        name, of_task = type(scorer).__name__, f" of {task!r}" if task else ""
        wanted = getattr(loss, "outputs", None)
        # Beside its score, a position may give a loss a number.
        bias = getattr(model, "position_bias", None)
        of_loss = found if bias is None or found is None else found + bias.outputs - 1
        if bias is not None and wanted is not None and of_loss != wanted:
            raise ConfigError(
                f"model.position_bias: method={bias.method!r} gives a loss {of_loss} "
                f"number(s) a document, and {type(loss).__name__} takes {wanted}. "
                "method='em' goes with click_em_loss, the others with other losses."
            )
        if wanted is not None and found is not None and of_loss != wanted:
            raise ConfigError(
                f"{name}: expected {wanted} number(s) a document{of_task}, as "
                f"{type(loss).__name__} takes them, found {found}, shape "
                f"{output.shape}. Set output_units={wanted}, or take another loss."
            )
        of_classes = classes.of_classes
        ranking = [item for item in metrics.get(task, ()) if not of_classes(item)]
        if found not in (1, None) and ranking:
            raise ConfigError(
                f"{name}: found {found} numbers a document{of_task}, and metrics rank "
                "by one. Set metrics=(), or report metrics of yours in a pipeline that "
                "overrides build_metrics and chooses a column."
            )


def by_task(metrics: Any, tasks: tuple[str, ...]) -> dict[str, list[Any]]:
    """Returns metrics as a dict by task, with the key "" where there is one task.

    Args:
      metrics: What `build_metrics` returns; metrics that are no dict are of all tasks.
      tasks: Tasks of the data.
    """
    if isinstance(metrics, dict):
        return {task: tf.nest.flatten(group) for task, group in metrics.items()}
    return dict.fromkeys(tasks if len(tasks) > 1 else ("",), tf.nest.flatten(metrics))


def monitors(
    metrics: dict[str, list[Any]], prefixed: bool
) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yields what an epoch can be chosen by.

    Args:
      metrics: See `by_task`.
      prefixed: Whether Keras puts the task before its metrics, as it does for models
        with several outputs.

    Yields:
      `(metric, key, names)`: the name of the metric alone, its key in the logs of
      training, and what `best_exporter_metric` may call it, the usual name first.
    """
    yield "loss", "loss", ("loss",)
    for task, items in metrics.items():
        prefix = f"{task}_" if task and prefixed else ""
        if prefix:
            yield "loss", f"{prefix}loss", (f"{task}/loss", f"{prefix}loss")
        for item in items:
            name = item.name
            short = name.removeprefix(METRIC)
            names = (f"{task}/{short}", f"{task}/{name}") if task else ()
            if not prefix:
                names = (short, name, *names)
            yield short, prefix + name, (*names, prefix + name)
