"""Scores of a teacher, which stand beside the features of lists and of batches."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfr_pipeline.data.lists import Lists
from tfr_pipeline.layout import PACKED_INPUT

# Name of the matrix of lists with the scores, `[documents, 1]`, and of what batches
# have of it.
SCORES = "tfr_pipeline/teacher"
IN_BATCH = PACKED_INPUT + SCORES


def with_scores(lists: Lists, scores: np.ndarray) -> Lists:
    """Returns lists with scores, float32 `[documents]`, beside their features."""
    values = {**lists.values, SCORES: scores[:, np.newaxis]}
    return dataclasses.replace(lists, values=values)


def set_apart(dtype: str, column: int, lists: Lists) -> Lists:
    """Returns lists with a column of theirs as the scores of a teacher.

    Args:
      dtype: Of its matrix.
      column: Its number.
      lists: Lists as they are in files.
    """
    values = dict(lists.values)
    matrix = values.pop(dtype)
    if matrix.shape[1] > 1:
        values[dtype] = np.delete(matrix, column, axis=1)
    scores = matrix[:, column].astype(np.float32)
    return with_scores(dataclasses.replace(lists, values=values), scores)


def take(features: Any) -> tuple[Any, Any]:
    """Takes the scores of a teacher out of the features of a batch.

    Returns:
      The features without them, and float32, ragged `[batch, (list)]`; None for a batch
      that has none.
    """
    if not isinstance(features, dict) or IN_BATCH not in features:
        return features, None
    rest = {name: value for name, value in features.items() if name != IN_BATCH}
    found = features[IN_BATCH]
    return rest, found.with_values(found.values[:, 0])
