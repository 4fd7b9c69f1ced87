"""Optimizers by name and arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError, is_number, unknown_name
from tfr_pipeline.optimizers import momentum
from tfr_pipeline.optimizers.adam import Adam
from tfr_pipeline.optimizers.schedules import (
    PLATEAU,
    Schedule,
    check_plateau,
    split_schedule,
)

_CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")


def optimizer_classes() -> dict[str, Any]:
    """Returns Keras's optimizers by name, in small letters; `adam` is ours."""
    classes = {
        key.lower(): value
        for key, value in vars(tf.keras.optimizers).items()
        if inspect.isclass(value)
        and issubclass(value, tf.keras.optimizers.Optimizer)
        and value is not tf.keras.optimizers.Optimizer
    }
    return {**classes, "adam": Adam}


def build_optimizer(
    name: Any,
    learning_rate: float,
    total_steps: int,
    schedule: Any = None,
    args: Mapping[str, Any] | None = None,
) -> tf.keras.optimizers.Optimizer:
    """Returns a Keras optimizer; call it within the scope of the strategy.

    Args:
      name: Name of a Keras optimizer, in any case; or what makes one when it is called
        with a `learning_rate` and the arguments.
      learning_rate: Peak learning rate.
      total_steps: Steps of the whole training.
      schedule: See `PipelineHparams.schedule`. A callable in place of its name gets
        the peak rate, the total steps and the arguments.
      args: Further arguments of the optimizer.

    Raises:
      ConfigError: An unknown optimizer, argument or schedule.

    Example:
      >>> build_optimizer("sgd", 0.1, 100, args={"momentum": 0.9}).momentum
      0.9
    """
    cls: Any = name
    classes = optimizer_classes()
    if not callable(name):
        cls = classes.get(str(name).lower())
        if cls is None:
            raise ConfigError(unknown_name("optimizer", name, classes))
    # weight_decay and clipping are named parameters or part of **kwargs.
    known = {"weight_decay", *_CLIPPING}
    known |= set(inspect.signature(cls).parameters)
    known -= {"kwargs", "name", "learning_rate"}
    for key in args or {}:
        if key not in known:
            raise ConfigError(unknown_name("argument", key, known, f"optimizer {name}"))
    # A config has the class for its name; one's own takes what it likes.
    if cls in classes.values():
        _check_numbers(cls, args or {})
    schedule_name, schedule_args = split_schedule(schedule)
    rate: Any = learning_rate
    if callable(schedule_name):
        rate = schedule_name(learning_rate, total_steps, **schedule_args)
        if not isinstance(rate, tf.keras.optimizers.schedules.LearningRateSchedule):
            raise ConfigError(
                f"schedule: expected a LearningRateSchedule from {schedule_name!r}, "
                f"found {rate!r}."
            )
    elif schedule_name == PLATEAU:
        check_plateau(schedule_args, learning_rate)
    elif schedule_name != "constant" or schedule_args:
        rate = Schedule(schedule_name, learning_rate, total_steps, **schedule_args)
    optimizer = cls(learning_rate=rate, **dict(args or {}))
    if isinstance(rate, Schedule) and rate.cycles_momentum:
        momentum.follow(optimizer, rate.momentum)
    return optimizer


def _check_numbers(cls: Any, args: Mapping[str, Any]) -> None:
    """Checks those arguments of an optimizer of Keras that are numbers."""
    parameters = inspect.signature(cls).parameters
    for key, value in args.items():
        default = parameters[key].default if key in parameters else None
        words, good = "", is_number(value)
        if key in _CLIPPING:
            words, good = "a number above 0", good and value > 0
        elif key == "weight_decay":
            words, good = "a number from 0 on", good and value >= 0
        elif isinstance(default, float):
            words = "a number"
        optional = default is None and value is None
        if words and not good and not optional:
            raise ConfigError(
                f"optimizer_args.{key}: expected {words}, found {value!r}."
            )
