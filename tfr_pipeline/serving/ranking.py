"""What the signature `rank` does beside scoring: it checks its inputs, and ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline.layout import Slot


def check_splits(
    row_splits: Any,
    name: str = "row_splits",
    of: str = "list",
    in_all: str = "documents",
) -> list[Any]:
    """Returns what raises where `row_splits` are not those of lists.

    Args:
      row_splits: int64 `[lists + 1]`.
      name: Name of the input.
      of: What has so many of something.
      in_all: What it has.
    """
    first = tf.concat([row_splits[:1], [-1]], axis=0)[0]  # -1 if there is none
    equal = tf.debugging.assert_equal(
        first, tf.constant(0, tf.int64), f"{name}: expected 0 as its first number"
    )
    rising = tf.debugging.assert_less_equal(
        row_splits[:-1],
        row_splits[1:],
        f"{name}: expected numbers that never fall: where each {of} begins, and "
        f"the number of {in_all}",
    )
    return [equal, rising]


def check_values(
    values: Any,
    splits: Any,
    row_splits: Any,
    of_queries: bool,
    name: str,
    splits_name: str,
) -> list[Any]:
    """Returns what raises where a feature with any number of values does not fit.

    Args:
      values: `[values]`.
      splits: int64 `[documents + 1]`, or `[lists + 1]` of a query feature.
      row_splits: int64 `[lists + 1]`.
      of_queries: Whether it is one.
      name: Name of the input `values`.
      splits_name: Name of the input `splits`.
    """
    of = "list" if of_queries else "document"
    rows = tf.size(row_splits, tf.int64) - 1 if of_queries else row_splits[-1]
    return [
        *check_splits(splits, splits_name, of, "values"),
        tf.debugging.assert_equal(
            tf.size(splits, tf.int64),
            rows + 1,
            f"{splits_name}: expected one number more than there are {of}s",
        ),
        tf.debugging.assert_equal(
            tf.size(values, tf.int64),
            tf.reduce_max(splits),
            f"{name}: expected as many values as the last of {splits_name} says",
        ),
    ]


def check_shapes(
    row_splits: Any,
    context: Mapping[str, Any],
    documents: Mapping[str, Any],
    ids: Any,
    slots: Iterable[Slot],
    called: Mapping[str, str],
) -> list[Any]:
    """Returns what raises where inputs of `rank` have not the shapes of `Signatures`.

    Args:
      row_splits: int64 `[batch + 1]`.
      context: Query features by name.
      documents: Document features by name.
      ids: string `[documents]` or `[0]`.
      slots: Where each document feature stands.
      called: Maps features to their names as inputs.
    """
    # The largest is the last, which none would have.
    count, number = tf.reduce_max(row_splits), tf.size(row_splits, tf.int64) - 1
    many = "the last of row_splits is how many"
    checks = [
        tf.debugging.assert_equal(
            tf.where(tf.size(ids) > 0, tf.size(ids, tf.int64), count),
            count,
            f"ids: expected none, or one for each document; {many}",
        )
    ]
    # The join of the columns finds numbers that differ in number; one is enough.
    joined = [
        slot
        for slot in slots
        if slot.shape == (1,) and documents[slot.name].dtype != tf.string
    ]
    scalars, vectors = joined[:1], [slot for slot in slots if slot not in joined]
    for slot in (*scalars, *vectors):
        shape = tf.stack([count, *slot.shape])
        text = ", ".join(["documents", *map(str, slot.shape)])
        message = f"{called[slot.name]}: expected the shape [{text}]; {many}"
        found = tf.shape(documents[slot.name], tf.int64)
        checks.append(tf.debugging.assert_equal(found, shape, message))
    for name, value in context.items():
        shape = tf.stack([number, *value.shape[1:]])
        text = ", ".join(["lists", *map(str, value.shape[1:])])
        message = (
            f"{called[name]}: expected the shape [{text}]; row_splits has one number "
            "more than there are lists"
        )
        found = tf.shape(value, tf.int64)
        checks.append(tf.debugging.assert_equal(found, shape, message))
    return checks


def ranked(scores: Any, row_splits: Any, ids: Any) -> tuple[Any, Any]:
    """Ranks documents by scores within their lists; equal ones keep their order.

    Args:
      scores: float32 `[documents]`.
      row_splits: int64 `[batch + 1]`.
      ids: string `[documents]`, or `[0]` for the numbers of the rows.

    Returns:
      Ranks from 1, int64 `[documents]`, and ids, string `[documents]`.
    """
    row_ids = tf.ragged.row_splits_to_segment_ids(row_splits)
    by_score = tf.argsort(scores, direction="DESCENDING", stable=True)
    order = tf.gather(by_score, tf.argsort(tf.gather(row_ids, by_score), stable=True))
    position = tf.range(tf.size(scores, tf.int64), dtype=tf.int64)
    within = position - tf.gather(row_splits, tf.gather(row_ids, order)) + 1
    ranks = tf.scatter_nd(
        tf.cast(order[:, tf.newaxis], tf.int64), within, tf.shape(scores, tf.int64)
    )
    return ranks, named(ids, tf.size(scores, tf.int64))


def named(ids: Any, count: Any) -> Any:
    """Returns ids, string `[count]`: those that were given, or numbers of the rows.

    Args:
      ids: string `[count]`, or `[0]`.
      count: int64 scalar.
    """
    return tf.cond(
        tf.size(ids) > 0,
        lambda: ids,
        lambda: tf.strings.as_string(tf.range(count, dtype=tf.int64)),
    )
