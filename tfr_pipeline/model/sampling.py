"""Monte Carlo dropout: scores of a model that drops out, as if it trained."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tfr_pipeline.model.layers import seeded

_KINDS = (
    seeded.Dropout,
    tf.keras.layers.Dropout,
    tf.keras.layers.SpatialDropout1D,
    tf.keras.layers.AlphaDropout,
    tf.keras.layers.GaussianDropout,
)


def dropouts(model: tf.keras.Model) -> list[tf.keras.layers.Layer]:
    """Returns the layers of a model, also those within others, that drop out."""
    return [part for part in model.submodules if isinstance(part, _KINDS) and part.rate]


@contextlib.contextmanager
def dropping_out(model: tf.keras.Model) -> Iterator[None]:
    """Lets a model drop out within, whatever else does as when it is not training.

    So batch normalisation uses its moving statistics, and noise is not added. Gal and
    Ghahramani, "Dropout as a Bayesian Approximation", ICML 2016: the deviation of
    scores over many masks tells how sure the model is.

    Args:
      model: The model; what is traced within keeps dropping out.

    Example:
      >>> model = tf.keras.Sequential([seeded.Dropout(0.5, seed=1)])
      >>> with dropping_out(model):
      ...     sorted(set(model(tf.ones([1, 100])).numpy().ravel().tolist()))
      [0.0, 2.0]
      >>> sorted(set(model(tf.ones([1, 100])).numpy().ravel().tolist()))
      [1.0]
    """
    layers = dropouts(model)
    for layer in layers:
        layer.call = _trained(layer.call)
    try:
        yield
    finally:
        for layer in layers:
            del layer.call  # which leaves that of the class


def _trained(call: Callable[..., Any]) -> Callable[..., Any]:
    @tf.autograph.experimental.do_not_convert
    def trained(inputs: Any, *_: Any, **__: Any) -> Any:
        return call(inputs, training=True)

    return trained
