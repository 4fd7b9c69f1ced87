"""Layers that learn from features alone: corruption, and what is to be made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.model.layers.seeded import SeededLayer, random_bits

# The weight of one whose name begins so is of no use to a model that ranks.
PREFIX = "pretraining_"
# A column whose deviation is less than this share of its mean is constant.
_LEAST_DEVIATION = 1e-5


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Corruption(SeededLayer):
    """Puts values of other documents of the batch in the place of some.

    A unit is a group of neighbouring columns that go together: a number, or the vector
    of a text. Each unit of each document is replaced with the same probability, by that
    of a document drawn from the others of the batch, for each unit anew: a draw from
    its empirical marginal distribution (Yoon et al., "VIME", NeurIPS 2020; Bahri et
    al., "SCARF", ICLR 2022). A document that is alone keeps what it has.

    Outside of training the same numbers are drawn in each call, so that losses of two
    epochs compare.

    Args:
      rate: Probability that a unit is replaced, above 0 and below 1.
      units: Columns of each unit.
      seed: See `SeededLayer`.

    Example:
      >>> columns = tf.reshape(tf.range(8.0), [4, 2])
      >>> corrupted, replaced = Corruption(0.5, [1, 1], seed=1)(columns, training=True)
      >>> bool(tf.reduce_all((corrupted != columns) == replaced))
      True
    """

    def __init__(
        self, rate: float, units: Sequence[int], seed: int | None = None, **kwargs: Any
    ):
        super().__init__(seed, **{"dtype": "float32", **kwargs})
        self.rate, self.units = rate, tuple(units)

    def call(self, inputs: Any, training: Any = None) -> tuple[Any, Any]:
        """Returns float32 `[documents, columns]`, and what was replaced.

        That is bool `[documents, units]`.

        Args:
          inputs: `[documents, columns]`.
          training: Whether other numbers are drawn in the next call.
        """
        if tf.get_static_value(training):
            seed = self.next_seed()
        else:
            seed = tf.constant([self.seed * 2**32, -1], tf.int64)
        count, units = tf.shape(inputs)[0], len(self.units)
        bits = random_bits(tf.zeros([count, 2 * units]), seed)
        threshold = min(max(round(self.rate * 65536), 1), 65535)
        replaced = bits[:, :units] < tf.constant(threshold, tf.uint16)
        others = tf.cast(tf.maximum(count - 1, 0), tf.int64)
        steps = 1 + tf.bitwise.right_shift(
            tf.cast(bits[:, units:], tf.int64) * others, tf.constant(16, tf.int64)
        )
        count = tf.cast(tf.maximum(count, 1), tf.int64)
        rows = (tf.range(tf.shape(steps, tf.int64)[0])[:, tf.newaxis] + steps) % count
        width = sum(self.units)
        places = _by_column(rows, self.units) * width + tf.range(width, dtype=tf.int64)
        drawn = tf.gather(tf.reshape(inputs, [-1]), places)
        return tf.where(_by_column(replaced, self.units), drawn, inputs), replaced

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "rate": self.rate, "units": self.units}


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Denoising(tf.keras.layers.Layer):
    """The error of what a linear layer says that replaced values were.

    Values are compared in deviations of their column from its mean, over the documents
    of the batch: to guess nothing but means gives an error of 1, to know all 0. A unit
    of several columns counts as one, with the mean of their squared errors; a column
    that is constant in the batch counts as known.

    Args:
      units: See `Corruption`.
      rate: Likewise.
      mask_weight: Weight of the cross entropy of what the layer says about which units
        are other ones than they were, which VIME has beside the other; 0 for none.
    """

    def __init__(
        self, units: Sequence[int], rate: float, mask_weight: float = 0.0, **kwargs: Any
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.units, self.rate, self.mask_weight = tuple(units), rate, mask_weight

    def build(self, input_shape: Any) -> None:
        """See `tf.keras.layers.Layer`."""
        width = sum(self.units) + (len(self.units) if self.mask_weight else 0)
        self._kernel = self.add_weight("kernel", (input_shape[0][-1], width))
        self._bias = self.add_weight("bias", (width,), initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: tuple[Any, Any, Any, Any]) -> Any:
        """Returns the error of each document, float32 `[documents, 1]`.

        Their mean over many documents is that over replaced units.

        Args:
          inputs: What a network made of the corrupted documents, `[documents, hidden]`;
            these, `[documents, columns]`; the documents as they were; and what was
            replaced, bool `[documents, units]`.
        """
        hidden, corrupted, columns, replaced = inputs
        columns = tf.stop_gradient(columns)
        mean, variance = tf.nn.moments(columns, axes=[0])
        varies = variance > tf.square(_LEAST_DEVIATION * mean)
        scale = tf.where(varies, tf.math.rsqrt(variance), 0.0)
        guesses = tf.matmul(hidden, self._kernel) + self._bias
        width = sum(self.units)
        errors = tf.square(guesses[:, :width] - (columns - mean) * scale)
        errors = _by_unit(tf.where(varies, errors, 0.0), self.units)
        replaced = tf.cast(replaced, tf.float32)
        # The expected number divides, so that no document without any is NaN.
        loss = tf.reduce_sum(errors * replaced, 1) / (self.rate * len(self.units))
        if self.mask_weight:
            differs = tf.cast(tf.stop_gradient(corrupted) != columns, tf.float32)
            entropies = tf.nn.sigmoid_cross_entropy_with_logits(
                tf.cast(_by_unit(differs, self.units) > 0.0, tf.float32),
                guesses[:, width:],
            )
            loss += self.mask_weight * tf.reduce_mean(entropies, axis=1)
        return loss[:, tf.newaxis]

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {
            **super().get_config(),
            "units": self.units,
            "rate": self.rate,
            "mask_weight": self.mask_weight,
        }


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Contrast(tf.keras.layers.Layer):
    """How far two views of a document are from being told from those of others.

    A network of two layers projects both (Chen et al., "SimCLR", ICML 2020); see
    `info_nce`.

    Args:
      temperature: Divides the cosines.
      projection: Units of both layers.
      group_size: See `info_nce`.
    """

    def __init__(
        self, temperature: float, projection: int, group_size: int, **kwargs: Any
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.temperature, self.projection = temperature, projection
        self.group_size = group_size

    def build(self, input_shape: Any) -> None:
        """See `tf.keras.layers.Layer`."""
        units = self.projection
        self._kernels = [
            self.add_weight(f"kernel_{i}", (inputs, units))
            for i, inputs in enumerate((input_shape[-1], units))
        ]
        self._bias = self.add_weight("bias", (units,), initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Returns the loss of each document, float32 `[documents, 1]`.

        Args:
          inputs: What a network made of one view of all documents, then of the other,
            `[2 * documents, hidden]`.
        """
        hidden = tf.nn.relu(tf.matmul(inputs, self._kernels[0]) + self._bias)
        first, second = tf.split(tf.matmul(hidden, self._kernels[1]), 2)
        losses = info_nce(first, second, self.temperature, self.group_size)
        return losses[:, tf.newaxis]

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "projection": self.projection,
            "group_size": self.group_size,
        }


def info_nce(first: Any, second: Any, temperature: float, group_size: int) -> Any:
    """Returns the InfoNCE loss of each pair of vectors, float32 `[documents]`.

    Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018,
    equation 4, with cosines over a temperature; the mean of both directions. The
    second vectors that a first one is told from are those of its group, neighbouring
    documents, and so of the same lists: these are what a ranker has to tell apart.

    Args:
      first: `[documents, dims]`.
      second: The same.
      temperature: Divides the cosines.
      group_size: Most documents of a group; groups differ by one at most, but for the
        last one.

    Example:
      >>> vectors = tf.eye(2)
      >>> [round(float(loss), 3) for loss in info_nce(vectors, vectors, 1.0, 2)]
      [0.313, 0.313]
    """
    first, second = (tf.math.l2_normalize(x, axis=1) for x in (first, second))
    count, dims = tf.shape(first)[0], first.shape[1]
    groups = tf.maximum(-(-count // group_size), 1)
    size = -(-count // groups)
    rows = groups * size
    real = tf.reshape(tf.range(rows) < count, [groups, size])
    first, second = (
        tf.reshape(tf.pad(x, [[0, rows - count], [0, 0]]), [groups, size, dims])
        for x in (first, second)
    )
    cosines = tf.matmul(first, second, transpose_b=True) / temperature
    both = real[:, :, tf.newaxis] & real[:, tf.newaxis, :]
    cosines = tf.where(both, cosines, tf.float32.min / 2)
    found = tf.reduce_sum(first * second, axis=2) / temperature
    losses = [tf.reduce_logsumexp(cosines, axis=axis) - found for axis in (1, 2)]
    return tf.reshape((losses[0] + losses[1]) / 2, [-1])[:count]


def _by_column(values: Any, units: Sequence[int]) -> Any:
    """Returns `[documents, columns]` of `[documents, units]`."""
    if all(width == 1 for width in units):
        return values
    return tf.gather(values, np.repeat(np.arange(len(units)), units), axis=1)


def _by_unit(values: Any, units: Sequence[int]) -> Any:
    """Returns the mean over the columns of each unit, `[documents, units]`."""
    if all(width == 1 for width in units):
        return values
    owner = np.repeat(np.arange(len(units)), units)
    shares = (owner[:, np.newaxis] == np.arange(len(units))) / np.asarray(units)
    return tf.matmul(values, tf.constant(shares, tf.float32))
