"""Models, as `tfr.keras.model` names them."""

from typing import Any

from tfr_pipeline.compat import tfr
from tfr_pipeline.model.attention_scorers import AttentionScorer, DASALCScorer
from tfr_pipeline.model.builders import (
    AbstractModelBuilder,
    ModelBuilder,
    ModelBuilderWithMask,
)
from tfr_pipeline.model.inputs import (
    FeatureSpecInputCreator,
    InputCreator,
    TypeSpecInputCreator,
)
from tfr_pipeline.model.keras_models import KerasModelBuilder, KerasScorer
from tfr_pipeline.model.preprocess import Preprocessor, PreprocessorWithSpec
from tfr_pipeline.model.scorers import DNNScorer, GAMScorer, Scorer, UnivariateScorer
from tfr_pipeline.model.tabular_scorers import DCNScorer, TabMScorer

__all__ = [
    "AbstractModelBuilder",
    "AttentionScorer",
    "DASALCScorer",
    "DCNScorer",
    "DNNScorer",
    "FeatureSpecInputCreator",
    "GAMScorer",
    "InputCreator",
    "KerasModelBuilder",
    "KerasScorer",
    "ModelBuilder",
    "ModelBuilderWithMask",
    "Preprocessor",
    "PreprocessorWithSpec",
    "Scorer",
    "TabMScorer",
    "TypeSpecInputCreator",
    "UnivariateScorer",
]


def __getattr__(name: str) -> Any:
    return getattr(tfr.keras.model, name)


def __dir__() -> list[str]:
    return sorted({*__all__, *dir(tfr.keras.model)})
