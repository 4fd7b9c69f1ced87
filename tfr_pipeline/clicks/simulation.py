"""Sessions of users who see lists of graded documents and click."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tfr_pipeline import files
from tfr_pipeline.clicks import models
from tfr_pipeline.clicks.rankers import Ranker, rankers
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.folds import SESSION
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.sources.column_types import arrow
from tfr_pipeline.data.sources.numbering import column_names
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.data.sources.source import read_lists
from tfr_pipeline.errors import ConfigError, DataError

POSITION = "position"
_SESSIONS_A_PART = 1000


@dataclasses.dataclass(frozen=True)
class Sessions:
    """How many sessions there are, and of what kind.

    Attributes:
      count: Number of sessions, each of a query drawn at random.
      model: The click model.
      depth: Documents that a session shows; 0 for all.
      noise: See `models.attraction`.
      largest: The largest grade; None for that of the data.
      seed: Of the random numbers.
    """

    count: int
    model: models.ClickModel = dataclasses.field(default_factory=models.PositionBased)
    depth: int = 10
    noise: float = 0.1
    largest: float | None = None
    seed: int = 1


def simulate(
    lists: Lists, shown_by: Sequence[Ranker], sessions: Sessions
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields what each session showed and what was clicked.

    The ranker of a session is drawn too: all have the same share.

    Args:
      lists: Graded lists.
      shown_by: Rankers of these lists.
      sessions: What to simulate.

    Yields:
      `(id, rows, clicks)`: the query id, `/` and a number; the documents as int64 rows
      of `lists`, in the order in which they were shown; bool clicks on them.

    Raises:
      ConfigError: A setting cannot be.
      DataError: The lists have no labels, or no documents.
    """
    if lists.labels is None or lists.labels.ndim != 1:
        raise DataError("clicks: expected one label a document, the grade.")
    if sessions.count < 1 or sessions.depth < 0 or sessions.seed < 0:
        raise ConfigError(
            "expected at least 1 session, and at least 0 for depth and seed; found "
            f"{sessions.count}, {sessions.depth} and {sessions.seed}."
        )
    largest = sessions.largest
    if largest is None:
        largest = max(1.0, float(lists.labels.max(initial=0.0)))
    attracts = models.attraction(lists.labels, sessions.noise, largest)
    random = np.random.default_rng(sessions.seed)
    kept = np.flatnonzero(lists.lengths)
    if not len(kept):
        raise DataError("clicks: expected documents, found none.")
    best_first = [_best_first(ranker, lists) for ranker in shown_by]
    queries = random.choice(kept, sessions.count)
    by = random.integers(len(shown_by), size=sessions.count)
    for number in range(sessions.count):
        query, fixed = queries[number], best_first[by[number]]
        first, stop = lists.row_splits[query], lists.row_splits[query + 1]
        if fixed is None:
            rows = first + random.permutation(stop - first)
        else:
            rows = fixed[first:stop]
        rows = rows[: sessions.depth] if sessions.depth else rows
        clicks = sessions.model.sample(attracts[rows], random)
        yield f"{lists.query_ids[query]}{SESSION}{number}", rows, clicks


def _best_first(ranker: Ranker, lists: Lists) -> np.ndarray | None:
    """Returns the rows of all lists, those of each list by falling score."""
    if ranker.scores is None:
        return None
    return np.lexsort((-ranker.scores, lists.row_ids))


def simulate_files(
    paths: str | list[str],
    output: str,
    *,
    ranker: str,
    sessions: Sessions,
    input_format: str = "libsvm",
    options: Options | None = None,
    split: str = "train",
    num_shards: int = 1,
    share: float = 0.01,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Writes sessions as `convert` writes lists, for `train`.

    Each session is a list: its documents have the features of the input, the integer
    feature `position` from 1, and the label 1 for a click, else 0.

    Args:
      paths: Graded data; see `read_lists`.
      output: Folder to write into.
      ranker: See `rankers`.
      sessions: What to simulate.
      input_format: See `read_lists`.
      options: How to read.
      split: Name of the split.
      num_shards: Number of files.
      share: See `rankers`.
      report: Takes lines for the user.

    Returns:
      `sessions`, `documents`, `clicks`, and `clicks_by_position`, the share of clicks.

    Raises:
      ConfigError: A setting cannot be.
      DataError: The input is missing or malformed, or has other than numeric features.
    """
    read = read_lists(paths, input_format, options=options, report=report)
    lists = Lists.concatenate(read)
    if {*lists.values} != {"float32"} or lists.loose:
        raise DataError(
            "clicks: expected features that are float32 numbers and nothing else, "
            f"found {', '.join([*lists.values, *lists.loose])}."
        )
    shown_by = rankers(ranker, lists, share, sessions.seed)
    counts = np.zeros((2, int(lists.lengths.max(initial=0))), np.int64)
    with tempfile.TemporaryDirectory(prefix="tfr_pipeline_") as folder:
        path = os.path.join(folder, "sessions.parquet")
        _write_table(path, lists, simulate(lists, shown_by, sessions), counts)
        convert(
            path,
            output,
            input_format="parquet",
            split=split,
            num_shards=num_shards,
            options=Options(docid_column="docid", types={POSITION: "integer"}),
            report=report,
        )
    shown, clicked = counts[:, counts[0] > 0]
    return {
        "sessions": sessions.count,
        "documents": int(shown.sum()),
        "clicks": int(clicked.sum()),
        "clicks_by_position": (clicked / shown).tolist(),
    }


def _write_table(
    path: str,
    lists: Lists,
    found: Iterator[tuple[str, np.ndarray, np.ndarray]],
    counts: np.ndarray,
) -> None:
    """Writes sessions as a Parquet table; counts what was shown and clicked."""
    pa = arrow()
    names = column_names(lists.values["float32"].shape[1])
    writer = None
    part: list[tuple[str, np.ndarray, np.ndarray]] = []

    def write(writer: Any) -> Any:
        ids, all_rows, all_clicks = zip(*part, strict=True)
        lengths = [len(rows) for rows in all_rows]
        rows, clicks = np.concatenate(all_rows), np.concatenate(all_clicks)
        positions = np.concatenate([np.arange(1, count + 1) for count in lengths])
        for row, weights in enumerate((None, clicks)):
            counted = np.bincount(positions - 1, weights, minlength=counts.shape[1])
            counts[row] += counted.astype(np.int64)
        columns = {
            "qid": np.repeat(np.array(ids, object), lengths),
            "docid": lists.document_ids[rows],
            "label": clicks.astype(np.float32),
            POSITION: positions,
        }
        matrix = lists.values["float32"][rows]
        columns |= {name: matrix[:, i] for i, name in enumerate(names)}
        table = pa.table(columns)
        writer = writer or pa.parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
        part.clear()
        return writer

    try:
        for session in found:
            part.append(session)
            if len(part) == _SESSIONS_A_PART:
                writer = write(writer)
        if part:
            writer = write(writer)
    finally:
        if writer is not None:
            writer.close()


def write_propensities(
    path: str, propensities: Sequence[float] | np.ndarray, **told: Any
) -> None:
    """Writes propensities by position, as `model.position_bias` reads them.

    Args:
      path: The JSON file.
      propensities: From position 1 on, relative to the first.
      **told: What else to say, such as `method`.
    """
    import json

    content = {**told, "propensities": [round(float(p), 6) for p in propensities]}
    files.write_text(path, json.dumps(content, indent=1) + "\n")
