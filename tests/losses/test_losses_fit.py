"""Losses and metrics under `compile` and `fit` with ragged inputs and outputs."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tfr_pipeline import losses, metrics
from tfr_pipeline.compat import tf

SEVERAL_SCORES = ("ordinal_loss", "click_em_loss", "mixture_em_loss")
KEYS = [k for k in losses.RankingLossKey.all_keys() if k not in SEVERAL_SCORES]
BY_CHANCE = ("yeti", "gumbel", "list_mle", "coupled")
DIVERSITY = ("precision_ia", "alpha_dcg")


class ScoreDocuments(tf.keras.layers.Layer):
    """Scores the documents of a ragged `[batch, (list), features]`."""

    def __init__(self):
        super().__init__()
        self.dense = tf.keras.layers.Dense(1)

    def call(self, features):
        # A replica without lists gets values of shape [0] instead of [0, 3].
        values = tf.reshape(features.values, [-1, 3])
        return features.with_values(self.dense(values)[:, 0])


def make_model():
    tf.keras.utils.set_random_seed(1)
    features = tf.keras.Input(shape=(None, 3), ragged=True)
    return tf.keras.Model(features, ScoreDocuments()(features))


def make_data(lists=11):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, lists)
    documents = lengths.sum()
    values = rng.normal(size=(documents, 3)).astype(np.float32)
    labels = np.clip(np.round(values[:, 0] + 1.0), 0, 3).astype(np.float32)
    ragged = tf.RaggedTensor.from_row_lengths
    weights = rng.uniform(0.5, 2.0, documents).astype(np.float32)
    return (
        ragged(values, lengths),
        ragged(labels, lengths),
        {
            "none": None,
            "list": rng.uniform(0.5, 2.0, lists).astype(np.float32),
            "column": rng.uniform(0.5, 2.0, (lists, 1)).astype(np.float32),
            "document": ragged(weights, lengths),
        },
    )


def dataset(weights, batch_size=4):
    features, labels, all_weights = make_data()
    tensors = (features, labels)
    if all_weights[weights] is not None:
        tensors += (all_weights[weights],)
    return tf.data.Dataset.from_tensor_slices(tensors).batch(batch_size)


@pytest.mark.parametrize("key", KEYS)
def test_two_epochs_of_fit_lower_the_loss(key):
    arguments = {}
    if key.startswith(("yeti", "gumbel")):
        arguments["seed"] = 1
    model = make_model()
    data = dataset("none", batch_size=11)  # one batch: the loss must go down
    model.compile(
        tf.keras.optimizers.SGD(0.01 if key != "approx_ndcg_loss" else 0.1),
        loss=losses.get(key, **arguments),
    )
    history = model.fit(data, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    if not key.startswith(BY_CHANCE):
        assert history[1] < history[0]


@pytest.mark.parametrize("steps_per_execution", [1, 3])
@pytest.mark.parametrize("weights", ["none", "list", "column", "document"])
def test_keras_reports_the_loss_and_metric_computed_by_hand(
    weights, steps_per_execution
):
    model = make_model()
    loss, ndcg = losses.get("softmax_loss"), metrics.get("ndcg", topn=3)
    arguments = {"metrics": [metrics.get("ndcg", name="metric/ndcg_3", topn=3)]}
    if weights != "none":
        arguments["weighted_metrics"] = [
            metrics.get("ndcg", name="metric/weighted", topn=3)
        ]
    model.compile(
        tf.keras.optimizers.SGD(0.0),
        loss=loss,
        steps_per_execution=steps_per_execution,
        **arguments,
    )
    history = model.fit(dataset(weights), verbose=0).history
    total, weighted = 0.0, metrics.get("ndcg", topn=3)
    for features, labels, *rest in dataset(weights):
        scores = model(features)
        weight = rest[0] if rest else None
        if weights == "list":
            weight = weight[:, tf.newaxis]
        total += float(loss(labels, scores, weight)) * int(labels.nrows())
        ndcg.update_state(labels, scores)
        weighted.update_state(labels, scores, weight)
    assert history["loss"][0] == pytest.approx(total / 11, rel=1e-5)
    assert history["metric/ndcg_3"][0] == pytest.approx(float(ndcg.result()), rel=1e-5)
    if weights != "none":
        assert history["metric/weighted"][0] == pytest.approx(
            float(weighted.result()), rel=1e-5
        )


def test_every_metric_is_reported_by_fit_under_its_name():
    keys = [key for key in metrics.RankingMetricKey.all_keys() if key not in DIVERSITY]
    model = make_model()
    model.compile(
        "sgd",
        loss=losses.get("mean_squared_loss"),
        metrics=[metrics.get(key, name=f"metric/{key}") for key in keys],
    )
    data = dataset("none")
    history = model.fit(data, validation_data=data, epochs=2, verbose=0).history
    for key in keys:
        for name in (f"metric/{key}", f"val_metric/{key}"):
            assert len(history[name]) == 2
            assert np.isfinite(history[name]).all()


_MIRRORED = """
    import json, sys
    sys.path.insert(0, {folder!r})
    from tfr_pipeline.compat import tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    import test_losses_fit as helper
    from tfr_pipeline import losses, metrics
    results = []
    for key in ("softmax_loss", "pairwise_logistic_loss"):
        for strategy in (tf.distribute.get_strategy(),
                         tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
            with strategy.scope():
                model = helper.make_model()
                model.compile(
                    tf.keras.optimizers.SGD(0.1),
                    loss=losses.get(key, reduction="sum"),
                    metrics=[metrics.get("ndcg", name="metric/ndcg"),
                             metrics.get("map", name="metric/map")],
                    weighted_metrics=[metrics.get("mrr", name="metric/mrr")],
                    steps_per_execution=2)
            # 11 lists in batches of 5: the last leaves one replica without a list.
            model.fit(helper.dataset("document", 5), epochs=2, verbose=0)
            values = model.evaluate(helper.dataset("document", 5), return_dict=True,
                                    verbose=0)
            values["weight"] = float(tf.reduce_sum(model.trainable_weights[0]))
            results.append(values)
    print(json.dumps(results))
"""


# The quick test of replicas is in tests/pipeline/test_global_batch.py.
@pytest.mark.slow
def test_two_mirrored_replicas_train_and_measure_as_one_device_does():
    folder = __file__.rsplit("/", 1)[0]
    code = textwrap.dedent(_MIRRORED).format(folder=folder)
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    results = json.loads(run.stdout.strip().splitlines()[-1])
    for single, mirrored in zip(results[::2], results[1::2], strict=True):
        # With SUM, neither the number of lists nor the longest list of a replica
        # enters the gradient.
        for name in ("weight", "metric/ndcg", "metric/map"):
            assert mirrored[name] == pytest.approx(single[name], rel=1e-4)
