"""Steps of preprocessing, which TF-Ranking has not; see `docs/preprocessing.md`."""

from tfr_pipeline.model.preprocess import signed_log1p
from tfr_pipeline.model.steps.base import Step
from tfr_pipeline.model.steps.categories import Embedding, Hashing, OneHot
from tfr_pipeline.model.steps.lists import ListQuantileNormal, ListStandardize
from tfr_pipeline.model.steps.numeric import (
    Clip,
    ClipQuantiles,
    Discretize,
    Missing,
    QuantileNormal,
    Standardize,
)
from tfr_pipeline.model.steps.text import TfIdf, Tokens
from tfr_pipeline.model.steps.vectors import Periodic, PiecewiseLinear

__all__ = [
    "Clip",
    "ClipQuantiles",
    "Discretize",
    "Embedding",
    "Hashing",
    "ListQuantileNormal",
    "ListStandardize",
    "Missing",
    "OneHot",
    "Periodic",
    "PiecewiseLinear",
    "QuantileNormal",
    "Standardize",
    "Step",
    "TfIdf",
    "Tokens",
    "signed_log1p",
]
