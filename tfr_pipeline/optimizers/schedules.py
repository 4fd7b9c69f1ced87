"""Learning-rate schedules by name and arguments."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError, is_number, unknown_name

PLATEAU = "plateau"


def _from_0(value: Any) -> bool:
    return is_number(value) and value >= 0


def _whole_from_0(value: Any) -> bool:
    return _from_0(value) and value == int(value)


def _are_from_0(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_from_0, value))


def _above_0(value: Any) -> bool:
    return is_number(value) and value > 0


def _inside_0_and_1(value: Any) -> bool:
    return is_number(value) and 0 < value < 1


# Of each argument: what is expected, and whether a value is that.
_EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "warmup_steps": ("a whole number of steps from 0 on", _whole_from_0),
    "final": (
        "a share of the peak, from 0 to 1",
        lambda value: is_number(value) and 0 <= value <= 1,
    ),
    "decay_rate": ("a number above 0", _above_0),
    "decay_steps": ("a number of steps above 0", _above_0),
    "power": ("a number from 0 on", _from_0),
    "boundaries": (
        "steps from 0 on, each later than the one before, such as [100, 200]",
        lambda value: (
            _are_from_0(value) and all(a < b for a, b in itertools.pairwise(value))
        ),
    ),
    "values": ("numbers from 0 on, such as [1.0, 0.1]", _are_from_0),
    "rise": ("a share of all steps, above 0 and below 1", _inside_0_and_1),
    "momentum": (
        "its least and its highest value, such as [0.85, 0.95]",
        lambda value: (
            _are_from_0(value)
            and (not value or (len(value) == 2 and value[0] <= value[1] < 1.0))
        ),
    ),
}
# Those of the callback `ReduceOnPlateau`.
_EXPECTED_OF_PLATEAU: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "factor": ("a number above 0 and below 1", _inside_0_and_1),
    "patience": ("a whole number of epochs from 0 on", _whole_from_0),
    "min_delta": ("a number from 0 on", _from_0),
    "min_rate": ("a learning rate from 0 on", _from_0),
}


def _check_values(
    name: str,
    args: Mapping[str, Any],
    expected: Mapping[str, tuple[str, Callable[[Any], bool]]],
) -> None:
    for key, value in args.items():
        words, is_good = expected[key]
        if not is_good(value):
            raise ConfigError(
                f"schedule {name!r}: {key}: expected {words}, found {value!r}."
            )


def check_plateau(args: Mapping[str, Any], learning_rate: float) -> None:
    """Checks the arguments of a reduction on a plateau.

    Args:
      args: The arguments, those of the callback `ReduceOnPlateau`.
      learning_rate: What the rate begins with.

    Raises:
      ConfigError: An unknown argument, or a value that cannot be.

    Example:
      >>> check_plateau({"factor": 0.5, "patience": 3}, 0.1)
    """
    if args.get("warmup_steps"):
        raise ConfigError("schedule 'plateau': it cannot be combined with warm-up.")
    args = {key: value for key, value in args.items() if key != "warmup_steps"}
    for key in args:
        if key not in _EXPECTED_OF_PLATEAU:
            raise ConfigError(
                unknown_name(
                    "argument", key, _EXPECTED_OF_PLATEAU, f"schedule {PLATEAU!r}"
                )
            )
    _check_values(PLATEAU, args, _EXPECTED_OF_PLATEAU)
    if args.get("min_rate", 0.0) > learning_rate:
        raise ConfigError(
            f"schedule {PLATEAU!r}: min_rate: expected at most the learning rate, "
            f"{learning_rate!r}, found {args['min_rate']!r}."
        )


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Schedule(tf.keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that warms up linearly and then follows a curve.

    Args:
      name: `constant`; `cosine` (half a period down to `final` times the peak,
        Loshchilov & Hutter 2017); `exponential` (times `decay_rate` every
        `decay_steps`); `power` (divided by `(1 + step / decay_steps) ** power`, after
        warm-up); `piecewise` (`values[i]` times the peak up to
        `boundaries[i]`); `1cycle` (cosine up from peak/25 in the first `rise` of all
        steps, then cosine down to `final` times the peak, Smith & Topin 2018; with
        `momentum`, its least and its highest value, that falls while the rate rises,
        and the reverse).
      peak: Highest learning rate.
      total_steps: Steps of the whole training.
      warmup_steps: Steps over which the rate rises from 0.
      **args: Arguments of the curve.

    Raises:
      ConfigError: An unknown schedule or argument, one that is missing, or a value
        that cannot be.

    Example:
      >>> rate = Schedule("cosine", 0.1, total_steps=100, warmup_steps=10)
      >>> [round(float(rate(step)), 3) for step in (0, 10, 55, 100)]
      [0.01, 0.1, 0.05, 0.0]
    """

    _ARGS: dict[str, dict[str, Any]] = {
        "constant": {},
        "cosine": {"final": 0.0},
        "exponential": {"decay_rate": 0.96, "decay_steps": None},
        "piecewise": {"boundaries": None, "values": None},
        "power": {"decay_steps": None, "power": 1.0},
        "1cycle": {"rise": 0.3, "final": 1e-4, "momentum": ()},
    }

    def __init__(
        self,
        name: str,
        peak: float,
        total_steps: int,
        warmup_steps: int = 0,
        **args: Any,
    ):
        if name not in self._ARGS:
            known = [*self._ARGS, PLATEAU]
            raise ConfigError(unknown_name("schedule", name, known))
        known_args = self._ARGS[name]
        for key in args:
            if key not in known_args:
                raise ConfigError(
                    unknown_name(
                        "argument",
                        key,
                        [*known_args, "warmup_steps"],
                        f"schedule {name!r}",
                    )
                )
        self.args = {**known_args, **args}
        missing = [key for key, value in self.args.items() if value is None]
        if missing:
            raise ConfigError(f"schedule {name!r}: {', '.join(missing)} is required.")
        _check_values(name, {"warmup_steps": warmup_steps, **self.args}, _EXPECTED)
        self.name, self.peak = name, float(peak)
        self.total_steps, self.warmup_steps = int(total_steps), int(warmup_steps)
        if name == "piecewise" and len(self.args["values"]) != 1 + len(
            self.args["boundaries"]
        ):
            raise ConfigError(
                "schedule 'piecewise': expected one value more than boundaries, found "
                f"{self.args['values']} and {self.args['boundaries']}."
            )

    @property
    def cycles_momentum(self) -> bool:
        """Whether `momentum` is to be followed."""
        return bool(self.args.get("momentum"))

    def momentum(self, step: Any) -> Any:
        """Returns the momentum of a step of `1cycle`, float32 scalar."""
        (least, most), rise = self.args["momentum"], self.args["rise"]
        progress = self._progress(tf.cast(step, tf.float32))
        down = _cosine(most, least, progress / rise)
        up = _cosine(least, most, (progress - rise) / (1 - rise))
        return tf.where(progress < rise, down, up)

    def _progress(self, step: Any) -> Any:
        warmup = float(self.warmup_steps)
        length = max(1.0, self.total_steps - warmup)
        return tf.clip_by_value((step - warmup) / length, 0.0, 1.0)

    def __call__(self, step: Any) -> Any:
        """Returns the rate of a step, float32 scalar."""
        step = tf.cast(step, tf.float32)
        warmup = float(self.warmup_steps)
        progress = self._progress(step)
        # Step 0 already learns.
        warm = tf.minimum(1.0, (step + 1.0) / (warmup or 1.0))
        return self.peak * tf.where(step < warmup, warm, self._curve(progress, step))

    def _curve(self, progress: Any, step: Any) -> Any:
        args = self.args
        if self.name == "cosine":
            return _cosine(1.0, args["final"], progress)
        since = tf.maximum(0.0, step - self.warmup_steps)
        if self.name == "exponential":
            return args["decay_rate"] ** (since / args["decay_steps"])
        if self.name == "power":
            return (1.0 + since / args["decay_steps"]) ** -args["power"]
        if self.name == "piecewise":
            bounds = tf.constant(args["boundaries"], tf.float32)
            index = tf.searchsorted(bounds, step[tf.newaxis], side="left")[0]
            return tf.gather(tf.constant(args["values"], tf.float32), index)
        if self.name == "1cycle":
            rise = args["rise"]
            up = _cosine(1 / 25, 1.0, progress / rise)
            down = _cosine(1.0, args["final"], (progress - rise) / (1 - rise))
            return tf.where(progress < rise, up, down)
        return tf.ones_like(progress)

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.optimizers.schedules.LearningRateSchedule`."""
        return {
            "name": self.name,
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            **self.args,
        }


NAMES = (*Schedule._ARGS, PLATEAU)


def _cosine(start: float, end: float, progress: Any) -> Any:
    return end + (start - end) * 0.5 * (1 + tf.cos(math.pi * progress))


def split_schedule(schedule: Any) -> tuple[Any, dict[str, Any]]:
    """Returns name and arguments of a schedule given by name, by dict or not at all.

    In place of the name there may be a callable; see `build_optimizer`.
    """
    if not schedule:
        return "constant", {}
    if isinstance(schedule, str):
        return schedule, {}
    args = dict(schedule)
    name = args.pop("name", None)
    if not isinstance(name, str) and not callable(name):
        raise ConfigError(f"schedule: expected a 'name', found {schedule!r}.")
    return name, {key: value for key, value in args.items() if value is not None}
