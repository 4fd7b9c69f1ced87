"""`SimpleDatasetBuilder`: one label, packed or padded."""

from __future__ import annotations

from tfr_pipeline.compat import tfr
from tfr_pipeline.pipeline.datasets.labelled import LabelledDatasetBuilder


class SimpleDatasetBuilder(
    LabelledDatasetBuilder, tfr.keras.pipeline.SimpleDatasetBuilder
):
    """Datasets with one label and optional document weights.

    Args:
      context_feature_spec: Maps query features to `tf.io` specs.
      example_feature_spec: Maps document features to `tf.io` specs.
      mask_feature_name: Name of the mask among the features of padded batches.
      label_spec: Name and `tf.io.FixedLenFeature` of the label, shape (1,).
      hparams: A `DatasetHparams`.
      sample_weight_spec: Name and spec of a weight for each document, or None.
      query_id: See `BaseDatasetBuilder`.
      document_id: Name of the string document feature with the document id, if any;
        part of the description of the data, which prediction reads it by.
      list_weight_spec: Name and spec of a weight for each list, a query feature, or
        None. A document weighs its own weight times that of its list.
      classes: Names of classes, or how many there are, if labels are numbers of them:
        from 0 on, -1 for none. Each list then has one document, the example.

    Example:
      >>> from tfr_pipeline.compat import tf
      >>> from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
      >>> feature = tf.io.FixedLenFeature((1,), tf.float32, 0.0)
      >>> label = ("label", tf.io.FixedLenFeature((1,), tf.float32, -1.0))
      >>> builder = SimpleDatasetBuilder(
      ...     {}, {"bm25": feature}, "mask", label,
      ...     DatasetHparams("train-*", "valid-*", 32, 32))
      >>> builder.layouts
      ('packed', 'padded')
    """

    _several = False
