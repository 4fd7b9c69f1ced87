"""Layers of the scorers: dropout, towers, stacked towers, packing."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Dropout(tf.keras.layers.Layer):
    """Dropout whose masks are a function of a seed and a step counter.

    The counter is a weight and so part of every checkpoint: a resumed run draws the
    masks that it would have drawn. A mask takes 16 random bits an element, half of
    what Keras draws; the rate is thus a multiple of 2**-16.

    Args:
      rate: Share of elements that become 0; the others are scaled by 1/(1 - rate).
      seed: Seed of the masks; drawn from `random` when None, so that
        `tf.keras.utils.set_random_seed` fixes it.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any):
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"Dropout: expected 0 <= rate < 1, found {rate!r}.")
        super().__init__(**kwargs)
        self.rate = rate
        self.seed = random.randrange(2**31) if seed is None else seed

    def build(self, input_shape: Any) -> None:
        """See `tf.keras.layers.Layer`."""
        # Each replica counts for itself; a checkpoint keeps the first one's count.
        self._step = self.add_weight(
            name="step",
            shape=(),
            dtype=tf.int64,
            trainable=False,
            initializer="zeros",
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        super().build(input_shape)

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Returns `inputs` with elements dropped, or as they are when not training."""
        if training is None or isinstance(training, bool | int):
            return self._drop(inputs) if training and self.rate else inputs
        return tf.cond(
            tf.cast(training, tf.bool),
            lambda: self._drop(inputs),
            lambda: tf.identity(inputs),
        )

    def _drop(self, inputs: Any) -> Any:
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group if context else 0
        step = self._step.assign_add(1)
        seed = tf.stack(
            [
                tf.constant(self.seed, tf.int64),
                # Replicas draw from streams far apart.
                tf.convert_to_tensor(step) + tf.cast(replica, tf.int64) * 2**40,
            ]
        )
        count = tf.size(inputs)
        words = tf.random.stateless_uniform(
            [(count + 1) // 2], seed, None, None, tf.int32
        )
        bits = tf.reshape(tf.bitcast(words, tf.uint16), [-1])[:count]
        threshold = min(round(self.rate * 65536), 65535)
        keep = tf.cast(bits >= tf.constant(threshold, tf.uint16), inputs.dtype)
        scale = 65536.0 / (65536 - threshold)
        return inputs * tf.reshape(keep * scale, tf.shape(inputs))

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


def create_tower(
    hidden_layer_dims: Iterable[int],
    output_units: int,
    activation: Callable[..., Any] | str | None = None,
    input_batch_norm: bool = False,
    use_batch_norm: bool = True,
    batch_norm_moment: float = 0.999,
    dropout: float = 0.5,
    name: str | None = None,
    **kwargs: Any,
) -> tf.keras.Sequential:
    """Returns a feed-forward network: dense, batch norm, activation, dropout a layer.

    Args:
      hidden_layer_dims: Units of the hidden layers.
      output_units: Units of the last, linear layer.
      activation: Activation after each hidden layer; None for none.
      input_batch_norm: Normalises the inputs first.
      use_batch_norm: Normalises before each activation.
      batch_norm_moment: Momentum of the moving statistics.
      dropout: Rate of dropout after each hidden layer; 0 or None for none.
      name: Name of the network.
      **kwargs: Passed to every `tf.keras.layers.Dense`.

    Example:
      >>> create_tower([4], 1)(tf.ones([2, 3])).shape
      TensorShape([2, 1])
    """
    layers = tf.keras.layers
    tower = tf.keras.Sequential(name=name)
    if input_batch_norm:
        tower.add(layers.BatchNormalization(momentum=batch_norm_moment))
    for units in hidden_layer_dims:
        tower.add(layers.Dense(units, **kwargs))
        if use_batch_norm:
            tower.add(layers.BatchNormalization(momentum=batch_norm_moment))
        tower.add(layers.Activation(activation))
        if dropout:
            tower.add(Dropout(dropout))
    tower.add(layers.Dense(output_units, **kwargs))
    return tower


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class StackedDense(tf.keras.layers.Layer):
    """Many dense layers side by side: one batched matrix product.

    Maps `[towers, documents, inputs]` to `[towers, documents, units]`, each tower with
    a kernel and a bias of its own, initialised as a `Dense` layer of its size.

    Args:
      units: Outputs of each tower.
    """

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape: Any) -> None:
        """See `tf.keras.layers.Layer`."""
        towers, _, inputs = input_shape
        limit = math.sqrt(6.0 / (inputs + self.units))  # Glorot & Bengio 2010, eq. 16
        self.kernel = self.add_weight(
            name="kernel",
            shape=(towers, inputs, self.units),
            initializer=tf.keras.initializers.RandomUniform(-limit, limit),
        )
        self.bias = self.add_weight(
            name="bias", shape=(towers, 1, self.units), initializer="zeros"
        )
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """See the class."""
        if inputs.shape[-1] == 1:
            return inputs * self.kernel + self.bias
        return tf.matmul(inputs, self.kernel) + self.bias

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "units": self.units}


def stacked_towers(
    inputs: Any,
    hidden_layer_dims: Iterable[int],
    activation: Callable[..., Any] | str | None = None,
    use_batch_norm: bool = True,
    batch_norm_moment: float = 0.999,
    dropout: float = 0.5,
) -> Any:
    """Applies one tower of its own to each feature.

    Args:
      inputs: `[documents, features, width]`, statically known but for the documents.
      hidden_layer_dims: Units of the hidden layers of every tower.
      activation: Activation after each hidden layer.
      use_batch_norm: Normalises before each activation, each unit of each tower.
      batch_norm_moment: Momentum of the moving statistics.
      dropout: Rate of dropout after each hidden layer.

    Returns:
      `[documents, features]`, one number a tower.
    """
    layers = tf.keras.layers
    hidden = tf.transpose(inputs, [1, 0, 2])
    for units in hidden_layer_dims:
        hidden = StackedDense(units)(hidden)
        if use_batch_norm:
            # Statistics over documents, for each tower and unit.
            norm = layers.BatchNormalization(axis=[0, 2], momentum=batch_norm_moment)
            hidden = norm(hidden)
        hidden = layers.Activation(activation)(hidden)
        if dropout:
            hidden = Dropout(dropout)(hidden)
    return tf.transpose(StackedDense(1)(hidden)[:, :, 0])


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Unpack(tf.keras.layers.Layer):
    """Takes a ragged `[batch, (list), columns]` apart.

    Returns `(values, row_ids, row_splits)`: `[documents, columns]`, int64
    `[documents]` and int64 `[batch + 1]`.
    """

    def call(self, inputs: Any) -> tuple[Any, Any, Any]:
        """See the class."""
        return inputs.values, inputs.value_rowids(), inputs.row_splits


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Repack(tf.keras.layers.Layer):
    """Makes ragged scores `[batch, (list)]` of `(scores, row_splits)`."""

    def call(self, inputs: tuple[Any, Any]) -> Any:
        """See the class."""
        scores, row_splits = inputs
        return tf.RaggedTensor.from_row_splits(
            tf.reshape(scores, [-1]), row_splits, validate=False
        )
