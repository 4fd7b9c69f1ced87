"""What a vector of the query and one of the document say together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError, unknown_name

# What an interaction may be made of.
PARTS = ("cosine", "product", "difference", "query", "document")


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Interaction(tf.keras.layers.Layer):
    """Puts vectors of queries and of documents together.

    Args:
      of: What it is made of, side by side: `cosine` of the angle between the two (0
        for a vector of zeros), their `product` and `difference` (document less query)
        element by element, and `query` and `document` as they are.

    Raises:
      ConfigError: There is no such part, or none.

    Example:
      >>> query, document = tf.constant([[3.0, 4.0]]), tf.constant([[4.0, 3.0]])
      >>> Interaction(["cosine", "product"])((query, document)).numpy().round(2)
      array([[ 0.96, 12.  , 12.  ]], dtype=float32)
    """

    def __init__(self, of: Sequence[str], **kwargs: Any):
        super().__init__(**{"autocast": False, **kwargs})
        self.of = [of] if isinstance(of, str) else list(of)
        for part in self.of:
            if part not in PARTS:
                raise ConfigError(
                    unknown_name("part", str(part), PARTS, "interactions")
                )
        if not self.of:
            raise ConfigError(f"interactions: expected some of {', '.join(PARTS)}.")

    def call(self, inputs: tuple[Any, Any]) -> Any:
        """Returns `[..., columns]`.

        Args:
          inputs: Vectors of the query and of the document, float `[..., dims]`.

        Raises:
          ConfigError: They are not of one length.
        """
        query, document = inputs
        if query.shape[-1] != document.shape[-1] or not document.dtype.is_floating:
            raise ConfigError(
                "interactions: expected vectors of one length, found "
                f"{query.dtype.name} {query.shape} of the query and "
                f"{document.dtype.name} {document.shape} of the document."
            )
        made = {
            "cosine": lambda: tf.reduce_sum(
                tf.math.l2_normalize(query, -1) * tf.math.l2_normalize(document, -1),
                axis=-1,
                keepdims=True,
            ),
            "product": lambda: query * document,
            "difference": lambda: document - query,
            "query": lambda: query + tf.zeros_like(document),
            "document": lambda: document,
        }
        return tf.concat([made[part]() for part in self.of], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "of": self.of}
