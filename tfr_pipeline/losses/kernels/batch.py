"""A packed batch of labels and logits, and the operations losses need on it."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.features import PADDING_LABEL
from tfr_pipeline.global_batch import longest_list


def is_ragged(value: Any) -> bool:
    """Whether `value` is a ragged tensor, that is one in the packed layout."""
    return isinstance(value, tf.RaggedTensor)


def to_float(value: Any) -> Any:
    """Converts what is no ragged tensor to a float32 tensor, and casts what is."""
    return tf.cast(
        value if is_ragged(value) else tf.convert_to_tensor(value), tf.float32
    )


def pad(ragged: Any, value: float) -> Any:
    """Returns float32 `[batch, longest, ...]`, filled up with `value`.

    There is at least one column, also when every list is empty: the operations
    downstream take maxima over a list. Lists of other replicas count.
    """
    dense = tf.cast(ragged, tf.float32).to_tensor(value)
    return at_least(dense, (0, longest_list()), value)


def at_least(dense: Any, sizes: Any, value: float) -> Any:
    """Fills the first axes of a tensor up to at least these sizes with `value`."""
    static = dense.shape[: len(sizes)].as_list()
    if all(
        isinstance(size, int) and have is not None and have >= size
        for size, have in zip(sizes, static, strict=True)
    ):
        return dense
    shape = tf.shape(dense)
    paddings = [[0, tf.maximum(0, size - shape[i])] for i, size in enumerate(sizes)]
    paddings += [[0, 0]] * (dense.shape.rank - len(sizes))
    return tf.pad(dense, paddings, constant_values=value)


def take_cells(table: Any, lengths: Any) -> Any:
    """Takes the first `lengths` cells of each row out of a table.

    Args:
      table: `[batch, width]`.
      lengths: int32 `[batch]`, at most `width`.

    Returns:
      `[sum of lengths]`, row by row.
    """
    starts = tf.range(tf.size(lengths)) * tf.shape(table)[1]
    cells = tf.ragged.range(starts, starts + lengths).values
    return tf.gather(tf.reshape(table, [-1]), cells)


def check_outputs(name: str, y_pred: Any, outputs: int | None) -> None:
    """Raises a ConfigError unless there are several scores a document.

    Args:
      name: The loss's name.
      y_pred: Dense or ragged scores.
      outputs: How many scores there must be; None for any number.
    """
    shape = y_pred.shape
    if shape.rank == 3 and outputs in (None, shape[2]):
        return
    wanted = outputs or "outputs"
    raise ConfigError(
        f"{name} expects scores of shape [batch, list_size, {wanted}]. Received: shape "
        f"{shape}; let the scorer give {outputs or 'several'} numbers a document "
        f"(`output_units={outputs or '...'}`)."
    )


@dataclasses.dataclass(frozen=True)
class Packed:
    """Labels and logits of a batch of lists, real documents only.

    Attributes:
      labels: float32 `[documents]`; 0 where `mask` is false.
      logits: float32 `[documents]`; 0 where `mask` is false.
      mask: bool `[documents]`, false for documents whose label is negative.
      lists: Ragged tensor that carries the partition; its values are the labels.
      num_lists: int64 scalar.
    """

    labels: Any
    logits: Any
    mask: Any
    lists: Any
    num_lists: Any

    @classmethod
    def of(cls, y_true: Any, y_pred: Any) -> Packed:
        """Packs two ragged tensors of the same partition.

        Args:
          y_true: Ragged `[batch, (list)]`, any real or integer dtype.
          y_pred: Ragged `[batch, (list)]`.

        Raises:
          ValueError: A document has more than one label or score.
          tf.errors.InvalidArgumentError: The two are partitioned differently.
        """
        for name, value in (("labels", y_true), ("scores", y_pred)):
            if value.shape.rank != 2:
                # Broadcasting [documents] with [documents, 1] would go unnoticed.
                raise ValueError(
                    f"expected {name} of shape [batch, (list)], one number a document. "
                    f"Received: shape {value.shape}."
                )
        y_true = y_true.with_row_splits_dtype(tf.int64)
        y_pred = y_pred.with_row_splits_dtype(tf.int64)
        checks = []
        if y_true.row_splits is not y_pred.row_splits:
            check = tf.debugging.assert_equal(
                y_true.row_splits,
                y_pred.row_splits,
                message="labels and scores have different numbers of documents a list",
            )
            checks = [] if check is None else [check]
        with tf.control_dependencies(checks):
            labels = tf.cast(tf.identity(y_true.values), tf.float32)
        logits = tf.cast(y_pred.values, tf.float32)
        mask = labels >= 0.0
        labels = tf.where(mask, labels, 0.0)
        return cls(
            labels=labels,
            logits=tf.where(mask, logits, 0.0),
            mask=mask,
            lists=y_true.with_values(labels),
            num_lists=y_true.nrows(),
        )

    @property
    def row_ids(self) -> Any:
        """The list of each document, int64 `[documents]`."""
        # As `value_rowids()`, at half the cost; a graph computes it once.
        documents = tf.range(tf.size(self.labels, tf.int64))
        return tf.searchsorted(self.lists.row_splits, documents, "right", tf.int64) - 1

    def sum(self, values: Any) -> Any:
        """Sums `[documents]` over each list: `[batch]`."""
        return tf.math.unsorted_segment_sum(values, self.row_ids, self.num_lists)

    def longest(self) -> Any:
        """Returns the longest list, other replicas' included; int64, 1 at least."""
        here = self.lists.bounding_shape(axis=1)
        return tf.maximum(here, tf.cast(longest_list(), tf.int64))

    def cells(self) -> Any:
        """Returns batch size times the longest list, int64: what padding would hold."""
        return self.num_lists * self.longest()

    def to_documents(self, values: Any) -> Any:
        """Repeats `[batch]` for each document of a list: `[documents]`."""
        return tf.gather(values, self.row_ids)

    def ragged(self, values: Any) -> Any:
        """Partitions `[documents]` into lists."""
        return self.lists.with_values(values)

    def list_weights(self, sample_weight: Any) -> Any:
        """Returns mean weights by label, `[batch, 1]`, or 1.0 if there are none.

        Lists without relevant documents get the weight 0, but only if weights are
        given: TF-Ranking's convention for listwise losses.
        """
        if sample_weight is None:
            return 1.0
        weighted = self.sum(self.labels * self.weights(sample_weight))
        return tf.math.divide_no_nan(weighted, self.sum(self.labels))[:, tf.newaxis]

    def block(self) -> tuple[Any, Any, Any]:
        """Returns labels, logits and mask `[batch, longest]`; padding has label -1."""
        labels = tf.where(self.mask, self.labels, PADDING_LABEL)
        labels = pad(self.ragged(labels), PADDING_LABEL)
        return labels, pad(self.ragged(self.logits), 0.0), labels >= 0.0

    def weights(self, sample_weight: Any) -> Any:
        """Returns weights `[documents]` or a scalar, 0 for masked documents.

        Args:
          sample_weight: None, a scalar, `[batch]` or `[batch, 1]` (per list),
            `[batch, width]` or ragged `[batch, (list)]` (per document).
        """
        if sample_weight is None:
            return tf.cast(self.mask, tf.float32)
        if is_ragged(sample_weight):
            values = tf.cast(sample_weight.values, tf.float32)
        else:
            values = tf.cast(tf.convert_to_tensor(sample_weight), tf.float32)
            if values.shape.rank == 1:
                values = values[:, tf.newaxis]
            if values.shape.rank == 2:
                # One column is a weight a list: every position reads that column.
                last = tf.cast(tf.shape(values)[1], tf.int64) - 1
                row_ids = self.row_ids
                start = tf.gather(self.lists.row_splits, row_ids)
                position = tf.range(tf.size(row_ids, tf.int64)) - start
                indices = tf.stack([row_ids, tf.minimum(position, last)], axis=1)
                values = tf.gather_nd(values, indices)
        return tf.where(self.mask, values, 0.0)


def pad_weights(sample_weight: Any, like: Any) -> Any:
    """Returns weights that broadcast against the padded labels `like`.

    Args:
      sample_weight: As in `Packed.weights`.
      like: `[batch, longest, ...]`.

    Returns:
      None, a scalar, `[batch, 1]` or `[batch, longest]`.
    """
    if sample_weight is None:
        return None
    if is_ragged(sample_weight):
        return pad(sample_weight, 0.0)
    weights = tf.cast(tf.convert_to_tensor(sample_weight), tf.float32)
    if weights.shape.rank == 1:
        return weights[:, tf.newaxis]
    if weights.shape.rank == 2:
        return weights[:, : tf.shape(like)[1]]
    return weights
