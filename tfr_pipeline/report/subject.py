"""What a report is about: a run, its model, and the lists that it is asked about."""

from __future__ import annotations

import dataclasses
import glob
import itertools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfr_pipeline import files, urls
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.metrics.paired import same_labels
from tfr_pipeline.pipeline.datasets.adapter import known_lengths, some_lists
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.multi_label import builder_from_features
from tfr_pipeline.pipeline.run.measuring import Measured, measure
from tfr_pipeline.report import run_files
from tfr_pipeline.report.columns import sample
from tfr_pipeline.report.run_files import RunFiles
from tfr_pipeline.serving.predictor import Predictor

# The split of what `--data` names.
GIVEN = "data"
# Documents that are read and scored at once.
_PIECE = 1 << 18
# The one split of a builder for files that are only read.
_READ = "valid"


@dataclasses.dataclass
class Subject:
    """A run, and what it takes to ask its model.

    Attributes:
      run: The files of the run.
      split: The split that it is told about: `test`, `valid` or `data`; empty if
        nothing was measured.
      data: Patterns of the files of that split; empty if they are not known.
      fold: The settings `folds`, `fold` and `sessions` of the lists of these files that
        are that split; empty if all are.
      predictor: The exported model, or None.
      lists: Lists of the split with documents, some of many; None without the data.
      total: Number of lists and of documents of the split.
      measured: What was measured of each query of the split, or None.
      task: The score that importance and the like are for; empty for classes.
      lacking: Why there is no model, or are no lists; empty if there are both.
    """

    run: RunFiles
    split: str = ""
    data: str = ""
    fold: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    predictor: Predictor | None = None
    lists: Lists | None = None
    total: tuple[int, int] = (0, 0)
    measured: Measured | None = None
    task: str = ""
    lacking: str = ""

    @property
    def sampled(self) -> int:
        """How many `lists` there are."""
        return 0 if self.lists is None else self.lists.num_lists

    @property
    def is_sample(self) -> bool:
        """Whether `lists` are some of many."""
        return 0 < self.sampled < self.total[0]

    @property
    def classes(self) -> bool:
        """Whether the model classifies."""
        if self.predictor is not None:
            return bool(self.predictor.classes)
        return "accuracy" in self.run.metrics.get(self.run.split, {})

    @property
    def metric(self) -> str:
        """Name of what quality is told by."""
        return "accuracy" if self.classes else "ndcg@10"

    @property
    def means(self) -> dict[str, dict[str, Any]]:
        """What `metrics.json` has of each split, by name; of `data` likewise."""
        told = self.run.metrics
        # That of several tasks is empty where no document has a label.
        splits: dict[str, Any] = {s: told[s] for s in ("valid", "test") if told.get(s)}
        if self.split == GIVEN and self.measured is not None:
            splits[GIVEN] = self.measured.means()
        return splits

    def places(self) -> np.ndarray:
        """Returns int64 `[lists]`: where `lists` are in `measured`, -1 if nowhere."""
        if self.lists is None or self.measured is None:
            return np.zeros(0, np.int64)
        if self.lists.query_ids.tolist() == self.measured.query_ids.tolist():
            return np.arange(self.lists.num_lists)  # whatever repeats among the ids
        known = {str(name): i for i, name in enumerate(self.measured.query_ids)}
        found = [known.get(str(name), -1) for name in self.lists.query_ids]
        return np.array(found, np.int64)

    @property
    def metrics(self) -> Any:
        """What was measured of each query for `task`, or None."""
        if self.measured is None:
            return None
        tasks = self.measured.tasks
        return tasks.get(self.task, tasks.get("") if len(tasks) == 1 else None)


def open_subject(
    path: str, data: str = "", task: str | None = None, documents: int = 20_000
) -> Subject:
    """Opens a run.

    Args:
      path: The run directory, or its URL.
      data: Patterns of labelled files to measure and ask the model on; by default
        those of the run: its test data, or else its validation data.
      task: Name of the task to look at; the first one by default.
      documents: Of about so many documents lists are taken at random; see
        `Subject.lists`.

    Raises:
      DataError: There is no run, or no model that could be asked about `data`.
      ConfigError: The model has no such task.
    """
    run = run_files.read(path)
    subject = Subject(run, GIVEN, data)
    if not data:
        subject = Subject(run, run.split, *_source(run))
    subject.measured = run.queries.get(subject.split)
    try:
        subject.predictor = Predictor(path)
    except DataError as error:
        if data or task:
            raise
        subject.lacking = f"there is no model to ask: {error}"
        return subject
    if subject.predictor.classes:
        if task:
            raise ConfigError(f"--task: {path!r} classifies; leave it out.")
    else:
        subject.task = subject.predictor.task(task or subject.predictor.tasks[0])
    try:
        _read(subject, documents)
    except DataError as error:
        if data:
            raise
        subject.lacking = f"the data was not read: {error}"
    return subject


def _source(run: RunFiles) -> tuple[str, dict[str, Any]]:
    """Returns `data` and `fold` of the split that a run is told by."""
    data = run.config.get("data")
    if not isinstance(data, dict):
        return "", {}
    held = data.get({"valid": "fold", "test": "test_fold"}.get(run.split, ""))
    if data.get("folds") and held is not None:
        fold = {"folds": int(data["folds"]), "fold": int(held)}
        fold["sessions"] = bool(data.get("sessions"))
        return _pattern(data, "train"), fold
    return _pattern(data, run.split), {}


def _pattern(data: dict[str, Any], split: str) -> str:
    """Returns the patterns of the files of a split."""
    if data.get(split):
        return str(data[split])
    folder = data.get("dir")
    if not folder or not split:
        return ""
    if urls.is_remote(folder):
        return urls.join(folder, f"{split}-*")
    return os.path.join(glob.escape(os.path.expanduser(folder)), f"{split}-*")


def _read(subject: Subject, documents: int) -> None:
    """Reads the lists of a subject, and measures them if that was not done."""
    if not subject.data:
        raise DataError(
            "which files it was measured on is not told by config.json. Give them, by "
            "--data."
        )
    predictor = subject.predictor
    assert predictor is not None
    try:
        files.expand(subject.data, "data", fetch=False)
    except DataError as error:
        raise DataError(f"{error} If it was moved, say where, by --data.") from error
    builder = reading(predictor, subject.data, subject.fold)
    lengths = known_lengths(builder, _READ)
    if lengths is None or lengths.sum() <= documents:
        lists = builder.lists(_READ, "packed")
        lengths = lists.lengths
        numbers = sample(lengths, documents)
        subject.lists = lists if len(numbers) == len(lengths) else lists.take(numbers)
    else:
        numbers = sample(lengths, documents)
        subject.lists = some_lists(builder, _READ, numbers, "packed")
    subject.total = len(lengths), int(lengths.sum())
    if not subject.total[1]:
        raise DataError(f"{subject.data}: expected lists with documents, found none.")
    if subject.split == GIVEN:
        subject.measured = measured_of(predictor, builder)


def reading(predictor: Predictor, data: str, fold: Mapping[str, Any]) -> Any:
    """Returns a dataset builder that reads files as a model knows them.

    Args:
      predictor: The model.
      data: Patterns of the files.
      fold: See `Subject`.
    """
    of_train, of_valid = (data, "") if fold else ("", data)
    hparams = DatasetHparams(of_train, of_valid, 1, 1, keep_document_ids=True, **fold)
    return builder_from_features(predictor.features, hparams)


def measured_of(predictor: Predictor, builder: Any) -> Measured:
    """Measures a model on all lists of a builder of `reading`.

    Raises:
      DataError: No document has a label.
    """
    lengths = known_lengths(builder, _READ)
    if lengths is None or lengths.sum() <= _PIECE:
        return measure(predictor, builder.lists(_READ, "packed"))
    ends = np.cumsum(lengths)
    cuts = np.searchsorted(ends, np.arange(_PIECE, ends[-1], _PIECE)) + 1
    bounds = np.unique([0, *cuts, len(lengths)])
    parts = [
        Measured.of_part(
            predictor, some_lists(builder, _READ, np.arange(first, last), "packed")
        )
        for first, last in itertools.pairwise(bounds)
    ]
    return Measured.concatenate(parts).whole()


def measured_alike(subject: Subject, baseline: RunFiles) -> Measured:
    """Returns what a baseline run measures on the queries of a subject.

    That is what its directory says, if it is of these queries; or else its model is
    asked.

    Raises:
      DataError: Neither is to be had.
    """
    own = subject.measured
    if own is None:
        raise DataError(
            f"{subject.run.path}: nothing was measured of each query, so no baseline "
            "can be compared; give labelled files, by --data."
        )
    found = baseline.queries.get(subject.split)
    if found is not None and _same(own, found):
        return found
    if not subject.data:
        raise DataError(
            f"--baseline: {baseline.path} was not measured on the queries of "
            f"{subject.run.path}; to measure it on them, give their files, by --data."
        )
    predictor = Predictor(baseline.path)
    return measured_of(predictor, reading(predictor, subject.data, subject.fold))


def _same(one: Measured, other: Measured) -> bool:
    return one.query_ids.tolist() == other.query_ids.tolist() and all(
        same_labels(metrics, other.tasks[task])
        for task, metrics in one.tasks.items()
        if task in other.tasks
    )
