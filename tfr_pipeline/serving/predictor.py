"""Scores lists with an exported model."""

from __future__ import annotations

import filecmp
import itertools
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError, DataError, RunError, unknown_name
from tfr_pipeline.features import FILE_NAME, Features
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.serving.export import EXTRA_ASSETS
from tfr_pipeline.serving.signatures import (
    IDS,
    RANK,
    RANKS,
    ROW_SPLITS,
    TASK,
    input_names,
)

_DOCUMENTS_PER_CALL = 16384


def find_export(path: str) -> str:
    """Returns the folder of a SavedModel: `path` itself or its newest version.

    A run directory stands for its best model, or else its latest.

    Raises:
      DataError: There is none.
    """
    for candidate in (
        path,
        os.path.join(path, "export", "best_model_by_metric"),
        os.path.join(path, "export", "latest_model"),
    ):
        if os.path.exists(os.path.join(candidate, "saved_model.pb")):
            return candidate
        versions = (
            [name for name in os.listdir(candidate) if name.isdigit()]
            if os.path.isdir(candidate)
            else []
        )
        if versions:
            return os.path.join(candidate, max(versions, key=int))
    raise DataError(
        f"{path}: expected a SavedModel, a folder of versions or a run directory; "
        "found no saved_model.pb."
    )


class Predictor:
    """Scores lists with the `rank` signature of a SavedModel.

    Args:
      path: A SavedModel, a folder of versions, or a run directory.

    Raises:
      DataError: There is no model, or none that this package exported.
    """

    def __init__(self, path: str):
        self.path = find_export(path)
        try:
            # Held on to: the signatures do not keep the variables alive.
            self._loaded = tf.saved_model.load(self.path)
        except (OSError, tf.errors.OpError, ValueError) as error:
            raise DataError(f"{self.path}: cannot load the model: {error}") from error
        if RANK not in self._loaded.signatures:
            raise DataError(
                f"{self.path}: expected a {RANK!r} signature, found "
                f"{sorted(self._loaded.signatures)}. Export it with tfr_pipeline."
            )
        self._rank = self._loaded.signatures[RANK]
        path = os.path.join(self.path, EXTRA_ASSETS, FILE_NAME)
        if not os.path.exists(path):
            raise DataError(f"{path}: not found; the export does not say its features.")
        with open(path, encoding="utf-8") as file:
            self.features = Features.from_json(json.load(file), path)
        self.layout = BlockLayout.from_spec(self.features.example_spec)
        outputs = set(self._rank.structured_outputs) - {RANKS, IDS}
        labels = [task for task in self.features.labels if task in outputs]
        # Names of the scores, those that the data has labels for first.
        self.tasks = (*labels, *sorted(outputs - set(labels)))

    def load_weights(self, path: str) -> None:
        """Takes the weights of another export of the same model.

        Args:
          path: Folder of a SavedModel, equal to this one but for the weights.

        Raises:
          DataError: It is not.
        """
        ours, other = (os.path.join(p, "saved_model.pb") for p in (self.path, path))
        variables = os.path.join(path, "variables", "variables")
        try:
            if not filecmp.cmp(ours, other, shallow=False):
                raise DataError(f"{path}: expected the same functions as {self.path}.")
            status = tf.train.Checkpoint(weights=self._loaded.weights).read(variables)
            status.assert_existing_objects_matched().expect_partial()
        except (OSError, tf.errors.OpError, AssertionError) as error:
            raise DataError(f"{path}: cannot load the model: {error}") from error
        self.path = path

    def score(
        self,
        lists: Lists,
        rank: Callable[..., dict[str, Any]] | None = None,
        task: str | None = None,
    ) -> np.ndarray:
        """Returns float32 `[documents]`, the score of each document.

        Args:
          lists: The documents.
          rank: Another function of the same signature to score with.
          task: Name of the task; may be left out for a model that has one.

        Raises:
          ConfigError: The model has several tasks, and not this one.
          DataError: The lists have another number of columns than the model.
          RunError: A score is not finite.
        """
        task = self.task(task)
        return self.score_tasks(lists, rank)[task]

    def task(self, task: str | None) -> str:
        """Returns a name of a task after checking it; None stands for the only one."""
        if task is None and len(self.tasks) == 1:
            return self.tasks[0]
        if task is None:
            raise ConfigError(
                f"{self.path}: the model scores several tasks; expected one of "
                f"{', '.join(self.tasks)}."
            )
        if task not in self.tasks:
            raise ConfigError(unknown_name("task", task, self.tasks, self.path))
        return task

    def score_tasks(
        self, lists: Lists, rank: Callable[..., dict[str, Any]] | None = None
    ) -> dict[str, np.ndarray]:
        """Returns the scores by task; see `score`."""
        self._check(lists)
        rank = rank or self._rank
        parts = [self._score_some(part, rank) for part in _portions(lists)]
        result = {}
        for task in self.tasks:
            scores = [part[task] for part in parts] or [np.zeros(0, np.float32)]
            result[task] = np.concatenate(scores)
            self._check_scores(lists, result[task])
        return result

    def _check_scores(self, lists: Lists, scores: np.ndarray) -> None:
        if not np.isfinite(scores).all():
            row = int(np.argmax(~np.isfinite(scores)))
            query = lists.query_ids[np.searchsorted(lists.row_splits, row, "right") - 1]
            raise RunError(
                f"{self.path}: the score of a document of query {query!r} is "
                f"{scores[row]}; look for features far outside of the training data."
            )

    def _check(self, lists: Lists) -> None:
        for dtype in self.layout.slots:
            expected = self.layout.width(dtype)
            block = lists.values.get(dtype)
            found = None if block is None else block.shape[1]
            if found != expected:
                raise DataError(
                    f"{self.path}: the model expects {expected} {dtype} columns "
                    f"({', '.join(list(self.features.example)[:5])}...), the data has "
                    f"{found}."
                )

        for name in self.features.context:
            if name not in lists.context:
                raise DataError(
                    f"{self.path}: the model expects the query feature {name!r}, the "
                    f"data has {sorted(lists.context)}."
                )

    def _score_some(
        self, lists: Lists, rank: Callable[..., dict[str, Any]]
    ) -> dict[str, np.ndarray]:
        several = len(self.tasks) > 1
        names = input_names([*self.features.context, *self.features.example], several)
        inputs = {
            ROW_SPLITS: tf.constant(lists.row_splits),
            IDS: tf.constant([], tf.string),
        }
        if several:
            inputs[TASK] = tf.constant("")
        for name in self.features.context:
            inputs[names[name]] = tf.constant(lists.context[name])
        for dtype, slots in self.layout.slots.items():
            for slot in slots:
                columns = lists.values[dtype][:, slot.start : slot.stop]
                inputs[names[slot.name]] = tf.constant(columns.reshape(-1, *slot.shape))
        outputs = rank(**inputs)
        return {task: outputs[task].numpy() for task in self.tasks}


def _portions(lists: Lists) -> list[Lists]:
    """Cuts between lists, after about so many documents as one call should take."""
    targets = np.arange(_DOCUMENTS_PER_CALL, lists.num_documents, _DOCUMENTS_PER_CALL)
    cuts = np.searchsorted(lists.row_splits, targets)
    cuts = np.unique(np.concatenate([[0], cuts, [lists.num_lists]]))
    return [lists.slice(int(a), int(b)) for a, b in itertools.pairwise(cuts)]
