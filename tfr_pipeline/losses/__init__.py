"""Ranking losses by name, on packed (ragged) and padded (dense) batches.

    from tfr_pipeline import losses
    model.compile("adam", loss=losses.get("softmax_loss", temperature=0.5))

Importing the package is cheap: TensorFlow is loaded with the first loss.
"""

from __future__ import annotations

import importlib
from typing import Any

from tfr_pipeline.losses.keys import RankingLossKey

_MODULES = {
    "factory": ("get",),
    "pointwise": (
        "ClickEMLoss",
        "MeanSquaredLoss",
        "OrdinalLoss",
        "SigmoidCrossEntropyLoss",
    ),
    "pairwise": (
        "PairwiseHingeLoss",
        "PairwiseLogisticLoss",
        "PairwiseMSELoss",
        "PairwiseSoftZeroOneLoss",
        "YetiLogisticLoss",
    ),
    "softmax": ("CalibratedSoftmaxLoss", "SoftmaxLoss", "UniqueSoftmaxLoss"),
    "approx": ("ApproxMRRLoss", "ApproxNDCGLoss", "GumbelApproxNDCGLoss"),
    "listwise": ("CoupledRankDistilLoss", "ListMLELoss", "MixtureEMLoss"),
    "lambda_weights": (
        "DCGLambdaWeight",
        "LabelDiffLambdaWeight",
        "ListMLELambdaWeight",
        "NDCGLambdaWeight",
        "NDCGLambdaWeightV2",
        "PrecisionLambdaWeight",
        "YetiDCGLambdaWeight",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["RankingLossKey", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOME[name]}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
