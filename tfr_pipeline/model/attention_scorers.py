"""Scorers that see a document in view of the others of its list."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.model.layers import named
from tfr_pipeline.model.layers.attention import DocumentInteractionAttention
from tfr_pipeline.model.layers.lists import ConcatFeatures, FlattenList
from tfr_pipeline.model.layers.normalization import BatchNormalization
from tfr_pipeline.model.layers.seeded import Dropout, GaussianNoise
from tfr_pipeline.model.layers.towers import create_tower
from tfr_pipeline.model.scorers import Scorer, restore


class AttentionScorer(Scorer):
    """Scores a document by its own features and by attention to its list.

    A network gets both side by side. To put them together in another way, override
    `_score_attended`, which sees real documents only. The model takes padded batches.

    Args:
      hidden_layer_dims: Units of the hidden layers of the network.
      num_heads: Heads of each attention layer.
      head_size: Length of a head, and of what attention says of a document.
      num_layers: Number of attention layers.
      activation: Activation after each hidden layer; see `create_tower`.
      use_batch_norm: Normalises before each activation.
      batch_norm_moment: Momentum of the moving statistics.
      dropout: Rate of dropout, of attention and after each hidden layer.
      input_noise_stddev: Standard deviation of noise on what goes into attention, in
        training.
      kernel_initializer: Of the layers of the network; see `create_tower`.
      kernel_regularizer: Likewise.
      kernel_constraint: Likewise.

    Raises:
      ConfigError: There is no such argument.

    Example:
      >>> class Difference(AttentionScorer):
      ...     def _score_attended(self, documents, attended):
      ...         own = tf.keras.layers.Dense(attended.shape[-1])(documents)
      ...         return tf.keras.layers.Dense(1)(own - attended)
      >>> mask = tf.constant([[True, True, False]])
      >>> Difference(head_size=8)({}, {"bm25": tf.ones([1, 3, 1])}, mask).shape
      TensorShape([1, 3])
    """

    tpu_ready = True
    any_list_size = True

    def __init__(
        self,
        hidden_layer_dims: Sequence[int] = (64, 32),
        num_heads: int = 2,
        head_size: int = 64,
        num_layers: int = 1,
        activation: Any = "relu",
        use_batch_norm: bool = True,
        batch_norm_moment: float = 0.9,
        dropout: float = 0.3,
        input_noise_stddev: float | None = None,
        kernel_initializer: Any = None,
        kernel_regularizer: Any = None,
        kernel_constraint: Any = None,
        **unknown: Any,
    ):
        cls = type(self)
        for key in unknown:
            known = set(inspect.signature(cls.__init__).parameters)
            known |= set(inspect.signature(AttentionScorer.__init__).parameters)
            known -= {"self", "unknown", "kwargs"}
            raise ConfigError(unknown_name("argument", key, known, cls.__name__))
        self.hidden_layer_dims = list(hidden_layer_dims)
        self.num_heads = num_heads
        self.head_size = head_size
        self.num_layers = num_layers
        self.activation = activation
        self.use_batch_norm = use_batch_norm
        self.batch_norm_moment = batch_norm_moment
        self.dropout = dropout
        self.input_noise_stddev = input_noise_stddev
        self._kernel = named.kernel_arguments(
            {
                "kernel_initializer": kernel_initializer,
                "kernel_regularizer": kernel_regularizer,
                "kernel_constraint": kernel_constraint,
            },
            activation,
        )
        named.activation(activation)  # raises what is wrong with it

    def __call__(
        self,
        context_features: dict[str, Any],
        example_features: dict[str, Any],
        mask: Any,
    ) -> Any:
        """See `Scorer`."""
        lists = ConcatFeatures(circular_padding=False)(
            (context_features, example_features, mask)
        )
        attended = DocumentInteractionAttention(
            self.num_heads,
            self.head_size,
            self.num_layers,
            self.dropout,
            input_noise_stddev=self.input_noise_stddev,
        )((lists, mask))
        _, real = FlattenList(real_only=True)(
            ({}, {"documents": lists, "attended": attended}, mask)
        )
        return restore(self._score_attended(real["documents"], real["attended"]), mask)

    def _score_attended(self, documents: Any, attended: Any) -> Any:
        """Returns scores `[documents, 1]`, or a dict of them by task.

        Args:
          documents: Features of document and query, `[documents, columns]`.
          attended: What attention says of the document, `[documents, head_size]`.
        """
        return create_tower(
            self.hidden_layer_dims,
            1,
            activation=self.activation,
            input_batch_norm=self.use_batch_norm,
            use_batch_norm=self.use_batch_norm,
            batch_norm_moment=self.batch_norm_moment,
            dropout=self.dropout,
            **self._kernel,
        )(tf.concat([documents, attended], axis=1))


class DASALCScorer(AttentionScorer):
    """Data-augmented self-attentive latent cross.

    Qin et al., "Are Neural Rankers still Outperformed by Gradient Boosted Decision
    Trees?", ICLR 2021: noise on the features in training, attention over the list, and
    a latent cross `relu(a * c + c)` of what attention says of a document, `a`, with
    what a network says of it, `c`. The defaults are the paper's for MSLR-WEB30K;
    features are expected on a log scale (`model.preprocess = "log1p"` in a config).

    Args:
      hidden_layer_dims: Units of the hidden layers of the document's network; the last
        of them is the length of `a` and `c`.
      input_noise_stddev: Standard deviation of the noise on the features.
      **kwargs: See `AttentionScorer`.

    Raises:
      ConfigError: There is no such argument, or `hidden_layer_dims` is empty.

    Example:
      >>> mask = tf.constant([[True, True, False]])
      >>> scorer = DASALCScorer([16], head_size=8, num_layers=1)
      >>> scorer({}, {"bm25": tf.ones([1, 3, 1])}, mask).shape
      TensorShape([1, 3])
    """

    def __init__(
        self,
        hidden_layer_dims: Sequence[int] = (512, 512),
        num_heads: int = 2,
        head_size: int = 100,
        num_layers: int = 4,
        dropout: float = 0.4,
        input_noise_stddev: float | None = 1.5,
        **kwargs: Any,
    ):
        if not hidden_layer_dims:
            raise ConfigError(
                "DASALCScorer: expected hidden_layer_dims, such as [512, 512], found "
                f"{hidden_layer_dims!r}."
            )
        super().__init__(
            hidden_layer_dims,
            num_heads,
            head_size,
            num_layers,
            dropout=dropout,
            input_noise_stddev=input_noise_stddev,
            **kwargs,
        )

    def _score_attended(self, documents: Any, attended: Any) -> Any:
        """See `AttentionScorer`."""
        units = self.hidden_layer_dims[-1]

        def normalised(x: Any) -> Any:
            if not self.use_batch_norm:
                return x
            return BatchNormalization(momentum=self.batch_norm_moment)(x)

        dense = functools.partial(tf.keras.layers.Dense, **self._kernel)
        listwise = dense(units)(normalised(attended))
        x = normalised(documents)
        if self.input_noise_stddev:
            x = GaussianNoise(self.input_noise_stddev)(x)
        for width in self.hidden_layer_dims:
            x = named.activation(self.activation)(dense(width)(x))
            x = named.dropout(self.dropout, self.activation)(normalised(x))
        own = dense(units)(x)
        crossed = tf.nn.relu(listwise * own + own)
        return dense(1)(Dropout(self.dropout)(crossed))
