"""Small models, lists in every form a signature takes, and exports of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tests.ranking_data import CONTEXT_SPEC, EXAMPLE_SPEC, MASK, RankedList, Values
from tfr_pipeline.compat import tf
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.features import FILE_NAME
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.scorers import DNNScorer
from tfr_pipeline.serving.export import export_saved_model
from tfr_pipeline.serving.rank_inputs import input_names
from tfr_pipeline.serving.signatures import Signatures


def scaled(tensor: Any) -> Any:
    """Makes a number of any dtype small enough for a score that is not saturated."""
    return tf.cast(tensor, tf.float32) / 50.0


def make_builder(
    context: dict[str, Any] | None = None,
    example: dict[str, Any] | None = None,
    functions: dict[str, Any] | None = None,
    scorer: Any = None,
) -> ModelBuilder:
    """Returns a model builder for the specs of `ranking_data`, or others."""
    context = CONTEXT_SPEC if context is None else context
    example = EXAMPLE_SPEC if example is None else example
    if functions is None:
        specs = {**context, **example}
        functions = {n: scaled for n, s in specs.items() if s.dtype == tf.int64}
    return ModelBuilder(
        FeatureSpecInputCreator(context, example),
        functions,
        scorer or DNNScorer(hidden_layer_dims=[6, 4], activation="tanh"),
        MASK,
        "ranker",
    )


def randomize(model: Any, seed: int = 1) -> Any:
    """Gives every weight a random value; returns the model."""
    random = np.random.default_rng(seed)
    for weight in model.variables:
        if not isinstance(weight, tf.Variable):
            continue  # the vocabulary of a layer
        shift = 0.5 if "kernel" in weight.name else 0.0
        value = random.uniform(0.2, 1.0, size=weight.shape) - shift
        weight.assign(value.astype(weight.dtype.as_numpy_dtype))
    return model


def make_signatures(
    model: Any,
    context: dict[str, Any] | None = None,
    example: dict[str, Any] | None = None,
) -> Signatures:
    """Returns our signatures of a model."""
    return Signatures(
        model,
        CONTEXT_SPEC if context is None else context,
        EXAMPLE_SPEC if example is None else example,
        MASK,
    )


def filled(values: Values, specs: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns a value for each spec, the default where it is missing."""
    return {
        name: np.reshape(values.get(name, spec.default_value), spec.shape).astype(
            spec.dtype.as_numpy_dtype
        )
        for name, spec in specs.items()
    }


def row_splits(lists: list[RankedList]) -> np.ndarray:
    return np.cumsum([0, *(len(ranked.documents) for ranked in lists)])


def rank_inputs(
    lists: list[RankedList],
    context: dict[str, Any] | None = None,
    example: dict[str, Any] | None = None,
    ids: list[str] | None = None,
) -> dict[str, Any]:
    """Returns the raw tensors that the `rank` signature takes."""
    context = CONTEXT_SPEC if context is None else context
    example = EXAMPLE_SPEC if example is None else example
    names = input_names({**context, **example})
    result = {
        "row_splits": tf.constant(row_splits(lists), tf.int64),
        "ids": tf.constant(ids or [], tf.string),
    }
    rows = {
        **{n: [filled(q.context, context)[n] for q in lists] for n in context},
        **{
            n: [filled(d, example)[n] for q in lists for d in q.documents]
            for n in example
        },
    }
    for name, spec in {**context, **example}.items():
        value = np.reshape(rows[name], [-1, *spec.shape])
        result[names[name]] = tf.constant(value, spec.dtype)
    return result


def as_lists(
    lists: list[RankedList],
    context: dict[str, Any] | None = None,
    example: dict[str, Any] | None = None,
) -> Lists:
    """Returns the packed arrays that a `Predictor` takes."""
    context = CONTEXT_SPEC if context is None else context
    example = EXAMPLE_SPEC if example is None else example
    documents = [filled(d, example) for q in lists for d in q.documents]
    values = {
        dtype: np.array(
            [np.concatenate([np.ravel(d[s.name]) for s in slots]) for d in documents],
            dtype,
        ).reshape(len(documents), slots[-1].stop)
        for dtype, slots in BlockLayout.from_spec(example).slots.items()
    }
    return Lists(
        values=values,
        row_splits=row_splits(lists).astype(np.int64),
        labels=np.zeros(len(documents), np.float32),
        query_ids=np.array([f"q{i}" for i in range(len(lists))], object),
        document_ids=np.array([f"d{i}" for i in range(len(documents))], object),
        context={
            name: np.stack([filled(q.context, context)[name] for q in lists])
            for name in context
        },
    )


def export_untrained(features: Any, path: Any, seed: int = 1) -> str:
    """Exports a model of random weights for described data; returns the folder."""
    context, example = features.context_spec, features.example_spec
    model = randomize(make_builder(context, example).build(), seed)
    signatures = make_signatures(model, context, example)()
    text = json.dumps(features.to_json())
    return export_saved_model(model, signatures, str(path), {FILE_NAME: text})
