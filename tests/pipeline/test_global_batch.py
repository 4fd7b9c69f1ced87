"""A global batch gives the same curve however many replicas share it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.pipeline.training_helpers import make_config
from tests.replicas import run_on_devices
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.sources.options import Options

# Trains each config and prints its history and weights; no export, no evaluation.
CURVES = """
import json, sys
from tfr_pipeline.pipeline.distribute import strategies
from tfr_pipeline.experiment.build import build_pipeline

for text in sys.argv[1:]:
    config = json.loads(text)
    added = config.pop("added")
    pipeline = build_pipeline(config)
    tf.keras.utils.set_random_seed(config["seed"])
    feed = pipeline._feed
    with strategies.strategy_scope(pipeline._role.strategy):
        layout = pipeline._layout()
        steps = feed.check(layout)
        model = pipeline._compile(layout, steps)
        if added:
            squares = tf.reduce_sum(tf.square(model.output), axis=1)
            model.add_loss(added * tf.reduce_mean(squares))
        history = model.fit(
            feed.dataset("train", layout, model=model),
            validation_data=feed.dataset("valid", layout, model=model),
            validation_steps=feed.steps("valid", layout),
            steps_per_epoch=steps,
            epochs=2,
            verbose=0,
        ).history
    weights = [weight.tolist() for weight in model.get_weights()]
    print(json.dumps([feed.replicas, layout, steps, history, weights]))
"""
# Means over lists, over cells, and with lambda weights that know the longest list.
LOSSES = (
    "softmax_loss",
    "approx_ndcg_loss",
    "pairwise_logistic_loss",
    "mean_squared_loss",
    "lambda_loss",
)


@pytest.fixture(scope="module")
def weighted(tmp_path_factory):
    """Lists of 1 to 30 documents with weights; 37 for training, 7 for validation."""
    folder = tmp_path_factory.mktemp("global_batch")
    random = np.random.default_rng(0)
    for split, lists in (("train", 37), ("valid", 7)):
        rows = ["qid,label,weight,a,b"]
        for query in range(lists):
            for _ in range(random.integers(1, 30)):
                a, b = random.normal(size=2)
                label = int(np.clip(round(a + 1), 0, 3))
                weight = random.uniform(0.1, 4.0)
                rows.append(f"{query},{label},{weight:.4f},{a:.4f},{b:.4f}")
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")
        convert(
            str(folder / f"{split}.csv"),
            str(folder / "data"),
            input_format="csv",
            split=split,
            options=Options(weight_column="weight", feature_columns=("a", "b")),
        )
    return folder / "data"


def config_of(data, strategy, loss, layout="packed", added=0.0, **batches):
    config = make_config(
        data,
        "unused",
        strategy=strategy,
        loss=loss,
        layout=layout,
        optimizer="sgd",
        learning_rate=0.05,
        metrics=["ndcg_10", "mrr"],
        steps_per_execution=2,
    )
    config["data"].update(train_batch_size=5, valid_batch_size=5, **batches)
    config["model"]["scorer_args"].update(use_batch_norm=False, dropout=0.0)
    config["added"] = added
    return config


def curves(devices, data, *runs):
    """Returns the curves of runs without a strategy and mirrored, in pairs."""
    configs = [
        json.dumps(config_of(data, strategy, **run))
        for run in runs
        for strategy in ("", "MirroredStrategy")
    ]
    lines = run_on_devices(devices, CURVES, *configs).splitlines()[-len(configs) :]
    found = [json.loads(line) for line in lines]
    return list(zip(found[::2], found[1::2], strict=True))


def assert_same_curve(one, many, replicas):
    assert one[0] == 1 and many[0] == replicas
    assert one[1:3] == many[1:3]
    assert sorted(one[3]) == sorted(many[3])
    for key in one[3]:
        np.testing.assert_allclose(many[3][key], one[3][key], rtol=2e-5, err_msg=key)
    for alone, mirrored in zip(one[4], many[4], strict=True):
        np.testing.assert_allclose(mirrored, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("replicas", "layout"),
    [
        (2, "packed"),
        pytest.param(2, "padded", marks=pytest.mark.slow),
        pytest.param(4, "packed", marks=pytest.mark.slow),
        pytest.param(4, "padded", marks=pytest.mark.slow),
    ],
)
def test_replicas_have_the_curve_of_one_with_the_same_global_batch(
    weighted, replicas, layout
):
    # A sum of losses is as good as each of them, at the price of one.
    run = {"loss": ",".join(f"{loss}:0.5" for loss in LOSSES), "layout": layout}
    if layout == "packed":
        # With fewer documents, some batches would have to take lists from others. What
        # a model adds to the loss is a mean over lists, as the loss is.
        run |= {"documents_per_batch": 30 * replicas, "added": 0.1}
    ((one, many),) = curves(replicas, weighted, run)
    assert_same_curve(one, many, replicas)


@pytest.mark.slow
@pytest.mark.parametrize("batches", [{}, {"documents_per_batch": 60}])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_each_loss_has_the_curve_of_one_replica(weighted, layout, batches):
    runs = [{"loss": loss, "layout": layout, **batches} for loss in LOSSES]
    for one, many in curves(3, weighted, *runs):
        assert_same_curve(one, many, 3)
