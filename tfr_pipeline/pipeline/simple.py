"""`SimplePipeline`: one loss, metrics by name."""

from __future__ import annotations

import tensorflow as tf

from tfr_pipeline import losses, metrics
from tfr_pipeline.pipeline.fit import ModelFitPipeline
from tfr_pipeline.pipeline.tasks import METRIC

WEIGHTED = "weighted_metric/"


class SimplePipeline(ModelFitPipeline):
    """Pipeline for one loss or a weighted sum of losses, with NDCG as metrics.

    `docs/training.md` has an example; in short, `SimplePipeline(model_builder,
    dataset_builder, hparams).train_and_validate()`.
    """

    def build_loss(self) -> tf.keras.losses.Loss:
        """See `AbstractPipeline`."""
        return losses.get(
            loss=self._hparams.loss,
            reduction=self._hparams.loss_reduction,
            **self._hparams.loss_args,
        )

    def build_metrics(self) -> list[tf.keras.metrics.Metric]:
        """See `AbstractPipeline`."""
        return [metric_by_name(name, METRIC) for name in self._hparams.metrics]

    def build_weighted_metrics(self) -> list[tf.keras.metrics.Metric]:
        """See `AbstractPipeline`."""
        return [metric_by_name(name, WEIGHTED) for name in self._hparams.metrics]


def metric_by_name(name: str, prefix: str = "") -> tf.keras.metrics.Metric:
    """Returns the metric of a name such as `ndcg_10`, `ndcg@10` or `mrr`.

    Example:
      >>> metric_by_name("ndcg_10", "metric/").name
      'metric/ndcg_10'
    """
    name = name.replace("@", "_")
    key, _, topn = name.rpartition("_")
    if not topn.isdigit():
        key, topn = name, ""
    return metrics.get(key, name=prefix + name, topn=int(topn) if topn else None)
