"""A small LETOR-style data set with a known structure, as LibSVM text.

The grade of a document is a noisy function of a hidden relevance that joins three
kinds of signal, as real ranking data does:

- text matches: heavy-tailed scores, informative only on a log scale, two of which
  count most where both are high (an interaction);
- quality: helps only documents that match at all, and has a best value in the middle;
- the query: features shift and scale with the query, so that their raw values
  compare documents of one query but not of several.

With drift, titles count less, bodies and quality more: what a model has learnt of
another day is worth something, but not all.

The rest are noisy copies and columns without any relation. Thus one feature beats
chance, and a model that combines log-scaled features beats each of them clearly.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

import numpy as np

from tfr_pipeline import files, outputs
from tfr_pipeline.errors import ConfigError

SPLITS = ("train", "valid", "test")
# Some 200 GB of text: more is a slip of the keyboard.
_MOST_NUMBERS = 10**10
MIN_FEATURES = 8
# Least relevance of the grades 1 to 4: the 62%, 80%, 91% and 97% quantiles.
_THRESHOLDS = np.array([0.025, 0.894, 1.877, 3.313])


@dataclasses.dataclass(frozen=True)
class Size:
    """How much to make.

    Attributes:
      queries: Training queries; a quarter as many are made for validation and test.
      documents: Mean documents of a query.
      features: Number of features, at least `MIN_FEATURES`.
      drift: How far relevance is from what it is without drift, from 0 to 1.
    """

    queries: int = 600
    documents: int = 40
    features: int = 30
    drift: float = 0.0


def synthesize(
    output: str, size: Size | None = None, seed: int = 1, *, force: bool = False
) -> dict[str, int]:
    """Writes `train.txt`, `valid.txt` and `test.txt`.

    A few lists have one document and a few queries have no relevant document. The
    same arguments give the same bytes.

    Args:
      output: Folder to write into; made if absent.
      size: How much to make.
      seed: Start of the random numbers.
      force: Whether to replace files of these names that are there.

    Returns:
      Documents written, by split.

    Raises:
      ConfigError: A size is too small or too large, the seed negative, or a file is
        there.
    """
    size = size or Size()
    outputs.check_output(output, folder=True, what="--output")
    if size.queries < 4 or size.documents < 4 or size.features < MIN_FEATURES:
        raise ConfigError(
            f"expected at least 4 queries, 4 documents and {MIN_FEATURES} features, "
            f"found {size.queries}, {size.documents} and {size.features}."
        )
    if size.queries * size.documents * size.features > _MOST_NUMBERS:
        raise ConfigError(
            f"expected at most {_MOST_NUMBERS:,} numbers, queries x documents x "
            f"features, found {size.queries} x {size.documents} x {size.features}."
        )
    if not 0.0 <= size.drift <= 1.0:
        raise ConfigError(
            f"--drift: expected a number from 0 to 1, found {size.drift}."
        )
    if seed < 0:
        raise ConfigError(f"--seed: expected a number of at least 0, found {seed}.")
    paths = {split: os.path.join(output, f"{split}.txt") for split in SPLITS}
    there = [path for path in paths.values() if files.exists(path)]
    if there and not force:
        raise ConfigError(
            f"--output: expected a folder without {', '.join(there)}. Choose another, "
            "or --force to replace."
        )
    counts = {}
    for split, random, queries in _splits(size, seed):
        lines: list[str] = []
        for query in queries:
            lines += _query_lines(random, query, size)
        files.write_text(paths[split], "".join(lines))
        counts[split] = len(lines)
    return counts


def true_utility(size: Size | None = None, seed: int = 1) -> dict[str, np.ndarray]:
    """Returns what the grades of `synthesize` are made of, before their noise.

    Nobody who sees documents alone, not their grades, can rank better than by it: the
    NDCG of its order is the ceiling that a model is measured against.

    Args:
      size: As given to `synthesize`.
      seed: As given to `synthesize`.

    Returns:
      By split, float64 `[documents]`, in the order of the files' lines.

    Example:
      >>> utility = true_utility(Size(queries=4, documents=10, features=8), seed=7)
      >>> {split: len(values) for split, values in utility.items()}
      {'train': 35, 'valid': 13, 'test': 10}
    """
    size = size or Size()
    return {
        split: np.concatenate([_of_query(random, query, size)[2] for query in queries])
        for split, random, queries in _splits(size, seed)
    }


def _splits(size: Size, seed: int) -> Iterator[tuple[str, np.random.Generator, range]]:
    """Yields name, random numbers and the queries of each split."""
    first = 1
    seeds = np.random.SeedSequence(seed).spawn(len(SPLITS))
    for split, seed_of_split in zip(SPLITS, seeds, strict=True):
        last = first + (size.queries if split == "train" else size.queries // 4)
        yield split, np.random.default_rng(seed_of_split), range(first, last)
        first = last


def _of_query(
    random: np.random.Generator, query: int, size: Size
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns grades, features and true utility of the documents of one query."""
    count = max(2, int(random.normal(size.documents, size.documents / 4)))
    if query % 50 == 7:
        count = 1
    grades, matrix, utility = documents_of_query(
        random, count, size.features, size.drift
    )
    if query % 30 == 11:
        grades[:] = 0
    return grades, matrix, utility


def _query_lines(random: np.random.Generator, query: int, size: Size) -> list[str]:
    """Returns the lines of one query."""
    grades, matrix, _ = _of_query(random, query, size)
    lines = []
    for document in range(len(grades)):
        values = " ".join(
            f"{index}:{value:.6g}" for index, value in enumerate(matrix[document], 1)
        )
        lines.append(
            f"{grades[document]} qid:{query} {values} "
            f"#docid = S{query:05d}-{document:04d} inc = 1\n"
        )
    return lines


def documents_of_query(
    random: np.random.Generator, count: int, num_features: int, drift: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws the documents of a query.

    Args:
      random: Source of random numbers.
      count: How many.
      num_features: At least `MIN_FEATURES`.
      drift: As in `Size`.

    Returns:
      Grades int64 `[count]`, features float64 `[count, num_features]`, and the true
      utility float64 `[count]`: the relevance before its noise.
    """
    title, body, anchor, quality = random.normal(size=(4, count))
    utility = (
        (0.7 - 0.9 * drift) * title
        + (0.5 + 0.9 * drift) * body
        + 1.3 * np.maximum(title, 0) * np.maximum(body, 0)
        + 0.6 * np.tanh(2 * anchor) * (title + body > 0)
        - 0.7 * (quality - 0.5 + 1.5 * drift) ** 2 * (title + body > -0.5)
    )
    relevance = utility + random.normal(scale=1.0, size=count)
    # Thresholds of the whole population, so that some queries have better documents.
    grades = np.searchsorted(_THRESHOLDS, relevance)
    scale = np.exp(random.normal(scale=0.7))  # how rare the words of the query are
    offset = random.normal(scale=0.5)
    columns = [
        np.exp(1.5 * title) * scale,
        np.exp(1.2 * body + 3) * scale,
        np.exp(2 * anchor),
        quality + offset,
        np.exp(1.5 * (title + random.normal(scale=1.2, size=count))) * scale,
        np.exp(1.2 * (body + random.normal(scale=1.2, size=count))) * scale,
        np.round(np.exp(3 + random.normal(size=count))),  # length of the document
        np.full(count, scale),  # a feature of the query, the same for its documents
    ]
    while len(columns) < num_features:
        noise = random.normal(size=count)
        column = (
            np.exp(noise),
            noise + offset,
            np.round(np.maximum(0, 4 * noise)),  # sparse counts
        )[len(columns) % 3]
        columns.append(column)
    return grades, np.stack(columns, axis=1), utility
