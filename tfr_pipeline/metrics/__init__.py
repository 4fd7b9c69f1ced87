"""Ranking metrics: Keras metrics by name, and evaluation of a whole data set.

    from tfr_pipeline import metrics
    model.compile(..., metrics=[metrics.get("ndcg", name="metric/ndcg_10", topn=10)])

    from tfr_pipeline.metrics.evaluation import evaluate_lists
    evaluate_lists(labels, scores, row_splits)["ndcg@10"]["skip"]

Importing the package is cheap: TensorFlow is loaded with the first Keras metric, and
`evaluation` does without it.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from tfr_pipeline.metrics.keys import RankingMetricKey

_MODULES = {
    "factory": ("default_keras_metrics", "get"),
    "gain": ("DCGMetric", "NDCGMetric"),
    "binary": (
        "HitsMetric",
        "MeanAveragePrecisionMetric",
        "MRRMetric",
        "PrecisionMetric",
        "RecallMetric",
    ),
    "position": ("ARPMetric",),
    "delegated": ("AlphaDCGMetric", "OPAMetric", "PrecisionIAMetric"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["RankingMetricKey", *_HOME]


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    if name in _HOME:
        module = importlib.import_module(f"{__name__}.{_HOME[name]}")
        value = globals()[name] = getattr(module, name)
        return value
    # Asked for before `from tfr_pipeline.metrics import factory` looks for the module.
    if importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    # What else `tfr.metrics` has, for code that changed one import line.
    from tfr_pipeline.compat import tfr

    return getattr(tfr.metrics, name)


def __dir__() -> list[str]:
    return sorted(__all__)
