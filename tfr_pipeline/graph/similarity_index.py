"""Pairs that are alike, nearly all of them, by an index of Faiss.

Vectors are put into cells around k-means centres, and each is compared with those of
the cells nearest to it (an inverted file, Jegou, Douze and Schmid, "Product
quantization for nearest neighbor search", TPAMI 2011, without the quantization). How
many cells, is found out: as few as give the recall that is asked for among some
vectors whose true neighbours are known. With all cells, the result is exact.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfr_pipeline.errors import ConfigError
from tfr_pipeline.graph.similarity import (
    Pairs,
    Progress,
    Vectors,
    Wanted,
    sample_truth,
)

_SEED = 17
_SAMPLE = 400  # vectors whose true neighbours are known
_TRAINED = 50  # vectors for each cell that its centre is found by
_AT_ONCE = 8192
# A recall that is measured on a sample may be so much too high, of two sigmas.
_SLACK = 0.005
_SPARE = 4  # candidates beyond k, for the order of float32


@dataclasses.dataclass
class Approximate:
    """Edges that an index finds.

    Attributes:
      parts: The edges as `similarity.exact` yields them, those of a threshold in both
        directions.
      recall: Share of the true neighbours of some vectors that is among them.
      share: Share of all cells that each vector is compared with.
    """

    parts: Iterator[Pairs]
    recall: float
    share: float


def approximate(
    vectors: Vectors, wanted: Wanted, recall: float, progress: Progress
) -> Approximate:
    """Finds edges among the pairs of an index.

    Args:
      vectors: The vectors.
      wanted: Which pairs are edges.
      recall: Share of the true neighbours that is to be found, in (0, 1].
      progress: Told how many vectors have been looked up.

    Raises:
      ConfigError: Faiss is missing.
    """
    faiss = _faiss()
    scaled, count = vectors.scaled, len(vectors)
    cells = max(1, min(int(4 * math.sqrt(count)), count // 40))
    inner = vectors.metric == "cosine"
    metric = faiss.METRIC_INNER_PRODUCT if inner else faiss.METRIC_L2
    flat = (faiss.IndexFlatIP if inner else faiss.IndexFlatL2)(vectors.dims)
    index = faiss.IndexIVFFlat(flat, vectors.dims, cells, metric)
    index.cp.seed, index.cp.niter = _SEED, 10
    index.cp.max_points_per_centroid = _TRAINED
    index.train(scaled)
    for start in range(0, count, 1 << 16):
        index.add(scaled[start : start + (1 << 16)])
    chosen, truth = sample_truth(vectors, wanted, _SAMPLE, _SEED)
    index.nprobe = min(4, cells)
    while True:
        found = _look_up(vectors, wanted, index, chosen)
        measured = _recall(found, chosen, truth)
        if measured >= min(1.0, recall + _SLACK) or index.nprobe >= cells:
            break
        index.nprobe = min(cells, math.ceil(index.nprobe * 1.4))

    def parts() -> Iterator[Pairs]:
        for start in range(0, count, _AT_ONCE):
            stop = min(start + _AT_ONCE, count)
            rows = np.arange(start, stop, dtype=np.int32)
            yield _look_up(vectors, wanted, index, rows)
            progress(stop)

    return Approximate(parts(), measured, index.nprobe / cells)


def _look_up(vectors: Vectors, wanted: Wanted, index: Any, rows: np.ndarray) -> Pairs:
    queries = vectors.scaled[rows]
    if wanted.k is not None:
        wide = min(wanted.k + 1 + _SPARE, len(vectors))
        _, targets = index.search(queries, wide)
        sources, targets = np.repeat(rows, wide), targets.ravel()
    else:
        assert wanted.threshold is not None
        whole = slice(0, len(vectors))
        margin = vectors.margin(whole, whole)
        least = vectors.score_of(wanted.threshold) - margin
        radius = least if vectors.metric == "cosine" else -least
        splits, _, targets = index.range_search(queries, float(radius))
        sources = np.repeat(rows, np.diff(splits.astype(np.int64)))
    kept = (targets >= 0) & (targets != sources)
    sources, targets = sources[kept], targets[kept].astype(np.int32)
    pairs = sources, targets, vectors.weights(sources, targets)
    if wanted.k is not None:
        return vectors.nearest(pairs, wanted.k)
    kept = pairs[2] >= wanted.threshold
    return sources[kept], targets[kept], pairs[2][kept]


def _recall(pairs: Pairs, chosen: np.ndarray, truth: list[set[int]]) -> float:
    """Returns the share of the true neighbours of some vectors among their pairs."""
    found: dict[int, set[int]] = {}
    for source, target in zip(pairs[0].tolist(), pairs[1].tolist(), strict=True):
        found.setdefault(source, set()).add(target)
    there = sum(
        len(true & found.get(row, set()))
        for row, true in zip(chosen.tolist(), truth, strict=True)
    )
    return there / max(1, sum(map(len, truth)))


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            "so many vectors need Faiss, an index of them. Install it with: pip "
            "install 'tfr_pipeline[graph]'; or compare all pairs: --method=exact."
        ) from error
    return faiss
