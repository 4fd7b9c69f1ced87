"""Losses by name, on packed (ragged) and padded (dense) batches.

    from tfr_pipeline import losses
    model.compile("adam", loss=losses.get("softmax_loss", temperature=0.5))

Importing the package is cheap: TensorFlow is loaded with the first loss.
"""

from __future__ import annotations

from tfr_pipeline.compat import lazy_attributes
from tfr_pipeline.losses.keys import ClassLossKey, RankingLossKey

_MODULES = {
    "factory": ("get",),
    "classes": ("CategoricalCrossEntropyLoss",),
    "combined": ("WeightedSumLoss",),
    "pointwise": (
        "ClickEMLoss",
        "MeanSquaredLoss",
        "OrdinalLoss",
        "SigmoidCrossEntropyLoss",
    ),
    "pairwise.losses": (
        "LambdaLoss",
        "PairwiseHingeLoss",
        "PairwiseLogisticLoss",
        "PairwiseMSELoss",
        "PairwiseSoftZeroOneLoss",
        "YetiLogisticLoss",
    ),
    "softmax": (
        "CalibratedSoftmaxLoss",
        "PolyOneSoftmaxLoss",
        "SoftmaxLoss",
        "UniqueSoftmaxLoss",
    ),
    "circle": ("CircleLoss",),
    "neural_sort": (
        "GumbelNeuralSortCrossEntropyLoss",
        "GumbelNeuralSortNDCGLoss",
        "NeuralNDCGLoss",
        "NeuralSortCrossEntropyLoss",
        "NeuralSortNDCGLoss",
    ),
    "approx": ("ApproxMRRLoss", "ApproxNDCGLoss", "GumbelApproxNDCGLoss"),
    "listwise": ("CoupledRankDistilLoss", "ListMLELoss", "MixtureEMLoss"),
    "pairwise.lambda_weights": (
        "DCGLambdaWeight",
        "LabelDiffLambdaWeight",
        "ListMLELambdaWeight",
        "NDCGLambdaWeight",
        "NDCGLambdaWeightV2",
        "NDCGLoss2PPLambdaWeight",
        "PrecisionLambdaWeight",
        "YetiDCGLambdaWeight",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["ClassLossKey", "RankingLossKey", *_HOME]


__getattr__ = lazy_attributes(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
