"""Networks made for tables of numbers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.model.layers import named
from tfr_pipeline.model.layers.member_tower import MemberTower
from tfr_pipeline.model.layers.seeded import GaussianNoise
from tfr_pipeline.model.layers.towers import create_tower
from tfr_pipeline.model.scorers import UnivariateScorer, concat


def _check_kernel(kernel: Mapping[str, Any], scorer: type) -> None:
    """Checks the names of further arguments of a scorer."""
    for key in kernel:
        if key not in named.OF_KERNELS:
            known = [*inspect.signature(scorer).parameters, *named.OF_KERNELS]
            raise ConfigError(unknown_name("argument", key, known, scorer.__name__))


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
      activation: Activation after each hidden layer, see `create_tower`.
      dropout: Rate of dropout after each hidden layer.
      output_units: Numbers a document.
      input_noise_stddev: Standard deviation of noise on the features in training; 0 or
        None for none.
      **kernel: `kernel_initializer`, `kernel_regularizer` and `kernel_constraint`, see
        `create_tower`.

    Raises:
      ConfigError: `k` or a number of units is not positive.

    Example:
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
        *,
        input_noise_stddev: float | None = None,
        **kernel: Any,
    ):
        _check_kernel(kernel, TabMScorer)
        self._input_noise_stddev = input_noise_stddev
        self._arguments = {
            "members": k,
            "hidden_layer_dims": hidden_layer_dims,
            "activation": activation,
            "dropout": dropout,
            "output_units": output_units,
            **kernel,
        }
        MemberTower(**self._arguments)  # says now what is wrong with its arguments

    def _score_flattened(
        self,
        context_features: Mapping[str, Any],
        example_features: Mapping[str, Any],
    ) -> Any:
        """See `UnivariateScorer`."""
        x = concat(context_features, example_features)
        if self._input_noise_stddev:
            x = GaussianNoise(self._input_noise_stddev)(x)
        return MemberTower(**self._arguments)(x)


class DCNScorer(UnivariateScorer):
    """Crosses of features beside or below a feed-forward network.

    Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons for
    Web-scale Learning to Rank Systems", WWW 2021. With all features `x_0` side by side,
    a cross layer is `x_{l+1} = x_0 * (W_l x_l + b_l) + x_l` (equation 1), so that `l`
    of them have all products of up to `l + 1` features.

    Args:
      hidden_layer_dims: Units of the hidden layers of the network.
      cross_layers: Number of cross layers.
      rank: Takes `W_l = U V^T` with so many columns (equation 2); None for a whole
        matrix.
      structure: `parallel`: network and crosses both get the features, and a linear
        layer what comes of them; `stacked`: the network gets the crosses.
      activation: Activation after each hidden layer; None for none.
      use_batch_norm: Normalises before each activation.
      batch_norm_moment: Momentum of the moving statistics.
      dropout: Rate of dropout after each hidden layer.
      output_units: Numbers a document.
      input_noise_stddev: See `TabMScorer`.
      **kernel: `kernel_initializer`, `kernel_regularizer` and `kernel_constraint` of
        network and crosses, see `create_tower`.

    Raises:
      ConfigError: `structure` or a number cannot be.

    Example:
      >>> scorer = DCNScorer([16], cross_layers=2)
      >>> mask = tf.constant([[True, False]])
      >>> scorer({}, {"bm25": tf.ones([1, 2, 1])}, mask).shape
      TensorShape([1, 2])
    """

    tpu_ready = True

    def __init__(
        self,
        hidden_layer_dims: Sequence[int] = (128, 128),
        cross_layers: int = 2,
        rank: int | None = None,
        structure: str = "parallel",
        activation: Any = "relu",
        use_batch_norm: bool = False,
        batch_norm_moment: float = 0.9,
        dropout: float = 0.2,
        output_units: int = 1,
        *,
        input_noise_stddev: float | None = None,
        **kernel: Any,
    ):
        _check_kernel(kernel, DCNScorer)
        self._input_noise_stddev = input_noise_stddev
        self._kernel = kernel
        if structure not in ("parallel", "stacked"):
            raise ConfigError(
                f"structure: expected 'parallel' or 'stacked', found {structure!r}."
            )
        for name, value in (("cross_layers", cross_layers), ("rank", rank)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name}: expected 1 or more, found {value!r}.")
        self._cross_layers = cross_layers
        self._rank = rank
        self._stacked = structure == "stacked"
        self._tower = {
            "hidden_layer_dims": hidden_layer_dims,
            "output_units": output_units,
            "activation": activation,
            "use_batch_norm": use_batch_norm,
            "batch_norm_moment": batch_norm_moment,
            "dropout": dropout,
            **kernel,
        }
        named.kernel_arguments(kernel, activation)  # says now what is wrong with it

    def _score_flattened(
        self,
        context_features: Mapping[str, Any],
        example_features: Mapping[str, Any],
    ) -> Any:
        """See `UnivariateScorer`."""
        features = concat(context_features, example_features)
        if self._input_noise_stddev:
            features = GaussianNoise(self._input_noise_stddev)(features)
        kernel = named.kernel_arguments(self._kernel, None)
        crossed = features
        for _ in range(self._cross_layers):
            x = crossed
            if self._rank is not None:
                x = tf.keras.layers.Dense(self._rank, use_bias=False, **kernel)(x)
            x = tf.keras.layers.Dense(features.shape[1], **kernel)(x)
            crossed = features * x + crossed
        tower = create_tower(**self._tower)
        if self._stacked:
            return tower(crossed)
        # A linear layer on both side by side is the sum of one on each.
        units = self._tower["output_units"]
        return tower(features) + tf.keras.layers.Dense(units, use_bias=False)(crossed)
