"""Folds for cross-validation: by query, and the same wherever the lists stand."""

from __future__ import annotations

import dataclasses
import hashlib
from numbers import Integral
from typing import Any

import numpy as np

from tfr_pipeline.errors import ConfigError, DataError

# Between the id of a query and what tells its sessions apart, in the id of a list.
SESSION = "/"


def query_of_session(query_id: str) -> str:
    """Returns the id of the query that a session is of.

    Example:
      >>> query_of_session("red shoes/17"), query_of_session("red shoes")
      ('red shoes', 'red shoes')
    """
    return query_id.rpartition(SESSION)[0] or query_id


def fold_of_lists(
    query_ids: np.ndarray, folds: int, sessions: bool = False
) -> np.ndarray:
    """Returns the fold of each list.

    Queries are ordered by a hash of their ids and dealt out in turn, so that their
    folds depend on nothing but which queries there are, and have equally many of them,
    but for one. All lists of a query are in one fold. A list with an empty id is a
    query of its own, known by its place.

    Args:
      query_ids: Array of `str`, `[lists]`.
      folds: How many there are to be.
      sessions: Whether the lists are sessions, which are in the fold of their query;
        see `query_of_session`.

    Returns:
      int64 `[lists]`, from 0 to `folds - 1`.

    Raises:
      DataError: There are fewer queries than folds.

    Example:
      >>> fold_of_lists(np.array(["a", "b", "c", "b"], object), 3).tolist()
      [1, 0, 2, 0]
    """
    ids = query_ids.tolist()
    if sessions:
        ids = [query_of_session(query) for query in ids]
    # No id has a tab.
    keys = [query or f"\t{place}" for place, query in enumerate(ids)]
    queries = list(set(keys))
    if len(queries) < folds:
        raise DataError(
            f"data.folds: expected a query for each fold at least, found {folds} folds "
            f"and {len(queries)} queries."
        )
    # So many bytes that no two queries have the same.
    hashes = b"".join(
        hashlib.blake2b(key.encode(), digest_size=16).digest() for key in queries
    )
    order = np.lexsort(np.frombuffer(hashes, ">u8").reshape(-1, 2).T)
    dealt = np.empty(len(queries), np.int64)
    dealt[order] = np.arange(len(queries)) % folds
    fold_of = dict(zip(queries, dealt.tolist(), strict=True))
    return np.fromiter((fold_of[key] for key in keys), np.int64, len(keys))


@dataclasses.dataclass(frozen=True)
class Fold:
    """Says which lists train, or validate, while one or two folds are held out.

    Attributes:
      folds: Number of folds.
      fold: The one that is held out, from 0.
      held_out: Whether its lists are meant; those of the others if not.
      beside: Another one that is held out, whose lists are not meant either way.
      sessions: See `fold_of_lists`.
    """

    folds: int
    fold: int
    held_out: bool
    beside: int | None = None
    sessions: bool = False

    def __call__(self, query_ids: np.ndarray) -> np.ndarray:
        """Returns bool `[lists]` for query ids; see `fold_of_lists`."""
        found = fold_of_lists(query_ids, self.folds, self.sessions)
        if self.held_out:
            return found == self.fold
        return (found != self.fold) & (found != self.beside)

    def __str__(self) -> str:
        if self.held_out:
            return f"fold {self.fold} of {self.folds}"
        if self.beside is None:
            return f"all but fold {self.fold} of {self.folds}"
        return f"all but folds {self.fold} and {self.beside} of {self.folds}"


def check(folds: Any, fold: Any, test_fold: Any = None) -> None:
    """Checks the settings `data.folds`, `data.fold` and `data.test_fold`.

    All may be None, and the last one alone.

    Raises:
      ConfigError: One is missing, or no such number; or nothing is left to train on.
    """
    if folds is None:
        for name, value in (("fold", fold), ("test_fold", test_fold)):
            if value is not None:
                raise ConfigError(
                    f"data.{name}: expected data.folds beside it, found fold {value!r} "
                    "of none. Set both, or neither."
                )
        return
    if not _is_whole(folds) or folds < 2:
        raise ConfigError(f"data.folds: expected 2 or more, found {folds!r}.")
    if not _is_whole(fold) or not 0 <= fold < folds:
        raise ConfigError(
            f"data.fold: expected the fold that validates, 0 to {folds - 1}, found "
            f"{fold!r}."
        )
    if test_fold is None:
        return
    if folds < 3:
        raise ConfigError(
            f"data.folds: expected 3 or more beside data.test_fold, found {folds}: one "
            "fold is measured, one validates, and the others train."
        )
    if not _is_whole(test_fold) or not 0 <= test_fold < folds or test_fold == fold:
        raise ConfigError(
            f"data.test_fold: expected the fold that is measured, 0 to {folds - 1} and "
            f"not {fold}, which validates; found {test_fold!r}."
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
