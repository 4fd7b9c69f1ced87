"""What a run directory, local or remote, says of a run."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from typing import Any

import numpy as np

from tfr_pipeline import copies, files, remote, urls
from tfr_pipeline.errors import DataError
from tfr_pipeline.metrics import query_table, query_values
from tfr_pipeline.metrics.classification import ClassMetrics
from tfr_pipeline.metrics.evaluation import QueryMetrics
from tfr_pipeline.metrics.query_table import AnyMetrics
from tfr_pipeline.pipeline.run.measuring import Measured

_JSON = ("config.json", "metrics.json", "environment.json")
_HISTORY = "history.csv"
_KNOWN = (*_JSON, _HISTORY, query_table.FILE_NAME)
_OF_QUERIES = ("split", "task", "query")
# The split of a run that its quality is told by, where there is one.
SPLITS = ("test", "valid")


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The files of a run; empty where one is missing.

    Attributes:
      path: The run directory, or its URL.
      config: Content of `config.json`.
      metrics: Content of `metrics.json`.
      environment: Content of `environment.json`.
      history: The rows of `history.csv`; only numbers, NaN where there is none.
      queries: What was measured of each query, by split.
    """

    path: str
    config: dict[str, Any]
    metrics: dict[str, Any]
    environment: dict[str, Any]
    history: list[dict[str, float]]
    queries: dict[str, Measured]

    @property
    def split(self) -> str:
        """The split that the quality is told by: `test`, else `valid`, else none."""
        return next((s for s in SPLITS if s in self.queries or s in self.metrics), "")

    @property
    def name(self) -> str:
        """Last part of the path."""
        return os.path.basename(self.path.rstrip("/")) or self.path


def read(path: str) -> RunFiles:
    """Reads the files of a run.

    Args:
      path: The run directory, or its URL.

    Raises:
      DataError: It is none, or a file is damaged.
      RunError: A store cannot be reached.
    """
    if urls.is_remote(path):
        there = [name for name in _KNOWN if name in remote.find(path, deep=False)]
        local = copies.fetch([urls.join(path, name) for name in there])
        places = dict(zip(there, local, strict=True))
    else:
        joined = {name: os.path.join(path, name) for name in _KNOWN}
        places = {name: p for name, p in joined.items() if os.path.isfile(p)}
    if "config.json" not in places and "metrics.json" not in places:
        raise DataError(
            f"{urls.redact(path)}: expected a run directory, with config.json and "
            "metrics.json; found neither. Give the model_dir of a `tfr-pipeline train`."
        )
    config, metrics, environment = (
        _json(places[name]) if name in places else {} for name in _JSON
    )
    history, queries = [], {}
    if _HISTORY in places:
        history = _history(places[_HISTORY])
    if query_table.FILE_NAME in places:
        queries = read_queries(places[query_table.FILE_NAME], metrics)
    return RunFiles(path, config, metrics, environment, history, queries)


def _json(path: str) -> dict[str, Any]:
    found = files.read_json(path)
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected a JSON object, found {found!r:.80}.")
    return found


def _history(path: str) -> list[dict[str, float]]:
    with open(path, encoding="utf-8") as file:
        text = file.read()
    try:
        return [
            {key: float(value) if value else np.nan for key, value in row.items()}
            for row in csv.DictReader(io.StringIO(text))
        ]
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: expected a table of numbers: {error}.") from error


def read_queries(path: str, metrics: dict[str, Any]) -> dict[str, Measured]:
    """Returns by split what a table of queries has; the reverse of `QueryTable`.

    Args:
      path: A file that `QueryTable.write` wrote as Parquet.
      metrics: Content of `metrics.json`, which has the order of classes.

    Raises:
      DataError: It cannot be read.
    """
    table = query_values.read(path)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    found: dict[str, Measured] = {}
    keys = zip(columns["split"], columns["task"], strict=True)
    for split, task in dict.fromkeys(keys):
        some = (columns["split"] == split) & (columns["task"] == task)
        part = {name: column[some] for name, column in columns.items()}
        ids = part["query"]
        measured = _metrics(part, metrics.get(split, {}))
        several = bool(task)
        before = found.get(split)
        tasks = {**(before.tasks if before else {}), task: measured}
        found[split] = Measured(ids, tasks, several)
    return found


def _metrics(part: dict[str, np.ndarray], means: dict[str, Any]) -> AnyMetrics:
    values = {name: v for name, v in part.items() if name not in _OF_QUERIES}
    if "predicted" not in values:
        for name in ("documents", "relevant"):
            values[name] = values[name].astype(np.int64)
        floats = {n: v.astype(float) for n, v in values.items() if v.dtype.kind != "i"}
        return QueryMetrics.of_arrays({**values, **floats})
    names = means.get("classes") or dict.fromkeys(
        sorted({*filter(None, values["class"]), *values["predicted"]})
    )
    numbers = {name: number for number, name in enumerate(names)}
    label = np.array([numbers.get(name, -1) for name in values["class"]], np.int64)
    predicted = np.array([numbers[name] for name in values["predicted"]], np.int64)
    log_loss = values["log_loss"].astype(float)
    return ClassMetrics(tuple(numbers), label, predicted, log_loss)
