"""Networks made for tables of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfr_pipeline.model.layers.member_tower import MemberTower
from tfr_pipeline.model.scorers import UnivariateScorer, concat


class TabMScorer(UnivariateScorer):
    """Many feed-forward networks that share their weights, over all features.

    Gorishniy et al., "TabM: Advancing Tabular Deep Learning with Parameter-Efficient
    Ensembling", ICLR 2025; see `MemberTower`. In training each member ranks the lists
    by itself and has a loss of its own, whose mean is the loss of a step; a document's
    score is the mean over members. Features are expected on one scale, such as
    `quantile_normal` gives them.

    Args:
      k: Number of networks.
      hidden_layer_dims: Units of the hidden layers.
      activation: Activation after each hidden layer; None for none.
      dropout: Rate of dropout after each hidden layer.
      output_units: Numbers a document.
      kernel_initializer: Of the shared kernels and of the heads.

    Raises:
      ConfigError: `k` or a number of units is not positive.

    Example:
      >>> import tensorflow as tf
      >>> scorer = TabMScorer(k=4, hidden_layer_dims=[16])
      >>> mask = tf.constant([[True, False]])
      >>> scorer({}, {"bm25": tf.ones([1, 2, 1])}, mask).shape
      TensorShape([1, 2])
    """

    tpu_ready = True

    def __init__(
        self,
        k: int = 16,
        hidden_layer_dims: Sequence[int] = (128, 128, 128),
        activation: Any = "relu",
        dropout: float = 0.2,
        output_units: int = 1,
        kernel_initializer: Any = "glorot_uniform",
    ):
        self._arguments = {
            "members": k,
            "hidden_layer_dims": hidden_layer_dims,
            "activation": activation,
            "dropout": dropout,
            "output_units": output_units,
            "kernel_initializer": kernel_initializer,
        }
        MemberTower(**self._arguments)  # says now what is wrong with its arguments

    def _score_flattened(
        self,
        context_features: Mapping[str, Any],
        example_features: Mapping[str, Any],
    ) -> Any:
        """See `UnivariateScorer`."""
        return MemberTower(**self._arguments)(
            concat(context_features, example_features)
        )
