"""Logging rankers: in which order documents were shown when they were clicked."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from tfr_pipeline import urls
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError, DataError

_NAMED = re.compile(r"(weak|random|feature)(?::(.+))?")
# Ridge regression keeps weights of features that hardly vary in bounds.
_RIDGE = 1.0


@dataclasses.dataclass(frozen=True)
class Ranker:
    """Gives documents the scores by which they are shown, highest first.

    Attributes:
      name: As on the command line.
      scores: float64 `[documents]` of lists; None for another order in each session.
    """

    name: str
    scores: np.ndarray | None


def rankers(words: str, lists: Lists, share: float, seed: int) -> list[Ranker]:
    """Returns the rankers of a comma-separated text.

    Args:
      words: Of each ranker one of `weak` (or `weak:2`, another one: a linear model of
        the grades of a small share of the queries, as in Joachims et al., WSDM 2017),
        `feature:12` or `feature:-12` (one feature, from 1, high or low first),
        `random` (another order in each session), or the path of what
        `tfr-pipeline predict` wrote for the same lists.
      lists: Graded lists.
      share: Share of the queries that a weak ranker learns from.
      seed: Of the random numbers.

    Raises:
      ConfigError: A word means nothing.
      DataError: A file of predictions lacks a document.
    """
    found = [word.strip() for word in words.split(",")]
    if len(set(found)) < len(found) or not all(found):
        raise ConfigError(f"--ranker: expected different rankers, found {words!r}.")
    return [_ranker(word, lists, share, seed) for word in found]


def _ranker(word: str, lists: Lists, share: float, seed: int) -> Ranker:
    named = _NAMED.fullmatch(word)
    if named is None:
        return Ranker(word, _predicted(word, lists))
    kind, which = named.groups()
    if kind == "random" and which is None:
        return Ranker(word, None)
    if not re.fullmatch(r"-?\d{1,9}", which or "1") or kind == "random":
        raise ConfigError(
            "--ranker: expected weak, weak:NUMBER, feature:NUMBER, random or a file "
            f"of `tfr-pipeline predict`, found {word!r}."
        )
    number = int(which or 1)
    if kind == "weak":
        return Ranker(word, _weak(lists, share, seed, number))
    matrix = lists.values["float32"]
    if not 1 <= abs(number) <= matrix.shape[1] or which is None:
        raise ConfigError(
            f"--ranker: expected feature:1 to feature:{matrix.shape[1]}, or with a "
            f"minus, found {word!r}."
        )
    return Ranker(word, np.sign(number) * matrix[:, abs(number) - 1].astype(np.float64))


def _weak(lists: Lists, share: float, seed: int, number: int) -> np.ndarray:
    """Scores of a ridge regression of grades on standardised features."""
    if not 0 < share <= 1:
        raise ConfigError(f"--share: expected more than 0 and up to 1, found {share}.")
    if number < 0:
        raise ConfigError(f"--ranker: expected weak:0 or more, found weak:{number}.")
    random = np.random.default_rng([seed, number])
    count = max(1, round(share * lists.num_lists))
    chosen = np.isin(lists.row_ids, random.permutation(lists.num_lists)[:count])
    matrix = standardized(lists.values["float32"])
    some, grades = matrix[chosen], lists.labels[chosen]  # type: ignore[index]
    ridge = _RIDGE * np.eye(matrix.shape[1])
    weights = np.linalg.solve(some.T @ some + ridge, some.T @ (grades - grades.mean()))
    return matrix @ weights


def standardized(matrix: np.ndarray) -> np.ndarray:
    """Returns features, logarithms of their sizes, with mean 0 and deviation 1.

    Example:
      >>> standardized(np.array([[1.0, 5.0], [3.0, 5.0]])).round(2).tolist()
      [[-1.0, 0.0], [1.0, 0.0]]
    """
    values = np.nan_to_num(matrix.astype(np.float64))
    values = np.sign(values) * np.log1p(np.abs(values))
    deviation = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(deviation > 1e-9, deviation, 1.0)


def _predicted(path: str, lists: Lists) -> np.ndarray:
    """Scores of a file with the columns qid, docid, rank and score."""
    scores: dict[tuple[str, str], float] = {}
    for number, line in enumerate(_lines(path), 1):
        cells = line.rstrip("\n").split("\t")
        try:
            query, document, _, score = cells
            scores[query, document] = float(score)
        except ValueError as error:
            if number == 1:  # a header
                continue
            raise DataError(
                f"{urls.redact(path)}: line {number}: expected qid, docid, rank and "
                f"score with tabs between, found {line!r:.80}."
            ) from error
    queries = lists.query_ids[lists.row_ids]
    found = np.empty(lists.num_documents)
    for row, key in enumerate(zip(queries, lists.document_ids, strict=True)):
        if key not in scores:
            raise DataError(
                f"{urls.redact(path)}: expected a score for {lists.place(row)}; not "
                "found. Predict for the same input."
            )
        found[row] = scores[key]
    return found


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.readlines()
    except (OSError, ValueError) as error:
        raise DataError(
            "--ranker: expected weak, weak:NUMBER, feature:NUMBER, random or a file "
            f"of `tfr-pipeline predict`, found {urls.redact(path)!r} ({error})."
        ) from error
