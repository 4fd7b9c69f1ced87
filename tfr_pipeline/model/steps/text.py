"""Steps for texts: words, and how much each says about a text."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.sketches import Counts
from tfr_pipeline.model.steps.base import Statistics, Step, by_rows, floats, lookup
from tfr_pipeline.model.steps.categories import EmptyVocabularyError
from tfr_pipeline.model.steps.numeric import whole

_NO_WORD = r"[^\pL\pN\pM_]+"


def words(texts: Any, ngrams: int = 1) -> tf.RaggedTensor:
    """Returns the words of texts: lower case, without punctuation.

    Args:
      texts: string `[..., 1]`, or ragged `[..., (n)]`, whose texts are joined.
      ngrams: Adds runs of up to so many words, with a space between them.

    Returns:
      Ragged string `[..., (words)]`.

    Example:
      >>> words(tf.constant([["Red, red WINE!"]]), 2).to_list()
      [[b'red', b'red', b'wine', b'red red', b'red wine']]
    """
    texts = tf.strings.reduce_join(texts, axis=-1, separator=" ")
    if isinstance(texts, tf.RaggedTensor):
        return texts.with_flat_values(words(texts.flat_values[..., tf.newaxis], ngrams))
    flat = tf.reshape(texts, [-1])
    lower = tf.strings.lower(flat, encoding="utf-8")
    split = tf.strings.split(tf.strings.regex_replace(lower, _NO_WORD, " "))
    if ngrams > 1:
        runs = [
            tf.strings.ngrams(split, size, separator=" ")
            for size in range(1, ngrams + 1)
        ]
        split = tf.concat(runs, axis=-1)
    shape = tf.shape(texts, tf.int64)
    for axis in range(texts.shape.rank - 1, 0, -1):
        split = tf.RaggedTensor.from_uniform_row_length(
            split, shape[axis], tf.reduce_prod(shape[:axis])
        )
    return split


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class Tokens(Step):
    """Splits a text into its words; see `words`.

    An `embedding` behind it takes the mean of their vectors, a `one_hot` says which of
    them there are.

    Args:
      ngrams: Adds runs of up to so many words.
    """

    by_column: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ("string",)
    row_wise: ClassVar[bool] = True
    is_constant: ClassVar[bool] = False

    def __init__(self, ngrams: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.ngrams = whole("tokens", ngrams, 1)

    def call(self, inputs: Any) -> Any:
        """See `Step`."""
        return words(inputs, self.ngrams)

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {**super().get_config(), "ngrams": self.ngrams}


@tf.keras.utils.register_keras_serializable(package="tfr_pipeline")
class TfIdf(Step):
    """Weighs the words of a text: those that few texts have count more.

    The weight of a word is how often it is in the text, times `ln((1 + n) / (1 + d)) +
    1`, where `d` of the `n` texts of the training data have it; the weights of a text
    are brought to length 1. That is scikit-learn's `TfidfVectorizer` with another
    notion of words. Words that are not in the vocabulary do not count.

    Args:
      max_words: Size of the vocabulary, of words that most texts have.
      ngrams: Runs of up to so many words count as words, too.
      min_count: Leaves out words that fewer texts have.
      dim: Multiplies the weights by a matrix `[max_words, dim]` that is trained with
        the model, without making a vector of `max_words` of each text; None for that
        vector.
    """

    by_column: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ("string",)
    row_wise: ClassVar[bool] = True
    is_constant: ClassVar[bool] = False

    def __init__(
        self,
        max_words: int = 20_000,
        *,
        ngrams: int = 1,
        min_count: int = 1,
        dim: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.max_words = whole("tf_idf", max_words, 1)
        self.ngrams = whole("tf_idf: ngrams", ngrams, 1)
        self.min_count = whole("tf_idf: min_count", min_count, 1)
        self.dim = None if dim is None else whole("tf_idf: dim", dim, 1)

    def new_sketch(self) -> Counts:
        """See `Step`."""
        return Counts()

    def observe(self, sketch: Counts, values: Any) -> None:
        """See `Step`; counts in how many texts a word is, and not how often."""
        found = words(values, self.ngrams)
        while isinstance(found.values, tf.RaggedTensor):
            found = found.values
        pairs = {*zip(found.value_rowids().numpy(), found.values.numpy(), strict=True)}
        # Sorted, so that all that depends on it is the same each time.
        here = sorted(word for _, word in pairs)
        sketch.update(np.array(here, object), rows=int(found.nrows()))

    def learn(self, sketch: Counts) -> Statistics:
        """See `Step`."""
        found = sketch.most_common(self.min_count)[: self.max_words]
        if not found:
            raise EmptyVocabularyError(self.min_count)
        vocabulary, counts = zip(*found, strict=True)
        return {
            "vocabulary": list(vocabulary),
            "documents_with": list(counts),
            "documents": sketch.rows,
        }

    def build(self, input_shape: Any) -> None:
        """See `tf.keras.layers.Layer`."""
        super().build(input_shape)
        self._constant("documents")
        assert self.statistics is not None
        vocabulary = self.statistics["vocabulary"]
        self._size = len(vocabulary)
        self._lookup = tf.keras.layers.StringLookup(
            vocabulary=vocabulary, num_oov_indices=1, mask_token=None
        )
        if self.dim is not None:
            self.matrix = self.add_weight("matrix", [self._size, self.dim])

    def call(self, inputs: Any) -> Any:
        """See `Step`."""
        result = by_rows(words(inputs, self.ngrams), self._weigh)
        if isinstance(inputs, tf.RaggedTensor) or inputs.shape.rank < 3:
            return result
        shape = [*inputs.shape[:-1], self.dim or self._size]
        return tf.ensure_shape(result.to_tensor(), shape)

    def _weigh(self, rows: tf.RaggedTensor) -> Any:
        count = rows.nrows()
        word = tf.cast(self._lookup(rows.values), tf.int64) - 1  # -1 if unknown
        known = word >= 0
        row = tf.boolean_mask(rows.value_rowids(), known)
        # Of each word of a text, how often it is there.
        pair, place = tf.unique(row * self._size + tf.boolean_mask(word, known))
        often = tf.math.unsorted_segment_sum(
            tf.ones_like(place, tf.float32), place, tf.size(pair)
        )
        row, word = pair // self._size, pair % self._size
        total = self._constant("documents") + 1.0
        inverse = tf.math.log(total / (self._constant("documents_with") + 1.0)) + 1.0
        weight = often * tf.gather(inverse, word)
        length = tf.sqrt(tf.math.unsorted_segment_sum(weight**2, row, count))
        weight = weight / tf.gather(length, row)
        if self.dim is None:
            shape = tf.stack([count, tf.constant(self._size, tf.int64)])
            result = tf.scatter_nd(tf.stack([row, word], axis=1), weight, shape)
        else:
            vectors = lookup(self.matrix, word)
            result = tf.math.unsorted_segment_sum(
                vectors * weight[:, tf.newaxis], row, count
            )
        return tf.ensure_shape(floats(result), [None, self.dim or self._size])

    def get_config(self) -> dict[str, Any]:
        """See `tf.keras.layers.Layer`."""
        return {
            **super().get_config(),
            "max_words": self.max_words,
            "ngrams": self.ngrams,
            "min_count": self.min_count,
            "dim": self.dim,
        }
