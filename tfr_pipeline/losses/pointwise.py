"""Losses of one document at a time."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.declared import BOTH
from tfr_pipeline.features import PADDING_LABEL
from tfr_pipeline.losses.base import AUTO, TwoLayouts, register
from tfr_pipeline.losses.kernels.batch import Packed, check_outputs, to_float

_theirs: Any = tfr.keras.losses


@register
class MeanSquaredLoss(TwoLayouts, _theirs.MeanSquaredLoss):
    """Squared difference of label and score, `sum_i (y_i - s_i)^2`.

    Under AUTO the sum is divided by batch size times longest list, as TF-Ranking
    does. Packed batches cost O(documents).

    Example:
      >>> round(float(MeanSquaredLoss()([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      0.4
    """

    def call_packed(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        batch = self.pack(y_true, y_pred)
        losses = tf.math.squared_difference(batch.labels, batch.logits)
        return self.reduce_documents(losses, batch, sample_weight)


@register
class SigmoidCrossEntropyLoss(TwoLayouts, _theirs.SigmoidCrossEntropyLoss):
    """Cross-entropy of a binary label and the sigmoid of the score.

    Example:
      >>> loss = SigmoidCrossEntropyLoss()
      >>> round(float(loss([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      0.8043
    """

    def call_packed(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        batch = self.pack(y_true, y_pred)
        losses = tf.nn.sigmoid_cross_entropy_with_logits(batch.labels, batch.logits)
        return self.reduce_documents(losses, batch, sample_weight)


class SeveralScores(TwoLayouts):
    """`TwoLayouts` for pointwise losses of several scores a document.

    Packed batches go to TF-Ranking's code as lists of one document each.
    """

    layouts = BOTH
    tpu_ready = True

    def call_padded(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        check_outputs(type(self).__name__, y_pred, self.outputs)
        return super().call_padded(y_true, y_pred, sample_weight)

    def call_packed(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """See base class."""
        check_outputs(type(self).__name__, y_pred, self.outputs)
        scores = to_float(y_pred)
        batch = Packed.of(y_true, scores.with_values(scores.values[:, 0]))
        labels = tf.where(batch.mask, batch.labels, PADDING_LABEL)
        losses, valid = self._loss.compute_unreduced_loss(
            labels=labels[:, tf.newaxis],
            logits=self._loss.get_logits(scores.values[:, tf.newaxis, :]),
        )
        losses = tf.squeeze(losses * valid, axis=1)
        return self.reduce_documents(losses, batch, sample_weight)


@register
class OrdinalLoss(SeveralScores, _theirs.OrdinalLoss):
    """Sum of `ordinal_size` sigmoid cross-entropies, one for each grade passed.

    Scores have the shape `[batch, list_size, ordinal_size]`. TF-Ranking's class
    forgets two of its arguments when it is serialised; this one keeps them.

    Example:
      >>> loss = OrdinalLoss(ordinal_size=2)
      >>> round(float(loss([[1.0, 0.0]], [[[0.6, 0.2], [0.8, 0.3]]])), 4)
      1.6305
    """

    def __init__(
        self,
        reduction: str = AUTO,
        name: str | None = None,
        ragged: bool = False,
        ordinal_size: int = 1,
        use_fraction_label: bool = False,
    ):
        super().__init__(reduction, name, ragged, ordinal_size, use_fraction_label)
        self._ordinal_size = self.outputs = ordinal_size
        self._use_fraction_label = use_fraction_label

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "ordinal_size": self._ordinal_size,
            "use_fraction_label": self._use_fraction_label,
        }


@register
class ClickEMLoss(SeveralScores, _theirs.ClickEMLoss):
    """Click loss with examination and relevance as latent variables.

    Scores have the shape `[batch, list_size, 2]` (Wang et al., "Position Bias
    Estimation for Unbiased Learning to Rank in Personal Search", WSDM 2018).

    Example:
      >>> loss = ClickEMLoss()
      >>> round(float(loss([[1.0, 0.0]], [[[0.6, 0.9], [0.8, 0.2]]])), 4)
      1.1463
    """

    outputs = 2
