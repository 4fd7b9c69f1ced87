"""Ranking losses by name, on packed (ragged) and padded (dense) batches.

    from tfr_pipeline import losses
    model.compile("adam", loss=losses.get("softmax_loss", temperature=0.5))

Importing the package is cheap: TensorFlow is loaded with the first loss.
"""

from __future__ import annotations

from tfr_pipeline.compat import lazy_attributes
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


__getattr__ = lazy_attributes(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
