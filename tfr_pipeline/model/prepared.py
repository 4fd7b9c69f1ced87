"""Preprocessing that is done once a document, not once a step.

A function such as a logarithm gives a document the same value in every epoch. Where
data is in memory, such functions are applied to all of it before training, and training
steps use a view of the model that begins behind them. The model itself is as it was:
it takes raw features, in `predict` and in exports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.layout import PACKED_INPUT, BlockLayout
from tfr_pipeline.model.encoded import calls, is_encoded, reached
from tfr_pipeline.model.feature_block import FeatureBlock
from tfr_pipeline.model.probing import functions_are_constant

# What stands for the dtype in the name of a prepared matrix, followed by a number.
_PREPARED = "prepared_"
_ROW_IDS, _ROW_SPLITS = "row_ids", "row_splits"


class Preparation:
    """The part of preprocessing that can be done once.

    The features of a dtype are prepared when each has a function that acts element by
    element, or that compares the documents of a list, has no state and gives the same
    result twice.

    Args:
      layout: Where each document feature stands.
      functions: Maps features to functions of `[batch, list_size, ...]`.

    Attributes:
      layout: The features that are prepared; it may have none.
      needs_lists: Whether some are compared with those of other documents, so that
        lists have to be whole.
    """

    def __init__(
        self, layout: BlockLayout, functions: Mapping[str, Callable[[Any], Any]]
    ):
        self._functions = dict(functions)
        self.layout = BlockLayout(
            {
                dtype: slots
                for dtype, slots in layout.slots.items()
                if functions_are_constant(self._functions, slots, dtype)
            }
        )
        names = (slot.name for slots in self.layout.slots.values() for slot in slots)
        self.needs_lists = any(
            getattr(self._functions[name], "needs_lists", False) for name in names
        )

    def __call__(
        self, values: Mapping[str, np.ndarray], row_splits: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Prepares documents.

        Args:
          values: Maps dtypes to raw matrices `[documents, columns]`, of these dtypes.
          row_splits: int64 `[lists + 1]`; not needed unless `needs_lists`.

        Returns:
          Matrices `[documents, columns]`: those of other dtypes as they came, and in
          place of the rest prepared ones, under names that tell them apart.
        """
        dtypes = self.layout.slots
        with tf.device("CPU:0"):
            raw = {dtype: tf.constant(values[dtype]) for dtype in dtypes}
            lists = () if row_splits is None else _lists(row_splits)
            block = FeatureBlock.from_matrices(self.layout, raw).map(
                self._functions, lists
            )
        return {
            **{d: matrix for d, matrix in values.items() if d not in dtypes},
            **{
                f"{_PREPARED}{i}": matrix.numpy()
                for i, matrix in enumerate(block.matrices())
            },
        }

    def view(
        self,
        context: Mapping[str, Any],
        matrices: Mapping[str, Any],
        block: FeatureBlock,
        row_ids: Any,
        row_splits: Any,
        outputs: Any,
    ) -> Callable[..., Any]:
        """Returns the model that begins behind the preparation, as a function.

        All arguments are symbolic, parts of the model that takes raw features; the two
        share their layers and so their weights.

        Args:
          context: Maps query features to the model's inputs.
          matrices: Maps dtypes to raw matrices.
          block: Preprocessed document features.
          row_ids: int64 `[documents]`.
          row_splits: int64 `[batch + 1]`.
          outputs: The model's outputs.

        Returns:
          A function of a packed batch of prepared features, and of `training`.
        """
        names = {slot.name for slots in self.layout.slots.values() for slot in slots}
        prepared = enumerate(block.matrices(names))
        encoded = calls(outputs)
        documents = {d: m for d, m in matrices.items() if d not in self.layout.slots}
        documents |= {f"{_PREPARED}{i}": matrix for i, matrix in prepared}
        splits = {_ROW_IDS: row_ids, _ROW_SPLITS: row_splits}

        def part_of(further: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
            tensors = {**context, **documents, **splits, **further}
            inputs = reached(outputs, tensors)
            return inputs, tf.keras.Model(inputs, outputs)

        parts = {False: part_of({})}
        if encoded:
            parts[True] = part_of(encoded)

        def scores(batch: Mapping[str, Any], training: bool) -> Any:
            inputs, part = parts[is_encoded(batch)]
            ragged = {name: batch[PACKED_INPUT + name] for name in documents}
            first = next(iter(ragged.values()))
            values = {
                **batch,
                **{name: value.values for name, value in ragged.items()},
                _ROW_IDS: first.value_rowids(),
                _ROW_SPLITS: first.row_splits,
            }
            return part({name: values[name] for name in inputs}, training=training)

        return scores


def _lists(row_splits: np.ndarray) -> tuple[Any, Any]:
    """Returns int64 `row_ids` `[documents]` and `row_splits`, as tensors."""
    row_ids = np.repeat(np.arange(len(row_splits) - 1), np.diff(row_splits))
    return tf.constant(row_ids, tf.int64), tf.constant(row_splits, tf.int64)


def is_prepared(batch: Mapping[str, Any]) -> bool:
    """Whether a packed batch holds prepared features."""
    return any(name.startswith(PACKED_INPUT + _PREPARED) for name in batch)
