"""Losses that know their own gradient.

A closed form is a function `(logits, weights) -> (losses, gradient)`: losses of
documents or lists, and the gradient of `sum(weights * losses)` with respect to the
logits. Both come out of one pass, so that training needs no second one, and nothing
but the gradient is kept until the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfr_pipeline.compat import tf

ClosedForm = Callable[[Any, Any], tuple[Any, Any]]


def weighted_sum(form: ClosedForm, logits: Any, weights: Any) -> Any:
    """Returns `sum(weights * losses)`, float32 scalar.

    Args:
      form: The closed form.
      logits: float32 `[documents]`; nothing else gets a gradient.
      weights: None, a scalar or a weight for each loss.
    """
    weights = None if weights is None else tf.stop_gradient(weights)

    @tf.custom_gradient
    def compute(logits: Any) -> Any:
        losses, gradient = form(logits, weights)
        losses = losses if weights is None else losses * weights
        return tf.reduce_sum(losses), lambda upstream: upstream * gradient

    return compute(logits)


def unreduced(form: ClosedForm, logits: Any) -> Any:
    """Returns the losses themselves.

    The weights of the losses are known in the backward pass only, which therefore
    evaluates the closed form again.
    """

    @tf.custom_gradient
    def compute(logits: Any) -> Any:
        losses, _ = form(logits, None)
        return losses, lambda upstream: form(logits, upstream)[1]

    return compute(logits)
