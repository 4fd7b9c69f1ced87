"""Which documents of a long list a training step sees, and in which order.

A function of the seed and the number of the batch, so that a list that comes again is
sampled anew, and a run that is resumed sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline.data.batching.gather import bounds, matrix_of
from tfr_pipeline.errors import ConfigError, unknown_name
from tfr_pipeline.layout import BlockLayout

FIRST, SAMPLE = "first", "sample"


class Selection:
    """Chooses documents of lists.

    Args:
      list_size: Documents that are left of a longer list; None for all.
      scores: Dtype of the matrix, and the column in it, that has the scores by which
        the best documents are kept; None to keep random ones.
      shuffle: Whether those that are kept come in random order; in the order of the
        list otherwise.
      seed: Seed of all that is random.
    """

    def __init__(
        self,
        list_size: int | None,
        scores: tuple[str, int] | None = None,
        shuffle: bool = False,
        seed: int = 0,
    ):
        self._list_size = list_size
        self._scores = scores
        self._shuffle = shuffle
        self._seed = seed

    def __call__(
        self, tensors: Mapping[str, Any], index: Any, number: Any
    ) -> tuple[Any, Any]:
        """Returns `index`, and row numbers of documents, ragged `[batch, (list)]`.

        Args:
          tensors: Those of some lists, with the features as they are in the files; see
            `gather.tensors_of`.
          index: int64 `[batch]`, numbers of lists.
          number: int64 scalar, the number of the batch since training began.
        """
        starts, stops = bounds(tensors, index)
        lengths = stops - starts
        longest = tf.cast(tf.reduce_max(lengths), tf.int32)
        size, kept = longest, lengths
        if self._list_size is not None:
            size = tf.minimum(longest, self._list_size)
            kept = tf.minimum(lengths, self._list_size)
        seed = tf.stack([tf.constant(self._seed, tf.int64), number])
        seeds = tf.random.experimental.stateless_split(seed, 2)
        if self._scores is None:
            keys = tf.random.stateless_uniform([tf.size(lengths), longest], seeds[0])
        else:
            keys = self._keys(tensors, starts, lengths)
        order = _largest(keys, lengths, size)
        real = tf.sequence_mask(kept, size)
        if not self._shuffle:
            order = tf.sort(tf.where(real, order, order.dtype.max))
        elif self._scores is not None:
            keys = tf.random.stateless_uniform(tf.shape(order), seeds[1])
            order = tf.gather(order, _largest(keys, kept, size), batch_dims=1)
        rows = tf.cast(order, tf.int64) + starts[:, tf.newaxis]
        chosen = tf.boolean_mask(rows, real)
        return index, tf.RaggedTensor.from_row_lengths(chosen, kept, validate=False)

    def _keys(self, tensors: Mapping[str, Any], starts: Any, lengths: Any) -> Any:
        assert self._scores is not None
        dtype, column = self._scores
        matrix = matrix_of(tensors, dtype)
        rows = tf.ragged.range(starts, starts + lengths)
        columns = tf.fill(tf.shape(rows.values), tf.constant(column, tf.int64))
        places = tf.stack([rows.values, columns], axis=1)
        keys = rows.with_values(tf.gather_nd(matrix, places))
        # Integers keep their order: float64 tells those below 2 ** 53 apart.
        keys = tf.cast(keys, tf.float64) if matrix.dtype.is_integer else keys
        keys = tf.cast(keys, tf.float32) if matrix.dtype.size == 2 else keys
        return keys.to_tensor(0)


def _largest(keys: Any, lengths: Any, size: Any) -> Any:
    """Returns places of the largest keys, equal ones in order, int32 `[batch, size]`.

    After those of a list with fewer documents, any places follow.
    """
    real = tf.sequence_mask(lengths, tf.shape(keys)[1])
    keys = tf.where(real, keys, tf.constant(float("-inf"), keys.dtype))
    return tf.math.top_k(keys, size).indices


def score_column(
    name: str,
    specs: Mapping[str, Any],
    columns: Mapping[str, tuple[str, ...]],
    layout: BlockLayout,
) -> tuple[str, int]:
    """Returns dtype and column of the feature by which lists are cut.

    Args:
      name: A feature with one value, a named column of a vector feature, or
        `feature[i]`.
      specs: Maps document features to `tf.io` specs.
      columns: Maps vector features to the names of their elements, where they have any.
      layout: Where the features stand.

    Raises:
      ConfigError: There is no such feature or column.
    """
    known = {}
    for dtype, slots in layout.slots.items():
        for slot in slots:
            if slot.name not in specs:
                continue
            names = list(columns.get(slot.name, ()))
            if slot.width == 1:
                names = [slot.name]
            elif not names:
                names = [f"{slot.name}[{i}]" for i in range(slot.width)]
            known.update({n: (dtype, slot.start + i) for i, n in enumerate(names)})
    if name not in known:
        raise ConfigError(
            unknown_name("truncation", name, [FIRST, SAMPLE, *known])
            + " Expected one of the first two, or a numeric document feature."
        )
    return known[name]
