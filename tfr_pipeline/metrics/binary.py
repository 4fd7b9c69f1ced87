"""Metrics of binary relevance: a document is relevant if its label is 1 or more."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.compat import tf
from tfr_pipeline.metrics.base import OwnMetric, PlainMetric, register, theirs
from tfr_pipeline.metrics.batch import (
    Batch,
    discounts,
    mean_over_ties,
    sort_descending,
    tie_bounds,
)


def _first_relevant(batch: Batch, topn: int | None) -> tuple[Any, Any]:
    """Returns the position of the first relevant document and whether it counts.

    Within a tie the relevant documents stand last. No sort is needed: the position
    is the number of documents that do not score below the best relevant one, less
    the relevant ones tied with it, plus one.

    Returns:
      float32 position, at least 1, and bool "there is one, within `topn`", both
      `[batch, 1]`.
    """
    relevant = batch.labels >= 1.0
    best = tf.reduce_max(
        tf.where(relevant, batch.scores, float("-inf")), axis=1, keepdims=True
    )
    at_least = tf.cast(batch.mask & (batch.scores >= best), tf.float32)
    tied = tf.cast(relevant & (batch.scores == best), tf.float32)
    position = tf.reduce_sum(at_least - tied, axis=1, keepdims=True) + 1.0
    found = tf.reduce_any(relevant, axis=1, keepdims=True)
    return position, found if topn is None else found & (position <= topn)


def _relevant_at_top(batch: Batch, topn: int | None) -> Any:
    """Expected number of relevant documents among the first `topn`, `[batch, 1]`."""
    relevance = batch.relevance
    if topn is not None:
        width = tf.shape(relevance)[1]
        inside = discounts(width, tf.ones_like, topn)
        bounds = tie_bounds(sort_descending(batch.scores), batch.scores)
        relevance *= mean_over_ties(inside, *bounds)
    return tf.reduce_sum(relevance, axis=1, keepdims=True)


def _ranked_hits(batch: Batch) -> tuple[Any, Any, Any]:
    """Returns scores, numbers and positions of the relevant documents of each list.

    Within a tie the relevant documents stand last.

    Returns:
      float32 `[batch, width]` scores, largest first and minus infinity at the end;
      float32 `[width]`, 1, 2, ...; float32 `[batch, width]` positions, infinite at
      the end.
    """
    relevant_scores = tf.where(batch.labels >= 1.0, batch.scores, float("-inf"))
    # One sort call for the scores of all and of the relevant documents.
    both = sort_descending(tf.stack([batch.scores, relevant_scores]))
    ranked, hits = both[0], both[1]
    # The j-th relevant document, in the order of `hits`, is preceded by j - 1
    # relevant documents and by the others that do not score below it.
    count = tf.range(1, tf.shape(hits)[1] + 1, dtype=tf.float32)
    _, not_below = tie_bounds(ranked, hits)
    _, last = tie_bounds(hits, hits)
    position = tf.cast(not_below - last, tf.float32) + count
    return hits, count, tf.where(tf.math.is_finite(hits), position, float("inf"))


def _inside(position: Any, topn: int | None) -> Any:
    """Whether positions are finite and at most `topn`."""
    return position <= (float(topn) if topn is not None else position.dtype.max)


@register
class MRRMetric(OwnMetric, theirs.MRRMetric):
    """Reciprocal position of the first relevant document, 0 if there is none.

    Within a tie the relevant documents stand last.

    Example:
      >>> float(MRRMetric()([[0.0, 1.0]], [[0.5, 0.5]]))
      0.5
    """

    def compute(self, batch: Batch) -> tuple[Any, Any]:
        """See base class."""
        position, found = _first_relevant(batch, self._topn)
        value = tf.where(found, 1.0 / position, 0.0)
        return value, self.list_weights(batch, batch.relevance)


@register
class HitsMetric(OwnMetric, theirs.HitsMetric):
    """1 if there is a relevant document among the first `topn`, else 0.

    Within a tie the relevant documents stand last.

    Example:
      >>> float(HitsMetric(topn=1)([[0.0, 1.0]], [[0.5, 0.5]]))
      0.0
    """

    def compute(self, batch: Batch) -> tuple[Any, Any]:
        """See base class."""
        _, found = _first_relevant(batch, self._topn)
        return tf.cast(found, tf.float32), self.list_weights(batch, batch.relevance)


@register
class PrecisionMetric(OwnMetric, theirs.PrecisionMetric):
    """Share of relevant documents among the first `topn`, or fewer if there are.

    Ties count with their expectation over random orders.

    Example:
      >>> float(PrecisionMetric(topn=1)([[0.0, 1.0]], [[0.5, 0.5]]))
      0.5
    """

    def compute(self, batch: Batch) -> tuple[Any, Any]:
        """See base class."""
        size = batch.lengths
        if self._topn is not None:
            size = tf.minimum(size, float(self._topn))
        value = tf.math.divide_no_nan(_relevant_at_top(batch, self._topn), size)
        return value, self.list_weights(batch, batch.relevance)


@register
class RecallMetric(OwnMetric, theirs.RecallMetric):
    """Share of the relevant documents that are among the first `topn`.

    Ties count with their expectation over random orders; lists without relevant
    documents count 0.

    Example:
      >>> float(RecallMetric(topn=1)([[1.0, 1.0]], [[0.1, 0.5]]))
      0.5
    """

    def compute(self, batch: Batch) -> tuple[Any, Any]:
        """See base class."""
        relevance = batch.relevance
        total = tf.reduce_sum(relevance, axis=1, keepdims=True)
        value = tf.math.divide_no_nan(_relevant_at_top(batch, self._topn), total)
        return value, self.list_weights(batch, relevance)


@register
class MeanAveragePrecisionMetric(OwnMetric, theirs.MeanAveragePrecisionMetric):
    """Mean of the precision at the position of each relevant document.

    Within a tie the relevant documents stand last; relevant documents tied with each
    other share their positions, which matters only if their weights differ.

    Example:
      >>> float(MeanAveragePrecisionMetric()([[0.0, 1.0]], [[0.5, 0.5]]))
      0.5
    """

    def compute(self, batch: Batch) -> tuple[Any, Any]:
        """See base class."""
        hits, count, position = _ranked_hits(batch)
        precision = tf.where(_inside(position, self._topn), count / position, 0.0)
        first, last = tie_bounds(hits, batch.scores)
        weighted = batch.weights * batch.relevance
        value = tf.math.divide_no_nan(
            tf.reduce_sum(
                weighted * mean_over_ties(precision, first, last),
                axis=1,
                keepdims=True,
            ),
            tf.reduce_sum(weighted, axis=1, keepdims=True),
        )
        return value, self.list_weights(batch, batch.relevance)


@register
class BPrefMetric(PlainMetric):
    """Binary preference: how few judged irrelevant documents precede relevant ones.

    `1 / R sum_r (1 - min(|irrelevant above r|, R) / min(R, N))` over the relevant
    documents `r`, with `R` relevant and `N` irrelevant ones (TREC 2006, appendix
    "Common Evaluation Measures"). Documents that nobody judged have a negative label.
    Within a tie the relevant documents stand last. TF-Ranking has it for Estimators
    only.

    Example:
      >>> float(BPrefMetric()([[0.0, 1.0, 0.0, 1.0]], [[0.4, 0.3, 0.2, 0.5]]))
      0.75
    """

    def __init__(
        self,
        name: str | None = None,
        topn: int | None = None,
        use_trec_version: bool = True,
        dtype: Any = None,
        ragged: bool = False,
        **kwargs: Any,
    ):
        """As the base class, with one argument more.

        Args:
          name: Name of the metric.
          topn: Number of first positions that count; None for all.
          use_trec_version: Divides by `min(R, N)`; by `R` if false, as the first
            definition did (Buckley and Voorhees, SIGIR 2004).
          dtype: dtype of the metric's state.
          ragged: Kept for TF-Ranking's sake; the layout is read off the tensors.
          **kwargs: Further arguments of `tf.keras.metrics.Mean`.
        """
        super().__init__(name, topn, dtype, ragged, **kwargs)
        self._use_trec_version = use_trec_version

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "use_trec_version": self._use_trec_version}

    def compute(self, batch: Batch) -> tuple[Any, Any]:
        """See base class."""
        hits, _, position = _ranked_hits(batch)
        others = batch.mask & (batch.labels < 1.0)
        others_ranked = tf.where(others, batch.scores, float("-inf"))
        _, above = tie_bounds(sort_descending(others_ranked), hits)
        relevant = tf.reduce_sum(batch.relevance, axis=1, keepdims=True)
        bound = relevant
        if self._use_trec_version:
            bound = tf.minimum(relevant, batch.lengths - relevant)
        above = tf.minimum(tf.cast(above, tf.float32), relevant)
        preferred = 1.0 - tf.math.divide_no_nan(above, bound)
        preferred = tf.where(_inside(position, self._topn), preferred, 0.0)
        value = tf.math.divide_no_nan(
            tf.reduce_sum(preferred, axis=1, keepdims=True), relevant
        )
        return value, self.list_weights(batch, batch.relevance)
