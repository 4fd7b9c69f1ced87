"""Steps for categories: texts or integers that are names of something."""

from __future__ import annotations

from typing import Any, ClassVar

import tensorflow as tf

from tfr_pipeline.data.sketches import Counts
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.model.layers.ragged import RaggedMean
from tfr_pipeline.model.steps.base import Statistics, Step, by_rows, lookup
from tfr_pipeline.model.steps.numeric import whole


class EmptyVocabularyError(DataError):
    """No value is there, or none occurs often enough.

    Args:
      least: How often a value has to occur.
    """

    def __init__(self, least: int):
        super().__init__(f"no value occurs {least} times or more")
        self.least = least


class _Categories(Step):
    """Has a vocabulary of the values that occur most often in the training data.

    Args:
      max_values: Size of the vocabulary; None for all values.
      min_count: Leaves out what occurs less often.
      oov: Buckets for values that are not in the vocabulary, by their hash.
      buckets: Takes so many buckets for all values, and learns nothing; `oov` and the
        others have no meaning then.
      name_of_step: For messages.
    """

    by_column: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ("int64", "string")
    row_wise: ClassVar[bool] = True
    is_constant: ClassVar[bool] = False

    def __init__(
        self,
        name_of_step: str,
        max_values: int | None,
        min_count: int,
        oov: int,
        buckets: int | None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._step = name_of_step
        if max_values is not None:
            whole(f"{name_of_step}: max_values", max_values, 1)
        if buckets is not None:
            whole(f"{name_of_step}: buckets", buckets, 1)
        self.max_values, self.buckets = max_values, buckets
        self.min_count = whole(f"{name_of_step}: min_count", min_count, 1)
        self.oov = whole(f"{name_of_step}: oov", oov, 1)

    def new_sketch(self) -> Counts | None:
        """See `Step`."""
        return Counts() if self.buckets is None else None

    def learn(self, sketch: Counts) -> Statistics:
        """See `Step`."""
        found = sketch.most_common(self.min_count)[: self.max_values]
        if not found:
            raise EmptyVocabularyError(self.min_count)
        words, counts = zip(*found, strict=True)
        return {"vocabulary": list(words), "counts": list(counts)}

    @property
    def size(self) -> int:
        """Number of the indices that `indices` gives."""
        if self.buckets is not None:
            return self.buckets
        self._constant("counts")
        assert self.statistics is not None
        return len(self.statistics["vocabulary"]) + self.oov

    def build(self, input_shape: Any) -> None:
        """See `tf.keras.layers.Layer`."""
        super().build(input_shape)
        self._lookup: Any = None

    def _make_lookup(self, dtype: tf.DType) -> Any:
        if self.buckets is not None:
            return tf.keras.layers.Hashing(self.buckets)
        assert self.statistics is not None
        words = self.statistics["vocabulary"]
        kind = tf.keras.layers.StringLookup
        if dtype != tf.string:
            kind = tf.keras.layers.IntegerLookup
            words = [int(word) for word in words]
        return kind(vocabulary=words, num_oov_indices=self.oov, mask_token=None)

    def indices(self, values: Any) -> Any:
        """Returns int64 indices: those of buckets first, then the vocabulary."""
        if self._lookup is None:
            with tf.init_scope():  # a table belongs to no graph
                self._lookup = self._make_lookup(values.dtype)
        return tf.cast(self._lookup(values), tf.int64)

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {
            **super().get_config(),
            "max_values": self.max_values,
            "min_count": self.min_count,
            "oov": self.oov,
            "buckets": self.buckets,
        }


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class OneHot(_Categories):
    """Has a column for each value: 1 where a feature has it, 0 elsewhere.

    Of several values in a feature, all count. The first `oov` columns are for values
    that are not in the vocabulary.

    Args:
      max_values: Takes those that occur most often in the training data; None for all.
      min_count: Leaves out what occurs less often.
      oov: Columns for values that are not in the vocabulary, by their hash.
      buckets: Takes so many columns, by the hash of the value, and no vocabulary.
    """

    def __init__(
        self,
        max_values: int | None = None,
        *,
        min_count: int = 1,
        oov: int = 1,
        buckets: int | None = None,
        **kwargs: Any,
    ):
        super().__init__("one_hot", max_values, min_count, oov, buckets, **kwargs)

    def call(self, inputs: Any) -> Any:
        """See `Step`."""
        index = self.indices(inputs)
        if not isinstance(index, tf.RaggedTensor):
            return tf.reduce_max(tf.one_hot(index, self.size), axis=-2)
        return by_rows(index, self._of_ragged)

    def _of_ragged(self, index: tf.RaggedTensor) -> Any:
        places = tf.stack([index.value_rowids(), index.values], axis=1)
        shape = tf.stack([index.nrows(), tf.constant(self.size, tf.int64)])
        counts = tf.scatter_nd(places, tf.ones_like(index.values, tf.float32), shape)
        return tf.ensure_shape(tf.minimum(counts, 1.0), [None, self.size])


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Hashing(OneHot):
    """Has so many columns, and sets the one of the hash of the value to 1.

    Args:
      buckets: Number of columns.
    """

    def __init__(self, buckets: int, **kwargs: Any):
        kwargs = {k: v for k, v in kwargs.items() if k not in _VOCABULARY}
        super().__init__(buckets=buckets, **kwargs)


_VOCABULARY = ("max_values", "min_count", "oov")


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Embedding(_Categories):
    """Has a vector for each value, which is trained with the model.

    Of a feature with a fixed number of values the vectors stand side by side; of one
    with any number it is their mean, 0 where there is none.

    Args:
      dim: Size of the vectors.
      oov: Vectors for values that are not in the vocabulary, by their hash.
      max_values: Takes those that occur most often in the training data; None for all.
      min_count: Leaves out what occurs less often.
      buckets: Takes so many vectors, by the hash of the value, and no vocabulary.
      shared: Features that have this name here share vocabulary and vectors.
    """

    def __init__(
        self,
        dim: int,
        *,
        oov: int = 1,
        max_values: int | None = None,
        min_count: int = 1,
        buckets: int | None = None,
        shared: str | None = None,
        **kwargs: Any,
    ):
        super().__init__("embedding", max_values, min_count, oov, buckets, **kwargs)
        self.dim = whole("embedding", dim, 1)
        if shared is not None and not isinstance(shared, str):
            raise ConfigError(f"embedding: expected a name, found shared={shared!r}.")
        self.shared = shared

    def build(self, input_shape: Any) -> None:
        """See `tf.keras.layers.Layer`."""
        super().build(input_shape)
        self.table = self.add_weight(
            "table", [self.size, self.dim], initializer="uniform"
        )

    def call(self, inputs: Any) -> Any:
        """See `Step`."""
        index = self.indices(inputs)
        if isinstance(index, tf.RaggedTensor):
            return by_rows(index, self._mean)
        vectors = lookup(self.table, index)
        shape = tf.shape(index)[:-1]
        count = inputs.shape[-1]
        width = -1 if count is None else count * self.dim
        return tf.reshape(vectors, tf.concat([shape, [width]], 0))

    def _mean(self, index: tf.RaggedTensor) -> Any:
        vectors = lookup(self.table, index.values)
        return RaggedMean()(index.with_values(vectors))

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "dim": self.dim, "shared": self.shared}
