"""Rankings sampled with Gumbel noise."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.features import PADDING_LABEL
from tfr_pipeline.losses.kernels.batch import pad, pad_weights

_theirs: Any = tfr.losses_impl
_TINY = 1e-20


class GumbelSampler(_theirs.GumbelSampler):
    """Samples scores whose order follows the Plackett-Luce model of the logits.

    Bruch et al., "A Stochastic Treatment of Learning to Rank Scoring Functions", WSDM
    2020. With the same seeds it draws what TF-Ranking's does. Masked documents take no
    part, where TF-Ranking's have the logit -46.

    Example:
      >>> sampler = GumbelSampler(sample_size=3, seed=1)
      >>> [tuple(x.shape) for x in sampler.sample([[1.0, 0.0]], [[0.6, 0.8]], [[2.0]])]
      [(3, 2), (3, 2), (3, 1)]
    """

    def sample(self, labels: Any, logits: Any, weights: Any = None) -> Any:
        """Repeats each list `sample_size` times, with sampled scores.

        Args:
          labels: float32 `[batch, list_size]`.
          logits: float32 `[batch, list_size]`.
          weights: None, a scalar, `[batch, 1]` or `[batch, list_size]`.

        Returns:
          Labels and scores `[batch * sample_size, list_size]`, and weights, `None` or
          a scalar as given, or repeated likewise.
        """
        labels, logits = (tf.convert_to_tensor(x) for x in (labels, logits))
        lists, width = tf.unstack(tf.shape(logits))
        size = self._sample_size
        noise = tf.random.uniform([lists, size, width], seed=self._seed)
        noise = -tf.math.log(-tf.math.log(noise + _TINY) + _TINY)
        sampled = (logits[:, tf.newaxis, :] + noise) / self._temperature
        sampled = tf.reshape(sampled, [lists * size, width])
        labels = tf.repeat(labels, size, axis=0)
        sampled = tf.where(labels >= 0.0, sampled, sampled.dtype.min)
        sampled = tf.math.log(tf.nn.softmax(sampled) + _TINY)
        if weights is not None:
            weights = tf.convert_to_tensor(weights)
            if weights.shape.rank:
                weights = tf.repeat(weights, size, axis=0)
        return labels, sampled, weights

    def sample_packed(self, y_true: Any, y_pred: Any, weights: Any) -> Any:
        """As `sample`, of ragged labels and logits `[batch, (list)]`."""
        labels = pad(y_true, PADDING_LABEL)
        weights = pad_weights(weights, labels)
        labels, logits, weights = self.sample(labels, pad(y_pred, 0.0), weights)
        lengths = tf.repeat(y_true.row_lengths(), self._sample_size)
        ragged = tf.RaggedTensor.from_tensor
        return ragged(labels, lengths), ragged(logits, lengths), weights
