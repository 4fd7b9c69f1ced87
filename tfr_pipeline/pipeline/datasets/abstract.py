"""The interface of dataset builders, and the builder of datasets made elsewhere."""

from __future__ import annotations

import abc
from typing import Any

import tensorflow as tf

from tfr_pipeline.compat import tfr


class AbstractDatasetBuilder(tfr.keras.pipeline.AbstractDatasetBuilder):
    """Interface: training data, validation data, signatures.

    A pipeline calls the three methods below; see `NullDatasetBuilder` for the
    simplest implementation and `SimpleDatasetBuilder` for the usual one.
    """

    @abc.abstractmethod
    def build_train_dataset(self, *arg: Any, **kwargs: Any) -> tf.data.Dataset:
        """Returns the training `tf.data.Dataset` of `(features, labels[, weights])`."""

    @abc.abstractmethod
    def build_valid_dataset(self, *arg: Any, **kwargs: Any) -> tf.data.Dataset:
        """Returns the validation `tf.data.Dataset`, of the same structure."""

    @abc.abstractmethod
    def build_signatures(self, *arg: Any, **kwargs: Any) -> Any:
        """Returns the serving signatures of a model: names to functions, or None."""


class NullDatasetBuilder(AbstractDatasetBuilder, tfr.keras.pipeline.NullDatasetBuilder):
    """Passes datasets and signatures on that were made elsewhere.

    Args:
      train_dataset: `tf.data.Dataset` for training.
      valid_dataset: `tf.data.Dataset` for validation.
      signatures: Dict of serving functions, or None.
    """

    def __init__(self, train_dataset: Any, valid_dataset: Any, signatures: Any = None):
        self._train_dataset = train_dataset
        self._valid_dataset = valid_dataset
        self._signatures = signatures

    def build_train_dataset(self, *arg: Any, **kwargs: Any) -> tf.data.Dataset:
        """See `AbstractDatasetBuilder`."""
        return self._train_dataset

    def build_valid_dataset(self, *arg: Any, **kwargs: Any) -> tf.data.Dataset:
        """See `AbstractDatasetBuilder`."""
        return self._valid_dataset

    def build_signatures(self, *arg: Any, **kwargs: Any) -> Any:
        """See `AbstractDatasetBuilder`."""
        return self._signatures
