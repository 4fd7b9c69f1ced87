"""What is made of a text is made once for each distinct text of a batch.

Lists of documents repeat their texts: titles, brands, tokens. A step that makes of a
text what depends on nothing else is applied to the distinct texts, and what it made is
gathered to where they stand. Such a step is *row-wise* where each row is one text,
and *elementwise* where it does not mind how many texts a row has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

Function = Callable[[Any], Any]

_LAYERS = tf.keras.layers
# Layers of Keras that make an integer, or a vector, of each element of their input.
_ELEMENTWISE = (
    _LAYERS.Discretization,
    _LAYERS.Embedding,
    _LAYERS.Hashing,
    _LAYERS.IntegerLookup,
    _LAYERS.StringLookup,
)
# Those that treat each row by itself.
_ROW_WISE = (
    *_ELEMENTWISE,
    _LAYERS.CategoryEncoding,
    _LAYERS.Dense,
    _LAYERS.Flatten,
    _LAYERS.GlobalAveragePooling1D,
    _LAYERS.GlobalMaxPooling1D,
    _LAYERS.TextVectorization,
)


class Steps:
    """Functions or layers, applied one after the other.

    Unlike one function that calls them, it can be applied in parts: the first steps to
    the distinct texts of a batch, the others to what was made of each document's.

    Args:
      layers: The steps.

    Attributes:
      layers: As given.

    Example:
      >>> tokens = Steps([tf.keras.layers.Hashing(7), tf.keras.layers.Embedding(7, 2)])
      >>> is_row_wise(tokens)
      True
    """

    def __init__(self, layers: Sequence[Function]):
        self.layers = tuple(layers)

    def __call__(self, inputs: Any) -> Any:
        """Returns what the last step makes."""
        for layer in self.layers:
            inputs = layer(inputs)
        return inputs


def is_row_wise(function: Function) -> bool:
    """Whether a step makes of each row `[1]` what depends on nothing else.

    A function, layer or object says so by an attribute, `row_wise = True`. Layers of
    Keras that look up, hash, split, embed or pool are known, and a
    `tf.keras.Sequential`, or `Steps`, of row-wise ones is row-wise. Everything else is
    not: dropout draws another mask for each document, and batch normalisation counts
    documents, whatever texts they share.
    """
    return _is(function, "row_wise", _ROW_WISE) or is_elementwise(function)


def is_elementwise(function: Function) -> bool:
    """Whether a step makes of each element what depends on nothing else.

    `[n, k]` becomes `[n, k, ...]`, also for the `k` of 1 that it is called with. A
    function, layer or object says so by `elementwise = True`. Known are lookups,
    hashing and `Discretization` that return integers, `Embedding`, and those of them in
    a row.
    """
    return _is(function, "elementwise", _ELEMENTWISE) and all(
        getattr(part, "output_mode", "int") == "int" for part in _parts(function)
    )


def _is(function: Function, attribute: str, known: tuple[type, ...]) -> bool:
    declared = getattr(function, attribute, None)
    if declared is not None:
        return bool(declared)
    parts = _parts(function)
    if len(parts) != 1 or parts[0] is not function:
        check = is_row_wise if attribute == "row_wise" else is_elementwise
        return bool(parts) and all(map(check, parts))
    # What a layer adds to the loss for its outputs counts documents.
    adds_loss = getattr(function, "activity_regularizer", None) is not None
    return type(function) in known and not adds_loss


def _parts(function: Function) -> tuple[Function, ...]:
    if isinstance(function, Steps | tf.keras.Sequential):
        return tuple(function.layers)
    return (function,)


def split(
    function: Function | None, one_text: bool
) -> tuple[Function | None, Function | None]:
    """Returns what of a function the distinct texts get, and the rest; or None.

    Args:
      function: A step or several in a row; None for none.
      one_text: Whether each row is one text.
    """
    if function is None:
        return None, None
    check = is_row_wise if one_text else is_elementwise
    if check(function):
        return function, None
    parts = _parts(function)
    count = next((i for i, part in enumerate(parts) if not check(part)), 0)
    return (Steps(parts[:count]), Steps(parts[count:])) if count else (None, function)


def is_one_text(tensor: Any) -> bool:
    """Whether each row of a tensor, or of the numbers of its texts, is one text."""
    return not _is_ragged(tensor) and tensor.shape[-1] == 1


def once_each(function: Function, texts: Any) -> Any:
    """Applies a function to the distinct texts of a tensor.

    For steps of preprocessing that can do with these in part. Those that can as a whole
    need only say so, by `row_wise` or `elementwise`: preprocessing then does this.

    Args:
      function: Is called with the distinct texts, string `[distinct, 1]`. It is
        row-wise where each row of `texts` is one text, `[..., 1]`, and elementwise
        elsewhere.
      texts: String tensor of any shape, padded or packed, dense or ragged.

    Returns:
      What `function(texts)` would be: `[..., *rest]` where it makes `[n, *rest]` of
      `[n, 1]`, else the shape of `texts` and what it makes of one.

    Example:
      >>> once_each(tf.strings.length, tf.constant([["a", "bb"], ["bb", "a"]])).numpy()
      array([[1, 2],
             [2, 1]], dtype=int32)
    """
    return gathered(function, *Distinct()(texts))


def gathered(function: Function, distinct: Any, codes: Any) -> Any:
    """Returns what `once_each` does, of texts that are known by their numbers.

    Args:
      function: See `once_each`.
      distinct: string `[distinct]`.
      codes: Numbers of texts, dense or ragged.
    """
    made = function(tf.expand_dims(distinct, 1))
    if is_one_text(codes):
        return Take()((made, tf.squeeze(codes, -1)))
    return Take()((tf.squeeze(made, 1), codes))


def _is_ragged(tensor: Any) -> bool:
    spec = getattr(tensor, "type_spec", tensor)
    return isinstance(spec, tf.RaggedTensor | tf.RaggedTensorSpec)


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Distinct(tf.keras.layers.Layer):
    """Returns the distinct texts of a tensor, and for each text its number there."""

    def __init__(self, **kwargs: Any):
        super().__init__(**{"autocast": False, **kwargs})

    def call(self, inputs: Any) -> tuple[Any, Any]:
        """Returns string `[distinct]`, and int32 of the shape of `inputs`.

        Args:
          inputs: string, dense or ragged.
        """
        if isinstance(inputs, tf.RaggedTensor):
            distinct, codes = tf.unique(inputs.flat_values)
            return distinct, inputs.with_flat_values(codes)
        distinct, codes = tf.unique(tf.reshape(inputs, [-1]))
        codes = tf.reshape(codes, tf.shape(inputs))
        return distinct, tf.ensure_shape(codes, inputs.shape)


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Take(tf.keras.layers.Layer):
    """Gathers rows to where their numbers stand."""

    def __init__(self, **kwargs: Any):
        super().__init__(**{"autocast": False, **kwargs})

    def call(self, inputs: tuple[Any, Any]) -> Any:
        """Returns the shape of `codes` and that of a row.

        Args:
          inputs: Rows `[rows, ...]` and their numbers, `codes`, dense or ragged.
        """
        rows, codes = inputs
        if isinstance(codes, tf.RaggedTensor):
            return codes.with_flat_values(tf.gather(rows, codes.flat_values))
        return tf.gather(rows, codes)
