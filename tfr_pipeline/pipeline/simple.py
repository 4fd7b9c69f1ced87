"""`SimplePipeline`: one loss, metrics by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfr_pipeline import losses, metrics
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.metrics.keys import ClassMetricKey
from tfr_pipeline.pipeline import classes
from tfr_pipeline.pipeline.fit import ModelFitPipeline
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.tasks import METRIC

WEIGHTED = "weighted_metric/"


class SimplePipeline(ModelFitPipeline):
    """Pipeline for one loss or a weighted sum of losses, with NDCG as metrics.

    On data of classes the metric is accuracy, unless others are asked for.

    `docs/training.md` has an example; in short, `SimplePipeline(model_builder,
    dataset_builder, hparams).train_and_validate()`.
    """

    def build_loss(self) -> tf.keras.losses.Loss:
        """See `AbstractPipeline`."""
        hparams = self._hparams
        return make_loss(hparams.loss, hparams.loss_reduction, hparams.loss_args)

    def build_metrics(self) -> list[tf.keras.metrics.Metric]:
        """See `AbstractPipeline`."""
        return [make_metric(name, METRIC) for name in self._metric_names]

    def build_weighted_metrics(self) -> list[tf.keras.metrics.Metric]:
        """See `AbstractPipeline`."""
        return [make_metric(name, WEIGHTED) for name in self._metric_names]

    @property
    def _metric_names(self) -> Any:
        names = self._hparams.metrics
        if names == PipelineHparams.metrics and classes.of_data(self._dataset_builder):
            return (ClassMetricKey.ACCURACY,)  # nobody asked for the default of others
        return names


def is_function_of_batches(part: Any) -> bool:
    """Whether a callable is a loss or a metric itself, rather than what makes one."""
    if inspect.isclass(part):
        return False
    return list(inspect.signature(part).parameters)[:2] == ["y_true", "y_pred"]


def make_loss(loss: Any, reduction: str, args: Mapping[str, Any]) -> Any:
    """Returns the loss of a name or a sum of names, or of a callable.

    Args:
      loss: What `losses.get` reads; a function of `(y_true, y_pred)`; or what returns
        a loss.
      reduction: Reduction of a loss by name.
      args: Arguments of the loss.

    Raises:
      ConfigError: See `losses.get`; or an argument has a setting of its own.
    """
    if not callable(loss):
        for key, place in (("loss", "loss"), ("reduction", "loss_reduction")):
            if key in args:
                raise ConfigError(
                    f"loss_args.{key}: expected it as pipeline.{place}, found "
                    f"{args[key]!r:.80}. Move it there."
                )
        return losses.get(loss=loss, reduction=reduction, **args)
    if is_function_of_batches(loss):
        return functools.update_wrapper(functools.partial(loss, **args), loss)
    return loss(**args)


def make_metric(metric: Any, prefix: str = "") -> tf.keras.metrics.Metric:
    """Returns the metric of a name such as `ndcg_10` or `mrr`, or of a callable.

    Args:
      metric: The name; a function of `(y_true, y_pred)`; or what returns a metric.
      prefix: Precedes the name of a metric by name, and of others where documents
        weigh, so that there is no other of the same name.

    Example:
      >>> make_metric("ndcg_10", "metric/").name
      'metric/ndcg_10'
    """
    if not callable(metric):
        return metric_by_name(metric, prefix)
    if is_function_of_batches(metric):
        name = getattr(metric, "__name__", "metric")
        metric = functools.partial(tf.keras.metrics.MeanMetricWrapper, metric, name)
    made = metric()
    return metric(name=prefix + made.name) if prefix == WEIGHTED else made


def metric_by_name(name: str, prefix: str = "") -> tf.keras.metrics.Metric:
    """Returns the metric of a name such as `ndcg_10`, `ndcg@10` or `mrr`.

    Queries without relevant documents do not count, as in the headline of `evaluate`.

    Example:
      >>> metric_by_name("ndcg_10", "metric/").name
      'metric/ndcg_10'
    """
    name = name.replace("@", "_")
    key, _, topn = name.rpartition("_")
    if not topn.isdigit():
        key, topn = name, ""
    return metrics.get(
        key,
        name=prefix + name,
        topn=int(topn) if topn else None,
        without_relevant="skip",
    )
