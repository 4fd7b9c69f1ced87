"""Ranking metrics: Keras metrics by name, and evaluation of a whole data set.

    from tfr_pipeline import metrics
    model.compile(..., metrics=[metrics.get("ndcg", name="metric/ndcg_10", topn=10)])

    from tfr_pipeline.metrics.evaluation import evaluate_lists
    evaluate_lists(labels, scores, row_splits)["ndcg@10"]["skip"]

Importing the package is cheap: TensorFlow is loaded with the first Keras metric, and
`evaluation` does without it.
"""

from __future__ import annotations

from tfr_pipeline.compat import lazy_attributes
from tfr_pipeline.metrics.keys import ClassMetricKey, RankingMetricKey

_MODULES = {
    "factory": ("default_keras_metrics", "get"),
    "accuracy": ("AccuracyMetric",),
    "gain": ("DCGMetric", "NDCGMetric"),
    "binary": (
        "BPrefMetric",
        "HitsMetric",
        "MeanAveragePrecisionMetric",
        "MRRMetric",
        "PrecisionMetric",
        "RecallMetric",
    ),
    "position": ("ARPMetric", "PWAMetric"),
    "pairs": ("OPAMetric",),
    "diversity": ("AlphaDCGMetric", "PrecisionIAMetric"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["ClassMetricKey", "RankingMetricKey", *_HOME]


__getattr__ = lazy_attributes(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
