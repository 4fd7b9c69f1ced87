"""That no query is measured which a run has trained on, or chosen its best epoch by."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfr_pipeline import urls
from tfr_pipeline.choosing.rotations import FOLDERS, FOLDS, PARTS, Rotations
from tfr_pipeline.data.folds import SESSION, fold_of_lists, query_of_session
from tfr_pipeline.errors import DataError
from tfr_pipeline.experiment import settings
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.kept_lists import KeptLists
from tfr_pipeline.pipeline.datasets.multi_label import builder_from_features
from tfr_pipeline.pipeline.warm_start import WarmStart
from tfr_pipeline.regularization.distillation import DistillSettings

# Settings by which files are read, and which a fold does not change.
_OF_READING = ("cache", "input_format", "compression", "reader_args")


def check(rotations: Rotations, kept: KeptLists) -> list[int] | None:
    """Reads the queries of all parts, and checks that none is in two.

    Args:
      rotations: The folds.
      kept: What folds by query are made of is kept in it, so that the first run does
        not read it again.

    Returns:
      How many queries are measured in each fold; None where queries have no ids that
      would tell them apart, or files are read by a builder of the user's.

    Raises:
      DataError: A query is in two parts, is measured twice, or there are more folds
        than queries.
    """
    data = rotations.data[0]
    if data.get("builder"):
        return None
    features = Features.load(data.get("features") or data["dir"])
    if rotations.kind == FOLDS:
        builder = _builder(rotations.parts[0], data, features)
        builder.kept = kept
        ids = builder.lists("train", "packed").query_ids
        fold_of = fold_of_lists(ids, len(rotations))
        _warn_of_sessions(set(ids.tolist()), len(rotations))
        queries = np.array([query or f"\t{i}" for i, query in enumerate(ids)], object)
        return [
            len(set(queries[fold_of == held["test_fold"]])) for held in rotations.data
        ]
    if features.query_id is None:
        return None
    found = [
        set(_builder(p, data, features).query_ids("train")) for p in rotations.parts
    ]
    if rotations.kind == PARTS:
        _check_disjoint(dict(zip(rotations.parts, found, strict=True)))
        sizes = [len(part) for part in found]
        return [sizes[i - 1] for i in range(len(sizes))]
    assert rotations.kind == FOLDERS
    for start in range(0, len(found), 3):
        _check_disjoint(
            dict(zip(rotations.parts[start:][:3], found[start:][:3], strict=True))
        )
    measured = found[2::3]
    _check_disjoint(dict(zip(rotations.parts[2::3], measured, strict=True)))
    return [len(part) for part in measured]


def _warn_of_sessions(ids: set[str], folds: int) -> None:
    """Warns of ids that look like sessions of far fewer queries."""
    queries = {query_of_session(query) for query in ids}
    if all(SESSION in query for query in ids) and folds <= len(queries) < len(ids) / 2:
        warnings.warn(
            f"{len(ids)} query ids such as {min(ids)[:60]!r} are taken for as many "
            f"queries. If they are sessions of {len(queries)} queries, what is "
            "measured has been trained on: give a list the id of its query alone.",
            stacklevel=4,
        )


def _check_disjoint(found: Mapping[str, set[str]]) -> None:
    times = Counter(query for queries in found.values() for query in queries)
    query, count = max(times.items(), key=lambda item: item[1], default=("", 0))
    if count < 2:
        return
    places = [pattern for pattern, queries in found.items() if query in queries]
    shared = sum(number > 1 for number in times.values())
    raise DataError(
        f"query {query[:60]!r} is in {places[0]} and in {places[1]} ({shared} such "
        "queries): expected parts without a query in common. What is measured would "
        "have been trained on, or count twice. Split the data by query."
    )


def _builder(pattern: str, data: Mapping[str, Any], features: Features) -> Any:
    known = {field.name for field in dataclasses.fields(DatasetHparams)}
    told = {
        key: data[key]
        for key in _OF_READING
        if data.get(key) is not None and key in known & set(settings.OF_DATASETS)
    }
    return builder_from_features(features, DatasetHparams(pattern, "", 1, 1, **told))


def warn_of_sources(config: Mapping[str, Any]) -> None:
    """Warns of a model in a config that may have seen the queries that are measured.

    Args:
      config: A config, see `build_pipeline`.
    """
    pipeline = config.get("pipeline") or {}
    teacher = DistillSettings.of(pipeline.get("distill"))
    sources = {
        "pipeline.distill.teacher": (
            teacher.teacher
            if teacher is not None and teacher.weight and not teacher.column
            else ""
        ),
        "pipeline.warm_start.from": WarmStart.of(pipeline.get("warm_start")).source,
    }
    found = [f"{key} ({urls.redact(path)})" for key, path in sources.items() if path]
    if found:
        warnings.warn(
            f"{' and '.join(found)}: one model for all folds. If it was trained on "
            "queries of this cross-validation, it has seen those that are measured, "
            "and the figures are too good. Give each fold a model that was trained on "
            "the training part of that fold alone: train the folds one by one, with "
            "data.folds, data.fold and data.test_fold; see docs/choosing.md.",
            stacklevel=3,
        )
