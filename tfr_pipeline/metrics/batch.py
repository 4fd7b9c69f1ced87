"""A batch as metrics see it, and the positions its documents take under ties."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.features import PADDING_LABEL

# Scores of masked documents: below every score of a valid one.
_MASKED = float("-inf")
# Labels and gains above count as this: sums over a list stay finite.
LARGEST = 1e30


def to_dense(value: Any, fill: float, width: Any = None) -> Any:
    """Returns float32 `[batch, width, ...]` of a ragged or dense value.

    Args:
      value: Ragged or dense tensor, or anything that converts to one.
      fill: Value of the padding.
      width: Cut or filled up to this number of columns; None leaves it.
    """
    if isinstance(value, tf.RaggedTensor):
        value = value.to_tensor(tf.cast(fill, value.dtype))
        if width is not None:
            value = value[:, :width]
            missing = width - tf.shape(value)[1]
            paddings = [[0, 0]] * value.shape.rank
            paddings[1] = [0, missing]
            value = tf.pad(value, paddings, constant_values=fill)
    return tf.cast(tf.convert_to_tensor(value), tf.float32)


def padded(y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """Returns labels, scores and weights as dense float32 tensors.

    Args:
      y_true: Labels, dense or ragged, `[batch, list]` or `[batch, list, subtopics]`.
      y_pred: Scores, dense or ragged, `[batch, list]`.
      sample_weight: None, a scalar, `[batch]` or `[batch, 1]` (per list), `[list]` for
        dense labels (per position), or dense or ragged `[batch, list]` (per document).

    Returns:
      Labels (-1 in the padding), scores, and weights or None; the weights broadcast
      against the scores.
    """
    labels = to_dense(y_true, PADDING_LABEL)
    width = tf.shape(labels)[1]
    scores = to_dense(y_pred, 0.0, width)
    if sample_weight is None:
        return labels, scores, None
    weights = to_dense(sample_weight, 0.0, width)
    if weights.shape.rank == 1:
        weights = _broadcasting(weights, labels, isinstance(y_true, tf.RaggedTensor))
    if weights.shape.rank == 2:
        weights = weights[:, :width]
    return labels, scores, weights


def _broadcasting(weights: Any, labels: Any, packed: bool) -> Any:
    """Returns a vector of weights as a row, one a position, or a column, one a list.

    TF-Ranking knows rows only, on padded batches, so a vector that fits is one.
    """
    if packed:
        return weights[:, tf.newaxis]
    lists, width = labels.shape[:2]
    if weights.shape[0] is not None and weights.shape[0] == lists == width:
        warnings.warn(
            f"sample_weight of shape [{lists}] for {lists} lists of {width} documents "
            "is taken as one weight a position, as TF-Ranking does; for one a list "
            "give it the shape [batch, 1].",
            stacklevel=2,
        )
    size, width = tf.size(weights), tf.shape(labels)[1]
    return tf.reshape(
        weights, tf.where(tf.equal(size, width), tf.stack([1, size]), [size, 1])
    )


@dataclasses.dataclass(frozen=True)
class Batch:
    """Labels, scores and weights of a batch, with masked documents neutralised.

    Attributes:
      labels: float32 `[batch, width]`, 0 for masked documents, at most `LARGEST`.
      scores: float32 `[batch, width]`, minus infinity for masked documents; NaN counts
        as the lowest finite score.
      weights: float32 `[batch, width]`, as given; 0 if not finite.
      mask: bool `[batch, width]`: label not negative and weight positive.
    """

    labels: Any
    scores: Any
    weights: Any
    mask: Any
    _results: dict[Any, Any] = dataclasses.field(default_factory=dict, compare=False)

    def once(self, key: Any, function: Callable[[], Any]) -> Any:
        """Returns `function()`, computed by the first metric that asks for `key`."""
        if key not in self._results:
            self._results[key] = function()
        return self._results[key]

    @classmethod
    def of(cls, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Batch:
        """Makes a batch of what Keras hands to a metric, in either layout.

        Metrics that are computed one after the other on the same tensors share it.
        """
        parts = (y_true, y_pred, sample_weight)
        if not all(_never_changes(part) for part in parts):
            return cls._of(*parts)
        # It lives as long as the tensor does; a new function is a new graph.
        made = getattr(y_pred, "_tfr_pipeline_batch", None)
        source = (y_true, sample_weight, _graph())
        if made and all(a is b for a, b in zip(made[0], source, strict=True)):
            return made[1]
        batch = cls._of(y_true, y_pred, sample_weight)
        y_pred._tfr_pipeline_batch = (source, batch)
        return batch

    @classmethod
    def _of(cls, y_true: Any, y_pred: Any, sample_weight: Any) -> Batch:
        labels, scores, weights = padded(y_true, y_pred, sample_weight)
        if labels.shape.rank not in (2, None):
            raise ConfigError(
                "expected labels of shape [batch, list_size]. Received: shape "
                f"{labels.shape}; labels by subtopic are for alpha_dcg and "
                "precision_ia."
            )
        weights = finite_weights(weights, scores)
        mask = (labels >= 0.0) & (weights > 0.0)
        return cls(
            labels=tf.where(mask, tf.minimum(labels, LARGEST), 0.0),
            scores=masked_scores(scores, mask),
            weights=weights,
            mask=mask,
        )

    @property
    def relevance(self) -> Any:
        """float32 `[batch, width]`, 1 for documents with a label of 1 or more."""
        return tf.cast(self.labels >= 1.0, tf.float32)

    @property
    def lengths(self) -> Any:
        """float32 `[batch, 1]`, the number of valid documents of each list."""
        return tf.reduce_sum(tf.cast(self.mask, tf.float32), axis=1, keepdims=True)

    def list_weights(self, relevance: Any) -> Any:
        """Returns the weight of each list, float32 `[batch, 1]`, as TF-Ranking has it.

        A list weighs the mean weight of its documents by relevance. A list without
        relevance weighs as much as the others do on average (1 if there are none), a
        list whose weights are all zero nothing.

        Args:
          relevance: float32 `[batch, width]`, not negative.
        """
        weighted = tf.reduce_sum(self.weights, axis=1, keepdims=True) > 0.0
        total = tf.reduce_sum(relevance, axis=1, keepdims=True)
        own = tf.math.divide_no_nan(
            tf.reduce_sum(self.weights * relevance, axis=1, keepdims=True), total
        )
        counted = tf.reduce_sum(tf.cast(weighted & (total > 0.0), tf.float32))
        average = tf.where(
            counted > 0.0, tf.math.divide_no_nan(tf.reduce_sum(own), counted), 1.0
        )
        return tf.where(weighted, tf.where(total > 0.0, own, average), 0.0)


def finite_weights(weights: Any, scores: Any) -> Any:
    """Returns weights in the shape of the scores; 1 if there are none."""
    if weights is None:
        return tf.ones_like(scores)
    weights *= tf.ones_like(scores)
    return tf.where(tf.math.is_finite(weights), weights, 0.0)


def masked_scores(scores: Any, mask: Any) -> Any:
    """Returns scores with minus infinity for masked documents, and only for them."""
    # A diverged model is ranked as badly as possible instead of by chance.
    scores = tf.where(tf.math.is_nan(scores), scores.dtype.min, scores)
    return tf.where(mask, tf.maximum(scores, scores.dtype.min), _MASKED)


def _never_changes(value: Any) -> bool:
    """Whether a value is what it was; variables and arrays may be written to."""
    return value is None or isinstance(value, tf.Tensor | tf.RaggedTensor)


def _graph() -> Any:
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def sort_descending(values: Any) -> Any:
    """Sorts float32 `[..., width]` along the last axis, largest first."""
    return tf.sort(values, axis=-1, direction="DESCENDING")


def tie_bounds(ranked: Any, scores: Any) -> tuple[Any, Any]:
    """Returns how many documents score above, and at or above, each score.

    A document with score `scores[q, i]` stands at one of the positions
    `first + 1 ... last`; the positions of a tie are shared by its documents.

    Args:
      ranked: float32 `[batch, width]`, sorted descending.
      scores: float32 `[batch, width]`.

    Returns:
      int32 `first` and `last`, both `[batch, width]`.
    """
    first = tf.searchsorted(-ranked, -scores, side="left")
    return first, tf.searchsorted(-ranked, -scores, side="right")


def mean_over_ties(per_position: Any, first: Any, last: Any) -> Any:
    """Averages a function of the position over the positions a document may take.

    Args:
      per_position: `[width]` or `[batch, width]`; entry `r` belongs to position
        `r + 1`.
      first: int32 `[batch, width]`, see `tie_bounds`.
      last: int32 `[batch, width]`.

    Returns:
      float32 `[batch, width]`.
    """
    # float64: differences of float32 prefix sums lose the digits that matter.
    sums = tf.cumsum(tf.cast(per_position, tf.float64), axis=-1)
    sums = tf.pad(sums, [[0, 0]] * (sums.shape.rank - 1) + [[1, 0]])
    if sums.shape.rank == 1:
        total = tf.gather(sums, last) - tf.gather(sums, first)
    else:
        total = tf.gather(sums, last, batch_dims=1) - tf.gather(
            sums, first, batch_dims=1
        )
    count = tf.cast(last - first, tf.float64)
    return tf.cast(tf.math.divide_no_nan(total, count), tf.float32)


def cut(values: Any, topn: int | None) -> Any:
    """Sets entries beyond the first `topn` of the last axis to 0."""
    if topn is None:
        return values
    kept = tf.range(tf.shape(values)[-1]) < topn
    return tf.where(kept, values, 0.0)


def discounts(width: Any, function: Callable[[Any], Any], topn: int | None) -> Any:
    """Returns `function(position)` for positions 1 to `width`, 0 beyond `topn`."""
    positions = tf.cast(tf.range(1, width + 1), tf.float32)
    return cut(tf.convert_to_tensor(function(positions), tf.float32), topn)
