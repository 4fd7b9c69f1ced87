"""Ranking losses by name, on packed (ragged) and padded (dense) batches.

    from tfr_pipeline import losses
    model.compile("adam", loss=losses.get("softmax_loss", temperature=0.5))

Importing the package is cheap: TensorFlow is loaded with the first loss.
"""

from __future__ import annotations

import importlib
import importlib.util
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
    if name.startswith("__"):
        raise AttributeError(name)
    if name in _HOME:
        module = importlib.import_module(f"{__name__}.{_HOME[name]}")
        value = globals()[name] = getattr(module, name)
        return value
    # Asked for before `from tfr_pipeline.losses import factory` looks for the module.
    if importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    # What else `tfr.losses` has, for code that changed one import line.
    from tfr_pipeline.compat import tfr

    return getattr(tfr.losses, name)


def __dir__() -> list[str]:
    return sorted(__all__)
