"""A model on texts that a hub module encodes, as a user writes one."""

from __future__ import annotations

from typing import Any

from tfr_pipeline.features import DEFAULT_MASK, Features
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.interactions import InteractionScorer
from tfr_pipeline.model.layers.hub import HubEncoder
from tfr_pipeline.model.scorers import DNNScorer

MATCH = {"query": "query", "document": "title", "of": ["cosine", "product"]}


def make_builder(features: Features, handle: str, **kwargs: Any) -> ModelBuilder:
    """Returns a builder for data with the texts `query` and `title`.

    Args:
      features: Description of the data.
      handle: The module.
      **kwargs: Arguments of `HubEncoder`.
    """
    encoder = HubEncoder(handle, **kwargs)
    return ModelBuilder(
        FeatureSpecInputCreator(features.context_spec, features.example_spec),
        {"query": encoder, "title": encoder},
        InteractionScorer(DNNScorer(hidden_layer_dims=[16]), {"match": MATCH}),
        DEFAULT_MASK,
    )
