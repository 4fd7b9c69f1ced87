"""Losses in blocks and closed forms: right at any block size and list length."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tfr_pipeline import losses
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.losses import listwise, softmax
from tfr_pipeline.losses.kernels import pair_blocks
from tfr_pipeline.losses.pairwise import block_form

theirs = tfr.keras.losses
LENGTHS = [5, 40, 0, 1, 23, 40, 2, 17]
PAIRWISE = {
    "pairwise_logistic_loss": theirs.PairwiseLogisticLoss,
    "pairwise_hinge_loss": theirs.PairwiseHingeLoss,
    "pairwise_soft_zero_one_loss": theirs.PairwiseSoftZeroOneLoss,
    "pairwise_mse_loss": theirs.PairwiseMSELoss,
}
OTHERS = {
    "softmax_loss": theirs.SoftmaxLoss,
    "approx_ndcg_loss": theirs.ApproxNDCGLoss,
    "approx_mrr_loss": theirs.ApproxMRRLoss,
    "list_mle_loss": theirs.ListMLELoss,
    "sigmoid_cross_entropy_loss": theirs.SigmoidCrossEntropyLoss,
    "click_em": theirs.ClickEMLoss,
}
LAMBDA_WEIGHTS = {
    "none": lambda: None,
    "dcg": lambda: losses.DCGLambdaWeight(topn=4, normalized=False),
    "gain_of_zero": lambda: losses.DCGLambdaWeight(
        topn=7, gain_fn=lambda label: label + 1.0, normalized=True
    ),
    "ndcg": lambda: losses.NDCGLambdaWeight(),
    "ndcg_smooth": lambda: losses.NDCGLambdaWeight(smooth_fraction=0.25),
    "ndcg_at_1": lambda: losses.NDCGLambdaWeight(topn=1),
    "ndcg_at_10_smooth": lambda: losses.NDCGLambdaWeight(topn=10, smooth_fraction=1.0),
    "ndcg_at_100": lambda: losses.NDCGLambdaWeight(topn=100),
    "ndcg_v2": lambda: losses.NDCGLambdaWeightV2(topn=6),
    "loss_2pp": lambda: losses.NDCGLoss2PPLambdaWeight(),
    "loss_2pp_at_6": lambda: losses.NDCGLoss2PPLambdaWeight(topn=6, mu=0.5),
    "yeti": lambda: losses.YetiDCGLambdaWeight(topn=3),
    "precision": lambda: losses.PrecisionLambdaWeight(topn=5),
    "label_difference": lambda: losses.LabelDiffLambdaWeight(),
}


class SquaredLabelDifference(losses.LabelDiffLambdaWeight):
    """A formula of a user's own."""

    def pair_weights(self, labels, ranks):
        difference = labels[:, :, tf.newaxis] - labels[:, tf.newaxis, :]
        rank = tf.cast(ranks, tf.float32)
        return tf.square(difference) / (rank[:, :, tf.newaxis] + rank[:, tf.newaxis, :])


class FixedGain(losses.DCGLambdaWeight):
    """TF-Ranking's formula with arguments of a user's own."""

    def __init__(self):
        super().__init__(topn=3, gain_fn=tf.square, normalized=True)


def ragged(values):
    return tf.RaggedTensor.from_row_lengths(values, LENGTHS)


def batch(seed, continuous=False, masked=True, outputs=None):
    """Labels, scores without ties, and document weights."""
    rng = np.random.default_rng(seed)
    documents = sum(LENGTHS)
    if continuous:
        labels = rng.uniform(0.0, 3.0, documents)
    else:
        labels = rng.choice(5, documents, p=[0.4, 0.3, 0.15, 0.1, 0.05]).astype(float)
    if masked:
        labels[rng.uniform(size=documents) < 0.15] = -1.0
    shape = (documents,) if outputs is None else (documents, outputs)
    logits = rng.normal(size=shape)
    return tuple(
        tf.constant(values, tf.float32)
        for values in (labels, logits, rng.uniform(0.5, 2.0, documents))
    )


def value_and_gradient(loss, labels, logits, weights, layout, graph=False):
    """`layout` is `ragged` or what pads it.

    In a graph as in training where that is asked for: it takes long to make one.
    """
    tf.random.set_seed(5)

    def step(labels, logits, weights):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(
                layout(ragged(labels), -1.0),
                layout(ragged(logits), 0.0),
                None if weights is None else layout(ragged(weights), 0.0),
            )
            # Unequal, so that reduction NONE has no gradient of ones.
            weighted = value
            if value.shape.rank:
                weighted *= tf.reshape(
                    tf.cos(tf.range(tf.size(value), dtype=tf.float32)), tf.shape(value)
                )
        return value, tf.convert_to_tensor(tape.gradient(weighted, logits))

    return (tf.function(step) if graph else step)(labels, logits, weights)


def packed(value, fill):
    del fill
    return value


def padded(value, fill):
    return value.to_tensor(fill)


def assert_close(mine, expected):
    for a, b in zip(mine, expected, strict=True):
        b = np.asarray(b)
        np.testing.assert_allclose(
            a, b, rtol=1e-5, atol=1e-5 * max(np.abs(b).max(), 1e-3)
        )


@pytest.mark.parametrize(
    ("reduction", "weighted"), [("auto", False), ("sum", True), ("none", True)]
)
@pytest.mark.parametrize("key", [*PAIRWISE, *OTHERS])
def test_values_and_gradients_are_tf_rankings_on_longer_lists(key, reduction, weighted):
    outputs = 2 if key == "click_em" else None
    labels, logits, weights = batch(1, outputs=outputs)
    weights = weights if weighted else None
    their_class = {**PAIRWISE, **OTHERS}[key]
    ours = (
        losses.ClickEMLoss(reduction=reduction)
        if key == "click_em"
        else losses.get(key, reduction=reduction)
    )
    expected = value_and_gradient(
        their_class(reduction=reduction), labels, logits, weights, padded
    )
    found = value_and_gradient(ours, labels, logits, weights, packed, not weighted)
    assert_close(found, expected)


@pytest.mark.parametrize("continuous_and_weighted", [False, True])
@pytest.mark.parametrize("name", LAMBDA_WEIGHTS)
def test_lambda_weights_are_tf_rankings_on_longer_lists(name, continuous_and_weighted):
    labels, logits, weights = batch(2, continuous_and_weighted)
    weights = weights if continuous_and_weighted else None
    make = LAMBDA_WEIGHTS[name]
    expected = value_and_gradient(
        theirs.PairwiseLogisticLoss(lambda_weight=make()),
        labels,
        logits,
        weights,
        padded,
    )
    ours = losses.get("pairwise_logistic_loss", lambda_weight=make())
    graph = continuous_and_weighted
    found = value_and_gradient(ours, labels, logits, weights, packed, graph)
    assert_close(found, expected)


@pytest.mark.parametrize("name", ["ndcg_smooth", "ndcg_at_1", "precision"])
def test_squared_losses_take_lambda_weights_as_tf_rankings_do(name):
    labels, logits, weights = batch(5)
    make = LAMBDA_WEIGHTS[name]
    expected = value_and_gradient(
        theirs.PairwiseMSELoss(lambda_weight=make()), labels, logits, weights, padded
    )
    ours = losses.get("pairwise_mse_loss", lambda_weight=make())
    assert_close(value_and_gradient(ours, labels, logits, weights, packed), expected)


@pytest.mark.parametrize("key", PAIRWISE)
@pytest.mark.parametrize("make", [SquaredLabelDifference, FixedGain])
def test_users_lambda_weights_are_asked_for_their_own_formula(make, key):
    labels, logits, weights = batch(3)
    expected = value_and_gradient(
        PAIRWISE[key](lambda_weight=make()), labels, logits, weights, padded
    )
    ours = losses.get(key, lambda_weight=make())
    assert_close(value_and_gradient(ours, labels, logits, weights, packed), expected)


def test_only_changed_formulas_have_no_block_form():
    assert block_form.has_block_form(FixedGain())
    assert not block_form.has_block_form(SquaredLabelDifference())
    for name in ("YetiDCGLambdaWeight", "NDCGLoss2PPLambdaWeight"):
        assert block_form.has_block_form(getattr(losses, name)())


def double_loop(labels, logits, weights, topn, smooth):
    """Logistic loss with NDCG's lambda weights, list by list, pair by pair."""
    total, gradient = 0.0, np.zeros(len(logits))
    gain, discount = lambda y: 2.0**y - 1.0, lambda r: 1.0 / np.log2(1.0 + r)
    start = 0
    for length in LENGTHS:
        rows = [i for i in range(start, start + length) if labels[i] >= 0]
        start += length
        ranks = {i: 1 + sum(logits[j] > logits[i] for j in rows) for i in rows}
        cut = topn or max(LENGTHS)
        best = sorted((labels[i] for i in rows), reverse=True)[:cut]
        ideal = sum(gain(y) * discount(r + 1) for r, y in enumerate(best))
        for i in rows:
            for j in rows:
                if labels[i] <= labels[j] or min(ranks[i], ranks[j]) > cut:
                    continue
                apart = abs(ranks[i] - ranks[j])
                swap = [discount(r) if r <= cut else 0.0 for r in (ranks[i], ranks[j])]
                weight = (1.0 - smooth) * (discount(apart) - discount(apart + 1))
                weight += smooth * abs(swap[0] - swap[1])
                weight *= abs(gain(labels[i]) - gain(labels[j])) / ideal * max(LENGTHS)
                weight *= weights[i]
                odds = np.exp(logits[j] - logits[i])
                total += weight * np.log1p(odds)
                gradient[i] -= weight * odds / (1.0 + odds)
                gradient[j] += weight * odds / (1.0 + odds)
    return total, gradient


@pytest.mark.parametrize("smooth", [0.0, 0.4])
@pytest.mark.parametrize("topn", [1, 5, None])
def test_lambda_loss_is_the_double_loop_over_pairs(topn, smooth):
    labels, logits, weights = batch(4)
    weight = losses.NDCGLambdaWeight(topn=topn, smooth_fraction=smooth)
    loss = losses.get("pairwise_logistic_loss", lambda_weight=weight, reduction="sum")
    arrays = [x.numpy().astype(float) for x in (labels, logits, weights)]
    expected = double_loop(*arrays, topn, smooth)
    assert_close(value_and_gradient(loss, labels, logits, weights, packed), expected)


def blocks_of(name, graph=False):
    """Values and gradients of the losses that go through pairs in blocks."""
    weight = LAMBDA_WEIGHTS[name]()
    loss = losses.get("pairwise_logistic_loss", lambda_weight=weight)
    both = (loss, losses.get("approx_ndcg_loss"))
    return [
        part
        for loss in both
        for part in value_and_gradient(loss, *batch(6), packed, graph)
    ]


in_one_block = functools.cache(blocks_of)


@pytest.mark.parametrize("name", ["none", "ndcg", "ndcg_v2", "ndcg_at_10_smooth"])
@pytest.mark.parametrize(("pairs", "rows"), [(1, 1), (64, 3), (500, 1)])
def test_small_blocks_give_the_numbers_of_one_block(name, pairs, rows, monkeypatch):
    expected = in_one_block(name)
    monkeypatch.setattr(pair_blocks, "BLOCK_PAIRS", pairs)
    monkeypatch.setattr(pair_blocks, "BLOCK_ROWS", rows)
    monkeypatch.setattr(block_form, "TABLE_CELLS", 0)
    assert_close(blocks_of(name, graph=rows > 1), expected)


def test_softmax_in_segments_equals_softmax_in_a_table(monkeypatch):
    labels, logits, weights = batch(7)
    loss = losses.get("softmax_loss", reduction="none")
    expected = value_and_gradient(loss, labels, logits, weights, packed)
    monkeypatch.setattr(softmax, "DENSE_CELLS", 0)
    assert_close(value_and_gradient(loss, labels, logits, weights, packed), expected)


def test_list_mle_by_logarithms_equals_list_mle_by_sums(monkeypatch):
    labels, logits, weights = batch(8, continuous=True)
    loss = losses.get("list_mle_loss", reduction="none")
    expected = value_and_gradient(loss, labels, logits, weights, packed)
    monkeypatch.setattr(listwise, "FLOAT_RANGE", 0.0)
    assert_close(value_and_gradient(loss, labels, logits, weights, packed), expected)


@pytest.mark.parametrize("key", [*PAIRWISE, *OTHERS])
def test_a_batch_without_documents_has_loss_and_gradient_0(key):
    if key == "click_em":
        pytest.skip("needs two scores a document")
    logits = tf.zeros([0])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        empty = tf.RaggedTensor.from_row_lengths(logits, tf.zeros([0], tf.int64))
        value = losses.get(key)(empty, empty)
    assert float(value) == 0.0
    assert tape.gradient(value, logits).shape == [0]


class Linear(tf.keras.layers.Layer):
    """Scores documents with one weight a feature."""

    def __init__(self):
        super().__init__()
        self.dense = tf.keras.layers.Dense(1, kernel_initializer="ones")

    def call(self, features):
        return features.with_values(self.dense(features.values)[:, 0])


def test_steps_per_execution_does_not_change_training():
    features = np.random.default_rng(0).normal(size=(sum(LENGTHS), 3))
    labels, _, _ = batch(9)
    data = tf.data.Dataset.from_tensor_slices(
        (ragged(tf.constant(features, tf.float32)), ragged(labels))
    ).batch(2)
    trained = []
    for steps in (1, 4):
        inputs = tf.keras.Input(shape=(None, 3), ragged=True)
        model = tf.keras.Model(inputs, Linear()(inputs))
        weight = losses.NDCGLambdaWeight(topn=5)
        model.compile(
            tf.keras.optimizers.SGD(0.1),
            loss=losses.get("pairwise_logistic_loss", lambda_weight=weight),
            steps_per_execution=steps,
        )
        trained.append(model.fit(data, epochs=3, verbose=0).history["loss"])
    np.testing.assert_allclose(trained[1], trained[0], rtol=1e-5)
    assert trained[0][2] < trained[0][0]


_HUGE = """
    import json, re
    from tfr_pipeline import losses
    from tfr_pipeline.compat import tf
    labels = tf.cast(tf.random.uniform([60000], 0, 5, tf.int32, seed=1), tf.float32)
    scores = tf.Variable(tf.random.normal([60000], seed=1))
    weight = losses.NDCGLambdaWeight(topn=10)
    ragged = lambda values: tf.RaggedTensor.from_row_lengths(values, [60000])
    finite = []
    for loss in (losses.get("softmax_loss"), losses.get("approx_ndcg_loss"),
                 losses.get("pairwise_logistic_loss", lambda_weight=weight)):
        @tf.function
        def step():
            with tf.GradientTape() as tape:
                value = loss(ragged(labels), ragged(scores))
            gradient = tape.gradient(value, scores)
            scores.assign_sub(gradient)
            return tf.reduce_all(tf.math.is_finite(gradient))
        finite.append(bool(step()))
    # That of getrusage includes what this process was before it became another.
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
    print(json.dumps([finite, int(peak)]))
"""


@pytest.mark.slow
def test_a_list_of_60000_documents_trains_within_4_gb():
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_HUGE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    finite, kilobytes = json.loads(run.stdout.strip().splitlines()[-1])
    assert finite == [True] * 3
    assert kilobytes < 4 * 2**20
