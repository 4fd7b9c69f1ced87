"""A model from behind its embeddings: vectors in the place of ids and texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline.model.encoded import is_encoded, reached

Features = Mapping[str, Any]


class Inner:
    """Scores batches of which the vectors of ids and texts are given.

    Args:
      model: A model; without embeddings unless it is a functional one with a dict of
        inputs.

    Attributes:
      names: Names of the vectors: `embedding_` and the layer, and a number where it
        is called several times.
    """

    def __init__(self, model: Any):
        inputs: Any = getattr(model, "input", None)
        found = _embeddings(model) if isinstance(inputs, dict) else {}
        self.names = tuple(found)
        if not found:
            return
        needed = reached(list(found.values()), inputs)
        self._front = tf.keras.Model(needed, found), tuple(needed)
        needed = reached(model.output, {**inputs, **found})
        self._back = tf.keras.Model(needed, model.output), tuple(needed)

    def vectors(self, features: Features) -> dict[str, Any]:
        """Returns the vectors of a batch by name.

        Args:
          features: The features of a batch.
        """
        if not self.names or is_encoded(features):
            return {}
        front, names = self._front
        found = front({name: features[name] for name in names}, training=True)
        return dict(found)

    def scores(self, model: Any, features: Features) -> Any:
        """Returns the scores of a batch, as in training.

        Args:
          model: The model.
          features: The features, and the vectors of the batch if it has some.
        """
        if not any(name in features for name in self.names):
            return model.scores(features, training=True)
        back, names = self._back
        return back({name: features[name] for name in names}, training=True)


def _embeddings(model: Any) -> dict[str, Any]:
    """Returns, by name, what layers with weights make of ids or texts alone."""
    found: list[Any] = []
    seen, stack = set(), tf.nest.flatten(model.output)
    while stack:
        tensor = stack.pop()
        node = tensor.node
        if id(node) in seen:
            continue
        seen.add(id(node))
        inputs = node.keras_inputs
        if (
            inputs
            and node.layer.weights
            and tensor.dtype.is_floating
            and not any(value.dtype.is_floating for value in inputs)
        ):
            found.append(tensor)
        else:
            stack += inputs
    result: dict[str, Any] = {}
    for tensor in sorted(found, key=_order):
        name = f"embedding_{tensor.node.layer.name}"
        number = sum(key.partition("/")[0] == name for key in result)
        result[f"{name}/{number}" if number else name] = tensor
    return result


def _order(tensor: Any) -> tuple[str, int]:
    layer = tensor.node.layer
    return layer.name, layer.inbound_nodes.index(tensor.node)
