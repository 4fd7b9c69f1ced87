"""Exports of models whose scores are known, and lists for them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tests.serving.serving_helpers import make_builder, make_signatures
from tfr_pipeline.compat import tf
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.features import FILE_NAME, Feature, Features
from tfr_pipeline.model.scorers import UnivariateScorer
from tfr_pipeline.serving.export import export_saved_model
from tfr_pipeline.serving.predictor import Predictor

NAMES = ("bm25", "age", "clicks", "length")
FEATURES = Features(example={"vector": Feature("float32", (4,), 0.0, columns=NAMES)})


class Known(UnivariateScorer):
    """Scores by a function of the columns `[documents, columns]` of one feature."""

    def __init__(self, function: Any, name: str = "vector"):
        self._function, self._name = function, name

    def _score_flattened(self, context_features: Any, example_features: Any) -> Any:
        return self._function(example_features[self._name])


def linear(weights: Any) -> Known:
    """Scores by a weighted sum."""
    column = np.float32(weights)[:, np.newaxis]
    return Known(lambda x: tf.matmul(x, tf.constant(column)))


def export(
    scorer: Any, path: Any, features: Features = FEATURES, change: Any = None
) -> Predictor:
    """Exports a model of a scorer; `change` is called with it first."""
    context, example = features.context_spec, features.example_spec
    model = make_builder(context, example, {}, scorer).build()
    if change is not None:
        change(model)
    signatures = make_signatures(model, context, example)()
    text = json.dumps(features.to_json())
    return Predictor(
        export_saved_model(model, signatures, str(path), {FILE_NAME: text})
    )


def make_lists(
    lengths: Any = (8, 12, 5, 20, 9, 1, 7, 11), columns: int = 4, seed: int = 0
) -> Lists:
    """Returns lists with grades from 0 to 3 that the first column tells of."""
    random = np.random.default_rng(seed)
    count = int(np.sum(lengths))
    values = random.normal(size=(count, columns)).astype(np.float32)
    grades = np.clip(np.round(values[:, 0] + 0.5 * random.normal(size=count)), 0, 3)
    return Lists(
        values={"float32": values},
        row_splits=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=grades.astype(np.float32),
        query_ids=np.array([f"q{i}" for i in range(len(lengths))], object),
        document_ids=np.array([f"d{i}" for i in range(count)], object),
    )
