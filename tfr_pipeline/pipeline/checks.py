"""Checks of hyperparameters, before any data is read."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

from tfr_pipeline import serialization
from tfr_pipeline.compat import tfr
from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.model.pretraining import Pretrain
from tfr_pipeline.optimizers.averaging import check_optimizer
from tfr_pipeline.optimizers.schedules import PLATEAU, split_schedule
from tfr_pipeline.pipeline import compilation
from tfr_pipeline.pipeline.datasets.adapter import adapt
from tfr_pipeline.pipeline.datasets.hparams import told
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.tasks import monitors
from tfr_pipeline.pipeline.warm_start import WarmStart


def kind(name: str, value: Any, wanted: type) -> None:
    """Checks the class of an argument.

    Args:
      name: Name of the argument.
      value: Its value.
      wanted: What it has to be.

    Raises:
      ConfigError: It is something else.
    """
    if not isinstance(value, wanted):
        raise ConfigError(
            f"{name}: expected a subclass of {wanted.__name__}, found {value!r}."
        )


def with_our_fields(hparams: Any) -> PipelineHparams:
    """Takes TF-Ranking's hyperparameters, which lack our fields."""
    if isinstance(hparams, PipelineHparams):
        return hparams
    if not isinstance(hparams, tfr.keras.pipeline.PipelineHparams):
        raise ConfigError(f"hparams: expected PipelineHparams, found {hparams!r}.")
    fields = dataclasses.fields(tfr.keras.pipeline.PipelineHparams)
    return PipelineHparams(**{f.name: getattr(hparams, f.name) for f in fields})


def pretraining(hparams: PipelineHparams, pretrains: bool) -> None:
    """Checks that a pipeline does what `pretrain` says.

    Args:
      hparams: Hyperparameters.
      pretrains: Whether it is one that pretrains.

    Raises:
      ConfigError: It is of the other kind.
    """
    told = Pretrain.of(hparams.pretrain)
    if told is not None and not pretrains:
        raise ConfigError(
            f"pretrain: expected a PretrainingPipeline for the task {told.task!r}, "
            "found another pipeline. Leave config.pipeline.pipeline out, or make a "
            "PretrainingPipeline."
        )
    if told is None and pretrains:
        raise ConfigError(
            "pretrain: expected a task, such as {'task': 'denoise'}, found "
            f"{hparams.pretrain!r}."
        )


def as_json(hparams: PipelineHparams) -> dict[str, Any]:
    """Returns hyperparameters as JSON; objects by the name of their class."""
    return _fields(hparams)


def described(hparams: PipelineHparams, dataset_builder: Any) -> dict[str, Any]:
    """Returns as JSON what a pipeline without a config was told.

    That is its hyperparameters, and `data`: those of the dataset builder, if it has
    some.
    """
    result = as_json(hparams)
    data = adapt(dataset_builder).hparams
    if dataclasses.is_dataclass(data):
        result["data"] = _fields(data)
        if "seed" in result["data"]:
            result["data"]["seed"] = told(data)
    return result


def _fields(hparams: Any) -> dict[str, Any]:
    fields = {f.name: getattr(hparams, f.name) for f in dataclasses.fields(hparams)}
    return serialization.plain(fields, type(hparams).__name__)


def selects(hparams: PipelineHparams) -> bool:
    """Whether anything depends on which epoch is the best."""
    return bool(hparams.export_best_model or hparams.early_stopping_patience)


def skips(metrics: dict[str, list[Any]]) -> bool:
    """Whether metrics leave queries without relevant documents out.

    Args:
      metrics: See `check`.
    """
    items = [item for group in metrics.values() for item in group]
    return any(getattr(item, "without_relevant", "") == "skip" for item in items)


def plateau_arguments(hparams: PipelineHparams) -> dict[str, Any] | None:
    """Arguments of `ReduceOnPlateau`, or None if the rate is not reduced so."""
    name, args = split_schedule(hparams.schedule)
    if name != PLATEAU and not hparams.automatic_reduce_lr:
        return None
    args = dict(args) if name == PLATEAU else {}
    args.pop("warmup_steps", None)  # 0; see `build_optimizer`
    args.setdefault("min_delta", 0.01 * hparams.learning_rate)
    return args


def check(hparams: PipelineHparams, metrics: dict[str, list[Any]]) -> None:
    """Checks names and settings.

    Args:
      hparams: Hyperparameters.
      metrics: Metrics by task; see `tasks.by_task`.

    Raises:
      ConfigError: A name is unknown, or two settings exclude each other.
    """
    if selects(hparams):
        monitor(hparams, metrics, len(metrics) > 1)
    epoch = WarmStart.of(hparams.warm_start).unfreeze_epoch
    if epoch is not None and epoch >= hparams.num_epochs:
        warnings.warn(
            f"warm_start.unfreeze_epoch={epoch} has no effect: epochs count from 0, "
            f"and the last one is {hparams.num_epochs - 1}.",
            stacklevel=3,
        )
    name, args = split_schedule(hparams.schedule)
    scheduled = name not in ("constant", PLATEAU) or (
        name == "constant" and args.get("warmup_steps")
    )
    if hparams.automatic_reduce_lr and scheduled:
        raise ConfigError(
            "automatic_reduce_lr: expected no schedule beside it, found "
            f"{name!r}. Set one of the two."
        )
    # Knows all names, and makes nothing that lasts.
    check_optimizer(compilation.make_optimizer(hparams, 1))
    for other in compilation.make_others(hparams, 1).values():
        check_optimizer(other)
    if hparams.optimizers and plateau_arguments(hparams) is not None:
        raise ConfigError(
            "optimizers: expected one alone where the learning rate is reduced on a "
            "plateau. Choose another schedule."
        )


def check_warmup(hparams: PipelineHparams, total_steps: int) -> None:
    """Warns of a warm-up that takes all steps.

    Args:
      hparams: Hyperparameters.
      total_steps: Steps of all epochs.
    """
    told = {"": hparams.schedule}
    for glob, other in compilation.other_optimizers(hparams).items():
        if other.schedule is not hparams.schedule:
            told[f"optimizers[{glob!r}]."] = other.schedule
    for where, schedule in told.items():
        name, args = split_schedule(schedule)
        steps = args.get("warmup_steps", 0)
        if callable(name) or steps < total_steps:  # one's own means what it likes
            continue
        warnings.warn(
            f"{where}schedule.warmup_steps={steps}: training ends within the warm-up, "
            f"after {total_steps} steps. Take a shorter warm-up, or more epochs.",
            stacklevel=3,
        )


def monitor(
    hparams: PipelineHparams, metrics: dict[str, list[Any]], prefixed: bool
) -> str:
    """Returns the log key of `best_exporter_metric`, after checking it.

    Args:
      hparams: Hyperparameters.
      metrics: See `check`.
      prefixed: See `tasks.monitors`.
    """
    wanted = hparams.best_exporter_metric
    name = wanted.replace("@", "_").removeprefix("val_")
    known = []
    for metric, key, names in monitors(metrics, prefixed):
        # A task may be called `a@b`.
        if name in names or wanted in names:
            _warn_if_reversed(hparams, metric)
            return f"val_{key}"
        known.append(names[0])
    raise ConfigError(unknown_name("metric", wanted, known, "best_exporter_metric"))


def _warn_if_reversed(hparams: PipelineHparams, metric: str) -> None:
    lower_better = metric.endswith("loss") or "arp" in metric
    if lower_better == hparams.best_exporter_metric_higher_better:
        better = "lower" if lower_better else "higher"
        warnings.warn(
            f"best_exporter_metric={hparams.best_exporter_metric!r}: {better} is "
            "better, but best_exporter_metric_higher_better="
            f"{hparams.best_exporter_metric_higher_better} selects the "
            "worst epoch.",
            stacklevel=2,
        )
