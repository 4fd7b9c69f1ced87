"""`get`: a metric by its key, and TF-Ranking's usual set."""

from __future__ import annotations

import inspect
from typing import Any

from tfr_pipeline.errors import ConfigError, check_topn, unknown_name
from tfr_pipeline.metrics import accuracy, binary, diversity, gain, pairs, position
from tfr_pipeline.metrics.keys import ClassMetricKey, RankingMetricKey

_CLASSES: dict[str, Any] = {
    RankingMetricKey.MRR: binary.MRRMetric,
    RankingMetricKey.ARP: position.ARPMetric,
    RankingMetricKey.NDCG: gain.NDCGMetric,
    RankingMetricKey.DCG: gain.DCGMetric,
    RankingMetricKey.PRECISION: binary.PrecisionMetric,
    RankingMetricKey.RECALL: binary.RecallMetric,
    RankingMetricKey.MAP: binary.MeanAveragePrecisionMetric,
    RankingMetricKey.PRECISION_IA: diversity.PrecisionIAMetric,
    RankingMetricKey.ORDERED_PAIR_ACCURACY: pairs.OPAMetric,
    RankingMetricKey.ALPHA_DCG: diversity.AlphaDCGMetric,
    RankingMetricKey.HITS: binary.HitsMetric,
    RankingMetricKey.BPREF: binary.BPrefMetric,
    RankingMetricKey.PWA: position.PWAMetric,
    ClassMetricKey.ACCURACY: accuracy.AccuracyMetric,
}
_CONVENTIONS = ("zero", "skip")


def get(
    key: str,
    name: str | None = None,
    dtype: Any = None,
    topn: int | None = None,
    *,
    without_relevant: str = "zero",
    **kwargs: Any,
) -> Any:
    """Returns a metric by its key.

    Args:
      key: A value of `RankingMetricKey` or `ClassMetricKey`.
      name: Name of the metric, such as `metric/ndcg_10`.
      dtype: dtype of the metric's state.
      topn: Number of first positions that count; None for all (`pwa`: 5). Of `accuracy`
        that of likeliest classes, among which the right one has to be; None for 1.
      without_relevant: What a list without relevant documents counts: `zero`, as in
        TF-Ranking, or `skip`: it is left out. `arp` and `ordered_pair_accuracy` leave
        it out either way.
      **kwargs: More arguments of the metric's constructor, such as `gain_fn`.

    Returns:
      A Keras metric that takes ragged and dense batches.

    Raises:
      ConfigError: The key or the convention is unknown, the metric does not take an
        argument, or `topn` is no positive integer.

    Example:
      >>> get("ndcg", name="metric/ndcg_10", topn=10).name
      'metric/ndcg_10'
    """
    if not isinstance(key, str):
        raise ConfigError(
            "`key` should be the name of a metric, such as 'ndcg'. "
            f"Received: key = {key!r}."
        )
    if key not in _CLASSES:
        raise ConfigError(unknown_name("metric", key, _CLASSES))
    cls = _CLASSES[key]
    accepted = set(inspect.signature(cls).parameters) - {"self", "kwargs"}
    arguments = {"name": name, "dtype": dtype, **kwargs}
    if topn is not None:
        check_topn(topn)
        arguments["topn"] = topn
    for argument in arguments:
        if argument not in accepted:
            raise ConfigError(
                unknown_name("argument", argument, accepted, f"metric {key}")
            )
    if without_relevant not in _CONVENTIONS:
        raise ConfigError(
            unknown_name(
                "convention", without_relevant, _CONVENTIONS, "without_relevant"
            )
        )
    metric = cls(**arguments)
    if key not in ClassMetricKey.all_keys():
        metric.without_relevant = without_relevant
    return metric


def default_keras_metrics(**kwargs: Any) -> list[Any]:
    """Returns TF-Ranking's set: NDCG at 1, 3, 5, 10, and whole-list metrics.

    Args:
      **kwargs: Handed to every metric's constructor.

    Example:
      >>> [metric.name for metric in default_keras_metrics()][:2]
      ['metric/ndcg_1', 'metric/ndcg_3']
    """
    cut = [
        get("ndcg", name=f"metric/ndcg_{topn}", topn=topn, **kwargs)
        for topn in (1, 3, 5, 10)
    ]
    keys = ("arp", "ordered_pair_accuracy", "mrr", "precision", "map", "dcg", "ndcg")
    return cut + [get(key, name=f"metric/{key}", **kwargs) for key in keys]
