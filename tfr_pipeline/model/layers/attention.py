"""Attention of the documents of a list to each other."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from tfr_pipeline.compat import tfr
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.layers.lists import check_mask
from tfr_pipeline.model.layers.seeded import Dropout, GaussianNoise


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class SelfAttentionMask(tfr.keras.layers.SelfAttentionMask):
    """Repeats a mask for each position that attends: `[batch, from, to]`.

    Example:
      >>> mask = tf.constant([[1, 1, 0]])
      >>> SelfAttentionMask()([mask, mask]).numpy().tolist()
      [[[1, 1, 0], [1, 1, 0], [1, 1, 0]]]
    """

    def call(self, inputs: Any, to_mask: Any = None) -> Any:
        """Returns the mask in the dtype of the tensor that attends.

        Args:
          inputs: Tensor `[batch, from, ...]`, or a pair of it and the mask.
          to_mask: Mask `[batch, to]`.

        Raises:
          ConfigError: There is no mask.
        """
        if isinstance(inputs, list | tuple) and to_mask is None:
            inputs, to_mask = inputs
        if to_mask is None:
            raise ConfigError("SelfAttentionMask: expected a mask, found None.")
        to_mask = tf.cast(to_mask, inputs.dtype)[:, tf.newaxis]
        return tf.repeat(to_mask, tf.shape(inputs)[1], axis=1)


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class SelfAttention(tf.keras.layers.Layer):
    """Multi-head scaled dot-product attention of the documents of a list.

    Vaswani et al., "Attention Is All You Need", NIPS 2017, section 3.2. Differs from
    `tf.keras.layers.MultiHeadAttention` in its dropout, whose masks a resumed run draws
    again.

    Args:
      num_heads: Number of heads.
      head_size: Length of the queries, keys and values of a head.
      dropout: Rate at which attention to a document is dropped.

    Example:
      >>> mask = tf.constant([[True, True, False]])
      >>> SelfAttention(2, 8)((tf.ones([1, 3, 4]), mask)).shape
      TensorShape([1, 3, 4])
    """

    def __init__(
        self, num_heads: int, head_size: int, dropout: float = 0.0, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.head_size = head_size
        self.dropout = dropout

    def build(self, input_shape: Any) -> None:
        """See `tf.keras.layers.Layer`."""
        shape = tf.TensorShape(input_shape[0])
        units = self.num_heads * self.head_size
        self._parts = []
        for name in ("query", "key", "value"):
            part = tf.keras.layers.Dense(units, name=name)
            # HDF5 files want weights of different names.
            with tf.name_scope(name):
                part.build(shape)
            self._parts.append(part)
        self._output = tf.keras.layers.Dense(shape[-1], name="output")
        with tf.name_scope("output"):
            self._output.build([*shape[:-1], units])
        self._dropout = Dropout(self.dropout)
        self._dropout.build(shape)
        super().build(input_shape)

    def call(self, inputs: tuple[Any, Any], training: Any = None) -> Any:
        """Returns `[batch, list_size, columns]`.

        Args:
          inputs: Tensor `[batch, list_size, columns]`, and the mask
            `[batch, list_size]`, True for the documents that are attended to.
          training: Whether to drop out.
        """
        documents, mask = inputs
        batch, size = tf.unstack(tf.shape(mask))
        heads = [batch, size, self.num_heads, self.head_size]
        query, key, value = (
            tf.transpose(tf.reshape(part(documents), heads), [0, 2, 1, 3])
            for part in self._parts
        )
        logits = tf.matmul(query / math.sqrt(self.head_size), key, transpose_b=True)
        # The lowest number, not infinity: all logits of an empty list are the same.
        logits = tf.where(mask[:, tf.newaxis, tf.newaxis], logits, logits.dtype.min)
        weights = self._dropout(tf.nn.softmax(logits), training=training)
        values = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])
        return self._output(
            tf.reshape(values, [batch, size, self.num_heads * self.head_size])
        )

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "head_size": self.head_size,
            "dropout": self.dropout,
        }


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class DocumentInteractionAttention(tfr.keras.layers.DocumentInteractionAttention):
    """Describes each document in view of the others of its list.

    A dense layer, then layers of self-attention, each with a residual connection and
    layer normalisation (Pasumarthi et al., "Permutation Equivariant Document
    Interaction Network for Neural Learning to Rank", ICTIR 2020). What stands in the
    place of padding changes nothing, whatever it is; its own output is 0.

    Args:
      num_heads: Heads of each attention layer.
      head_size: Length of a head, and of the output.
      num_layers: Number of attention layers.
      dropout: Rate of dropout, of attention and of its output.
      name: Name of the layer.
      input_noise_stddev: Standard deviation of noise behind the dense layer, in
        training.

    Raises:
      ConfigError: A number is not positive, or, when called, the mask has another
        shape than the lists.

    Example:
      >>> lists = tf.constant([[[1., 1.], [1., 0.], [9., 9.]]])
      >>> mask = tf.constant([[True, True, False]])
      >>> layer = DocumentInteractionAttention(num_heads=1, head_size=4)
      >>> layer((lists, mask), training=False).shape
      TensorShape([1, 3, 4])
    """

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        num_layers: int = 1,
        dropout: float = 0.5,
        name: str | None = None,
        input_noise_stddev: float | None = None,
        **kwargs: Any,
    ):
        for key, value in (
            ("num_heads", num_heads),
            ("head_size", head_size),
            ("num_layers", num_layers),
        ):
            if value < 1:
                raise ConfigError(
                    f"DocumentInteractionAttention: expected {key} >= 1, found "
                    f"{value!r}."
                )
        super().__init__(
            num_heads=num_heads,
            head_size=head_size,
            num_layers=num_layers,
            dropout=dropout,
            name=name,
            input_noise_stddev=input_noise_stddev,
            **kwargs,
        )

    def build(self, input_shape: Any) -> None:
        """See `tf.keras.layers.Layer`."""
        shape = tf.TensorShape(input_shape[0])
        hidden = tf.TensorShape([*shape[:2], self._head_size])
        self._input_projection = tf.keras.layers.Dense(
            self._head_size, activation="relu"
        )
        self._input_projection.build(shape)
        self._input_noise = (
            GaussianNoise(self._input_noise_stddev)
            if self._input_noise_stddev
            else None
        )
        if self._input_noise is not None:
            with tf.name_scope("noise"):
                self._input_noise.build(hidden)
        # Lists of layers: the Keras format leaves out layers in lists of tuples.
        self._attentions: list[Any] = []
        self._dropouts: list[Any] = []
        self._norms: list[Any] = []
        rate = self._dropout or 0.0
        for i in range(self._num_layers):
            attention = SelfAttention(self._num_heads, self._head_size, rate)
            dropout = Dropout(rate)
            norm = tf.keras.layers.LayerNormalization(epsilon=1e-12, dtype=tf.float32)
            with tf.name_scope(f"attention_{i}"):
                attention.build([hidden, hidden[:2]])
            with tf.name_scope(f"output_{i}"):
                dropout.build(hidden)
                norm.build(hidden)
            self._attentions.append(attention)
            self._dropouts.append(dropout)
            self._norms.append(norm)
        # TF-Ranking's would make the layers of its own.
        tf.keras.layers.Layer.build(self, input_shape)

    def call(self, inputs: tuple[Any, Any], training: Any = True) -> Any:
        """Returns `[batch, list_size, head_size]`, 0 where padding is.

        Args:
          inputs: Documents `[batch, list_size, columns]`, and the mask
            `[batch, list_size]`, or None when all documents are real.
          training: Whether to drop out and to add noise. A model passes it on.
        """
        documents, mask = inputs
        if mask is None:
            mask = tf.ones(tf.shape(documents)[:2], tf.bool)
        mask = check_mask(mask, "DocumentInteractionAttention")
        if not documents.shape[:2].is_compatible_with(mask.shape):
            raise ConfigError(
                "DocumentInteractionAttention: expected a mask "
                f"{documents.shape[:2]}, found {mask.shape}."
            )
        real = mask[..., tf.newaxis]
        # 0 times NaN is NaN, also where attention is 0.
        x = self._input_projection(tf.where(real, documents, 0))
        if self._input_noise is not None:
            x = self._input_noise(x, training=training)
        for attention, dropout, norm in zip(
            self._attentions, self._dropouts, self._norms, strict=True
        ):
            output = dropout(attention((x, mask), training=training), training=training)
            x = tf.cast(norm(output + x), x.dtype)
        return tf.where(real, x, 0)
