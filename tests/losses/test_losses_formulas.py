"""Losses that TF-Ranking lacks, and their parts, against loops over their sums."""

from __future__ import annotations

import numpy as np
import pytest

from tfr_pipeline import losses
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.losses.neural_sort import neural_sort, sinkhorn

from .conftest import LENGTHS


def lists_of(batch, weights=None):
    """Yields labels, logits and weights of the valid documents of each list."""
    ends = np.cumsum(LENGTHS)
    labels = batch.labels.values.numpy().astype(float)
    logits = batch.logits.astype(float)
    for start, end in zip(ends - LENGTHS, ends, strict=True):
        rows = [i for i in range(start, end) if labels[i] >= 0]
        weight = None if weights is None else weights.values.numpy()[rows]
        yield labels[rows], logits[rows], weight


def both_layouts(loss, batch, weights=None):
    """Returns the loss, after checking that both layouts give it."""
    scores = batch.scores(batch.logits)
    packed = float(loss(batch.labels, scores, weights))
    dense = None if weights is None else weights.to_tensor(0.0)
    padded = float(loss(batch.labels.to_tensor(-1.0), scores.to_tensor(), dense))
    assert packed == pytest.approx(padded, rel=1e-5)
    return packed


def mean_weight(labels, weights):
    return (
        1.0 if weights is None else (labels * weights).sum() / max(labels.sum(), 1e-9)
    )


def gains(labels):
    return 2.0**labels - 1.0


def discount(rank):
    return 1.0 / np.log2(1.0 + rank)


def ideal_dcg(labels, topn=None):
    best = np.sort(gains(labels))[::-1][:topn]
    return sum(gain * discount(r + 1) for r, gain in enumerate(best))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("topn", "mu"), [(None, 10.0), (2, 0.5)])
def test_lambda_loss_is_ndcg_loss_2_plus_plus(topn, mu, weighted, batch_maker):
    batch = batch_maker(1, masked=True)
    weights = batch.weights["document"] if weighted else None
    loss = losses.get("lambda_loss", topn=topn, mu=mu, reduction="sum", temperature=0.5)
    total = 0.0
    for labels, logits, document_weights in lists_of(batch, weights):
        logits = logits / 0.5
        ranks = {i: 1 + (logits > logits[i]).sum() for i in range(len(labels))}
        cut = topn or max(LENGTHS)
        inside = {i: discount(r) if r <= cut else 0.0 for i, r in ranks.items()}
        for i, j in np.ndindex(len(labels), len(labels)):
            if labels[i] <= labels[j]:
                continue
            apart, lower = abs(ranks[i] - ranks[j]), max(ranks[i], ranks[j])
            delta = discount(apart) - discount(apart + 1)
            if lower > cut:
                delta /= 1.0 - discount(lower)
            weight = abs(inside[i] - inside[j]) + mu * delta
            weight *= (gains(labels[i]) - gains(labels[j])) / ideal_dcg(labels, topn)
            weight *= max(LENGTHS) * (document_weights[i] if weighted else 1.0)
            total += weight * np.log1p(np.exp(logits[j] - logits[i]))
    assert both_layouts(loss, batch, weights) == pytest.approx(total, rel=1e-5)


def permutation(logits):
    """NeuralSort's matrix, one row a rank."""
    count = len(logits)
    rows = []
    for rank in range(1, count + 1):
        scores = np.array(
            [
                (count + 1 - 2 * rank) * s - sum(abs(s - other) for other in logits)
                for s in logits
            ]
        )
        rows.append(np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum())
    return np.array(rows).reshape(count, count)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("topn", [None, 2])
def test_neural_ndcg_is_the_papers_formula(topn, weighted, batch_maker):
    batch = batch_maker(2, masked=True)
    weights = batch.weights["document"] if weighted else None
    loss = losses.get("neural_ndcg_loss", topn=topn, temperature=0.5, reduction="sum")
    total = 0.0
    for labels, logits, document_weights in lists_of(batch, weights):
        if not labels.sum():
            continue
        matrix = permutation(logits / 0.5)
        for _ in range(50):
            matrix = matrix / matrix.sum(axis=0, keepdims=True)
            matrix = matrix / matrix.sum(axis=1, keepdims=True)
        ranked = matrix @ gains(labels)
        dcg = sum(g * discount(r + 1) for r, g in enumerate(ranked[:topn]))
        ndcg = dcg / ideal_dcg(labels, topn)
        total -= ndcg * mean_weight(labels, document_weights)
    assert both_layouts(loss, batch, weights) == pytest.approx(total, rel=1e-5)


def test_neural_ndcg_of_far_apart_scores_is_ndcg():
    labels, scores = [[0.0, 2.0, 1.0, 3.0]], [[400.0, 300.0, 200.0, 100.0]]
    dcg = sum(gains(y) * discount(r + 1) for r, y in enumerate(labels[0]))
    expected = -dcg / ideal_dcg(np.array(labels[0]))
    assert float(losses.NeuralNDCGLoss()(labels, scores)) == pytest.approx(expected)


def test_scaled_permutations_are_doubly_stochastic_and_skip_masked_documents():
    rng = np.random.default_rng(0)
    logits = tf.constant(rng.normal(size=(3, 6)), tf.float32)
    mask = tf.sequence_mask([6, 1, 0], 6)[:, ::-1]
    matrices, rows = neural_sort(tf.where(mask, logits, 0.0), mask)
    matrices = sinkhorn(matrices, rows, mask, 200, 1e-6)
    np.testing.assert_allclose(
        tf.reduce_sum(matrices, 1), tf.cast(mask, float), atol=1e-5
    )
    np.testing.assert_allclose(
        tf.reduce_sum(matrices, 2), tf.cast(rows, float), atol=1e-5
    )


def circle(labels, logits, gamma, margin):
    scores = np.clip(logits, 0.0, 1.0)
    total = 1.0
    for i, j in np.ndindex(len(scores), len(scores)):
        if labels[i] > labels[j]:
            push = max(scores[j] + margin, 0.0) * (scores[j] - margin)
            pull = max(1.0 + margin - scores[i], 0.0) * (scores[i] - 1.0 + margin)
            total += np.exp(gamma * (push - pull))
    return np.log(total)


def test_circle_loss_is_the_papers_formula_where_single_precision_overflows():
    labels, scores = np.array([2.0, 0.0, 1.0, 0.0]), np.array([0.0, 1.0, 0.1, 0.9])
    expected = circle(labels, scores, 64.0, 0.25)
    assert expected > np.log(np.finfo(np.float32).max)
    found = float(losses.CircleLoss()([labels], [scores]))
    assert found == pytest.approx(expected, rel=1e-6)


def test_unique_softmax_loss_is_exact_for_scores_of_any_size():
    labels = tf.ragged.constant([[0.0, 1.0, 2.0, 0.0]])
    scores = tf.ragged.constant([[1e4, -1e4, 3.0, 2e4]])
    # log(1 + sum of exp) is the largest difference.
    expected = 1.0 * 3e4 + 3.0 * (2e4 - 3.0)
    assert float(losses.UniqueSoftmaxLoss()(labels, scores)) == pytest.approx(expected)


@pytest.mark.parametrize("make", [tf.ragged.constant, tf.constant])
def test_a_tie_has_half_the_gradient_of_a_wrong_pair(make):
    labels, scores = make([[1.0, 0.0]]), make([[0.0, 0.0]])
    with tf.GradientTape() as tape:
        flat = scores if make is tf.constant else scores.values
        tape.watch(flat)
        scores = flat if make is tf.constant else scores.with_values(flat)
        value = losses.PairwiseLogisticLoss(reduction="sum")(labels, scores)
    gradient = tf.reshape(tape.gradient(value, flat), [-1])
    np.testing.assert_allclose(gradient, [-0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize(
    "key",
    [
        "unique_softmax_loss",
        "poly_one_softmax_loss",
        "list_mle_loss",
        "neural_ndcg_loss",
        "lambda_loss",
        "mixture_em_loss",
    ],
)
def test_gradients_are_the_slopes_of_the_loss(key, layout, batch_maker):
    outputs = 2 if key == "mixture_em_loss" else None
    batch = batch_maker(3, outputs=outputs)
    logits = batch.logits
    # The shares of a mixture have no gradient: they must not depend on the scores.
    arguments = {"alpha": 0.0} if key == "mixture_em_loss" else {}
    loss = losses.get(key, reduction="sum", **arguments)

    def value(logits):
        tf.random.set_seed(1)
        labels, scores = batch.labels, batch.scores(logits)
        if layout == "padded":
            labels, scores = labels.to_tensor(-1.0), scores.to_tensor()
        return loss(labels, scores, batch.weights["list"])

    variable = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        total = value(variable)
    gradient = tf.convert_to_tensor(tape.gradient(total, variable)).numpy()
    step = 1e-2
    rng = np.random.default_rng(4)
    for _ in range(4):
        direction = rng.normal(size=logits.shape).astype(np.float32)
        direction /= np.linalg.norm(direction)
        shift = step * direction
        slope = (float(value(variable + shift)) - float(value(variable - shift))) / (
            2.0 * step
        )
        assert (gradient * direction).sum() == pytest.approx(slope, rel=2e-2, abs=2e-3)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_softmax_over_gains_is_their_sum_and_not_normalised(layout):
    random = np.random.default_rng(3)
    lengths = [4, 1, 3]
    labels = [random.integers(0, 5, n).astype("f4") for n in lengths]
    scores = [random.normal(size=n).astype("f4") for n in lengths]
    labels[0][2] = -1.0  # no label
    wanted = 0.0
    for y, s in zip(labels, scores, strict=True):
        s, y = s[y >= 0], y[y >= 0]
        wanted -= np.sum((2**y - 1) * (s - np.log(np.sum(np.exp(s))))) / len(lengths)
    y_true, y_pred = map(tf.ragged.constant, (labels, scores))
    if layout == "padded":
        y_true, y_pred = y_true.to_tensor(-1.0), y_pred.to_tensor(0.0)
    loss = losses.get("gain_softmax_loss")
    np.testing.assert_allclose(loss(y_true, y_pred), wanted, rtol=1e-5)
    again = tf.keras.losses.deserialize(tf.keras.losses.serialize(loss))
    np.testing.assert_allclose(again(y_true, y_pred), wanted, rtol=1e-5)


def test_gains_that_are_unknown_or_given_twice_are_refused():
    with pytest.raises(ConfigError, match="no function is registered as 'pow'"):
        losses.get("softmax_loss", gain_fn="pow")
    weight = losses.NDCGLambdaWeight()
    with pytest.raises(ConfigError, match="found both"):
        losses.get("softmax_loss", gain_fn="pow_minus_1", lambda_weight=weight)
    assert "gain_fn" not in losses.get("softmax_loss").get_config()
