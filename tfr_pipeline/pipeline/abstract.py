"""`AbstractPipeline`: what every training pipeline can do."""

from __future__ import annotations

import abc
from typing import Any

from tfr_pipeline.compat import tfr


class AbstractPipeline(tfr.keras.pipeline.AbstractPipeline):
    """Interface: a loss, metrics, and a method that trains and validates."""

    @abc.abstractmethod
    def build_loss(self) -> Any:
        """Returns a Keras loss, or a dict of them by task."""

    @abc.abstractmethod
    def build_metrics(self) -> Any:
        """Returns Keras metrics, or a dict of them by task."""

    @abc.abstractmethod
    def build_weighted_metrics(self) -> Any:
        """Returns Keras metrics that get the weights, or a dict of them by task."""

    @abc.abstractmethod
    def train_and_validate(self, *arg: Any, **kwargs: Any) -> Any:
        """Trains a model and validates it."""
