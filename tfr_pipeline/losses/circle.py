"""Losses of each document against those with a lower label."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.losses.base import AUTO, ListLoss, register
from tfr_pipeline.losses.kernels.tables import LOWEST, log_sum_exp_below

_theirs: Any = tfr.keras.losses


@register
class CircleLoss(ListLoss):
    """Circle loss: pairs count the more the further they are from the optimum.

    `log(1 + sum_{y_i > y_j} exp(gamma (a_j (s_j - m) - b_i (s_i - 1 + m))))` with
    `a_j = relu(s_j + m)`, `b_i = relu(1 + m - s_i)` and `m` the margin (Sun et al.,
    "Circle Loss: A Unified Perspective of Pair Similarity Optimization", CVPR 2020,
    equation 6). Scores are similarities: they are clipped to [0, 1], and clipped ones
    have no gradient. One sort a list, no pairs. TF-Ranking's, for Estimators only,
    overflows where pairs are far apart, and is NaN for lists without pairs.

    Example:
      >>> loss = CircleLoss(gamma=2.0)
      >>> round(float(loss([[1.0, 0.0]], [[0.6, 0.8]])), 4)
      1.5805
    """

    def __init__(
        self,
        reduction: str = AUTO,
        name: str | None = None,
        gamma: float = 64.0,
        margin: float = 0.25,
        ragged: bool = False,
    ):
        """Initializer.

        Args:
          reduction: Keras reduction.
          name: Name of the loss.
          gamma: Scale of the similarities.
          margin: Margin on both sides of the optimum.
          ragged: Kept for TF-Ranking's sake; the layout is read off the tensors.
        """
        super().__init__(reduction, name, ragged=ragged)
        self._gamma = gamma
        self._margin = margin

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = super().get_config()
        del config["temperature"]
        return {**config, "gamma": self._gamma, "margin": self._margin}

    def list_losses(self, labels: Any, logits: Any, mask: Any) -> Any:
        """See base class."""
        margin, scores = self._margin, tf.clip_by_value(logits, 0.0, 1.0)
        pull = tf.stop_gradient(tf.nn.relu(1.0 + margin - scores))
        push = tf.stop_gradient(tf.nn.relu(scores + margin))
        better = self._gamma * pull * (1.0 - margin - scores)
        worse = self._gamma * push * (scores - margin)
        # The exponent of a pair is a sum: pairs with the same `i` share one term.
        below = log_sum_exp_below(labels, worse, mask)
        terms = tf.where(mask & (below > LOWEST), better + below, LOWEST)
        return tf.math.softplus(tf.reduce_logsumexp(terms, axis=1))
