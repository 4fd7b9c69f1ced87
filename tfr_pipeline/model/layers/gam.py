"""`GAMLayer`: a sum of one small network a feature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfr_pipeline.compat import tfr
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.layers.towers import StackedTowers, create_tower


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class GAMLayer(tfr.keras.layers.GAMLayer):
    """Generalised additive model with the scores of its parts.

    A score is the sum of one small network a document feature. With query features, it
    is weighted: each query feature has a network that gives a softmax over the document
    features (Zhuang et al., "Interpretable Ranking with Generalized Additive Models",
    WSDM 2021). The networks of features of one width are computed together.

    Args:
      example_feature_num: Number of document features.
      example_hidden_layer_dims: Hidden units of the network of a document feature.
      context_feature_num: Number of query features; None or 0 for none.
      context_hidden_layer_dims: Hidden units of the network of a query feature;
        required if there are any.
      activation: Activation after each hidden layer; None for none.
      use_batch_norm: Normalises before each activation.
      batch_norm_moment: Momentum of the moving statistics.
      dropout: Rate of dropout after each hidden layer; 0 or None for none.
      name: Name of the layer.

    Raises:
      ConfigError: `context_hidden_layer_dims` is missing, or, when called, the number
        of features is another one.

    Example:
      >>> layer = GAMLayer(2, [3], 1, [3])
      >>> x = tf.ones([5, 1])
      >>> logits, parts, weights = layer(([x, x], [x]), training=False)
      >>> logits.shape, len(parts), weights[0].shape
      (TensorShape([5, 1]), 2, TensorShape([5, 2]))
    """

    def __init__(
        self,
        example_feature_num: int,
        example_hidden_layer_dims: list[int],
        context_feature_num: int | None = None,
        context_hidden_layer_dims: list[int] | None = None,
        activation: Callable[..., Any] | str | None = None,
        use_batch_norm: bool = True,
        batch_norm_moment: float = 0.999,
        dropout: float = 0.5,
        name: str | None = None,
        **kwargs: Any,
    ):
        if context_feature_num and not context_hidden_layer_dims:
            raise ConfigError(
                "GAMLayer: context_hidden_layer_dims is required, because "
                f"context_feature_num is {context_feature_num}."
            )
        # TF-Ranking's own would make towers; its attributes serve `get_config`.
        tf.keras.layers.Layer.__init__(self, name=name, **kwargs)
        self._example_feature_num = example_feature_num
        self._context_feature_num = context_feature_num
        self._example_hidden_layer_dims = list(example_hidden_layer_dims)
        self._context_hidden_layer_dims = list(context_hidden_layer_dims or [])
        self._activation = tf.keras.activations.get(activation)
        self._use_batch_norm = use_batch_norm
        self._batch_norm_moment = batch_norm_moment
        self._dropout = dropout
        self._tower_kwargs = {
            "activation": self._activation,
            "use_batch_norm": use_batch_norm,
            "batch_norm_moment": batch_norm_moment,
            "dropout": dropout,
        }
        self._context_towers = [
            create_tower(
                self._context_hidden_layer_dims,
                example_feature_num,
                name=f"{self.name}_context_tower_{i}",
                **self._tower_kwargs,
            )
            for i in range(context_feature_num or 0)
        ]

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """See `call`."""
        example_inputs, context_inputs = inputs
        # Keras has no shape of None.
        whole = (list(example_inputs), list(context_inputs or []))
        return super().__call__(whole, *args, **kwargs)

    def build(self, input_shape: Any) -> None:
        """See `tf.keras.layers.Layer`."""
        example_shapes, _ = input_shape
        self._check("example", len(example_shapes), self._example_feature_num)
        groups: dict[int, list[int]] = {}
        for i, shape in enumerate(example_shapes):
            groups.setdefault(int(shape[-1]), []).append(i)
        self._groups = list(groups.values())
        self._example_towers = []
        for width, group in groups.items():
            towers = StackedTowers(
                self._example_hidden_layer_dims, **self._tower_kwargs
            )
            # HDF5 files want weights of different names.
            with tf.name_scope(f"width_{width}"):
                towers.build(tf.TensorShape([None, len(group), width]))
            self._example_towers.append(towers)
        super().build(input_shape)

    def _check(self, kind: str, found: int, expected: int | None) -> None:
        if found != (expected or 0):
            raise ConfigError(
                f"GAMLayer: expected {expected or 0} inputs, as {kind}_feature_num "
                f"says, found {found}."
            )

    def call(
        self, inputs: tuple[Sequence[Any], Sequence[Any]], training: Any = True
    ) -> tuple[Any, list[Any], list[Any]]:
        """Returns scores `[documents, 1]`, and those and the weights of the parts.

        Args:
          inputs: Document features and query features, each `[documents, width]`;
            without query features the sum is not weighted.
          training: Whether to drop out and to normalise by the batch. A model passes
            it on.

        Returns:
          Scores; for each document feature its share `[documents, 1]`; for each query
          feature its weights `[documents, document features]`.
        """
        example_inputs, context_inputs = inputs
        self._check("example", len(example_inputs), self._example_feature_num)
        if context_inputs:
            self._check("context", len(context_inputs), self._context_feature_num)
        parts: list[Any] = [None] * len(example_inputs)
        for group, towers in zip(self._groups, self._example_towers, strict=True):
            stacked = tf.stack([example_inputs[i] for i in group], axis=1)
            columns = tf.split(towers(stacked, training=training), len(group), axis=1)
            for i, column in zip(group, columns, strict=True):
                parts[i] = column
        scores = tf.concat(parts, axis=1)
        weights = []
        if context_inputs:
            weights = [
                tf.nn.softmax(tower(value, training=training))
                for value, tower in zip(
                    context_inputs, self._context_towers, strict=True
                )
            ]
            scores *= tf.add_n(weights)
        return tf.reduce_sum(scores, axis=1, keepdims=True), parts, weights
