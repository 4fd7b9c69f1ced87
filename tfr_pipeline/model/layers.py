"""Layers of the scorers: dropout, noise, normalisation, packing."""

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
        threshold = min(round(self.rate * 65536), 65535)
        bits = _random_bits(inputs, self.next_seed())
        keep = bits >= tf.constant(threshold, tf.uint16)
        scale = 65536.0 / (65536 - threshold)
        return inputs * (tf.cast(keep, inputs.dtype) * scale)

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "rate": self.rate}


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


def _random_bits(like: Any, seed: Any) -> Any:
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


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class CenteredDense(tf.keras.layers.Dense):
    """A dense layer in front of a normalisation, which takes its bias out again.

    What the normalisation subtracts includes the bias, so the loss does not depend on
    it. Its gradient is set to this 0, rather than summed up to rounding errors.
    """

    def call(self, inputs: Any) -> Any:
        """See `tf.keras.layers.Layer`."""
        if not self.use_bias or inputs.shape.rank != 2:
            return super().call(inputs)
        bias = _without_gradient(tf.convert_to_tensor(self.bias))
        return self.activation(tf.nn.bias_add(tf.matmul(inputs, self.kernel), bias))


@tf.custom_gradient
def _without_gradient(value: Any) -> tuple[Any, Callable[[Any], Any]]:
    return tf.identity(value), tf.zeros_like


_keras_call = tf.autograph.experimental.do_not_convert(
    tf.keras.layers.BatchNormalization.call
)


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class BatchNormalization(tf.keras.layers.BatchNormalization):
    """Batch normalisation that trains on `[documents, units]` with one fused kernel.

    Keras uses that kernel for images only and takes some twenty passes over a matrix;
    here the matrix is an image of one pixel a document. The numbers are the same.
    """

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """See `tf.keras.layers.BatchNormalization`."""
        fused = inputs.shape.rank == 2 and mask is None and not self.renorm
        if training is not True or not self.trainable or not fused:
            return _keras_call(self, inputs, training=training, mask=mask)
        units = inputs.shape[1]
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            tf.reshape(inputs, [-1, 1, 1, units]),
            self.gamma if self.scale else tf.ones([units]),
            self.beta if self.center else tf.zeros([units]),
            epsilon=self.epsilon,
        )
        # The kernel returns the variance with Bessel's correction.
        count = tf.cast(tf.shape(inputs)[0], variance.dtype)
        self.update_moving(mean, variance * (count - 1.0) / count, count)
        return tf.reshape(outputs, tf.shape(inputs))

    def update_moving(self, mean: Any, variance: Any, count: Any) -> None:
        """Moves the moving statistics towards those of a batch of `count` rows."""
        rate = 1.0 - self.momentum
        for moving, value in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            # The mean of no rows is NaN.
            value = tf.where(count > 0, tf.cast(value, moving.dtype), moving)
            moving.assign_sub((tf.convert_to_tensor(moving) - value) * rate)


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Unpack(tf.keras.layers.Layer):
    """Takes a ragged `[batch, (list), columns]` apart.

    Returns `(values, row_ids, row_splits)`: `[documents, columns]`, int64
    `[documents]` and int64 `[batch + 1]`. Features keep their dtype, whatever the
    layers behind compute in: preprocessing has yet to tame large values.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{"autocast": False, **kwargs})

    def call(self, inputs: Any) -> tuple[Any, Any, Any]:
        """See the class."""
        return inputs.values, inputs.value_rowids(), inputs.row_splits


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Repack(tf.keras.layers.Layer):
    """Makes ragged float32 scores `[batch, (list)]` of `(scores, row_splits)`."""

    def call(self, inputs: tuple[Any, Any]) -> Any:
        """See the class."""
        scores, row_splits = inputs
        scores = tf.cast(tf.reshape(scores, [-1]), tf.float32)
        return tf.RaggedTensor.from_row_splits(scores, row_splits, validate=False)
