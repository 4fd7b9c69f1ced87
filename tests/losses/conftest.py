"""Random batches in both layouts."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tfr_pipeline import losses
from tfr_pipeline.compat import tf, tfr

LENGTHS = [3, 0, 1, 7, 5, 2]


@dataclasses.dataclass
class RandomBatch:
    """Labels, logits and weights of six lists, one empty, one of one document."""

    labels: Any
    logits: np.ndarray
    weights: dict[str, Any]

    def scores(self, values: Any) -> Any:
        return tf.RaggedTensor.from_row_lengths(values, LENGTHS)


def make_batch(
    seed: int, masked: bool = False, outputs: int | None = None, ties: bool = False
):
    rng = np.random.default_rng(seed)
    documents = sum(LENGTHS)
    labels = rng.integers(-1 if masked else 0, 4, documents).astype(np.float32)
    shape = (documents,) if outputs is None else (documents, outputs)
    logits = rng.normal(size=shape).astype(np.float32)
    if ties:
        logits = np.round(2.0 * logits) / 2.0
    ragged = tf.RaggedTensor.from_row_lengths
    per_document = rng.uniform(0.1, 2.0, documents).astype(np.float32)
    return RandomBatch(
        labels=ragged(labels, LENGTHS),
        logits=logits,
        weights={
            "none": None,
            "scalar": 0.5,
            "list": rng.uniform(0.1, 2.0, (len(LENGTHS), 1)).astype(np.float32),
            "document": ragged(per_document, LENGTHS),
        },
    )


@pytest.fixture
def batch_maker():
    return make_batch


# How losses are made for comparisons: fixed seeds, because TF-Ranking draws; a
# temperature, because 0.5.3 has another default.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "yeti_logistic_loss": {"seed": 3, "sample_size": 2, "temperature": 1.0},
    "gumbel_approx_ndcg_loss": {"seed": 3, "sample_size": 2},
    "gumbel_neural_sort_ndcg_loss": {"seed": 3, "sample_size": 2},
    "gumbel_neural_sort_cross_entropy_loss": {"seed": 3, "sample_size": 2},
    "ordinal_loss": {"ordinal_size": 2},
    "calibrated_softmax_loss": {"virtual_label": 0.5},
    "poly_one_softmax_loss": {"epsilon": 0.7, "temperature": 0.8},
    "circle_loss": {"gamma": 3.0, "margin": 0.2},
    "mixture_em_loss": {"alpha": 0.4},
    "coupled_rankdistil_loss": {"temperature": 0.6},
    "click_em_loss": {"exam_loss_weight": 0.7},
}
# How many scores a document has; one if it is not here.
OUTPUTS = {"ordinal_loss": 2, "click_em_loss": 2, "mixture_em_loss": 3}
OWN = ("lambda_loss", "neural_ndcg_loss", "gain_softmax_loss")


class CircleLoss(tfr.losses_impl.CircleLoss):
    """TF-Ranking's, whose lists without pairs weigh 0 / 0."""

    def _compute_unreduced_loss_impl(self, labels, logits, mask=None):
        losses, weights = super()._compute_unreduced_loss_impl(labels, logits, mask)
        return losses, tf.where(tf.math.is_nan(weights), 0.0, weights)


def their_loss(key: str, **kwargs: Any) -> Any:
    """TF-Ranking's Keras loss of a key, its Estimator losses inside its Keras ones."""
    theirs, impl = tfr.keras.losses, tfr.losses_impl
    arguments = dict(ARGUMENTS.get(key, {}))
    parts = {
        "circle_loss": CircleLoss,
        "poly_one_softmax_loss": impl.PolyOneSoftmaxLoss,
        "neural_sort_ndcg_loss": impl.NeuralSortNDCGLoss,
        "neural_sort_cross_entropy_loss": impl.NeuralSortCrossEntropyLoss,
    }
    inner = key.removeprefix("gumbel_")
    if inner not in parts:
        name = type(losses.get(key)).__name__
        if not hasattr(theirs, name):
            pytest.skip(f"this tensorflow-ranking has no {name}")
        return getattr(theirs, name)(**arguments, **kwargs)
    if inner != key:
        outer = theirs.GumbelApproxNDCGLoss(**arguments, **kwargs)
        outer._loss = parts[inner](name=None)
        return outer
    outer = theirs.SoftmaxLoss if "softmax" in key else theirs.ListMLELoss
    loss = outer(**kwargs)
    loss._loss = parts[key](name=None, **arguments)
    return loss
