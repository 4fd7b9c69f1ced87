"""Layers between lists of documents and documents one by one."""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline.compat import tfr
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.layers.members import repeated

# Score of documents that are padding, TF-Ranking's value.
PADDING_SCORE = math.log(1e-10)


def check_mask(mask: Any, where: str) -> Any:
    """Returns a mask as bool `[batch, list_size]`.

    Args:
      mask: Bool or number, True or not 0 for real documents.
      where: Whom the error names.

    Raises:
      ConfigError: There is no mask, or it has another number of dimensions.
    """
    if mask is None:
        raise ConfigError(f"{where}: expected a mask [batch, list_size], found None.")
    mask = tf.convert_to_tensor(mask)
    if mask.shape.rank not in (2, None):
        raise ConfigError(
            f"{where}: expected a mask [batch, list_size], found the shape "
            f"{mask.shape}."
        )
    return tf.cast(mask, tf.bool)


def _check_lists(features: Mapping[str, Any], mask: Any, where: str) -> None:
    for name, tensor in features.items():
        shape = tensor.shape
        if shape.rank is None:
            continue
        if shape.rank < 2 or not shape[:2].is_compatible_with(mask.shape):
            raise ConfigError(
                f"{where}: feature {name!r}: expected [batch, list_size, ...] with "
                f"[batch, list_size] as in the mask, {mask.shape}, found {shape}."
            )


def _tensor(value: Any) -> Any:
    sparse = isinstance(value, tf.SparseTensor | tf.RaggedTensor)
    return value if sparse else tf.convert_to_tensor(value)


def _circular(mask: Any) -> Any:
    """Returns int32 `[batch, list_size]`: the real positions of a list, in turns.

    A list without real documents repeats its first.
    """
    order = tf.argsort(tf.cast(~mask, tf.int32), axis=1, stable=True)
    count = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1, keepdims=True)
    turn = tf.range(tf.shape(mask)[1]) % tf.maximum(count, 1)
    return tf.gather(order, turn, axis=1, batch_dims=1)


def _real_positions(mask: Any) -> Any:
    """Returns int64 `[documents, 2]`: list and position of each real document.

    Where no document of the batch is real, all count as real: statistics over
    nothing would be NaN.
    """
    return tf.where(mask | ~tf.reduce_any(mask))


_compiling = contextvars.ContextVar("compiling", default=False)


@contextlib.contextmanager
def fixed_shapes() -> Iterator[None]:
    """Within it, layers make tensors of fixed shapes only, as XLA wants them."""
    token = _compiling.set(True)
    try:
        yield
    finally:
        _compiling.reset(token)


def _needs_fixed_shapes() -> bool:
    strategy = tf.distribute.get_strategy()
    return _compiling.get() or isinstance(strategy, tf.distribute.TPUStrategy)


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class FlattenList(tfr.keras.layers.FlattenList):
    """Makes documents one by one out of lists; each gets its query's features.

    Args:
      circular_padding: Puts the real documents of a list in the place of its padding,
        in turns. Batch normalisation behind it then counts documents of short lists
        several times.
      name: Name of the layer.
      real_only: Leaves padding out instead, so that there are as many rows as real
        documents, and statistics over rows are those of the data. On TPUs and in
        models compiled with `jit_compile`, which need fixed shapes, it means circular
        padding (keyword only).

    Example:
      >>> context, example = FlattenList()((
      ...     {"q": tf.constant([[5], [7]])},
      ...     {"x": tf.constant([[[1], [0], [-1]], [[2], [9], [9]]])},
      ...     tf.constant([[True, True, False], [True, False, False]])))
      >>> example["x"][:, 0].numpy().tolist(), context["q"][:, 0].numpy().tolist()
      ([1, 0, 1, 2, 2, 2], [5, 5, 5, 7, 7, 7])
    """

    def __init__(
        self,
        circular_padding: bool = True,
        name: str | None = None,
        *,
        real_only: bool = False,
        **kwargs: Any,
    ):
        # Features keep their dtype, whatever the layers behind compute in.
        super().__init__(
            circular_padding=circular_padding,
            name=name,
            **{"autocast": False, **kwargs},
        )
        self._real_only = real_only

    def call(
        self, inputs: tuple[dict[str, Any], dict[str, Any], Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns `(context_features, example_features)`, each `[documents, ...]`.

        Args:
          inputs: Query features by name, `[batch, ...]`; document features by name,
            `[batch, list_size, ...]`; mask `[batch, list_size]`.

        Raises:
          ConfigError: There is no document feature or no mask, or their shapes differ.
        """
        context_features, example_features, mask = inputs
        if not example_features:
            raise ConfigError("FlattenList: expected a document feature, found none.")
        context_features = {n: _tensor(t) for n, t in context_features.items()}
        example_features = {n: _tensor(t) for n, t in example_features.items()}
        mask = check_mask(mask, "FlattenList")
        _check_lists(example_features, mask, "FlattenList")
        for name, tensor in context_features.items():
            if not tensor.shape[:1].is_compatible_with(mask.shape[:1]):
                raise ConfigError(
                    f"FlattenList: feature {name!r}: expected [batch, ...] with batch "
                    f"as in the mask, {mask.shape}, found {tensor.shape}."
                )
        if self._real_only and not _needs_fixed_shapes():
            positions = _real_positions(mask)
            return (
                {
                    name: tf.gather(tensor, positions[:, 0])
                    for name, tensor in context_features.items()
                },
                {
                    name: tf.gather_nd(tensor, positions)
                    for name, tensor in example_features.items()
                },
            )
        size = tf.shape(mask)[1]
        if self._circular_padding or self._real_only:
            index = _circular(mask)
            example_features = {
                name: tf.gather(tensor, index, axis=1, batch_dims=1)
                for name, tensor in example_features.items()
            }
        return (
            {
                # One number of repetitions: a number for each list needs a mask.
                name: tf.repeat(tensor, size, axis=0)
                for name, tensor in context_features.items()
            },
            {
                name: _merge_first_two(tensor)
                for name, tensor in example_features.items()
            },
        )

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "real_only": self._real_only}


def _merge_first_two(tensor: Any) -> Any:
    reshape = tf.sparse.reshape if isinstance(tensor, tf.SparseTensor) else tf.reshape
    shape = tf.shape(tensor)
    rest = [
        shape[axis] if side is None else side
        for axis, side in enumerate(tensor.shape[2:], start=2)
    ]
    return reshape(tensor, [shape[0] * shape[1], *rest])


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class RestoreList(tfr.keras.layers.RestoreList):
    """Puts the scores of single documents back into lists; undoes `FlattenList`.

    Padding gets log(1e-10), TF-Ranking's value, also in lists that have nothing else.

    Args:
      name: Name of the layer.
      by_scatter: Takes the mean over the copies of a document that circular padding
        has made, instead of its own score.
      real_only: The scores are those of real documents only (keyword only).

    Raises:
      ConfigError: Both `by_scatter` and `real_only` are set.

    Example:
      >>> mask = tf.constant([[True, True, False], [True, False, False]])
      >>> scores = tf.constant([1., .5, 2.])
      >>> RestoreList(real_only=True)((scores, mask)).numpy().round(2)
      array([[  1.  ,   0.5 , -23.03],
             [  2.  , -23.03, -23.03]], dtype=float32)
    """

    def __init__(
        self,
        name: str | None = None,
        by_scatter: bool = False,
        *,
        real_only: bool = False,
        **kwargs: Any,
    ):
        if by_scatter and real_only:
            raise ConfigError(
                "RestoreList: by_scatter takes means over copies, of which there are "
                "none with real_only; set one of the two."
            )
        super().__init__(name=name, by_scatter=by_scatter, **kwargs)
        self._real_only = real_only

    def call(self, inputs: tuple[Any, Any]) -> Any:
        """Returns float32 `[batch, list_size]`.

        Args:
          inputs: Scores `[documents]` or `[documents, 1]`, and the mask
            `[batch, list_size]` that `FlattenList` had. Scores of several members,
            `[members, documents, 1]`, become as many times the lists.

        Raises:
          ConfigError: The scores have another shape.
        """
        scores, mask = inputs
        mask = check_mask(mask, "RestoreList")
        scores = tf.convert_to_tensor(scores)
        if scores.shape.rank == 3:
            mask = repeated(mask, scores.shape[0])
            scores = tf.reshape(scores, [-1, scores.shape[2]])
        self._check_scores(scores.shape, mask)
        scores = tf.cast(tf.reshape(scores, [-1]), tf.float32)
        if self._real_only and not _needs_fixed_shapes():
            lists = tf.scatter_nd(
                _real_positions(mask), scores, tf.shape(mask, tf.int64)
            )
        elif self._by_scatter:
            lists = _mean_of_copies(scores, mask)
        else:
            lists = tf.reshape(scores, tf.shape(mask))
        return tf.where(mask, lists, PADDING_SCORE)

    def _check_scores(self, shape: Any, mask: Any) -> None:
        found, wanted = shape.num_elements(), mask.shape.num_elements()
        if self._real_only and not _needs_fixed_shapes():
            eager = tf.executing_eagerly()
            wanted = _real_positions(mask).shape[0] if eager else None
        several = shape.rank == 2 and shape[1] not in (1, None, mask.shape[1])
        if several or (None not in (found, wanted) and found != wanted):
            documents = f"{wanted} documents" if wanted is not None else "documents"
            raise ConfigError(
                "RestoreList: expected scores [documents] or [documents, 1], one a "
                f"document, found {shape} beside a mask {mask.shape} of {documents}."
            )

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "real_only": self._real_only}


def _mean_of_copies(scores: Any, mask: Any) -> Any:
    batch, size = tf.unstack(tf.shape(mask))
    documents = tf.range(batch)[:, tf.newaxis] * size + _circular(mask)
    means = tf.math.unsorted_segment_mean(
        scores, tf.reshape(documents, [-1]), batch * size
    )
    return tf.reshape(means, [batch, size])


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class ConcatFeatures(tfr.keras.layers.ConcatFeatures):
    """Sets all features of a document and its query side by side.

    Query features come first, each kind in the order of their names. Integers become
    float32.

    Args:
      circular_padding: As of `FlattenList`.
      name: Name of the layer.

    Example:
      >>> ConcatFeatures()((
      ...     {"q": tf.constant([[1.], [2.]])},
      ...     {"x": tf.constant([[[3.], [4.]], [[5.], [6.]]])},
      ...     tf.constant([[True, False], [True, True]]))).numpy().tolist()
      [[[1.0, 3.0], [1.0, 3.0]], [[2.0, 5.0], [2.0, 6.0]]]
    """

    def __init__(
        self, circular_padding: bool = True, name: str | None = None, **kwargs: Any
    ):
        super().__init__(
            circular_padding=circular_padding,
            name=name,
            **{"autocast": False, **kwargs},
        )
        self._flatten_list = FlattenList(circular_padding=circular_padding)

    def call(self, inputs: tuple[dict[str, Any], dict[str, Any], Any]) -> Any:
        """Returns `[batch, list_size, columns]`; see `FlattenList` for the inputs."""
        context_features, example_features = self._flatten_list(inputs)
        columns = concat_columns(
            context_features, example_features, self.variable_dtype
        )
        batch, size = tf.unstack(tf.shape(inputs[2]))
        return tf.reshape(columns, [batch, size, columns.shape[1] or -1])


def check_number(name: str, tensor: Any) -> None:
    """Checks that a feature can stand among the columns of a matrix.

    Raises:
      ConfigError: It is text, or has not as many values for each document.
    """
    if tensor.dtype == tf.string:
        raise ConfigError(
            f"feature {name!r} is text: expected numbers. Preprocess it, for example "
            "with StringLookup and Embedding, or leave it out."
        )
    if tensor.shape.rank is not None and None in tensor.shape[1:]:
        raise ConfigError(
            f"feature {name!r} has any number of values: expected as many of each "
            "document. Preprocess it, for example with RaggedMean, or leave it out."
        )


def concat_columns(
    context_features: Mapping[str, Any], example_features: Mapping[str, Any], dtype: Any
) -> Any:
    """Returns `[documents, columns]` of features `[documents, ...]`.

    Query features come first, each kind in the order of their names.

    Raises:
      ConfigError: A feature is text.
    """
    parts = []
    for features in (context_features, example_features):
        for name in sorted(features):
            tensor = tf.convert_to_tensor(features[name])
            check_number(name, tensor)
            known = tensor.shape.rank is not None and None not in tensor.shape[1:]
            columns = math.prod(tensor.shape[1:]) if known else -1
            flat = tf.reshape(tensor, [tf.shape(tensor)[0], columns])
            parts.append(tf.cast(flat, dtype))
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)
