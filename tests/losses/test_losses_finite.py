"""No loss and no gradient is infinite or NaN on degenerate packed batches."""

from __future__ import annotations

import numpy as np
import pytest

from tfr_pipeline import losses
from tfr_pipeline.compat import tf

# labels, logits, row lengths
BATCHES = {
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


LOSSES = [(key, False) for key in losses.RankingLossKey.all_keys()]
LOSSES += [("pairwise_logistic_loss", True), ("softmax_loss", True)]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("key", "lambda_weighted"), LOSSES)
def test_loss_and_gradient_are_finite(key, batch, lambda_weighted):
    if batch == "logits of 1e30" and key in ("mean_squared_loss", "pairwise_mse_loss"):
        pytest.skip("squares of such logits are infinite")
    arguments = {}
    if lambda_weighted:
        arguments["lambda_weight"] = losses.NDCGLambdaWeight(topn=2)
    labels, values, lengths = BATCHES[batch]
    labels = tf.RaggedTensor.from_row_lengths(np.array(labels, np.float32), lengths)
    logits = tf.constant(values, tf.float32)
    if key == "ordinal_loss":
        logits = logits[:, tf.newaxis]
    loss = losses.get(key, **arguments)
    for weights in (None, np.zeros((len(lengths), 1), np.float32)):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            scores = tf.RaggedTensor.from_row_lengths(logits, lengths)
            value = loss(labels, scores, weights)
        gradient = tape.gradient(value, logits, unconnected_gradients="zero")
        assert np.isfinite(value.numpy())
        assert np.isfinite(tf.convert_to_tensor(gradient).numpy()).all()


def test_softmax_of_far_away_logits_is_exact():
    labels = tf.ragged.constant([[0.0, 1.0], [1.0, 0.0]])
    scores = tf.ragged.constant([[1e4, -1e4], [-1e4, -1e4]])
    value = losses.get("softmax_loss", reduction="none")(labels, scores)
    np.testing.assert_allclose(value, [2e4, np.log(2.0)], rtol=1e-6)
