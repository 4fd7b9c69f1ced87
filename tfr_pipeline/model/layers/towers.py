"""Feed-forward towers: one for all features, or one for each side by side."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.layers import named
from tfr_pipeline.model.layers.normalization import BatchNormalization, CenteredDense
from tfr_pipeline.model.layers.seeded import GaussianNoise

# Columns of the matrix products that stacked towers are computed by: narrower ones
# do not fill the processor, wider ones multiply more zeros.
_BLOCK_UNITS = 64


def checked_dims(dims: Any) -> list[int]:
    """Returns numbers of units as a list.

    Raises:
      ConfigError: They are no list of positive numbers; one alone is none.
    """
    units = list(dims) if isinstance(dims, Iterable) else [dims, None]
    if not all(isinstance(unit, numbers.Integral) and int(unit) > 0 for unit in units):
        raise ConfigError(
            "hidden_layer_dims: expected numbers of units, such as [64, 32], found "
            f"{dims!r}."
        )
    return units


def create_tower(
    hidden_layer_dims: Iterable[int],
    output_units: int,
    activation: Any = None,
    input_batch_norm: bool = False,
    use_batch_norm: bool = True,
    batch_norm_moment: float = 0.999,
    dropout: float = 0.5,
    name: str | None = None,
    *,
    input_noise_stddev: float | None = None,
    **kwargs: Any,
) -> tf.keras.Sequential:
    """Returns a feed-forward network: dense, batch norm, activation, dropout a layer.

    Args:
      hidden_layer_dims: Units of the hidden layers.
      output_units: Units of the last, linear layer.
      activation: Activation after each hidden layer; None for none. A function, a name,
        or a dict of a name and arguments; see `named.activation`. `selu` comes with
        alpha dropout and, unless there is another, the initialiser `lecun_normal`.
      input_batch_norm: Normalises the inputs first.
      use_batch_norm: Normalises before each activation.
      batch_norm_moment: Momentum of the moving statistics.
      dropout: Rate of dropout after each hidden layer; 0 or None for none.
      name: Name of the network.
      input_noise_stddev: Standard deviation of noise on the inputs in training, once
        they are normalised; 0 or None for none.
      **kwargs: Passed to every `tf.keras.layers.Dense`: `kernel_initializer`,
        `kernel_regularizer`, `kernel_constraint` and so on, as objects, names, or
        dicts of a name and arguments.

    Example:
      >>> create_tower([4], 1)(tf.ones([2, 3])).shape
      TensorShape([2, 1])
    """
    dense = CenteredDense if use_batch_norm else tf.keras.layers.Dense
    kwargs = named.kernel_arguments(kwargs, activation)
    tower = tf.keras.Sequential(name=name)
    if input_batch_norm:
        tower.add(BatchNormalization(momentum=batch_norm_moment))
    if input_noise_stddev:
        tower.add(GaussianNoise(input_noise_stddev))
    for units in checked_dims(hidden_layer_dims):
        hidden = dense(units, **kwargs)
        tower.add(hidden)
        if use_batch_norm:
            norm = BatchNormalization(momentum=batch_norm_moment)
            hidden.is_centered = functools.partial(getattr, norm, "trainable")
            tower.add(norm)
        tower.add(named.activation(activation))
        if dropout:
            tower.add(named.dropout(dropout, activation))
    tower.add(tf.keras.layers.Dense(output_units, **kwargs))
    return tower


def _of_each(initializer: Any) -> Callable[..., Any]:
    """Returns what initialises the kernel of each tower by itself."""

    def initial(shape: Any, dtype: Any = None) -> Any:
        # One object would give the same numbers each time.
        made = (tf.keras.initializers.get(initializer) for _ in range(shape[0]))
        return tf.stack([new(shape[1:], dtype=dtype) for new in made])

    return initial


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class StackedTowers(tf.keras.layers.Layer):
    """One tower of its own for each feature, all of the same form.

    Maps `[documents, features, width]` to one number a tower, `[documents, features]`.
    A few neighbouring towers at a time are one matrix product with a block-diagonal
    kernel. Kernels are `[features, inputs, units]`; those of a tower are initialised,
    regularised and constrained as those of `Dense` layers.

    Where a tower's input is one number, the first normalisation is folded into the
    first product: the mean and variance of `k x + b` follow from those of `x`.

    Args:
      hidden_layer_dims: Units of the hidden layers of every tower.
      activation: Activation after each hidden layer; None for none.
      use_batch_norm: Normalises before each activation, each unit of each tower.
      batch_norm_moment: Momentum of the moving statistics.
      dropout: Rate of dropout after each hidden layer; 0 or None for none.
      kernel_initializer: See `create_tower`; None for Glorot uniform.
      kernel_regularizer: See `create_tower`.
      kernel_constraint: See `create_tower`.

    Example:
      >>> StackedTowers([4], "relu")(tf.ones([2, 3, 1])).shape
      TensorShape([2, 3])
    """

    def __init__(
        self,
        hidden_layer_dims: Iterable[int],
        activation: Any = None,
        use_batch_norm: bool = True,
        batch_norm_moment: float = 0.999,
        dropout: float = 0.5,
        kernel_initializer: Any = None,
        kernel_regularizer: Any = None,
        kernel_constraint: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.hidden_layer_dims = checked_dims(hidden_layer_dims)
        self.activation = activation
        self._kernel = named.kernel_arguments(
            {
                "kernel_initializer": kernel_initializer,
                "kernel_regularizer": kernel_regularizer,
                "kernel_constraint": kernel_constraint,
            },
            activation,
        )
        self.use_batch_norm = use_batch_norm
        self.batch_norm_moment = batch_norm_moment
        self.dropout = dropout

    def build(self, input_shape: Any) -> None:
        """See `tf.keras.layers.Layer`."""
        _, self._features, width = input_shape
        dims = self.hidden_layer_dims
        towers = max(1, _BLOCK_UNITS // max(dims, default=_BLOCK_UNITS))
        self._block_towers = min(towers, self._features)
        self._kernels: list[Any] = []
        self._biases: list[Any] = []
        self._norms: list[Any] = []
        self._activations: list[Any] = []
        self._dropouts: list[Any] = []
        for inputs, units in zip([width, *dims], [*dims, 1], strict=True):
            self._kernels.append(
                self.add_weight(
                    name=f"kernel_{len(self._kernels)}",
                    shape=(self._features, inputs, units),
                    **self._of_kernel(inputs, units),
                )
            )
            # A normalisation would take the bias out again; it has one of its own.
            hidden = len(self._biases) < len(dims)
            self._biases.append(
                None
                if hidden and self.use_batch_norm
                else self.add_weight(
                    name=f"bias_{len(self._biases)}",
                    shape=(self._features, 1, units),
                    initializer="zeros",
                )
            )
            if hidden and self.use_batch_norm:
                norm = BatchNormalization(momentum=self.batch_norm_moment)
                # HDF5 files want weights of different names.
                with tf.name_scope(f"norm_{len(self._norms)}"):
                    norm.build([None, self._features * units])
                self._norms.append(norm)
            if hidden:
                activation = named.activation(self.activation)
                with tf.name_scope(f"activation_{len(self._activations)}"):
                    activation.build([None, self._features * units])
                self._activations.append(activation)
            if hidden and self.dropout:
                dropout = named.dropout(self.dropout, self.activation)
                with tf.name_scope(f"dropout_{len(self._dropouts)}"):
                    dropout.build([None, self._features * units])
                self._dropouts.append(dropout)
        super().build(input_shape)

    def _of_kernel(self, inputs: int, units: int) -> dict[str, Any]:
        """Returns how a kernel is initialised, regularised and constrained."""
        told = [
            self._kernel.get(f"kernel_{kind}")
            for kind in ("initializer", "regularizer", "constraint")
        ]
        limit = math.sqrt(6.0 / (inputs + units))  # Glorot & Bengio 2010, eq. 16
        constraint = tf.keras.constraints.get(told[2])
        return {
            "initializer": tf.keras.initializers.RandomUniform(-limit, limit)
            if told[0] is None
            else _of_each(told[0]),
            "regularizer": tf.keras.regularizers.get(told[1]),
            "constraint": constraint
            and functools.partial(tf.vectorized_map, constraint),
        }

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Returns `[documents, features]`, one number a tower."""
        training = bool(tf.get_static_value(training))
        width = inputs.shape[-1]
        columns = tf.reshape(inputs, [-1, self._features * width])
        for layer in range(len(self.hidden_layer_dims)):
            if layer == 0 and width == 1 and self.use_batch_norm:
                parts = self._first(columns, training)
            else:
                parts = self._products(
                    columns, self._kernels[layer], self._biases[layer]
                )
                if self.use_batch_norm:
                    normalised = self._norms[layer](
                        tf.concat(parts, axis=1), training=training
                    )
                    parts = [normalised]
            activation = self._activations[layer]
            if activation.weights:  # one a unit
                parts = [tf.concat(parts, axis=1)]
            columns = [activation(part) for part in parts]
            if self.dropout:
                whole = columns[0] if len(columns) == 1 else tf.concat(columns, axis=1)
                columns = [self._dropouts[layer](whole, training=training)]
            columns = columns[0] if len(columns) == 1 else columns
        last = self._products(columns, self._kernels[-1], self._biases[-1])
        return tf.concat(last, axis=1)

    def _products(self, columns: Any, kernel: Any, bias: Any) -> list[Any]:
        """Multiplies the towers of each block with their kernels, and adds the bias.

        Args:
          columns: `[documents, features * inputs]`, or a list of it by block.
          kernel: `[features, inputs, units]`.
          bias: Of `features * units` numbers in any shape, or None.

        Returns:
          `[documents, towers * units]` for each block.
        """
        kernels = self._block_diagonal(tf.convert_to_tensor(kernel))
        if not isinstance(columns, list):
            sizes = [int(block.shape[0]) for block in kernels]
            columns = tf.split(columns, sizes, axis=1)
        parts = [tf.matmul(x, block) for x, block in zip(columns, kernels, strict=True)]
        if bias is None:
            return parts
        bias = tf.reshape(tf.convert_to_tensor(bias), [-1])
        biases = tf.split(bias, [part.shape[-1] for part in parts])
        return [tf.nn.bias_add(*pair) for pair in zip(parts, biases, strict=True)]

    def _block_diagonal(self, kernel: Any) -> list[Any]:
        """Returns `[towers * inputs, towers * units]` for each block of towers."""
        _, inputs, units = kernel.shape
        result = []
        size = self._block_towers
        whole = self._features // size * size
        for start, stop, towers in (
            (0, whole, size),
            (whole, self._features, self._features - whole),
        ):
            if not towers:
                continue
            some = tf.reshape(kernel[start:stop], [-1, towers, inputs, 1, units])
            diagonal = tf.reshape(tf.eye(towers, dtype=some.dtype), [towers, 1, -1, 1])
            blocks = tf.reshape(some * diagonal, [-1, towers * inputs, towers * units])
            result += tf.unstack(blocks, num=(stop - start) // towers)
        return result

    def _first(self, columns: Any, training: Any) -> list[Any]:
        """Normalised first layer of towers with one input: `a (x - mean) + beta`."""
        norm = self._norms[0]
        # Statistics take float32, whatever the products are computed in.
        dtype, columns = columns.dtype, tf.cast(columns, tf.float32)
        kernel = tf.cast(self._kernels[0], tf.float32)[:, 0, :]

        def by_tower(variable: Any) -> Any:
            return tf.reshape(tf.convert_to_tensor(variable), [self._features, -1])

        gamma, beta = by_tower(norm.gamma), by_tower(norm.beta)
        if training:
            count = tf.shape(columns)[0]
            # The mean of no rows, and its gradient, would be NaN.
            rows = tf.cast(tf.maximum(count, 1), columns.dtype)
            mean = tf.reduce_sum(columns, axis=0) / rows
            columns -= mean
            variance = tf.reduce_sum(tf.square(columns), axis=0) / rows
            variances = tf.square(kernel) * variance[:, tf.newaxis]
            norm.update_moving(
                tf.reshape(kernel * mean[:, tf.newaxis], [-1]),
                tf.reshape(variances, [-1]),
                count,
            )
            shift = beta
        else:
            variances = by_tower(norm.moving_variance)
        scale = gamma * tf.math.rsqrt(variances + norm.epsilon)
        if not training:
            shift = beta - by_tower(norm.moving_mean) * scale
        columns, kernel, shift = (
            tf.cast(x, dtype) for x in (columns, scale * kernel, shift)
        )
        return self._products(columns, kernel[:, tf.newaxis], shift)

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {
            **super().get_config(),
            "hidden_layer_dims": self.hidden_layer_dims,
            "activation": tf.keras.activations.serialize(self.activation)
            if callable(self.activation)
            else self.activation,
            "use_batch_norm": self.use_batch_norm,
            "batch_norm_moment": self.batch_norm_moment,
            "dropout": self.dropout,
            **self._kernel,
        }
