"""Lists that are scored once for each member of a network; see `MemberTower`.

In training such a network has scores for `members` times the lists of a batch: those of
the first member, then those of the next. Whatever is a mean over lists, or over their
documents or pairs, is then the mean over members of what each makes of the batch.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfr_pipeline import compat


def members_of(model: Any) -> int:
    """Returns how many times its lists a model scores in training; mostly 1.

    A layer of it that scores documents several times says so, `training_members`.
    """
    layers = compat.sublayers(model, recursive=True)
    return max((getattr(x, "training_members", 1) for x in layers), default=1)


def repeated(structure: Any, members: int) -> Any:
    """Returns lists once for each member.

    Args:
      structure: Labels, weights or a mask, `[batch, ...]` or ragged `[batch, (list)]`;
        or a structure of them. None and scalars are returned as they are.
      members: Number of members.
    """

    def one(value: Any) -> Any:
        if isinstance(value, tf.RaggedTensor):
            values = tf.tile(
                value.values, [members] + [1] * (value.values.shape.rank - 1)
            )
            splits = repeated_splits(value.row_splits, members)
            return tf.RaggedTensor.from_row_splits(values, splits, validate=False)
        if value is None:
            return None
        value = tf.convert_to_tensor(value)
        rank = value.shape.rank
        return tf.tile(value, [members] + [1] * (rank - 1)) if rank else value

    return structure if members == 1 else tf.nest.map_structure(one, structure)


def repeated_splits(row_splits: Any, members: int) -> Any:
    """Returns int64 `[members * batch + 1]` of `[batch + 1]`."""
    ends = tf.range(members, dtype=row_splits.dtype)[:, tf.newaxis] * row_splits[-1]
    ends = tf.reshape(ends + row_splits[1:], [-1])
    return tf.concat([row_splits[:1], ends], axis=0)


def averaged(scores: Any, members: int) -> Any:
    """Returns the mean score of each document; undoes `repeated`.

    Args:
      scores: `[members * batch, ...]`, or ragged `[members * batch, (list), ...]`; or a
        structure of them.
      members: Number of members.
    """

    def mean(value: Any) -> Any:
        shape = tf.concat([[members, -1], tf.shape(value)[1:]], axis=0)
        return tf.reduce_mean(tf.reshape(value, shape), axis=0)

    def one(value: Any) -> Any:
        if not isinstance(value, tf.RaggedTensor):
            return mean(value)
        lists = value.nrows() // members
        return tf.RaggedTensor.from_row_splits(
            mean(value.values), value.row_splits[: lists + 1], validate=False
        )

    return scores if members == 1 else tf.nest.map_structure(one, scores)
