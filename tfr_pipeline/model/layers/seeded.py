"""Layers that draw random numbers from a seed of their own: dropout and noise."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import tensorflow as tf


class SeededLayer(tf.keras.layers.Layer):
    """A layer whose random numbers are a function of a counter.

    The counter begins at the seed and is a weight, and so part of every checkpoint and
    every saved model: a resumed run draws the numbers that it would have drawn.

    Args:
      seed: Seed of the numbers; drawn from `random` when None, so that
        `tf.keras.utils.set_random_seed` fixes it.
    """

    def __init__(self, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.seed = random.randrange(2**31) if seed is None else seed

    def build(self, input_shape: Any) -> None:
        """See `tf.keras.layers.Layer`."""
        # Each replica counts for itself; a checkpoint keeps the first one's count.
        self._step = self.add_weight(
            name="step",
            shape=(),
            dtype=tf.int64,
            trainable=False,
            # Steps of one layer do not come to the seed of another.
            initializer=tf.keras.initializers.Constant(self.seed * 2**32),
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        super().build(input_shape)

    def next_seed(self) -> Any:
        """Returns int64 `[2]`, another one at each call."""
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group if context else 0
        step = tf.convert_to_tensor(self._step.assign_add(1))
        return tf.stack([step, tf.cast(replica, tf.int64)])

    def when_training(
        self, training: Any, function: Callable[[Any], Any], inputs: Any
    ) -> Any:
        """Returns `function(inputs)` in training, else `inputs`."""
        if training is None or isinstance(training, bool | int):
            return function(inputs) if training else inputs
        return tf.cond(
            tf.cast(training, tf.bool),
            lambda: function(inputs),
            lambda: tf.identity(inputs),
        )

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "seed": self.seed}


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Dropout(SeededLayer):
    """Dropout that draws 16 random bits an element, half of what Keras draws.

    The rate is thus a multiple of 2**-16.

    Args:
      rate: Share of elements that become 0; the others are scaled by 1/(1 - rate).
      seed: See `SeededLayer`.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any):
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"Dropout: expected 0 <= rate < 1, found {rate!r}.")
        super().__init__(seed, **kwargs)
        self.rate = rate

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Returns `inputs` with elements dropped, or as they are when not training."""
        return self.when_training(training if self.rate else False, self._drop, inputs)

    def _drop(self, inputs: Any) -> Any:
        keep, scale = self._kept(inputs)
        return inputs * (tf.cast(keep, inputs.dtype) * scale)

    def _kept(self, inputs: Any) -> tuple[Any, float]:
        """Returns which elements are kept, and what those are multiplied by."""
        threshold = min(round(self.rate * 65536), 65535)
        bits = random_bits(inputs, self.next_seed())
        keep = bits >= tf.constant(threshold, tf.uint16)
        return keep, 65536.0 / (65536 - threshold)

    def relu(self, inputs: Any) -> tuple[Any, float]:
        """Drops elements of `relu(inputs)`, for those who do the scaling elsewhere.

        An element that passes no gradient is 0, for whichever of the two reasons, so
        that the gradient takes one operation and no mask.

        Returns:
          A tensor like the inputs, and what it is to be multiplied by.
        """
        keep, scale = self._kept(inputs)

        @tf.custom_gradient
        def compute(x: Any) -> Any:
            y = tf.where(keep, tf.nn.relu(x), tf.zeros([], x.dtype))
            return y, lambda upstream: tf.where(y > 0.0, upstream, 0.0)

        return compute(inputs), scale

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "rate": self.rate}


# What SELU gives far below 0: Klambauer et al., "Self-Normalizing Neural Networks",
# NeurIPS 2017.
_LEAST_SELU = -1.6732632423543772 * 1.0507009873554805


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class AlphaDropout(Dropout):
    """Dropout that keeps mean 0 and variance 1 of what comes out of SELU.

    Elements that are dropped become the least value of SELU, and all are scaled and
    shifted, as Klambauer et al., NeurIPS 2017, say.

    Args:
      rate: Share of elements that are dropped.
      seed: See `SeededLayer`.
    """

    def _drop(self, inputs: Any) -> Any:
        keep, of_kept = self._kept(inputs)
        share = 1.0 / of_kept
        scale = (share * (1.0 + (1.0 - share) * _LEAST_SELU**2)) ** -0.5
        shift = -scale * _LEAST_SELU * (1.0 - share)
        dropped = tf.constant(_LEAST_SELU, inputs.dtype)
        return scale * tf.where(keep, inputs, dropped) + shift


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class GaussianNoise(SeededLayer):
    """Adds normal noise in training.

    Args:
      stddev: Standard deviation of the noise.
      seed: See `SeededLayer`.
    """

    def __init__(self, stddev: float, seed: int | None = None, **kwargs: Any):
        if stddev < 0.0:
            raise ValueError(f"GaussianNoise: expected stddev >= 0, found {stddev!r}.")
        super().__init__(seed, **kwargs)
        self.stddev = stddev

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Returns `inputs` with noise, or as they are when not training."""
        return self.when_training(training if self.stddev else False, self._add, inputs)

    def _add(self, inputs: Any) -> Any:
        noise = tf.random.stateless_normal(tf.shape(inputs), self.next_seed())
        return inputs + tf.cast(noise * self.stddev, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "stddev": self.stddev}


def random_bits(like: Any, seed: Any) -> Any:
    """Returns uint16 random numbers of the shape of a tensor."""
    shape = tf.shape(like)
    columns = shape[-1] if like.shape.rank else 1
    rows = tf.size(like) // tf.maximum(columns, 1)
    halves = (columns + 1) // 2
    words = tf.random.stateless_uniform([rows + halves], seed, None, None, tf.int32)
    words = tf.bitcast(words, tf.uint32)
    # A hash of the two words, by multiplication and shift as in MurmurHash 3: without
    # it, the exclusive or of four elements of a rectangle would be known.
    mixed = tf.bitwise.bitwise_xor(words[:rows, tf.newaxis], words[rows:])
    mixed *= tf.constant(0x85EBCA6B, tf.uint32)
    shifted = tf.bitwise.right_shift(mixed, tf.constant(15, tf.uint32))
    mixed = tf.bitwise.bitwise_xor(mixed, shifted)
    mixed *= tf.constant(0xC2B2AE35, tf.uint32)
    bits = tf.reshape(tf.bitcast(mixed, tf.uint16), [rows, 2 * halves])
    return tf.reshape(bits[:, :columns], shape)
