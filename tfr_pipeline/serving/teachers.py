"""Teachers: what scores the documents that a student learns of."""

from __future__ import annotations

import os
import re
from typing import Protocol

import numpy as np

from tfr_pipeline import copies, files, urls
from tfr_pipeline.data.batching.teacher_scores import SCORES, with_scores
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Features
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.scopes import outside_scope
from tfr_pipeline.serving.ensemble import differences
from tfr_pipeline.serving.predictor import Predictor
from tfr_pipeline.serving.tree_files import TreeFile

_ROWS = 1 << 16  # of documents that trees score at once


class Teacher(Protocol):
    """What scores documents.

    Attributes:
      kind: What it is: `model`, `column`, or the library of a tree ensemble.
    """

    kind: str

    def scores(self, lists: Lists) -> np.ndarray:
        """Returns float32 `[documents]`."""


def load(path: str, features: Features, missing: float | None = None) -> Teacher:
    """Returns the teacher that a path leads to.

    Args:
      path: Of a run, ensemble or SavedModel of ours, or of a file of trees.
      features: What the documents of the student have.
      missing: What trees take for a missing value, beside NaN.

    Raises:
      ConfigError: It takes other features, has several scores a document, needs a
        library that is not installed, or is told of missing values and no trees.
      DataError: It is not there, or cannot be read.
    """
    path = files.local(path, "distill.teacher")
    if urls.is_remote(path):
        known = re.search(r"\.(txt|json|ubj|cbm|bst|model)$", path)
        if known is not None:
            (path,) = copies.fetch([path])
    if os.path.isfile(path):
        return OfTrees(TreeFile(path), features, missing)
    if missing is not None:
        raise ConfigError(
            f"distill.missing: expected it with a file of trees, found {path}, a model "
            "of ours, which says itself what is missing. Leave it out."
        )
    return OfModel(outside_scope(lambda: Predictor(path)), features)


class OfModel:
    """A model of ours as a teacher; see `load`."""

    kind = "model"

    def __init__(self, predictor: Predictor, features: Features):
        self._predictor = predictor
        if predictor.classes or len(predictor.tasks) > 1:
            found = ", ".join(predictor.classes or predictor.tasks)
            raise ConfigError(
                f"distill.teacher: {predictor.path}: expected one score a document, "
                f"found {found}."
            )
        for what, one, other in differences(predictor.features, features):
            raise ConfigError(
                f"distill.teacher: {predictor.path}: expected a model on the features "
                f"of the data: {what} is {one} there and {other} in the data."
            )

    def scores(self, lists: Lists) -> np.ndarray:
        """See `Teacher`."""
        return outside_scope(lambda: self._predictor.score(lists))


class OfTrees:
    """A tree ensemble as a teacher; see `load`.

    It gets the numeric document features as they are in the data, before any
    preprocessing: by name where both sides have names, else by place, in the order of
    `columns_of`.

    Args:
      trees: The file.
      features: What documents have.
      missing: See `load`.
    """

    def __init__(
        self, trees: TreeFile, features: Features, missing: float | None = None
    ):
        self.kind, self._trees, self._missing = trees.kind, trees, missing
        columns = columns_of(features)
        places = {name: place for place, name in columns.items()}
        named = {_plain(name): place for place, name in columns.items() if name}
        if trees.names and named and len(places) == len(columns):
            absent = [name for name in trees.names if _plain(name) not in named]
            if absent:
                raise ConfigError(
                    f"distill.teacher: {trees.path}: expected a model on columns of "
                    f"the data; {absent[0]!r} is none of them"
                    + (f", nor are {len(absent) - 1} more" if absent[1:] else "")
                    + f". The data has {', '.join(sorted(named))[:200]}."
                )
            self._columns = [named[_plain(name)] for name in trees.names]
        elif trees.num_features == len(columns):
            self._columns = list(columns)
        else:
            raise ConfigError(
                f"distill.teacher: {trees.path}: expected a model on the "
                f"{len(columns)} numeric columns of the data, found one on "
                f"{trees.num_features}. Train it on the same columns in the same "
                "order, without those of ids and labels."
            )

    def scores(self, lists: Lists) -> np.ndarray:
        """See `Teacher`."""
        parts = [np.zeros(0, np.float32)]
        for start in range(0, lists.num_documents, _ROWS):
            rows = slice(start, start + _ROWS)
            columns = [
                lists.values[dtype][rows, column].astype(np.float32)
                for dtype, column in self._columns
            ]
            values = np.stack(columns, axis=1)
            if self._missing is not None:
                values[values == np.float32(self._missing)] = np.nan
            parts.append(self._trees.score(values))
        return np.concatenate(parts)


def columns_of(features: Features) -> dict[tuple[str, int], str]:
    """Returns the numeric columns of documents, in the order of the data.

    That is float32 features, then int64 ones, each by name; of LibSVM, by number.

    Args:
      features: Description of the data.

    Returns:
      Maps dtype and column of each to its name, empty where it has none.

    Example:
      >>> from tfr_pipeline.features import Feature
      >>> columns_of(Features(example={"b": Feature(), "a": Feature()}))
      {('float32', 0): 'a', ('float32', 1): 'b'}
    """
    specs = {
        name: feature.to_spec()
        for name, feature in features.example.items()
        if feature.kind == "fixed" and feature.dtype != "string"
    }
    slots = BlockLayout.from_spec(specs).slots
    found = {}
    for dtype in sorted(slots):
        for slot in slots[dtype]:
            alone = (slot.name,) if slot.width == 1 else ("",) * slot.width
            names = features.example[slot.name].columns or alone
            for number, name in enumerate(names):
                found[dtype, slot.start + number] = name
    return found


def _plain(name: str) -> str:
    """Returns a name as LightGBM writes it, which has no spaces in names."""
    return re.sub(r"\s", "_", name)


class OfColumn:
    """Scores that stand in the data, apart from the features.

    Args:
      name: Of the column.
    """

    kind = "column"

    def __init__(self, name: str = ""):
        self.name = name

    def scores(self, lists: Lists) -> np.ndarray:
        """See `Teacher`."""
        return lists.values[SCORES][:, 0].astype(np.float32, copy=False)


def stands_in_data(teacher: Teacher) -> bool:
    """Whether lists come with the scores of a teacher, wherever they are kept."""
    return isinstance(teacher, OfColumn)


def taught(lists: Lists, teacher: Teacher) -> Lists:
    """Returns lists with the scores of a teacher in them, as `SCORES`.

    Raises:
      DataError: A score is not finite.
    """
    scores = teacher.scores(lists)
    check_finite(lists, scores, teacher)
    return with_scores(lists, scores)


def check_finite(lists: Lists, scores: np.ndarray, teacher: Teacher) -> None:
    """Raises a `DataError` that names the first document whose score is not finite."""
    finite = np.isfinite(scores)
    if not finite.all():
        document = int(np.argmin(finite))
        what = f"column {teacher.name!r}" if isinstance(teacher, OfColumn) else "score"
        raise DataError(
            f"distill.teacher: the {what} of a document of {lists.place(document)} is "
            f"{scores[document]}; expected a number."
        )
