"""Pipelines and dataset builders, as `tfr.keras.pipeline` names them."""

from typing import Any

from tfr_pipeline.compat import tfr
from tfr_pipeline.pipeline.abstract import AbstractPipeline
from tfr_pipeline.pipeline.datasets.base import (
    AbstractDatasetBuilder,
    BaseDatasetBuilder,
    NullDatasetBuilder,
)
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.multi_label import MultiLabelDatasetBuilder
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder
from tfr_pipeline.pipeline.fit import ModelFitPipeline
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.multi_task import MultiTaskPipeline
from tfr_pipeline.pipeline.pretraining import PretrainingPipeline
from tfr_pipeline.pipeline.simple import SimplePipeline

__all__ = [
    "AbstractDatasetBuilder",
    "AbstractPipeline",
    "BaseDatasetBuilder",
    "DatasetHparams",
    "ModelFitPipeline",
    "MultiLabelDatasetBuilder",
    "MultiTaskPipeline",
    "NullDatasetBuilder",
    "PipelineHparams",
    "PretrainingPipeline",
    "SimpleDatasetBuilder",
    "SimplePipeline",
]


def __getattr__(name: str) -> Any:
    return getattr(tfr.keras.pipeline, name)


def __dir__() -> list[str]:
    return sorted({*__all__, *dir(tfr.keras.pipeline)})
