"""No loss and no gradient is infinite or NaN on degenerate batches."""

from __future__ import annotations

import numpy as np
import pytest

from tfr_pipeline import losses
from tfr_pipeline.compat import tf

# labels, logits, row lengths
BATCHES = {
    "no lists": ([], [], []),
    "no documents": ([], [], [0, 0]),
    "empty lists": ([1, 0, 2], [0.1, 0.2, 0.3], [0, 2, 1, 0]),
    "single documents": ([1, 0, 2], [0.1, 0.2, 0.3], [1, 1, 1]),
    "equal labels": ([2, 2, 2, 1, 1], [0.1, 0.2, 0.3, 0.3, 0.3], [3, 2]),
    "zero labels": ([0, 0, 0, 0, 0], [0.1, 0.2, 0.3, 0.3, 0.3], [3, 2]),
    "invalid list": ([-1, -1, -1, 1, 0], [0.1, 0.2, 0.3, 0.3, 0.3], [3, 2]),
    "huge logits": ([0, 1, 2, 1, 0, 0, 1], [1e4, -1e4, 0, -1e4, 1e4, 9, 8], [3, 2, 2]),
    "logits of 1e30": (
        [0, 1, 2, 1, 0, 0, 1],
        [1e30, -1e30, 0, -1e30, 1e30, 9, 8],
        [3, 2, 2],
    ),
    "all far below": ([0, 1, 2, 1, 0], [-1e4, -1.1e4, -9e3, -1e4, -1e4], [3, 2]),
    "invalid far above": ([0, 1, -1, 1, -1], [-1e4, -1e4, 1e4, -1e4, 1e4], [3, 2]),
    "large labels": ([40, 0, 60, 1], [1, 2, 3, 4], [2, 2]),
}


LOSSES = [(key, None) for key in losses.RankingLossKey.all_keys()]
LOSSES += [
    ("pairwise_logistic_loss", "NDCGLambdaWeight"),
    ("yeti_logistic_loss", "YetiDCGLambdaWeight"),
    ("softmax_loss", "NDCGLambdaWeight"),
]


def value_and_gradient(loss, batch, weights, layout):
    labels, values, lengths = batch
    outputs = {"OrdinalLoss": 1, "ClickEMLoss": 2, "MixtureEMLoss": 2}
    outputs = outputs.get(type(loss).__name__)
    lengths = tf.constant(lengths, tf.int64)
    labels = tf.RaggedTensor.from_row_lengths(np.array(labels, np.float32), lengths)
    logits = tf.constant(values, tf.float32)
    if outputs:
        logits = tf.reshape(tf.repeat(logits, outputs), [-1, outputs])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        scores = tf.RaggedTensor.from_row_lengths(logits, lengths)
        if layout == "padded":
            labels, scores = labels.to_tensor(-1.0), scores.to_tensor(0.0)
        value = loss(labels, scores, weights)
    gradient = tape.gradient(value, logits, unconnected_gradients="zero")
    return value.numpy(), tf.convert_to_tensor(gradient).numpy()


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("key", "weight"), LOSSES)
def test_loss_and_gradient_are_finite(key, batch, weight, layout):
    if batch == "logits of 1e30" and key in ("mean_squared_loss", "pairwise_mse_loss"):
        pytest.skip("squares of such logits are infinite")
    arguments = {}
    if weight:
        arguments["lambda_weight"] = getattr(losses, weight)(topn=2)
    loss = losses.get(key, **arguments)
    weightless = np.zeros((len(BATCHES[batch][2]), 1), np.float32)
    # 0 times infinity is NaN.
    extreme = batch in ("no lists", "huge logits", "large labels")
    for weights in (None, weightless) if extreme else (None,):
        value, gradient = value_and_gradient(loss, BATCHES[batch], weights, layout)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("key", losses.RankingLossKey.all_keys())
def test_masked_and_weightless_lists_have_loss_and_gradient_0(key, layout):
    masked = ([-1, -1, -1], [0.1, 0.2, 0.3], [2, 1])
    valid = ([1, 0, 2], [0.1, 0.2, 0.3], [2, 1])
    loss = losses.get(key)
    for batch, weights in ((masked, None), (valid, np.zeros((2, 1), np.float32))):
        value, gradient = value_and_gradient(loss, batch, weights, layout)
        if key != "list_mle_loss" or batch is valid:  # it orders the padding
            assert value == 0.0
        assert not gradient.any()


def test_softmax_of_far_away_logits_is_exact():
    labels = tf.ragged.constant([[0.0, 1.0], [1.0, 0.0]])
    scores = tf.ragged.constant([[1e4, -1e4], [-1e4, -1e4]])
    value = losses.get("softmax_loss", reduction="none")(labels, scores)
    np.testing.assert_allclose(value, [2e4, np.log(2.0)], rtol=1e-6)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize(
    ("key", "weight"),
    [
        ("pairwise_logistic_loss", "NDCGLambdaWeight"),
        ("pairwise_mse_loss", "NDCGLambdaWeightV2"),
        ("pairwise_hinge_loss", "NDCGLoss2PPLambdaWeight"),
        ("softmax_loss", "NDCGLambdaWeight"),
    ],
)
def test_normalised_gains_are_exact_for_grades_of_any_size(key, weight, layout):
    batch = ([200, 199, 0, 195], [1, 2, 3, 2.5], [4])
    # In range for these grades, and in the same ratios as 2^y - 1.
    scaled = {"gain_fn": lambda label: tf.pow(2.0, label - 200.0)}
    found, expected = (
        value_and_gradient(
            losses.get(key, lambda_weight=getattr(losses, weight)(topn=2, **gain)),
            batch,
            None,
            layout,
        )
        for gain in ({}, scaled)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
