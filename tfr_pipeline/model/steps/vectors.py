"""Steps that make a vector of each number; NaN, a missing one, stays.

Gorishniy et al., "On Embeddings for Numerical Features in Tabular Deep Learning",
NeurIPS 2022.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.sketches import Quantiles
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.steps.base import Statistics, Step, floats, side_by_side
from tfr_pipeline.model.steps.numeric import NothingToLearnError, whole


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class PiecewiseLinear(Step):
    """Says how far a value has come through each of some bins.

    Bins have about as many documents each; of a bin from `a` to `b` the value is 0 up
    to `a`, 1 from `b` on, and linear between (section 3.2 of the paper, which lets the
    outer bins go on beyond the training data; here they end with it). Where quantiles
    are equal there are fewer bins, and the last columns are 0.

    Args:
      bins: Number of bins.

    Example:
      >>> step = PiecewiseLinear(2, statistics={"edges": [[0.0, 1.0, 5.0]]})
      >>> step(tf.constant([[0.5], [3.0], [9.0]])).numpy().tolist()
      [[0.5, 0.0], [1.0, 0.5], [1.0, 1.0]]
    """

    is_constant: ClassVar[bool] = False  # many columns

    def __init__(self, bins: int = 16, **kwargs: Any):
        super().__init__(**kwargs)
        self.bins = whole("piecewise_linear", bins, 1)

    def new_sketch(self) -> Quantiles:
        """See `Step`."""
        return Quantiles()

    def learn(self, sketch: Quantiles) -> Statistics:
        """See `Step`."""
        found = sketch.at(np.linspace(0, 1, self.bins + 1)).astype(np.float32)
        edges = []
        for column, row in enumerate(found):
            if np.isnan(row[0]):
                raise NothingToLearnError(column)
            distinct = np.unique(row)
            rest = [distinct[-1]] * (self.bins + 1 - len(distinct))
            edges.append([*distinct.tolist(), *map(float, rest)])
        return {"edges": edges}

    def call(self, inputs: Any) -> Any:
        """See `Step`."""
        values = floats(inputs)[..., tf.newaxis]
        edges = self._constant("edges")  # [columns, bins + 1]
        low, width = edges[:, :-1], edges[:, 1:] - edges[:, :-1]
        # Limited first: infinity has come all the way.
        inside = tf.minimum(tf.maximum(values, low), low + width) - low
        share = tf.minimum(tf.math.divide_no_nan(inside, width), 1.0)
        return side_by_side(tf.where(tf.math.is_nan(values), values, share))

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "bins": self.bins}


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Periodic(Step):
    """Sine and cosine of a value, at frequencies that are trained with the model.

    `[sin(2 pi c_1 x), ..., cos(2 pi c_1 x), ...]`, each column with frequencies `c` of
    its own (section 3.3 of the paper). Values are expected on one scale: put
    `quantile_normal` or `standardize` in front.

    Args:
      frequencies: Number of frequencies.
      sigma: Standard deviation of the frequencies at the start, the setting that
        matters most.
      dim: Makes of sines and cosines so many columns, by a matrix for each column of
        the feature and ReLU, as the paper's `PLR` does; None leaves them as they are.

    Raises:
      ConfigError: An argument is not positive.

    Example:
      >>> Periodic(4, dim=8)(tf.ones([5, 3])).shape
      TensorShape([5, 24])
    """

    is_constant: ClassVar[bool] = False  # it is trained

    def __init__(
        self,
        frequencies: int = 16,
        *,
        sigma: float = 0.1,
        dim: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.frequencies = whole("periodic", frequencies, 1)
        if isinstance(sigma, bool) or not isinstance(sigma, int | float) or sigma <= 0:
            raise ConfigError(f"periodic: expected sigma > 0, found {sigma!r}.")
        self.sigma = float(sigma)
        self.dim = None if dim is None else whole("periodic: dim", dim, 1)

    def build(self, input_shape: Any) -> None:
        """See `tf.keras.layers.Layer`."""
        columns = int(input_shape[-1])
        self._frequencies = self.add_weight(
            "frequencies",
            [columns, self.frequencies],
            initializer=tf.keras.initializers.RandomNormal(stddev=self.sigma),
        )
        if self.dim is not None:
            limit = 1.0 / math.sqrt(2 * self.frequencies)
            uniform = tf.keras.initializers.RandomUniform(-limit, limit)
            shape = [columns, 2 * self.frequencies, self.dim]
            self._kernel = self.add_weight("kernel", shape, initializer=uniform)
            self._bias = self.add_weight(
                "bias", [columns, self.dim], initializer="zeros"
            )
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """See `Step`."""
        values = floats(inputs)[..., tf.newaxis]
        phase = 2.0 * math.pi * values * self._frequencies
        waves = tf.concat([tf.sin(phase), tf.cos(phase)], axis=-1)
        if self.dim is not None:
            product = tf.einsum("...cf,cfd->...cd", waves, self._kernel)
            waves = tf.nn.relu(product + self._bias)
        return side_by_side(waves)

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {
            **super().get_config(),
            "frequencies": self.frequencies,
            "sigma": self.sigma,
            "dim": self.dim,
        }
