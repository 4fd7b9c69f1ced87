"""Averages of weights over training steps, beside the weights that train."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError, unknown_name

EMA, SWA = "ema", "swa"
_WHERE = "weight_averaging"
_ARGS = {EMA: ("momentum", "start_epoch"), SWA: ("start_epoch",)}


@dataclasses.dataclass(frozen=True)
class WeightAveraging:
    """The setting `PipelineHparams.weight_averaging`, checked.

    Attributes:
      momentum: Share of the average that a step keeps; 1 for the mean of all steps.
      start_epoch: Epoch, from 0, with whose first step the average begins.
    """

    momentum: float = 0.99
    start_epoch: int = 0

    @classmethod
    def of(cls, value: Any) -> WeightAveraging | None:
        """Returns the setting that a name, or a dict of it and arguments, is.

        Args:
          value: `ema`: an exponential moving average, of `momentum` (0.99) once there
            are 1 / (1 - momentum) steps, before that the mean of those that there are;
            `swa`: the mean of all steps (stochastic weight averaging, Izmailov et al.,
            UAI 2018, who take the last step of each epoch; Polyak and Juditsky, 1992).
            Both take `start_epoch` (0).

        Raises:
          ConfigError: The name or a key is unknown, or a value cannot be.

        Example:
          >>> WeightAveraging.of({"name": "swa", "start_epoch": 10})
          WeightAveraging(momentum=1.0, start_epoch=10)
        """
        if not value:
            return None
        if not isinstance(value, str | Mapping):
            raise ConfigError(
                f"{_WHERE}: expected a name or a dict, found {value!r:.80}."
            )
        told: Mapping[str, Any] = {"name": value} if isinstance(value, str) else value
        given = {key: item for key, item in told.items() if item is not None}
        name = given.pop("name", None)
        if name not in _ARGS:
            raise ConfigError(unknown_name("name", str(name), _ARGS, _WHERE))
        for key in given:
            if key not in _ARGS[name]:
                where = f"{_WHERE} {name!r}"
                raise ConfigError(unknown_name("argument", key, _ARGS[name], where))
        momentum = given.setdefault("momentum", 1.0 if name == SWA else cls.momentum)
        if name == EMA and not (
            isinstance(momentum, int | float) and 0.0 < momentum < 1.0
        ):
            raise ConfigError(
                f"{_WHERE}.momentum: expected a number between 0 and 1, found "
                f"{momentum!r}."
            )
        start = given.get("start_epoch", 0)
        if not isinstance(start, int) or isinstance(start, bool) or start < 0:
            raise ConfigError(
                f"{_WHERE}.start_epoch: expected an epoch, from 0, found {start!r}."
            )
        return cls(**given)

    def share(self, step: Any, start: int) -> Any:
        """Returns the share of a step's weights in the average, float32 scalar.

        Args:
          step: Steps done, this one with them.
          start: Steps done before the average begins.
        """
        count = tf.cast(tf.maximum(tf.cast(step, tf.int64) - start, 1), tf.float32)
        return tf.maximum(1.0 - self.momentum, 1.0 / count)


class Averages:
    """Averages of weights: for evaluation, the best epoch, checkpoints and exports.

    Training goes on with the raw weights. One of both is in the model, the other one in
    variables beside it, and `exchange` swaps the two. Each replica averages its own
    copies, without asking the others.

    Args:
      weights: Weights of a model. Moving statistics of batch normalisation belong to
        them: their average is that of the statistics.
      setting: How they are averaged.
      steps_per_epoch: Steps of an epoch.

    Attributes:
      variables: What a checkpoint has to hold beside the model.
      in_place: Whether the model has the averages.

    Example:
      >>> weight = tf.Variable(1.0)
      >>> averages = Averages([weight], WeightAveraging(momentum=0.5), 10)
      >>> for step in (1, 2, 3):
      ...     weight.assign(float(step)) and averages.update(step)
      >>> with averages.kept_in_place():
      ...     print(weight.numpy())
      2.25
      >>> float(weight.numpy())
      3.0
    """

    def __init__(
        self,
        weights: Iterable[tf.Variable],
        setting: WeightAveraging,
        steps_per_epoch: int,
    ):
        self._setting = setting
        self._start = setting.start_epoch * steps_per_epoch
        self._weights = list(weights)
        self.variables = [_beside(weight) for weight in self._weights]
        self.in_place = False

    def update(self, step: Any) -> None:
        """Takes the weights of a step into the averages; part of a training step.

        Until averaging begins, the average is the weight.

        Args:
          step: Steps done, this one with them.
        """
        rest = 1.0 - self._setting.share(step, self._start)
        for weight, average in zip(self._weights, self.variables, strict=True):
            value = tf.convert_to_tensor(weight)
            # What does not change, and what is not averaged yet, stays to the last bit.
            moved = tf.cast(rest, value.dtype) * (average - value)
            average.assign(value + moved)

    def put_in(self) -> None:
        """Gives the model the averages, if it does not have them."""
        if not self.in_place:
            self._exchange()

    def take_out(self) -> None:
        """Gives the model the weights that train, if it does not have them."""
        if self.in_place:
            self._exchange()

    @contextlib.contextmanager
    def kept_in_place(self) -> Iterator[None]:
        """The model has the averages within, and what it had before afterwards."""
        was = self.in_place
        self.put_in()
        try:
            yield
        finally:
            if not was:
                self.take_out()

    def _exchange(self) -> None:
        for weight, average in zip(self._weights, self.variables, strict=True):
            raw, mean = weight.numpy(), average.numpy()
            weight.assign(mean)
            average.assign(raw)
        self.in_place = not self.in_place


def _beside(weight: tf.Variable) -> tf.Variable:
    """Returns a variable for the average of a weight, in the same place."""
    aggregation = weight.aggregation
    if weight.synchronization != tf.VariableSynchronization.ON_READ:
        # The same on all replicas.
        aggregation = tf.VariableAggregation.ONLY_FIRST_REPLICA
    # So that servers do not divide what is a part already.
    with tf.distribute.get_strategy().extended.colocate_vars_with(weight):
        return tf.Variable(
            weight.numpy(),
            trainable=False,
            dtype=weight.dtype,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=aggregation,
        )


def check_optimizer(optimizer: Any) -> None:
    """Checks that an optimizer does not average weights by itself.

    Raises:
      ConfigError: It does. Keras would validate weights other than those that it keeps
        in the end, and put averages into them each time that `model.fit` ends.
    """
    if getattr(optimizer, "use_ema", False):
        raise ConfigError(
            "optimizer_args.use_ema: expected weight_averaging={'name': 'ema', "
            "'momentum': 0.99} in its place, which is validated and exported as it is."
        )
