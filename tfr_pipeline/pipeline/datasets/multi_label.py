"""`MultiLabelDatasetBuilder`: one label a task, packed or padded."""

from __future__ import annotations

import warnings

import numpy as np

from tfr_pipeline.compat import tfr
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import DataError
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.labelled import LabelledDatasetBuilder
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder


class MultiLabelDatasetBuilder(
    LabelledDatasetBuilder, tfr.keras.pipeline.MultiLabelDatasetBuilder
):
    """Datasets with one label for each task, and weights that all tasks share.

    A document with a negative label takes no part in that task, so one may be labelled
    for some tasks only: give the labels the default -1.

    Args:
      context_feature_spec: Maps query features to `tf.io` specs.
      example_feature_spec: Maps document features to `tf.io` specs.
      mask_feature_name: Name of the mask among the features of padded batches.
      label_spec: Maps each task to the name and the `tf.io.FixedLenFeature`, of shape
        (1,), of its label. Two tasks may have the same label.
      hparams: A `DatasetHparams`.
      sample_weight_spec: Name and spec of a weight for each document, or None.
      query_id: See `BaseDatasetBuilder`.
      document_id: See `SimpleDatasetBuilder`.
      list_weight_spec: See `SimpleDatasetBuilder`.

    Raises:
      ConfigError: `label_spec` is something else.

    Example:
      >>> from tfr_pipeline.compat import tf
      >>> feature = tf.io.FixedLenFeature((1,), tf.float32, 0.0)
      >>> label = tf.io.FixedLenFeature((1,), tf.float32, -1.0)
      >>> builder = MultiLabelDatasetBuilder(
      ...     {}, {"bm25": feature}, "mask",
      ...     {"relevance": ("grade", label), "click": ("clicked", label)},
      ...     DatasetHparams("train-*", "valid-*", 32, 32))
      >>> builder.tasks, builder.layouts
      (('relevance', 'click'), ('packed', 'padded'))
    """

    _several = True

    def lists(self, split: str, layout: str = "padded") -> Lists:
        """See `LabelledDatasetBuilder`.

        Raises:
          DataError: As there, and when the training data has no label of a task.
        """
        lists = super().lists(split, layout)
        labels = lists.labels
        # A subclass that makes padded batches itself may have labels of its own.
        if labels is not None and (layout == "packed" or not self.makes_own_features):
            self._once(
                ("checked", split),
                (lists.row_splits,),
                lambda: self._check_labels(split, labels),
            )
        return lists

    def _check_labels(self, split: str, labels: np.ndarray) -> None:
        for task, column in zip(self.tasks, labels.T, strict=True):
            if (column >= 0).any():
                continue
            message = (
                f"{self.splits[split].pattern}: no document has a label of 0 or more "
                f"for the task {task!r}; expected them in "
                f"{self._label_spec[task][0]!r}."
            )
            if split == "train":
                raise DataError(f"{message} Correct label_spec, or leave the task out.")
            warnings.warn(f"{message} Its metrics mean nothing.", stacklevel=5)


def builder_from_features(
    features: Features, hparams: DatasetHparams
) -> SimpleDatasetBuilder | MultiLabelDatasetBuilder:
    """Returns the dataset builder for data with one label, or with several."""
    if features.labels:
        return MultiLabelDatasetBuilder.from_features(features, hparams)
    return SimpleDatasetBuilder.from_features(features, hparams)
