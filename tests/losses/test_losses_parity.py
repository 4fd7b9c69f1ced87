"""Packed equals padded equals TF-Ranking, in value and gradient."""

from __future__ import annotations

import numpy as np
import pytest

from tfr_pipeline import losses
from tfr_pipeline.compat import tf, tfr

from .conftest import ARGUMENTS, OUTPUTS, OWN, their_loss

theirs = tfr.keras.losses
KEYS = losses.RankingLossKey.all_keys()
REDUCTIONS = ["auto", "sum_over_batch_size", "sum", "none"]
# Losses with a packed form of their own.
PACKED = [
    "softmax_loss",
    "pairwise_logistic_loss",
    "approx_ndcg_loss",
    "mean_squared_loss",
    "list_mle_loss",
]
CASES = [
    (key, reduction, weights)
    for key in PACKED
    for reduction in REDUCTIONS
    for weights in ("none", "scalar", "list", "document")
]
CASES += [
    (key, reduction, weights)
    for key in KEYS
    if key not in PACKED and key not in OWN
    for reduction, weights in (("auto", "none"), ("sum", "list"), ("none", "document"))
]
IGNORED = "ignore:softmax_loss does not use:UserWarning"
LAMBDA_WEIGHTS = {
    "dcg": lambda: losses.DCGLambdaWeight(),
    "ndcg": lambda: losses.NDCGLambdaWeight(),
    "ndcg_at_2": lambda: losses.NDCGLambdaWeight(topn=2, smooth_fraction=0.3),
    "ndcg_v2": lambda: losses.NDCGLambdaWeightV2(topn=3),
    "label_difference": lambda: losses.LabelDiffLambdaWeight(),
    "precision": lambda: losses.PrecisionLambdaWeight(topn=2),
}


def value_and_gradient(loss, labels, scores, logits, weights):
    """`scores` maps the variable `[documents, ...]` to what the loss takes."""
    tf.random.set_seed(7)
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(labels, scores(logits), weights)
    return value.numpy(), tf.convert_to_tensor(tape.gradient(value, logits)).numpy()


def padded(value):
    return value.to_tensor(0.0) if isinstance(value, tf.RaggedTensor) else value


def assert_same(loss, oracle, batch, weights, through_ragged=False):
    ours = value_and_gradient(
        loss, batch.labels, batch.scores, batch.logits, batch.weights[weights]
    )
    if through_ragged:
        other = value_and_gradient(
            oracle, batch.labels, batch.scores, batch.logits, batch.weights[weights]
        )
    else:
        other = value_and_gradient(
            oracle,
            batch.labels.to_tensor(-1.0),
            lambda logits: batch.scores(logits).to_tensor(0.0),
            batch.logits,
            padded(batch.weights[weights]),
        )
    for mine, expected in zip(ours, other, strict=True):
        np.testing.assert_allclose(
            mine, expected, rtol=1e-5, atol=1e-5 * max(1e-3, np.abs(expected).max())
        )


@pytest.mark.parametrize(("key", "reduction", "weights"), CASES)
def test_packed_equals_tf_ranking_on_the_padded_batch(
    key, reduction, weights, batch_maker
):
    batch = batch_maker(1, outputs=OUTPUTS.get(key))
    ours = losses.get(key, reduction=reduction, **ARGUMENTS.get(key, {}))
    assert_same(ours, their_loss(key, reduction=reduction), batch, weights)


@pytest.mark.parametrize("key", [key for key in KEYS if key not in OWN])
def test_packed_equals_tf_ranking_with_masks_and_ties(key, batch_maker):
    # TF-Ranking's logistic loss has no gradient where scores are equal.
    ties = key != "pairwise_logistic_loss"
    batch = batch_maker(2, masked=True, outputs=OUTPUTS.get(key), ties=ties)
    ours = losses.get(key, **ARGUMENTS.get(key, {}))
    assert_same(ours, their_loss(key), batch, "document")


@pytest.mark.parametrize("weights", ["none", "list", "document"])
@pytest.mark.parametrize(
    "key",
    # The others cannot: CalibratedSoftmaxLoss takes no ragged tensors; the samplers
    # and OrdinalLoss are compared on padded batches above.
    [
        "softmax_loss",
        "pairwise_logistic_loss",
        "pairwise_hinge_loss",
        "approx_ndcg_loss",
        "mean_squared_loss",
        "sigmoid_cross_entropy_loss",
    ],
)
def test_packed_equals_tf_ranking_with_ragged_on(key, weights, batch_maker):
    batch = batch_maker(3)
    assert_same(losses.get(key), their_loss(key, ragged=True), batch, weights, True)


@pytest.mark.parametrize("weights", ["none", "document"])
@pytest.mark.parametrize("lambda_weight", LAMBDA_WEIGHTS)
@pytest.mark.parametrize("key", ["pairwise_logistic_loss", "softmax_loss"])
@pytest.mark.filterwarnings(IGNORED)
def test_lambda_weights_give_tf_rankings_numbers(
    key, lambda_weight, weights, batch_maker
):
    make = LAMBDA_WEIGHTS[lambda_weight]
    assert_same(
        losses.get(key, lambda_weight=make()),
        their_loss(key, lambda_weight=make()),
        batch_maker(4),
        weights,
    )


@pytest.mark.parametrize("reduction", ["auto", "none"])
@pytest.mark.parametrize("key", KEYS)
def test_dense_batches_give_the_same_number_as_packed_ones(key, reduction, batch_maker):
    batch = batch_maker(5, masked=True, outputs=OUTPUTS.get(key))
    loss = losses.get(key, reduction=reduction, **ARGUMENTS.get(key, {}))
    assert_same(loss, loss, batch, "document")


@pytest.mark.parametrize(
    "key",
    [
        "pairwise_logistic_loss",
        "pairwise_mse_loss",
        "softmax_loss",
        "mixture_em_loss",
        "unique_softmax_loss",
        "neural_sort_ndcg_loss",
    ],
)
def test_temperature_divides_the_logits_on_every_lane(key, batch_maker):
    batch = batch_maker(6, outputs=OUTPUTS.get(key))
    warm, cold = losses.get(key, temperature=2.0), losses.get(key)
    scores = batch.scores(batch.logits)
    expected = float(cold(batch.labels, scores / 2.0))
    dense = batch.labels.to_tensor(-1.0), scores.to_tensor(0.0)
    assert float(warm(batch.labels, scores)) == pytest.approx(expected, rel=1e-5)
    assert float(warm(*dense)) == pytest.approx(expected, rel=1e-5)


def test_calibrated_softmax_matches_its_formula():
    labels, scores, virtual = np.array([1.0, 0.0]), np.array([0.6, 0.8]), 0.1
    total = np.log(1.0 + np.exp(scores).sum())
    expected = (labels * (total - scores)).sum() + virtual * total
    loss = losses.get("calibrated_softmax_loss", virtual_label=virtual)
    ragged = tf.ragged.constant([labels.tolist()]), tf.ragged.constant([[0.6, 0.8]])
    assert float(loss(*ragged)) == pytest.approx(expected, rel=1e-6)
    assert float(loss([labels], [scores])) == pytest.approx(expected, rel=1e-6)


def test_yeti_logistic_has_the_new_default_temperature_on_every_lane():
    assert losses.get("yeti_logistic_loss").get_config()["temperature"] == 1.0
