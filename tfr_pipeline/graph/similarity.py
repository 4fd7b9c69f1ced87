"""Which vectors are alike: all pairs in blocks, exactly, or by an index, nearly all.

Candidates are found with products of float32 matrices, with a margin for what those
round, and weighed in float64: results depend neither on the size of blocks nor on the
number of threads. Of neighbours that are equally alike, the one whose name is larger is
taken, as NSL does.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tfr_pipeline.errors import ConfigError, unknown_name

METRICS = ("cosine", "l2")
# Lengths below it count as it, as with NSL: a vector of zeros is like none.
_LEAST_NORM = 1e-6
_ROWS, _COLUMNS = 2048, 8192  # of the matrix of similarities that is there at once
_FIRST = 1024  # columns that tell how alike a neighbour has to be
_WEIGHED = 1 << 22  # values of float64 vectors that are weighed at once

# Sources, targets and weights of some edges: int32, int32 and float64 `[edges]`.
Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which pairs are edges.

    Attributes:
      metric: `cosine`: the weight is the cosine; `l2`: 1 / (1 + distance).
      threshold: Pairs are edges whose weight is no less.
      k: A vector has edges to the so many that are most alike.
    """

    metric: str = "cosine"
    threshold: float | None = None
    k: int | None = None

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ConfigError(unknown_name("metric", self.metric, METRICS))
        if (self.threshold is None) == (self.k is None):
            raise ConfigError(
                "expected --threshold, for all pairs that are so alike, or --k, for as "
                f"many neighbours; found {self.threshold} and {self.k}."
            )
        if self.k is not None and self.k < 1:
            raise ConfigError(f"--k: expected 1 or more, found {self.k}.")
        least = -1.0 if self.metric == "cosine" else 0.0
        if self.threshold is not None and not least <= self.threshold <= 1:
            raise ConfigError(
                f"--threshold: expected {least:g} to 1, for the weight of an edge is "
                + ("the cosine" if least else "1 / (1 + distance)")
                + f"; found {self.threshold:g}."
            )

    def written(self, weight: float) -> str:
        """Returns a weight as files of edges have it.

        Those of cosines are NSL's. What distances make of weights may be very small.

        Example:
          >>> Wanted(k=1).written(0.25), Wanted("l2", k=1).written(4e-7)
          ('0.250000', '4e-07')
        """
        return f"{weight:f}" if self.metric == "cosine" else f"{weight:.9g}"


class Vectors:
    """Vectors that can be compared.

    Args:
      matrix: float32 `[nodes, dims]`, finite; not changed.
      ranks: int64 `[nodes]`, place of the name of each among all.
      metric: One of `METRICS`.

    Attributes:
      scaled: float32 `[nodes, dims]`: of length 1 for cosines; around their mean for
        distances.
    """

    def __init__(self, matrix: np.ndarray, ranks: np.ndarray, metric: str):
        self._matrix, self.ranks, self.metric = matrix, ranks, metric
        self.scaled: np.ndarray = np.empty(matrix.shape, np.float32)
        self._norms = np.empty(len(matrix))
        centre = 0.0
        if metric == "l2" and len(matrix):
            centre = matrix.mean(axis=0, dtype=np.float64)
        step = max(1, _WEIGHED // max(1, matrix.shape[1]))
        for start in range(0, len(matrix), step):
            part = matrix[start : start + step].astype(np.float64)
            if metric == "cosine":
                norms = np.sqrt(np.einsum("ij,ij->i", part, part))
                self._norms[start : start + step] = np.maximum(norms, _LEAST_NORM)
                part /= self._norms[start : start + step, np.newaxis]
            self.scaled[start : start + step] = part - centre
        self._squares = np.einsum("ij,ij->i", self.scaled, self.scaled)

    def __len__(self) -> int:
        return len(self.scaled)

    @property
    def dims(self) -> int:
        """Length of a vector."""
        return self.scaled.shape[1]

    def scores(self, rows: np.ndarray | slice, columns: slice) -> np.ndarray:
        """Returns float32 `[rows, columns]`; the larger, the more alike."""
        scores = self.scaled[rows] @ self.scaled[columns].T
        if self.metric == "l2":
            scores *= 2
            scores -= self._squares[rows, np.newaxis]
            scores -= self._squares[columns]
        return scores

    def score_of(self, weight: float) -> float:
        """Returns the score of pairs that have a weight."""
        if self.metric == "cosine":
            return weight
        return -((1 / weight - 1) ** 2) if weight > 0 else -np.inf

    def margin(self, rows: slice, columns: slice) -> float:
        """Returns by how much a score may be wrong at most."""
        # A sum of so many products, each of two rounded values: Higham, section 3.1.
        error = (self.dims + 4) * 2.0**-24 * 2
        if self.metric == "cosine" or not len(self):
            return error
        return (
            error * 4 * float(self._squares[rows].max() + self._squares[columns].max())
        )

    def weights(self, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Returns float64 `[pairs]`."""
        result = np.empty(len(sources))
        step = max(1, _WEIGHED // max(1, self.dims))
        for start in range(0, len(sources), step):
            some = slice(start, start + step)
            one = self._matrix[sources[some]].astype(np.float64)
            other = self._matrix[targets[some]].astype(np.float64)
            if self.metric == "cosine":
                norms = self._norms[sources[some]] * self._norms[targets[some]]
                result[some] = np.einsum("ij,ij->i", one, other) / norms
            else:
                one -= other
                result[some] = 1 / (1 + np.sqrt(np.einsum("ij,ij->i", one, one)))
        return result

    def nearest(self, pairs: Pairs, k: int) -> Pairs:
        """Returns the `k` heaviest pairs of each source, by falling weight."""
        sources, targets, weights = pairs
        order = np.lexsort((-self.ranks[targets], -weights, sources))
        sources = sources[order]
        first = np.searchsorted(sources, sources, "left")
        order = order[np.arange(len(order)) - first < k]
        return pairs[0][order], targets[order], weights[order]


Progress = Callable[[int], None]


def exact(vectors: Vectors, wanted: Wanted, progress: Progress) -> Iterator[Pairs]:
    """Yields the edges among all pairs, each once.

    Args:
      vectors: The vectors.
      wanted: Which pairs are edges. With a threshold, each comes in one direction; of
        the nearest, from those whose neighbours they are.
      progress: Told how many vectors have been compared to all.
    """
    count = len(vectors)
    for start in range(0, count, _ROWS):
        rows = slice(start, min(start + _ROWS, count))
        if wanted.k is None:
            yield from _alike(vectors, wanted, rows)
        else:
            yield _nearest(vectors, wanted.k, rows)
        progress(rows.stop)


def _alike(vectors: Vectors, wanted: Wanted, rows: slice) -> Iterator[Pairs]:
    assert wanted.threshold is not None
    least = vectors.score_of(wanted.threshold)
    for start in range(rows.start, len(vectors), _COLUMNS):
        columns = slice(start, min(start + _COLUMNS, len(vectors)))
        scores = vectors.scores(rows, columns)
        found = scores >= np.float32(least - vectors.margin(rows, columns))
        pairs = _places(found, rows, columns)
        sources, targets = (side[pairs[0] < pairs[1]] for side in pairs)
        weights = vectors.weights(sources, targets)
        kept = weights >= wanted.threshold
        yield sources[kept], targets[kept], weights[kept]


def _nearest(vectors: Vectors, k: int, rows: slice) -> Pairs:
    height = rows.stop - rows.start
    least = np.full(height, -np.inf, np.float32)
    best: Pairs = (np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0))
    edges = [0, *range(_FIRST, len(vectors), _COLUMNS), len(vectors)]
    for start, stop in itertools.pairwise(edges):
        columns = slice(start, stop)
        scores = vectors.scores(rows, columns)
        margin = vectors.margin(rows, columns)
        if start == 0 and stop > k + 1:
            # One more than k, for a vector may be most like itself.
            least = np.partition(scores, stop - k - 1, axis=1)[:, stop - k - 1] - margin
        sources, targets = _places(scores >= least[:, np.newaxis], rows, columns)
        others = sources != targets
        sources, targets = sources[others], targets[others]
        new = sources, targets, vectors.weights(sources, targets)
        joined = [np.concatenate(pair) for pair in zip(best, new, strict=True)]
        best = vectors.nearest((joined[0], joined[1], joined[2]), k)
        least = np.maximum(least, _least(vectors, best, k, rows) - 2 * margin)
    return best


def _least(vectors: Vectors, best: Pairs, k: int, rows: slice) -> np.ndarray:
    """Returns float32 `[rows]`, the score of the last of k neighbours of each."""
    sources, _, weights = best
    result = np.full(rows.stop - rows.start, -np.inf, np.float32)
    lasts = np.flatnonzero(np.diff(sources, append=-1) != 0)
    counts = np.diff(lasts, prepend=-1)
    full = lasts[counts == k]
    scores = weights[full]
    if vectors.metric == "l2":
        scores = -((1 / scores - 1) ** 2)
    result[sources[full] - rows.start] = scores
    return result


def _places(
    found: np.ndarray, rows: slice, columns: slice
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of both vectors of pairs, int32 `[pairs]`."""
    flat = np.flatnonzero(found)
    sources, targets = np.divmod(flat, found.shape[1])
    return (
        (sources + rows.start).astype(np.int32),
        (targets + columns.start).astype(np.int32),
    )


def symmetric(parts: list[Pairs], count: int) -> Pairs:
    """Returns edges in both directions, each once, sorted by source and target.

    Args:
      parts: Edges in one direction or in both.
      count: Number of nodes.
    """
    sources, targets, weights = map(np.concatenate, zip(*parts, strict=True))
    keys = np.concatenate(
        [
            sources.astype(np.int64) * count + targets,
            targets.astype(np.int64) * count + sources,
        ]
    )
    del sources, targets
    keys, first = np.unique(keys, return_index=True)
    weights = weights[first % len(weights)]
    return (keys // count).astype(np.int32), (keys % count).astype(np.int32), weights


def sample_truth(
    vectors: Vectors, wanted: Wanted, size: int, seed: int
) -> tuple[np.ndarray, Any]:
    """Returns some vectors and their true neighbours, to judge others by.

    Args:
      vectors: The vectors.
      wanted: Which pairs are edges.
      size: How many.
      seed: Of the choice.

    Returns:
      int32 `[size]`, which; and the neighbours of each, a list of sets.
    """
    random = np.random.default_rng(seed)
    chosen = np.sort(random.choice(len(vectors), min(size, len(vectors)), False))
    truth: list[set[int]] = []
    for row in chosen.astype(np.int32):
        scores = vectors.scores(np.array([row]), slice(0, len(vectors)))[0]
        truth.append(_true_neighbours(vectors, wanted, int(row), scores))
    return chosen.astype(np.int32), truth


def _true_neighbours(
    vectors: Vectors, wanted: Wanted, row: int, scores: np.ndarray
) -> set[int]:
    one, everything = slice(row, row + 1), slice(0, len(vectors))
    margin = vectors.margin(one, everything)
    if wanted.k is None:
        assert wanted.threshold is not None
        least = vectors.score_of(wanted.threshold) - margin
    else:
        place = max(0, len(scores) - wanted.k - 1)
        least = np.partition(scores, place)[place] - 2 * margin
    targets = np.flatnonzero(scores >= least).astype(np.int32)
    targets = targets[targets != row]
    sources = np.full(len(targets), row, np.int32)
    weights = vectors.weights(sources, targets)
    if wanted.k is None:
        return set(targets[weights >= wanted.threshold].tolist())
    return set(vectors.nearest((sources, targets, weights), wanted.k)[1].tolist())
