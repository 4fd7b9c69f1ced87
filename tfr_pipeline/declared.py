"""What a loss, metric or scorer says of itself: batch layouts, and shapes.

Attributes say it: `layouts`, of `packed` and `padded`, `tpu_ready`, and of scorers
`any_list_size`. They speak of the methods of the class that sets them: a subclass that
overrides one of those has to say it anew. Objects of other libraries say nothing, which
means padded batches, of the list size that was asked for, and no TPU.
"""

from __future__ import annotations

from typing import Any

BOTH = ("packed", "padded")
# The methods that losses, metrics and scorers do their work in.
_OF_LAYOUTS = ("__call__", "call", "call_padded", "update_state")
# A univariate scorer sees documents, whatever the layout.
_OF_TPU = (*_OF_LAYOUTS, "_score_flattened")


def layouts(part: Any) -> tuple[str, ...]:
    """Returns the batch layouts that a loss, metric or scorer takes.

    Example:
      >>> from tfr_pipeline.losses import SoftmaxLoss
      >>> class Mine(SoftmaxLoss):
      ...     def call(self, y_true, y_pred):
      ...         return -y_true * y_pred
      >>> layouts(SoftmaxLoss()), layouts(Mine())
      (('packed', 'padded'), ('padded',))
    """
    return tuple(_declared(part, "layouts", _OF_LAYOUTS, ("padded",)))


def tpu_ready(part: Any) -> bool:
    """Returns whether XLA can compile a loss or scorer of fixed shapes."""
    return bool(_declared(part, "tpu_ready", _OF_TPU, False))


def any_list_size(part: Any) -> bool:
    """Returns whether the scores of a scorer are the same however far lists are padded.

    Example:
      >>> from tfr_pipeline.model.attention_scorers import AttentionScorer
      >>> any_list_size(AttentionScorer()), any_list_size(lambda *features: None)
      (True, False)
    """
    return bool(_declared(part, "any_list_size", _OF_LAYOUTS, False))


def _declared(part: Any, name: str, methods: tuple[str, ...], otherwise: Any) -> Any:
    if name in getattr(part, "__dict__", ()):
        return getattr(part, name)
    for cls in type(part).__mro__:
        if name in vars(cls):
            return getattr(part, name)
        if any(method in vars(cls) for method in methods):
            return otherwise
    return otherwise
