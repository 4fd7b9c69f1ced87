"""Networks that share their weights: many members for little more than one's cost."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.layers import named
from tfr_pipeline.model.layers.towers import checked_dims

# Members that are computed by one product a layer. The activations of more do not stay
# in the cache of a core: sixteen at once took twice as long as four times four.
_AT_ONCE = 4


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class RandomSigns(tf.keras.initializers.RandomUniform):
    """Initialises with 1 and -1, each with probability 1/2.

    Args:
      seed: As of Keras's random initialisers.

    Example:
      >>> sorted(set(RandomSigns(seed=1)([100]).numpy().tolist()))
      [-1.0, 1.0]
    """

    def __init__(self, seed: int | None = None):
        super().__init__(-1.0, 1.0, seed)

    def __call__(self, shape: Any, dtype: Any = None, **kwargs: Any) -> Any:
        """Returns a tensor of that shape."""
        numbers = super().__call__(shape, dtype, **kwargs)
        return tf.where(numbers < 0.0, -1.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"seed": self.seed}


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class MemberTower(tf.keras.layers.Layer):
    """Feed-forward networks that share their kernels, each with scales of its own.

    Layer `l` of member `m` is `activation(((x * r_lm) W_l) * s_lm + b_lm)`
    (BatchEnsemble: Wen et al., ICLR 2020); each member has a linear head of its own. As
    in TabM (Gorishniy et al., "TabM: Advancing Tabular Deep Learning with
    Parameter-Efficient Ensembling", ICLR 2025) all scales begin at 1, except for random
    signs in those of the inputs, `r_1m`, so that members begin by seeing different
    features.

    A layer is one batched product of a few members: a member's scales are multiplied
    into its copy of the kernel, which is smaller than a batch of documents.

    In training the result has one row of documents a member; what ranks them computes
    a loss of each. Otherwise it is the mean over members.

    Args:
      members: Number of members.
      hidden_layer_dims: Units of the hidden layers.
      output_units: Numbers that a head gives.
      activation: Activation after each hidden layer, see `create_tower`.
      dropout: Rate of dropout after each hidden layer, drawn for each member.
      **kwargs: `kernel_initializer` of the shared kernels and of the heads,
        `kernel_regularizer` and `kernel_constraint` of the shared kernels alone, see
        `create_tower`; and as of a Keras layer.

    Raises:
      ConfigError: `members` or a number of units is not positive, or a name unknown.

    Example:
      >>> tower = MemberTower(8, [4], activation="relu")
      >>> tower(tf.ones([2, 3])).shape, tower(tf.ones([2, 3]), training=True).shape
      (TensorShape([2, 1]), TensorShape([8, 2, 1]))
    """

    def __init__(
        self,
        members: int,
        hidden_layer_dims: Iterable[int],
        output_units: int = 1,
        activation: Any = None,
        dropout: float = 0.0,
        **kwargs: Any,
    ):
        kernel = {key: kwargs.pop(key) for key in named.OF_KERNELS if key in kwargs}
        super().__init__(**kwargs)
        if isinstance(members, bool) or not isinstance(members, int) or members < 1:
            raise ConfigError(f"members: expected 1 or more, found {members!r}.")
        self.members = members
        self.hidden_layer_dims = checked_dims(hidden_layer_dims)
        self.output_units = output_units
        self.activation = activation
        named.activation(activation)  # says now what is wrong with it
        self.dropout = dropout or 0.0
        self._kernel = named.kernel_arguments(kernel, activation)

    @property
    def training_members(self) -> int:
        """How many rows of scores there are in training; see `members.members_of`."""
        return self.members

    def build(self, input_shape: Any) -> None:
        """See `tf.keras.layers.Layer`."""
        dims = [int(input_shape[-1]), *self.hidden_layer_dims]
        self._kernels, self._biases = [], []
        self._input_scales, self._output_scales = [], []
        self._activations, self._dropouts = [], []
        initializer, regularizer, constraint = (
            get(self._kernel.get(key))
            for get, key in zip(
                (_initializer, tf.keras.regularizers.get, tf.keras.constraints.get),
                named.OF_KERNELS,
                strict=True,
            )
        )

        def weight(name: str, units: int, initial: Any) -> Any:
            shape = (self.members, units)
            return self.add_weight(name=name, shape=shape, initializer=initial)

        for i, (inputs, units) in enumerate(itertools.pairwise(dims)):
            signs = "ones" if i or self.members == 1 else RandomSigns()
            self._kernels.append(
                self.add_weight(
                    name=f"kernel_{i}",
                    shape=(inputs, units),
                    initializer=_another(initializer),
                    regularizer=regularizer,
                    constraint=constraint,
                )
            )
            self._input_scales.append(weight(f"input_scale_{i}", inputs, signs))
            self._output_scales.append(weight(f"output_scale_{i}", units, "ones"))
            self._biases.append(weight(f"bias_{i}", units, "zeros"))
            activation = named.activation(self.activation)
            with tf.name_scope(f"activation_{i}"):
                activation.build([None, units])
            self._activations.append(activation)
            if self.dropout:
                dropout = named.dropout(self.dropout, self.activation)
                with tf.name_scope(f"dropout_{i}"):
                    dropout.build([self.members, None, units])
                self._dropouts.append(dropout)
        self._head = self.add_weight(
            name="head",
            shape=(self.members, dims[-1], self.output_units),
            initializer=_OfEach(initializer),
        )
        self._head_bias = weight("head_bias", self.output_units, "zeros")
        super().build(input_shape)

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Returns `[members, documents, output_units]` in training, else their mean.

        Args:
          inputs: `[documents, columns]`.
          training: Whether the model is trained.

        Returns:
          The mean is `[documents, output_units]`.
        """
        training = bool(tf.get_static_value(training))
        scores = [
            self._scores(inputs, slice(first, first + _AT_ONCE), training)
            for first in range(0, self.members, _AT_ONCE)
        ]
        whole = scores[0] if len(scores) == 1 else tf.concat(scores, axis=0)
        if training:
            return whole
        return tf.reduce_mean(tf.cast(whole, tf.float32), axis=0)

    def _scores(self, inputs: Any, some: slice, training: bool) -> Any:
        """Returns the scores of some members, `[members, documents, output_units]`."""
        x, factor = inputs[tf.newaxis], 1.0
        for i in range(len(self.hidden_layer_dims)):
            # `r` and `s` scale rows and columns of the kernel as well as documents.
            kernel = self._kernels[i] * self._input_scales[i][some, :, tf.newaxis]
            outputs = self._output_scales[i][some, tf.newaxis, :]
            x = tf.matmul(x, kernel * (outputs * factor))
            x += self._biases[i][some, tf.newaxis, :]
            factor = 1.0
            if training and self._dropouts and _is_relu(self.activation):
                # What dropout scales by comes with the next kernel.
                x, factor = self._dropouts[i].relu(x)
                continue
            rows = tf.reshape(x, [-1, x.shape[-1]])  # PReLU has a slope a column
            x = tf.reshape(self._activations[i](rows), tf.shape(x))
            if self._dropouts:
                x = self._dropouts[i](x, training=training)
        bias = self._head_bias[some, tf.newaxis, :]
        return tf.matmul(x, self._head[some] * factor) + bias

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {
            **super().get_config(),
            "members": self.members,
            "hidden_layer_dims": self.hidden_layer_dims,
            "output_units": self.output_units,
            "activation": tf.keras.activations.serialize(self.activation)
            if callable(self.activation)
            else self.activation,
            "dropout": self.dropout,
            **self._kernel,
        }


class _OfEach(tf.keras.initializers.Initializer):
    """Initialises `[members, inputs, units]` as many layers `[inputs, units]`."""

    def __init__(self, initializer: Any):
        self._initializer = initializer

    def __call__(self, shape: Any, dtype: Any = None, **kwargs: Any) -> Any:
        members, *each = shape
        return tf.stack(
            [_another(self._initializer)(each, dtype) for _ in range(members)]
        )


def _is_relu(activation: Any) -> bool:
    return activation in ("relu", tf.keras.activations.relu, tf.nn.relu)


def _initializer(value: Any) -> Any:
    return tf.keras.initializers.get(value or "glorot_uniform")


def _another(initializer: Any) -> Any:
    """Returns an initialiser that draws numbers of its own, unless it has a seed."""
    if not isinstance(initializer, tf.keras.initializers.Initializer):
        return initializer
    return type(initializer).from_config(initializer.get_config())
