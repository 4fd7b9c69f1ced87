"""Padded features of serialized lists whose features cannot be kept flat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline.data.reading.elwc import split_elwc


def padded_features(
    serialized: Any,
    context_spec: Mapping[str, Any],
    example_spec: Mapping[str, Any],
    mask_feature_name: str,
) -> dict[str, Any]:
    """Parses lists with features of any `tf.io` spec, as TF-Ranking's parser does.

    For specs that `loose.can_keep` refuses, such as a `RaggedFeature` with partitions.
    What stands under the mask differs: TF-Ranking parses Examples without features
    there, which fails where a feature has no default. Here it is a document again.

    Args:
      serialized: ExampleListWithContext, string `[batch]`.
      context_spec: Maps query features to `tf.io` specs.
      example_spec: Maps document features to `tf.io` specs.
      mask_feature_name: Name of the mask.

    Returns:
      Maps query features to `[batch, ...]`, document features to `[batch, longest
      list, ...]` and the mask to bool `[batch, longest list]`.
    """
    documents, lengths, contexts = split_elwc(serialized)
    mask = tf.sequence_mask(lengths)
    lists = tf.RaggedTensor.from_row_lengths(documents, lengths, validate=False)
    anyone = tf.concat([documents, [""]], axis=0)[0]
    flat = tf.reshape(lists.to_tensor(anyone), [-1])
    result = {mask_feature_name: mask}
    if context_spec:
        result |= tf.io.parse_example(contexts, dict(context_spec))
    for name, value in tf.io.parse_example(flat, dict(example_spec)).items():
        result[name] = _by_list(value, tf.shape(mask, tf.int64))
    return result


def _by_list(value: Any, shape: Any) -> Any:
    """Returns `[batch, list, ...]` of a parsed feature `[batch * list, ...]`."""
    if isinstance(value, tf.RaggedTensor):
        size = tf.cast(shape[1], value.row_splits.dtype)
        rows = tf.cast(shape[0], value.row_splits.dtype)
        return tf.RaggedTensor.from_uniform_row_length(value, size, nrows=rows)
    if isinstance(value, tf.SparseTensor):
        inner = value.dense_shape[1:]
        return tf.sparse.reshape(value, tf.concat([shape, inner], axis=0))
    inner = tf.shape(value, tf.int64)[1:]
    result = tf.reshape(value, tf.concat([shape, inner], axis=0))
    return tf.ensure_shape(result, [None, None, *value.shape[1:]])
