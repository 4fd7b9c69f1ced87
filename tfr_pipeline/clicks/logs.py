"""Click logs: what was shown where, how often, and how often it was clicked."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import numpy as np

from tfr_pipeline import files
from tfr_pipeline.data.folds import query_of_session
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.source import read_lists
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.features import FILE_NAME, Features
from tfr_pipeline.layout import BlockLayout


@dataclasses.dataclass(frozen=True)
class Log:
    """Sessions added up: one row for each document of a query and each position of it.

    Attributes:
      documents: int64 `[rows]`, numbers of documents of queries from 0.
      positions: int64 `[rows]`, from 1.
      shown: int64 `[rows]`, sessions that showed it there.
      clicks: int64 `[rows]`, those that clicked it there.
      features: float32 `[documents, columns]`, or None.
    """

    documents: np.ndarray
    positions: np.ndarray
    shown: np.ndarray
    clicks: np.ndarray
    features: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        documents: np.ndarray,
        positions: np.ndarray,
        clicks: np.ndarray,
        features: np.ndarray | None = None,
    ) -> Log:
        """Adds up impressions.

        Args:
          documents: int64 `[impressions]`, numbers from 0.
          positions: int64 `[impressions]`, from 1.
          clicks: bool `[impressions]`.
          features: float32 `[documents, columns]`, or None.

        Example:
          >>> shown, clicked = np.array([[0, 1], [0, 1], [1, 2]]), np.array([1, 0, 0])
          >>> log = Log.of(shown[:, 0], shown[:, 1], clicked)
          >>> log.shown.tolist(), log.clicks.tolist()
          ([2, 1], [1, 0])
        """
        pairs = np.stack([documents, positions], axis=1).astype(np.int64)
        rows, places = np.unique(pairs, axis=0, return_inverse=True)
        places = places.reshape(-1)
        return cls(
            rows[:, 0],
            rows[:, 1],
            np.bincount(places, minlength=len(rows)),
            np.bincount(places, clicks > 0, minlength=len(rows)).astype(np.int64),
            features,
        )


def read_log(
    paths: str,
    *,
    features_file: str = "",
    position: str = "position",
    input_format: str = "elwc",
    report: Callable[[str], None] | None = None,
) -> Log:
    """Reads sessions that `convert` or `clicks simulate` wrote.

    The id of a list is that of its query, or the id, `/` and what tells sessions apart.

    Args:
      paths: The files, see `read_lists`.
      features_file: Path of `features.json`; by default that beside the files.
      position: Name of the integer feature with the position.
      input_format: `elwc`, `eie`, `seq` or `packed`.
      report: Takes lines for the user.

    Raises:
      DataError: A file is missing or malformed, or a position is less than 1.
      ConfigError: There is no such feature.
    """
    folder = os.path.dirname(files.expand(paths, "--input")[0])
    described = features_file or os.path.join(folder, FILE_NAME)
    features = Features.load(described)
    column = _column(features, position, described)
    options = Options(features=described)
    found = read_lists(paths, input_format, options=options, report=report)
    lists = Lists.concatenate(found)
    places = lists.values["int64"][:, column]
    if places.min(initial=1) < 1:
        row = int(np.argmin(places))
        raise DataError(
            f"{lists.place(row)}: expected positions from 1 on, found {places[row]}."
        )
    if lists.labels is None or lists.labels.ndim != 1:
        raise DataError("clicks: expected one label a document, 1 for a click.")
    queries = [query_of_session(str(query)) for query in lists.query_ids]
    _, of_lists = np.unique(np.array(queries, str), return_inverse=True)
    _, of_ids = np.unique(lists.document_ids.astype(str), return_inverse=True)
    keys = of_lists[lists.row_ids].astype(np.int64) * (of_ids.max(initial=0) + 1)
    _, first, documents = np.unique(
        keys + of_ids, return_index=True, return_inverse=True
    )
    matrix = lists.values.get("float32")
    return Log.of(
        documents.reshape(-1),
        places,
        lists.labels > 0,
        None if matrix is None else matrix[first],
    )


def _column(features: Features, name: str, where: str) -> int:
    """Returns the column of positions in the matrix of whole numbers."""
    found = features.example.get(name)
    if found is None:
        known = list(features.example)
        raise ConfigError(unknown_name("document feature", name, known, where))
    if (found.dtype, found.kind, found.shape) != ("int64", "fixed", (1,)):
        raise ConfigError(
            f"{where}: feature {name!r}: expected one whole number, the position, "
            f"found {found.kind} {found.dtype} {list(found.shape)}. Convert with "
            f"--types={name}:integer."
        )
    fixed = {n: f for n, f in features.example.items() if f.kind == "fixed"}
    specs = {n: f.to_spec() for n, f in fixed.items() if f.dtype != "string"}
    slots = BlockLayout.from_spec(specs).slots["int64"]
    return next(slot.start for slot in slots if slot.name == name)
