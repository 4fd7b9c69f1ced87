"""Evaluation of a whole data set in one pass, with confidence intervals. NumPy only.

Gain is `2^y - 1`, discount `1 / log2(1 + rank)`; a document is relevant for MRR, MAP,
precision and recall if its label is 1 or more. Documents with a negative label are
left out. Ties count with their expectation over random orders in NDCG, precision,
recall and ARP; in MRR and MAP the relevant documents stand last in their tie.

What a query without relevant documents counts is a convention that moves NDCG more
than models do, so all are computed: `skip` leaves it out, `zero` counts it 0 (TF-
Ranking), `one` counts it 1 (LightGBM, XGBoost, allRank).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.metrics.bootstrap import intervals, ratio

# Sums of gains up to 2^512 are in the range of float64.
_TOP_GRADE = 512.0
NOTHING_LABELLED = "no documents with a label of 0 or more to evaluate."


@dataclasses.dataclass(frozen=True)
class _Ranked:
    """All lists sorted by falling score, cut into ties (runs of one score).

    Attributes:
      labels: float64 `[documents]`, sorted.
      rows: int64 `[documents]`, the list of each document.
      lengths: int64 `[lists]`.
      tie: int64 `[documents]`, the tie of each document.
      tie_row: int64 `[ties]`, the list of each tie.
      first: int64 `[ties]`; a tie takes the positions `first + 1 ... last`.
      last: int64 `[ties]`.
    """

    labels: np.ndarray
    rows: np.ndarray
    lengths: np.ndarray
    tie: np.ndarray
    tie_row: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @classmethod
    def of(cls, labels: Any, scores: Any, row_splits: Any) -> _Ranked:
        labels, scores, row_splits = _checked(labels, scores, row_splits)
        rows = np.repeat(np.arange(len(row_splits) - 1), np.diff(row_splits))
        valid = labels >= 0.0
        if not valid.all():
            labels, scores, rows = labels[valid], scores[valid], rows[valid]
        if not len(labels):
            raise DataError(NOTHING_LABELLED)
        lengths = np.bincount(rows, minlength=len(row_splits) - 1)
        order = np.lexsort((-scores, rows))
        labels, scores = labels[order], scores[order]
        starts = np.ones(len(rows), bool)
        starts[1:] = (rows[1:] != rows[:-1]) | (scores[1:] != scores[:-1])
        (begin,) = np.nonzero(starts)
        offset = np.cumsum(lengths) - lengths
        tie_row = rows[begin]
        return cls(
            labels=labels,
            rows=rows,
            lengths=lengths,
            tie=np.cumsum(starts) - 1,
            tie_row=tie_row,
            first=begin - offset[tie_row],
            last=np.append(begin[1:], len(rows)) - offset[tie_row],
        )

    def gains(self) -> np.ndarray:
        """Returns `(2^y - 1) / c` `[documents]`, one `c` a list, which cancels in NDCG.

        It is 1 where gains are in the range of float64.
        """
        top = np.zeros(len(self.lengths))
        np.maximum.at(top, self.rows, self.labels)
        excess = np.maximum(top - _TOP_GRADE, 0.0)[self.rows]
        return np.exp2(self.labels - excess) - np.exp2(-excess)

    def over_ties(self, values: np.ndarray) -> np.ndarray:
        """Sums `[documents]` over ties."""
        return np.bincount(self.tie, values, len(self.first))

    def over_lists(self, values: np.ndarray) -> np.ndarray:
        """Sums `[ties]` over lists."""
        return np.bincount(self.tie_row, values, len(self.lengths))


def _checked(
    labels: Any, scores: Any, row_splits: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = np.asarray(labels, np.float64)
    scores = np.asarray(scores)
    row_splits = np.asarray(row_splits, np.int64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise DataError(
            "expected labels and scores of one shape [documents], found "
            f"{labels.shape} and {scores.shape}."
        )
    if row_splits.ndim != 1 or len(row_splits) < 2 or not len(labels):
        raise DataError(
            f"nothing to evaluate: {max(0, row_splits.size - 1)} lists, "
            f"{len(labels)} documents."
        )
    if (
        row_splits[0] != 0
        or row_splits[-1] != len(labels)
        or (np.diff(row_splits) < 0).any()
    ):
        raise DataError(
            f"expected row_splits to rise from 0 to {len(labels)} (the number of "
            f"documents), found {row_splits[0]} to {row_splits[-1]}."
        )
    for name, values in (("scores", scores), ("labels", labels)):
        bad = np.isnan(values)
        if bad.any():
            first = np.searchsorted(row_splits, np.argmax(bad), side="right") - 1
            raise DataError(
                f"{int(bad.sum())} of {len(values)} {name} are NaN, the first in query "
                f"{int(first)} (counted from 0). The model diverged or a feature is "
                "not finite."
            )
    return labels, scores, row_splits


def _prefix(values: np.ndarray, cutoff: int | None) -> np.ndarray:
    """Returns sums of the first 0, 1, 2, ... values, constant from `cutoff` on."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return sums if cutoff is None else sums[np.minimum(np.arange(len(sums)), cutoff)]


def _gain_metrics(
    ranked: _Ranked, cutoffs: Sequence[int | None]
) -> dict[str, np.ndarray]:
    """Returns NDCG at each cutoff, NaN for lists whose gains are all 0."""
    gains = ranked.gains()
    size = ranked.last - ranked.first
    mean_gains = ranked.over_ties(gains) / size
    ideal = gains[np.lexsort((-gains, ranked.rows))]
    offset = np.cumsum(ranked.lengths) - ranked.lengths
    position = np.arange(len(gains)) - offset[ranked.rows]
    discount = 1.0 / np.log2(np.arange(2, ranked.lengths.max() + 2))
    result = {}
    for cutoff in cutoffs:
        sums = _prefix(discount, cutoff)
        dcg = ranked.over_lists(mean_gains * (sums[ranked.last] - sums[ranked.first]))
        counted = np.where(position < (cutoff or len(gains)), ideal, 0.0)
        best = np.bincount(
            ranked.rows, counted * discount[position], len(ranked.lengths)
        )
        name = "ndcg" if cutoff is None else f"ndcg@{cutoff}"
        result[name] = ratio(dcg, best)
    return result


def _binary_metrics(ranked: _Ranked, cutoffs: Sequence[int]) -> dict[str, np.ndarray]:
    """Returns MRR, MAP, precision and recall."""
    relevant = ranked.labels >= 1.0
    in_tie = ranked.over_ties(relevant.astype(np.float64))
    total = ranked.over_lists(in_tie)
    # Number of relevant documents of the list up to and including each document.
    offset = np.cumsum(total) - total
    count = np.cumsum(relevant) - offset[ranked.rows]
    before = np.cumsum(in_tie) - in_tie - offset[ranked.tie_row]
    position = (ranked.last - in_tie - before)[ranked.tie] + count
    precision = np.where(relevant, count / np.maximum(position, 1.0), 0.0)
    result = {
        "mrr": np.bincount(
            ranked.rows,
            np.where(relevant & (count == 1), precision, 0.0),
            len(total),
        ),
        "map": ratio(np.bincount(ranked.rows, precision, len(total)), total),
    }
    result["mrr"][total == 0] = np.nan
    size = ranked.last - ranked.first
    for cutoff in cutoffs:
        share = np.clip(cutoff - ranked.first, 0, size) / size
        found = ranked.over_lists(in_tie * share)
        result[f"precision@{cutoff}"] = ratio(found, np.minimum(cutoff, ranked.lengths))
        result[f"recall@{cutoff}"] = ratio(found, total)
    return result


def _position_sums(ranked: _Ranked) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sums over each list of label times position, and of labels."""
    labels = ranked.over_ties(ranked.labels)
    mean_position = (ranked.first + ranked.last + 1) / 2.0
    return ranked.over_lists(labels * mean_position), ranked.over_lists(labels)


@dataclasses.dataclass(frozen=True)
class QueryMetrics:
    """What was measured of each query.

    Attributes:
      documents: int64 `[lists]`, documents with a label of 0 or more.
      relevant: int64 `[lists]`, documents with a label of 1 or more.
      label_sum: float64 `[lists]`, the sum of labels, which `arp` is weighted by.
      values: float64 `[lists]` by name; see `per_query`.
    """

    documents: np.ndarray
    relevant: np.ndarray
    label_sum: np.ndarray
    values: dict[str, np.ndarray]

    @classmethod
    def of(
        cls,
        labels: Any,
        scores: Any,
        row_splits: Any,
        cutoffs: Sequence[int] = (1, 3, 5, 10),
    ) -> QueryMetrics:
        """Measures; see `per_query` for arguments and errors."""
        cutoffs = _checked_cutoffs(cutoffs)
        ranked = _Ranked.of(labels, scores, row_splits)
        positions, label_sum = _position_sums(ranked)
        relevant = np.bincount(ranked.rows[ranked.labels >= 1.0], None, len(label_sum))
        return cls(
            documents=ranked.lengths,
            relevant=relevant,
            label_sum=label_sum,
            values={
                **_gain_metrics(ranked, [*cutoffs, None]),
                **_binary_metrics(ranked, cutoffs),
                "arp": ratio(positions, label_sum),
            },
        )

    @classmethod
    def of_part(cls, labels: Any, scores: Any, row_splits: Any) -> QueryMetrics:
        """Measures a part of the lists, of which no document may have a label.

        Then nothing is defined, as for such a list among others.

        Args:
          labels: See `per_query`, as for the others.
          scores: Likewise.
          row_splits: Likewise.
        """
        if not (np.asarray(labels) < 0.0).all():
            return cls.of(labels, scores, row_splits)
        count = len(row_splits) - 1
        names = cls.of([0.0], [0.0], [0, 1]).values
        return cls(
            documents=np.zeros(count, np.int64),
            relevant=np.zeros(count, np.int64),
            label_sum=np.zeros(count),
            values={name: np.full(count, np.nan) for name in names},
        )

    @staticmethod
    def concatenate(parts: Sequence[QueryMetrics]) -> QueryMetrics:
        """Returns what was measured of all parts, in order. Needs at least one."""
        return QueryMetrics(
            documents=np.concatenate([part.documents for part in parts]),
            relevant=np.concatenate([part.relevant for part in parts]),
            label_sum=np.concatenate([part.label_sum for part in parts]),
            values={
                name: np.concatenate([part.values[name] for part in parts])
                for name in parts[0].values
            },
        )

    def columns(self) -> dict[str, np.ndarray]:
        """Returns what a table has of each query beside `values`."""
        return {
            "documents": self.documents,
            "relevant": self.relevant,
            "label_sum": self.label_sum,
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns all there is, to be sent to another process."""
        return {**self.columns(), **self.values}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> QueryMetrics:
        """Reverse of `arrays`."""
        values = dict(arrays)
        documents, relevant = values.pop("documents"), values.pop("relevant")
        return cls(documents, relevant, values.pop("label_sum"), values)

    def skip(self, name: str) -> np.ndarray:
        """Returns float64 `[lists]`, NaN for the queries that `skip` leaves out."""
        value = self.values[name]
        if name.startswith("precision"):
            # It is 0, not undefined, where there is nothing relevant.
            value = np.where(np.isnan(self.values["mrr"]), np.nan, value)
        return value

    def means(self, bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
        """Returns the means over queries; see `evaluate_lists`."""
        keys, numerators, denominators = [], [], []

        def add(name: str, convention: str, numerator: Any, denominator: Any) -> None:
            keys.append((name, convention))
            numerators.append(numerator)
            denominators.append(denominator)

        everything = np.ones(len(self.documents))
        for name in self.values:
            value = self.skip(name)
            defined = ~np.isnan(value)
            value = np.nan_to_num(value)
            if name == "arp":
                add(name, "skip", value * self.label_sum, self.label_sum)
                continue
            add(name, "skip", value, defined)
            add(name, "zero", value, everything)
            if name.startswith("ndcg"):
                add(name, "one", np.where(defined, value, 1.0), everything)
        numerator = np.stack(numerators, axis=1)
        denominator = np.stack(denominators, axis=1).astype(np.float64)
        means = ratio(numerator.sum(axis=0), denominator.sum(axis=0))
        result: dict[str, Any] = {name: {} for name in self.values}
        for (name, convention), mean in zip(keys, means, strict=True):
            result[name][convention] = _number(mean)
        if bootstrap:
            low, high = intervals(numerator, denominator, bootstrap, seed)
            for (name, convention), *bounds in zip(keys, low, high, strict=True):
                result[name][f"{convention}_ci"] = [_number(bound) for bound in bounds]
        result["queries"] = len(self.documents)
        result["documents"] = int(self.documents.sum())
        result["queries_without_relevant"] = int(np.isnan(self.values["ndcg"]).sum())
        return result


def _checked_cutoffs(cutoffs: Sequence[int]) -> list[int]:
    cutoffs = list(cutoffs)
    if any(int(cutoff) != cutoff or cutoff < 1 for cutoff in cutoffs):
        raise ConfigError(f"expected cutoffs of 1 or more, found {cutoffs}.")
    return cutoffs


def per_query(
    labels: Any,
    scores: Any,
    row_splits: Any,
    *,
    cutoffs: Sequence[int] = (1, 3, 5, 10),
) -> dict[str, np.ndarray]:
    """Returns every metric of every query.

    Args:
      labels: `[documents]`, relevance; negative for documents to leave out.
      scores: `[documents]`, the higher the better.
      row_splits: `[lists + 1]`; list `q` holds `row_splits[q]:row_splits[q + 1]`.
      cutoffs: Cutoffs `k` of NDCG, precision and recall.

    Returns:
      float64 `[lists]` by name: `ndcg@k`, `ndcg`, `mrr`, `map`, `precision@k`,
      `recall@k`, `arp`. NaN where undefined: in lists without relevant documents,
      except precision, which is undefined in lists without documents only.

    Raises:
      DataError: There are no documents, a score or label is NaN, or the shapes
        disagree.
      ConfigError: A cutoff is below 1.

    Example:
      >>> per_query([0.0, 1.0, 0.0], [0.3, 0.2, 0.1], [0, 2, 3])["mrr"]
      array([0.5, nan])
    """
    return QueryMetrics.of(labels, scores, row_splits, cutoffs).values


def evaluate_lists(
    labels: Any,
    scores: Any,
    row_splits: Any,
    *,
    cutoffs: Sequence[int] = (1, 3, 5, 10),
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluates a ranking of a whole data set.

    Args:
      labels: `[documents]`, relevance; negative for documents to leave out.
      scores: `[documents]`, the higher the better.
      row_splits: `[lists + 1]`; list `q` holds `row_splits[q]:row_splits[q + 1]`.
      cutoffs: Cutoffs `k` of NDCG, precision and recall.
      bootstrap: Number of resamples of the queries; 0 for no intervals.
      seed: Seed of the resampling.

    Returns:
      A dict that JSON can hold. For each of `ndcg@k`, `ndcg`, `mrr`, `map`,
      `precision@k`, `recall@k` and `arp` a dict with a mean a convention: `skip` and
      `zero`, and `one` for NDCG; `arp` has `skip` only and weighs queries by their
      sum of labels, as TF-Ranking does. `skip_ci`, `zero_ci` and `one_ci` are the
      95% percentile bootstrap intervals `[low, high]` over queries. A number is None
      if no query defines it, a bound if fewer than two do. Besides them the counts
      `queries`, `documents` (with a label of 0 or more) and
      `queries_without_relevant` (all gains 0).

    Raises:
      DataError: There are no documents, a score or label is NaN, or the shapes
        disagree.
      ConfigError: A cutoff is below 1.

    Example:
      >>> result = evaluate_lists([0.0, 1.0, 0.0], [0.3, 0.2, 0.1], [0, 2, 3])
      >>> result["mrr"]["skip"], result["mrr"]["zero"]
      (0.5, 0.25)
    """
    return QueryMetrics.of(labels, scores, row_splits, cutoffs).means(bootstrap, seed)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
