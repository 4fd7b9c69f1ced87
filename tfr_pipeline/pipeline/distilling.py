"""The teacher of a run: found before training, asked once, measured beside the student.

What it adds to the loss is in `regularization.distillation`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tfr_pipeline import files, urls
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.metrics.evaluation import QueryMetrics
from tfr_pipeline.pipeline import classes, tasks
from tfr_pipeline.pipeline.datasets.adapter import known_lengths, some_lists
from tfr_pipeline.pipeline.run.shared_evaluation import EVALUATED
from tfr_pipeline.regularization.distillation import DistillSettings
from tfr_pipeline.serving import teachers
from tfr_pipeline.serving.predictor import find_export
from tfr_pipeline.serving.teachers import OfColumn, Teacher

_DOCUMENTS = 1 << 18  # that are read and scored at once, where not all are in memory


class Distilling:
    """What a run knows of its teacher.

    Args:
      told: The settings.
      builder: The dataset builder of the run.
    """

    def __init__(self, told: DistillSettings, builder: Any):
        self.told, self._builder = told, builder

    @classmethod
    def of(cls, value: Mapping[str, Any] | None, builder: Any) -> Distilling | None:
        """Returns it for `PipelineHparams.distill`; None where that does nothing."""
        told = DistillSettings.of(value)
        return cls(told, builder) if told is not None and told.weight else None

    @functools.cached_property
    def teacher(self) -> Teacher:
        """The teacher.

        Raises:
          ConfigError: The data has classes, several tasks or no description; or see
            `teachers.load`.
          DataError: See there.
        """
        builder, several = self._builder, tasks.of_data(self._builder)
        if classes.of_data(builder) or several:
            what = several or classes.of_data(builder)
            raise ConfigError(
                "pipeline.distill: expected data with one label to rank by, found "
                f"{'tasks' if several else 'classes'} {', '.join(what)}."
            )
        if self.told.column:
            if self.told.missing is not None:
                raise ConfigError(
                    "distill.missing: it has no effect on a column. Leave it out."
                )
            return OfColumn(self.told.column)
        if builder.features is None:
            raise ConfigError(
                "pipeline.distill: expected a dataset builder that describes its "
                "features, such as SimpleDatasetBuilder, found another."
            )
        return teachers.load(self.told.teacher, builder.features, self.told.missing)

    @property
    def files(self) -> list[str]:
        """The files that the teacher is made of; none if it stands in the data."""
        path = self.told.teacher
        if self.told.column or urls.is_remote(path):
            return []
        path = files.local(path, "distill.teacher")
        if os.path.isfile(path):
            return [path]
        folder = os.path.join(find_export(path), "variables")
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder))]

    def metrics(self) -> dict[str, Any]:
        """Returns what `metrics.json` says: the settings, and the teacher's figures."""
        told = {**dataclasses.asdict(self.told), "kind": self.teacher.kind}
        told["teacher"] = urls.redact(self.told.teacher)
        found = {}
        for split in EVALUATED:
            if split in self._builder.splits:
                parts = [self._measured(lists) for lists in self._lists(split)]
                whole = QueryMetrics.concatenate(parts)
                if whole.documents.any():
                    found[split] = whole.means()
        return {"distillation": {**told, **found}}

    def _measured(self, lists: Lists) -> QueryMetrics:
        lists = lists.widened()
        scores = self.teacher.scores(lists)
        teachers.check_finite(lists, scores, self.teacher)
        return QueryMetrics.of_part(lists.labels, scores, lists.row_splits)

    def _lists(self, split: str) -> Iterator[Lists]:
        """Yields the lists of a split, those that are not in memory by parts."""
        lengths = known_lengths(self._builder, split)
        if lengths is None:
            yield self._builder.lists(split, "packed")
            return
        part = np.cumsum(lengths) // _DOCUMENTS
        ends = [*(np.flatnonzero(np.diff(part)) + 1), len(lengths)]
        for first, last in zip([0, *ends], ends, strict=False):
            numbers = np.arange(first, last)
            yield some_lists(self._builder, split, numbers, "packed")
