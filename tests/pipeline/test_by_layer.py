"""Two optimizers by layer, and norms of gradients by layer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.pipeline.test_weight_averaging import Stop, train
from tests.pipeline.training_helpers import make_config, read_history, scalars
from tests.replicas import run_on_devices
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.model.gradient_norms import GradientNorms
from tfr_pipeline.optimizers.by_layer import all_of, share
from tfr_pipeline.optimizers.factory import build_optimizer
from tfr_pipeline.optimizers.late import Terms, set_terms
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.run.loop import early_end

HEAD = {
    "*/dense": {
        "optimizer": "Adagrad",
        "learning_rate": 0.1,
        "schedule": {"name": "exponential", "decay_rate": 0.5, "decay_steps": 10},
    }
}


def run_config(data, folder, **pipeline):
    return make_config(
        data,
        folder / "run",
        strategy=None,
        steps_per_execution=1,
        optimizers=HEAD,
        optimizer_args={"beta_1": 0.8},
        **pipeline,
    )


def test_an_optimizer_whose_layers_thaw_counts_the_steps_before():
    # Adam's bias correction of a late start takes the count less the start.
    both, alone = ([tf.Variable(np.ones(3, "f4")) for _ in range(2)] for _ in range(2))
    shared, late = tf.keras.optimizers.SGD(0.1), build_optimizer("adam", 0.1, 9)
    share(shared, [(late, both[1:])])
    set_terms(late, [(Terms(start=3), both[1:])])
    shared.build(both)
    gradient = tf.constant([1.0, -2.0, 0.5])
    for step in range(6):
        shared.apply_gradients([(gradient, v) for v in both[: 1 + (step >= 3)]])
    assert int(late.iterations) == 6
    fresh = build_optimizer("adam", 0.1, 9)
    for _ in range(3):
        fresh.apply_gradients([(gradient, alone[1])])
    np.testing.assert_allclose(both[1], alone[1], rtol=1e-6)


def test_each_optimizer_steps_as_it_does_alone():
    random = np.random.default_rng(0)
    gradients = random.normal(size=[5, 2, 3]).astype(np.float32)

    def optimizers():
        return (
            tf.keras.optimizers.Adam(0.1, global_clipnorm=1.0),
            tf.keras.optimizers.Ftrl(0.5, l1_regularization_strength=0.01),
        )

    both, alone = ([tf.Variable(np.ones(3, "f4")) for _ in range(2)] for _ in range(2))
    shared, ftrl = optimizers()
    share(shared, [(ftrl, both[1:])])
    shared.build(both)
    separate = optimizers()

    @tf.function
    def step(pair):
        shared.apply_gradients(zip(tf.unstack(pair), both, strict=True))

    for pair in gradients:
        step(tf.constant(pair))
        for optimizer, gradient, variable in zip(separate, pair, alone, strict=True):
            optimizer.apply_gradients([(tf.constant(gradient), variable)])
    for found, expected in zip(both, alone, strict=True):
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5)
    assert [int(one.iterations) for one in all_of(shared)] == [5, 5]
    assert type(shared).__name__ == "Adam"


@pytest.mark.slow
def test_a_run_with_two_optimizers_goes_on_to_the_same_weights(data, tmp_path):
    _, whole = train(run_config(data, tmp_path / "a"), finish=False)

    def look(model, step):
        if step == 17:
            raise Stop

    config = run_config(data, tmp_path / "b", checkpoint_every_steps=4)
    with pytest.raises(Stop):
        train(config, look, finish=False)
    _, model = train(config, finish=False)
    for one, other in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    adam, adagrad = all_of(model.optimizer)
    assert type(adagrad) is tf.keras.optimizers.Adagrad
    # Kernel and bias have an accumulator each, the other four variables two moments.
    assert len([v for v in adagrad.variables if v.shape.rank]) == 2
    assert len([v for v in adam.variables if v.shape.rank]) == 2 * 4


@pytest.mark.parametrize(
    ("optimizers", "message"),
    [
        ({"nothing*": {}}, r"unknown layers 'nothing\*' in optimizers"),
        ({"*": {"rate": 1.0}}, r"unknown key 'rate' in optimizers\['\*'\]"),
        ({"*": {"optimizer": "adm"}}, "unknown optimizer 'adm'"),
        ({"*": {"learning_rate": -1}}, "learning_rate: expected a positive number"),
        (
            {"*": {"learning_rate": "x"}},
            r"^optimizers\['\*'\]: .*learning_rate: expected a positive number",
        ),
        (
            {"*": {"schedule": {"name": "1cycle", "momentum": [0.9]}}},
            r"^optimizers\['\*'\]: schedule '1cycle': momentum: expected",
        ),
        ({"*": 0.1}, r"optimizers\['\*'\]: expected a dict, found 0.1"),
    ],
)
def test_optimizers_that_cannot_be_are_named(data, tmp_path, optimizers, message):
    config = run_config(data, tmp_path)
    config["pipeline"]["optimizers"] = optimizers
    with pytest.raises(ConfigError, match=message):
        build_pipeline(config).dry_run()


def test_a_plateau_has_one_optimizer(data, tmp_path):
    config = run_config(data, tmp_path, schedule="plateau")
    with pytest.raises(ConfigError, match="optimizers: expected one alone"):
        build_pipeline(config).dry_run()


REPLICAS = """
import numpy as np
from tfr_pipeline.model.gradient_norms import GradientNorms

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(1, name="out")])
    model.build([None, 2])
    norms = GradientNorms(model)
    optimizer = tf.keras.optimizers.SGD(1.0)
    optimizer.build(model.trainable_variables)

    @tf.function
    def train():
        def step():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            one = 1.0 + tf.cast(replica, tf.float32)
            pairs = zip([[[one], [0.0]], [4.0]], model.trainable_variables)
            pairs = [(tf.convert_to_tensor(g), v) for g, v in pairs]
            pairs = optimizer.aggregate_gradients(pairs)
            norms.update(pairs)
            optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)
        strategy.run(step)

    before = [v.numpy() for v in model.trainable_variables]
    train()
    after = [v.numpy() for v in model.trainable_variables]
print(repr((norms.values(), [float((x - y).sum()) for x, y in zip(before, after)])))
"""


def test_norms_are_those_of_the_sum_over_replicas():
    norms, moved = eval(run_on_devices(2, REPLICAS).splitlines()[-1])
    length = pytest.approx((3**2 + 8**2) ** 0.5, rel=1e-5)
    assert norms == {"gradient_norm": length, "gradient_norm/out": length}
    assert moved == pytest.approx([3.0, 8.0])


@pytest.mark.slow
@pytest.mark.parametrize("args", [{}, {"clipnorm": 0.01}])
def test_norms_are_those_of_the_gradients_in_the_logs_of_each_epoch(
    data, tmp_path, args
):
    config = make_config(
        data, tmp_path / "run", strategy=None, gradient_norms=True, optimizer_args=args
    )
    config["pipeline"].update(num_epochs=2, optimizer="sgd", learning_rate=1.0)
    weights = []

    def look(model, step):
        weights.append([w.numpy() for w in model.trainable_weights])

    config["pipeline"]["steps_per_execution"] = 1
    train(config, look, finish=False)
    assert "gradient_norm" not in read_history(tmp_path / "run")[0]
    found = scalars(tmp_path / "run" / "logs" / "train")
    norms = {k: v for k, v in found.items() if k.startswith("epoch_gradient_norm")}
    assert set(norms) == {
        "epoch_gradient_norm",
        "epoch_gradient_norm/sequential/centered_dense",
        "epoch_gradient_norm/sequential/batch_normalization",
        "epoch_gradient_norm/sequential/dense",
    }
    assert all(len(values) == 2 for values in norms.values())
    if args:
        return  # gradients are longer than the steps that are taken
    # Steps of gradient descent of rate 1 are minus the gradients: of the second epoch.
    lengths = [
        np.sqrt(sum(((x - y) ** 2).sum() for x, y in zip(*pair, strict=True)))
        for pair in itertools.pairwise(weights[9:])
    ]
    assert len(lengths) == 10
    assert norms["epoch_gradient_norm"][1] == pytest.approx(np.mean(lengths), rel=1e-3)


def test_sparse_gradients_and_layers_that_do_not_train_have_norms():
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Embedding(4, 2, input_length=1, name="table"),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(1, name="out"),
        ]
    )
    model.build([None, 1])
    norms = GradientNorms(model)
    table, kernel, _ = model.trainable_variables
    rows = tf.IndexedSlices(tf.constant([[3.0, 0.0], [0.0, 4.0]]), [0, 2], [4, 2])
    norms.update([(rows, table), (None, kernel)])
    norms.update([(rows, table)])
    assert norms.values() == {
        "gradient_norm": 5.0,
        "gradient_norm/table": 5.0,
        "gradient_norm/out": 0.0,
    }
    norms.reset()
    assert norms.values() == {}


def hparams(**told):
    return PipelineHparams("run", 40, None, None, 0.1, "softmax_loss", **told)


def test_a_run_says_when_it_stops_early():
    assert early_end(hparams(), 60, "val_loss") == ""
    patient = hparams(early_stopping_patience=15, early_stopping_min_delta=0.001)
    assert early_end(patient, 60, "val_metric/ndcg_10") == (
        "stops early after 15 epochs of 60 steps (900 steps) without a "
        "val_metric/ndcg_10 that is better by more than 0.001, 40 epochs at the most"
    )
    assert "never stops early: 39 epochs" in early_end(
        hparams(early_stopping_patience=39), 60, "val_loss"
    )
