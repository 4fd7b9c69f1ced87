"""Norms of gradients, of all weights and of each layer, gathered in training steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from tfr_pipeline.model import layer_names

NAME = "gradient_norm"


class GradientNorms:
    """Means over the steps of an epoch of the L2 norms of gradients.

    Those are of the global batch, before clipping. A layer counts with the weights that
    no layer within it has; weights that do not train add nothing.

    Args:
      model: A built model; in the scope that it was built in.

    Example:
      >>> model = tf.keras.Sequential([tf.keras.layers.Dense(1, name="out")])
      >>> model.build([None, 2])
      >>> norms = GradientNorms(model)
      >>> kernel, bias = model.trainable_variables
      >>> norms.update([(tf.constant([[3.0], [0.0]]), kernel), (tf.constant([4.0]), bias)])
      >>> norms.values()
      {'gradient_norm': 5.0, 'gradient_norm/out': 5.0}
    """  # noqa: E501

    def __init__(self, model: tf.keras.Model):
        by_layer = layer_names.weights(model)
        trained = {id(variable) for variable in model.trainable_variables}
        self._layer_of: dict[int, int] = {}
        self._names = [NAME]
        for path, weights in by_layer.items():
            own = [id(weight) for weight in weights if id(weight) in trained]
            if own:
                self._layer_of |= dict.fromkeys(own, len(self._names) - 1)
                self._names.append(f"{NAME}/{path or 'model'}")
        # The same on all replicas, each of which adds up for itself.
        self._sums, self._steps = (
            tf.Variable(
                tf.zeros(shape),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
            for shape in ([len(self._names)], [])
        )

    def update(self, gradients: Iterable[tuple[Any, Any]]) -> None:
        """Adds a step; part of it.

        Args:
          gradients: Gradients, the sum of those of all replicas, and their variables.
        """
        squares: list[list[Any]] = [[] for _ in self._names[1:]]
        for gradient, variable in gradients:
            if gradient is not None:
                # Sparse gradients have values.
                values = tf.cast(getattr(gradient, "values", gradient), tf.float32)
                half = tf.nn.l2_loss(values)
                squares[self._layer_of[id(variable)]].append(2.0 * half)
        layers = tf.stack([tf.add_n(some) if some else 0.0 for some in squares])
        total = tf.reduce_sum(layers, keepdims=True)
        self._sums.assign_add(tf.sqrt(tf.concat([total, layers], axis=0)))
        self._steps.assign_add(1.0)

    def reset(self) -> None:
        """Begins an epoch."""
        for variable in (self._sums, self._steps):
            variable.assign(tf.zeros(variable.shape))

    def values(self) -> dict[str, float]:
        """Returns the mean norms since `reset`, by name; none without a step."""
        steps = float(self._steps.numpy())
        means = self._sums.numpy() / max(steps, 1.0)
        return dict(zip(self._names, means.tolist(), strict=True)) if steps else {}
