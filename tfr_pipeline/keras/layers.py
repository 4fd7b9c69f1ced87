"""Layers, as `tfr.keras.layers` names them."""

from typing import Any

from tfr_pipeline.compat import tfr
from tfr_pipeline.model.layers.attention import (
    DocumentInteractionAttention,
    SelfAttentionMask,
)
from tfr_pipeline.model.layers.bilinear import Bilinear
from tfr_pipeline.model.layers.gam import GAMLayer
from tfr_pipeline.model.layers.lists import ConcatFeatures, FlattenList, RestoreList
from tfr_pipeline.model.layers.towers import create_tower

__all__ = [
    "Bilinear",
    "ConcatFeatures",
    "DocumentInteractionAttention",
    "FlattenList",
    "GAMLayer",
    "RestoreList",
    "SelfAttentionMask",
    "create_tower",
]


def __getattr__(name: str) -> Any:
    return getattr(tfr.keras.layers, name)


def __dir__() -> list[str]:
    return sorted({*__all__, *dir(tfr.keras.layers)})
