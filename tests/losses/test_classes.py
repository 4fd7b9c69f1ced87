"""The cross-entropy of classes, beside Keras's and scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss

from tests.replicas import run_on_devices
from tfr_pipeline import losses
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError

KEY = losses.ClassLossKey.CATEGORICAL_CROSS_ENTROPY_LOSS
LABELS = np.float32([0, 2, -1, 1, 2, -1, 0])
SCORES = np.random.default_rng(3).normal(size=(7, 3)).astype(np.float32) * 3
WEIGHTS = np.float32([1, 2, 5, 0.5, 0, 3, 1])
LABELLED = LABELS >= 0


def packed(values):
    """Lists of one document each."""
    return tf.RaggedTensor.from_row_splits(values, np.arange(len(LABELS) + 1))


def batches(weights=None):
    """The same batch in both layouts: labels, scores, weights."""
    arrays = (LABELS, SCORES) if weights is None else (LABELS, SCORES, weights)
    yield [packed(tf.constant(array)) for array in arrays]
    yield [tf.constant(array)[:, tf.newaxis] for array in arrays]


def keras_loss(scores, weights=None, **arguments):
    theirs = tf.keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, **arguments
    )
    weights = None if weights is None else weights[LABELLED]
    return theirs(LABELS[LABELLED], tf.boolean_mask(scores, LABELLED), weights)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("reduction", ["auto", "sum_over_batch_size", "sum"])
def test_loss_and_gradient_are_those_of_keras_on_labelled_examples(reduction, weights):
    scores = tf.Variable(SCORES)
    with tf.GradientTape() as tape:
        wanted = keras_loss(scores, weights, reduction=reduction)
    gradient = tape.gradient(wanted, scores).numpy()
    assert (gradient[~LABELLED] == 0).all()
    for labels, _, *others in batches(weights):
        variable = tf.Variable(SCORES)
        with tf.GradientTape() as tape:
            given = packed(variable)
            if not isinstance(labels, tf.RaggedTensor):
                given = variable[:, tf.newaxis]
            found = losses.get(KEY, reduction)(labels, given, *others)
        assert float(found) == pytest.approx(float(wanted), rel=1e-6)
        np.testing.assert_allclose(tape.gradient(found, variable), gradient, atol=1e-6)


def test_the_mean_is_scikit_learns_log_loss():
    shares = tf.nn.softmax(SCORES[LABELLED]).numpy().astype(np.float64)
    wanted = log_loss(LABELS[LABELLED], shares)
    for batch in batches():
        assert float(losses.get(KEY)(*batch)) == pytest.approx(wanted, rel=1e-6)


def test_unlabelled_examples_change_nothing():
    rows = np.flatnonzero(LABELLED)
    alone = losses.get(KEY)(LABELS[rows, np.newaxis], SCORES[rows, np.newaxis])
    wild = np.where(LABELLED[:, np.newaxis], SCORES, np.float32("inf"))
    for scores in (SCORES, wild):
        found = losses.get(KEY)(LABELS[:, np.newaxis], scores[:, np.newaxis])
        assert float(found) == pytest.approx(float(alone), rel=1e-6)


def test_a_batch_without_labels_has_the_loss_0():
    labels = np.full((4, 1), -1, np.float32)
    assert float(losses.get(KEY)(labels, SCORES[:4, np.newaxis])) == 0.0
    empty = losses.get(KEY)(labels[:0], SCORES[:0, np.newaxis])
    assert float(empty) == 0.0


def test_without_reduction_there_is_a_loss_for_each_example():
    wanted = np.zeros(len(LABELS), np.float32)
    wanted[LABELLED] = keras_loss(SCORES, WEIGHTS, reduction="none")
    for batch in batches(WEIGHTS):
        found = losses.get(KEY, "none")(*batch)
        found = found.values if isinstance(found, tf.RaggedTensor) else found[:, 0]
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_weights_of_classes_multiply_those_of_examples():
    of_classes = np.float32([0.5, 4.0, 0.0])
    both = np.where(LABELLED, WEIGHTS * of_classes[LABELS.astype(int)], 0)
    wanted = float(keras_loss(SCORES, both))
    loss = losses.get(KEY, class_weights=(0.5, 4.0, 0.0))
    for batch in batches(WEIGHTS):
        assert float(loss(*batch)) == pytest.approx(wanted, rel=1e-6)


def test_smoothed_labels_are_those_of_keras():
    ours = losses.get(KEY, label_smoothing=0.2)
    theirs = tf.keras.losses.CategoricalCrossentropy(True, label_smoothing=0.2)
    labels = np.eye(3, dtype=np.float32)[[0, 2, 1, 1]]
    scores = np.random.default_rng(0).normal(size=[4, 3]).astype(np.float32)
    found = ours(labels.argmax(axis=1).astype(np.float32)[:, None], scores[:, None])
    assert float(found) == pytest.approx(float(theirs(labels, scores)), rel=1e-5)
    assert ours.get_config()["label_smoothing"] == 0.2
    with pytest.raises(ConfigError, match="label_smoothing"):
        losses.get(KEY, label_smoothing=1.0)


def test_one_score_is_the_log_odds_of_the_second_class():
    labels = np.float32([0, 1, 1, -1])[:, np.newaxis]
    scores = np.float32([0.3, -2.0, 5.0, 1.0])[:, np.newaxis]
    wanted = tf.keras.losses.BinaryCrossentropy(from_logits=True)(
        labels[:3], scores[:3]
    )
    for given in (scores, scores[..., np.newaxis]):  # Keras drops an axis of one
        found = float(losses.get(KEY)(labels, given))
        assert found == pytest.approx(float(wanted), rel=1e-6)


def test_a_loss_is_made_of_its_config():
    loss = losses.get(KEY, class_weights=(1.0, 2.0, 3.0))
    again = tf.keras.losses.deserialize(tf.keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
    batch = next(batches())
    assert float(again(*batch)) == float(loss(*batch))


@pytest.mark.parametrize("weights", [(1.0,), (1.0, -1.0), (1.0, float("nan"))])
def test_weights_of_classes_that_cannot_be_are_refused(weights):
    with pytest.raises(ConfigError, match="class_weights"):
        losses.get(KEY, class_weights=weights)


def test_layouts_are_not_mixed():
    (labels, _), (_, scores) = batches()
    with pytest.raises(ValueError, match="same layout"):
        losses.get(KEY)(labels, scores)


# Two replicas, of which one has more lists, and the other more labels.
SCRIPT = """
import numpy as np
from tfr_pipeline import global_batch, losses
labels = [np.float32([[0], [-1], [-1]]), np.float32([[2], [1]])]
scores = np.random.default_rng(0).normal(size=(5, 1, 3)).astype(np.float32)
parts = [scores[:3], scores[3:]]
loss = losses.get("categorical_cross_entropy_loss")
loss._allow_sum_over_batch_size = True  # as in a compiled model
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

def of_replica():
    number = tf.distribute.get_replica_context().replica_id_in_sync_group
    y, s = (tf.switch_case(number, [lambda p=p: tf.constant(p) for p in both])
            for both in (labels, parts))
    y, s = tf.ensure_shape(y, [None, 1]), tf.ensure_shape(s, [None, 1, 3])
    batch = global_batch.of(y)
    with global_batch.known(batch):
        return loss(y, s) * batch.share

found = strategy.reduce("MEAN", tf.function(strategy.run)(of_replica), axis=None)
wanted = loss(np.concatenate(labels), scores)
print(float(found), float(wanted))
"""


def test_replicas_with_unequal_numbers_of_labels_average_to_the_loss_of_all():
    found, wanted = map(float, run_on_devices(2, SCRIPT).split())
    assert found == pytest.approx(wanted, rel=1e-6)
