"""`HubEncoder`: a module of TensorFlow Hub as a layer on queries and documents."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfr_pipeline import compat, hub
from tfr_pipeline.errors import ConfigError


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class HubEncoder(tf.keras.layers.Layer):
    """Encodes texts, images or vectors with a TensorFlow Hub module.

    Each distinct string of a batch is encoded once. One layer serves several features,
    of queries and of documents, which then share its weights.

    Args:
      handle: Folder, archive or URL with a version; see `tfr_pipeline.hub.find`.
      trainable: Whether training changes the module. If not, it is never in training
        mode, and a pipeline encodes each text once, before training.
      signature: Name of a signature of the module; by default it is called. Signatures
        cannot be trained.
      output_key: Which output to take, where there are several.

    Raises:
      ConfigError: There is no such module, or it does not offer that; the message says
        what it offers.
      RunError: It cannot be fetched or loaded.

    Attributes:
      row_wise: It makes of each text what depends on nothing else.

    Example: `HubEncoder("modules/nnlm/2")(tf.constant([["red shoes"], ["hat"]]))` is a
    float32 `[2, dims]`.
    """

    row_wise = True

    def __init__(
        self,
        handle: str,
        trainable: bool = False,
        signature: str | None = None,
        output_key: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(trainable=trainable, **{"autocast": False, **kwargs})
        if trainable and signature is not None:
            raise ConfigError(
                f"hub: {handle}: signature={signature!r} cannot be trained; take "
                "trainable=False, or a module that can be called, without a signature."
            )
        self.handle, self.signature, self.output_key = handle, signature, output_key
        self.frozen = not trainable
        # What is wrong with it is known before the data is read.
        self._folder = hub.find(handle)
        self._offered = hub.offer(self._folder)
        self._key = hub.check_function(handle, self._offered, signature, output_key)
        self._encoder: Any = None
        self._takes: Any = None

    @property
    def trainable(self) -> bool:
        """Whether training changes the module; never if it was made not to."""
        return bool(tf.keras.layers.Layer.trainable.fget(self))

    @trainable.setter
    def trainable(self, value: bool) -> None:
        # What has been encoded ahead would not change any more.
        frozen = getattr(self, "frozen", False)
        tf.keras.layers.Layer.trainable.fset(self, bool(value) and not frozen)

    @property
    def module(self) -> Any:
        """The `hub.KerasLayer` of the module; built with this layer."""
        return self._encoder

    @property
    def takes(self) -> Any:
        """Spec of what the module is called with; None if it does not say."""
        return self._takes

    def build(self, input_shape: Any) -> None:
        """Loads the module, in the scope of the strategy."""
        module = hub.load(self._folder, self.handle)
        function = module.signatures[self.signature] if self.signature else module
        self._takes = _input_of(self.signature, function)
        self._encoder = compat.hub.KerasLayer(
            module,
            trainable=self.trainable,
            signature=self.signature,
            output_key=self._key,
            dtype=tf.float32,
            name="module",
        )
        super().build(input_shape)

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Returns what the module makes of each element, `[..., dims]`.

        Args:
          inputs: Strings `[..., 1]` or `[...]`, or numbers `[..., *shape]` for a module
            that takes `[n, *shape]`; dense or ragged. Encoded images, for a module
            that takes `[n, height, width, 3]`, are decoded and resized.
          training: As Keras says it.
        """
        if isinstance(inputs, tf.RaggedTensor):
            return inputs.with_flat_values(self.call(inputs.flat_values, training))
        lead, items = self._items(inputs)
        index = None
        if items.dtype == tf.string:
            items, index = tf.unique(items)
            if self._takes is not None and self._takes.dtype.is_floating:
                items = self._images(items)
        vectors = self._encoded(items, training)
        if index is not None:
            vectors = tf.gather(vectors, index)
        if not self.trainable:
            vectors = tf.stop_gradient(vectors)
        shape = tf.concat([lead, tf.shape(vectors)[1:]], axis=0)
        result = tf.reshape(vectors, shape)
        known = inputs.shape[: lead.shape[0]].concatenate(vectors.shape[1:])
        return tf.ensure_shape(result, known)

    def _items(self, inputs: Any) -> tuple[Any, Any]:
        """Returns the shape of what is encoded, `[...]`, and it as `[n, *shape]`."""
        takes = self._takes
        rank = inputs.shape.rank
        if inputs.dtype == tf.string:
            own = int(rank > 1 and inputs.shape[-1] == 1)
            images = takes is not None and takes.shape.rank == 4
            if takes is not None and takes.dtype != tf.string and not images:
                raise ConfigError(self._wrong(inputs))
            return tf.shape(inputs)[: rank - own], tf.reshape(inputs, [-1])
        own = 1 if takes is None or takes.shape.rank is None else takes.shape.rank - 1
        shape = inputs.shape[rank - own :]
        if takes is not None and (
            takes.dtype == tf.string
            or takes.dtype.is_floating < inputs.dtype.is_floating
            or (takes.shape.rank is not None and rank <= own)
            or not shape.is_compatible_with(takes.shape[1:])
        ):
            raise ConfigError(self._wrong(inputs))
        items = tf.reshape(inputs, tf.concat([[-1], tf.shape(inputs)[rank - own :]], 0))
        items = items if takes is None else tf.cast(items, takes.dtype)
        return tf.shape(inputs)[: rank - own], items

    def _wrong(self, inputs: Any) -> str:
        takes = self._takes
        return (
            f"hub: {self.handle}: expected features of {takes.dtype.name} "
            f"{takes.shape}, found {inputs.dtype.name} {inputs.shape}; it offers "
            f"{self._offered}."
        )

    def _images(self, items: Any) -> Any:
        """Returns float images `[n, height, width, 3]`, from 0 to 1, of their files."""
        height, width, channels = self._takes.shape[1:]
        if None in (height, width, channels):
            raise ConfigError(
                f"hub: {self.handle}: expected a module that says how large images "
                f"are, found {self._takes.shape}. Decode them before, to that size."
            )

        def image(file: Any) -> Any:
            pixels = tf.io.decode_image(file, channels, expand_animations=False)
            pixels = tf.image.convert_image_dtype(pixels, tf.float32)
            return tf.image.resize(pixels, (height, width))

        def image_or_none(file: Any) -> Any:
            none = tf.zeros((height, width, channels))
            return tf.cond(tf.equal(file, ""), lambda: none, lambda: image(file))

        signature = tf.TensorSpec((height, width, channels), tf.float32)
        return tf.map_fn(image_or_none, items, fn_output_signature=signature)

    def _encoded(self, items: Any, training: Any) -> Any:
        try:
            vectors = self._encoder(items, training=training)
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"hub: {self.handle}: it does not take {items.dtype.name} "
                f"{items.shape} ({str(error)[:300]}); it offers {self._offered}."
            ) from error
        if not tf.is_tensor(vectors):
            outputs = sorted(vectors) if isinstance(vectors, dict) else type(vectors)
            raise ConfigError(
                f"hub: {self.handle}: expected one output, found {outputs}. Name it: "
                "output_key=..."
            )
        return vectors

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {
            **super().get_config(),
            "handle": self.handle,
            "trainable": not self.frozen,
            "signature": self.signature,
            "output_key": self.output_key,
        }


def _input_of(signature: str | None, function: Any) -> Any:
    """Returns the spec of what a function takes; None if it does not say."""
    if signature is None:
        concrete = getattr(function.__call__, "concrete_functions", None) or ()
    else:
        concrete = (function,)
    for one in concrete:
        specs = [
            spec
            for spec in tf.nest.flatten(one.structured_input_signature)
            if isinstance(spec, tf.TensorSpec)
        ]
        if specs:
            return specs[0]
    return None
