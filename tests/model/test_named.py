"""Activations and what kernels are told by name, against Keras and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from tests.replicas import run_on_devices
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.attention_scorers import AttentionScorer, DASALCScorer
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.layers import named
from tfr_pipeline.model.layers.seeded import AlphaDropout, Dropout, GaussianNoise
from tfr_pipeline.model.layers.towers import StackedTowers, create_tower
from tfr_pipeline.model.scorers import DNNScorer, GAMScorer

X = np.linspace(-3.0, 3.0, 13).astype(np.float32)[:, np.newaxis]
SPEC = {"x": tf.io.FixedLenFeature((2,), tf.float32, [0.0, 0.0])}
SCORERS = [
    lambda **kwargs: DNNScorer(hidden_layer_dims=[4], **kwargs),
    lambda **kwargs: GAMScorer(example_hidden_layer_dims=[4], **kwargs),
    lambda **kwargs: AttentionScorer([4], head_size=2, **kwargs),
    lambda **kwargs: DASALCScorer([4], head_size=2, num_layers=1, **kwargs),
]


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def build(scorer):
    creator = FeatureSpecInputCreator({}, SPEC)
    return ModelBuilder(creator, {}, scorer, "mask").build()


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("silu", lambda x: x * sigmoid(x)),
        ("swish", lambda x: x * sigmoid(x)),
        ("mish", lambda x: x * np.tanh(np.log1p(np.exp(x)))),
        ("leaky_relu", lambda x: np.where(x > 0, x, 0.01 * x)),
        ({"name": "leaky_relu", "slope": 0.2}, lambda x: np.where(x > 0, x, 0.2 * x)),
        ({"name": "elu", "alpha": 0.5}, lambda x: np.where(x > 0, x, np.expm1(x) / 2)),
        ({"name": "gelu", "approximate": False}, lambda x: tf.nn.gelu(x).numpy()),
        ("prelu", lambda x: np.where(x > 0, x, 0.25 * x)),
        (None, lambda x: x),
        (tf.nn.relu6, lambda x: np.clip(x, 0, 6)),
    ],
)
def test_activations_are_their_formulas_and_survive_their_config(told, expected):
    layer = named.activation(told)
    np.testing.assert_allclose(layer(X), expected(X), rtol=1e-4, atol=1e-5)
    again = type(layer).from_config(layer.get_config())
    np.testing.assert_allclose(again(X), layer(X))


@pytest.mark.parametrize(
    ("key", "told", "message"),
    [
        ("activation", "geluu", "unknown activation 'geluu'; did you mean 'gelu'"),
        ("activation", 3, "activation: expected a name, a dict of it .*, found 3"),
        (
            "kernel_constraint",
            {"name": "max_norm", "max_value": -1},
            "kernel_constraint 'max_norm': max_value: .* from 0 on, found -1",
        ),
        ("kernel_regularizer", {"name": "l2", "l2": -0.1}, "from 0 on, found -0.1"),
        ("kernel_regularizer", {"name": "l2", "l2": "x"}, "from 0 on, found 'x'"),
        ("activation", {"slope": 1}, "activation: expected a name, or a dict"),
        (
            "activation",
            {"name": "leaky_relu", "slop": 1},
            "unknown argument 'slop' in activation 'leaky_relu'; did you mean 'slope'",
        ),
        (
            "kernel_initializer",
            "he_norm",
            "unknown initializer 'he_norm' in kernel_initializer; did you mean "
            "'he_normal'",
        ),
        ("kernel_regularizer", {"name": "l2", "l": 1}, "unknown argument 'l'"),
        ("kernel_constraint", "maxnorm", "did you mean 'max_norm'"),
        (
            "kernel_initializer",
            {"name": "variance_scaling", "mode": "fan"},
            "kernel_initializer 'variance_scaling': .*mode",
        ),
    ],
)
@pytest.mark.parametrize("make", SCORERS)
def test_names_that_nobody_knows_are_errors_of_every_scorer(make, key, told, message):
    with pytest.raises(ConfigError, match=message):
        build(make(**{key: told}))


@pytest.mark.parametrize("make", SCORERS)
def test_regularisers_of_every_scorer_add_up_their_kernels(make):
    factors = {"l1": 0.1, "l2": 0.01}
    model = build(make(kernel_regularizer={"name": "l1_l2", **factors}))
    kernels = [w for w in model.trainable_weights if "kernel" in w.name]
    own = [w for w in kernels if "attention" not in w.name]
    expected = sum(
        0.1 * np.abs(w.numpy()).sum() + 0.01 * np.square(w.numpy()).sum() for w in own
    )
    assert own
    assert float(tf.add_n(model.losses)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("make", SCORERS)
@pytest.mark.parametrize("activation", ["selu", "prelu", "gelu"])
def test_every_scorer_takes_activations_by_name(make, activation):
    model = build(make(activation=activation, dropout=0.2))
    layers = list(model._flatten_layers())
    towers = [layer for layer in layers if isinstance(layer, StackedTowers)]
    layers += [d for tower in towers for d in tower._dropouts]
    assert any(isinstance(x, AlphaDropout) for x in layers) == (activation == "selu")
    slopes = [w for w in model.trainable_weights if "alpha" in w.name]
    assert bool(slopes) == (activation == "prelu")
    inputs = {"x": tf.ones([1, 3, 2]), "mask": tf.ones([1, 3], tf.bool)}
    assert np.isfinite(model(inputs, training=True)).all()


def standard_deviations(initializer, activation=None):
    tf.keras.utils.set_random_seed(0)
    tower = create_tower(
        [400], 1, activation, use_batch_norm=False, kernel_initializer=initializer
    )
    tower.build([None, 100])
    stacked = StackedTowers(
        [400], activation, use_batch_norm=False, kernel_initializer=initializer
    )
    stacked.build([None, 3, 100])
    kernel = stacked.weights[0].numpy()
    assert not np.array_equal(kernel[0], kernel[1])
    return [tower.weights[0].numpy().std(), *kernel.std(axis=(1, 2))]


@pytest.mark.parametrize(
    ("initializer", "activation", "expected"),
    [
        ("he_normal", "relu", (2 / 100) ** 0.5),
        ("he_uniform", "relu", (2 / 100) ** 0.5),
        ("lecun_normal", "relu", (1 / 100) ** 0.5),
        ("glorot_normal", "relu", (2 / 500) ** 0.5),
        (None, "relu", (2 / 500) ** 0.5),
        (None, "selu", (1 / 100) ** 0.5),
        ("he_normal", "selu", (2 / 100) ** 0.5),
        (
            {"name": "variance_scaling", "scale": 3.0, "mode": "fan_out"},
            "relu",
            (3 / 400) ** 0.5,
        ),
    ],
)
def test_kernels_begin_as_the_papers_say_in_each_tower(
    initializer, activation, expected
):
    # 40,000 numbers: a standard error of 0.4%.
    found = standard_deviations(initializer, activation)
    np.testing.assert_allclose(found, expected, rtol=0.03)


def test_networks_without_arguments_begin_as_before():
    kernels = []
    for kwargs in ({}, {"kernel_initializer": None, "kernel_constraint": None}):
        tf.keras.utils.set_random_seed(3)
        tower = create_tower([4], 1, **kwargs)
        tower.build([None, 2])
        kernels.append(tower.weights[0].numpy())
    np.testing.assert_array_equal(*kernels)


def test_alpha_dropout_keeps_mean_and_variance_of_what_selu_gives():
    x = tf.nn.selu(tf.random.stateless_normal([500_000, 1], [1, 2]))
    x = (x - tf.reduce_mean(x)) / tf.math.reduce_std(x)
    y = AlphaDropout(0.3, seed=5)(x, training=True).numpy()
    assert abs(y.mean()) < 0.01
    assert y.std() == pytest.approx(1.0, abs=0.01)
    # The dropped ones have one value, which is not 0.
    values, counts = np.unique(np.round(y, 5), return_counts=True)
    assert counts.max() / y.size == pytest.approx(0.3, abs=0.01)
    assert values[counts.argmax()] < -1.0
    np.testing.assert_array_equal(AlphaDropout(0.3)(x, training=False), x)


def test_a_tower_of_selu_keeps_mean_and_variance_through_many_layers():
    tf.keras.utils.set_random_seed(0)
    tower = create_tower([256] * 8, 1, "selu", use_batch_norm=False, dropout=0.1)
    tower.pop()
    y = tower(tf.random.stateless_normal([2000, 64], [1, 2]), training=True).numpy()
    assert abs(y.mean()) < 0.15
    assert y.std() == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("make", SCORERS[:2])
def test_noise_is_on_inputs_in_training_only(make):
    model = build(make(input_noise_stddev=0.5, dropout=0.0, use_batch_norm=False))
    (noise,) = (x for x in model._flatten_layers() if isinstance(x, GaussianNoise))
    assert noise.stddev == 0.5
    inputs = {"x": tf.ones([1, 3, 2]), "mask": tf.ones([1, 3], tf.bool)}
    quiet, again = (model(inputs, training=False).numpy() for _ in range(2))
    np.testing.assert_array_equal(quiet, again)
    assert np.ptp(model(inputs, training=True).numpy()) > 0
    # Documents are alike.
    assert np.ptp(quiet) == 0


def test_dropout_beside_other_activations_is_the_plain_one():
    assert type(named.dropout(0.1, "relu")) is Dropout


def test_constraints_hold_in_each_tower():
    told = {"name": "max_norm", "max_value": 0.5}
    kwargs = {"use_batch_norm": False, "dropout": 0.0, "kernel_constraint": told}
    tower = create_tower([4], 1, **kwargs)
    stacked = StackedTowers([4], **kwargs)
    for layer, x in ((tower, tf.ones([5, 3])), (stacked, tf.ones([5, 2, 3]))):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_sum(layer(x))
        variables = layer.trainable_variables
        optimizer = tf.keras.optimizers.SGD(10.0)
        optimizer.minimize(loss, variables, tape=tape)
        for kernel in (w.numpy() for w in variables if "kernel" in w.name):
            norms = np.sqrt((kernel**2).sum(axis=-2))
            assert (norms < 0.5 + 1e-5).all()
            assert norms.max() == pytest.approx(0.5, rel=1e-4)


REPLICAS = """
import numpy as np
from tfr_pipeline.model.layers.towers import create_tower

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    told = {"name": "max_norm", "max_value": 0.5}
    model = create_tower([4], 1, "prelu", kernel_constraint=told)
    model.compile(tf.keras.optimizers.SGD(10.0), "mse")
    model.fit(np.ones([8, 3]), np.full([8, 1], 9.0), batch_size=4, verbose=0)
kernels = [w.numpy() for w in model.trainable_weights if "kernel" in w.name]
print(max(np.sqrt((kernel**2).sum(axis=0)).max() for kernel in kernels))
"""


def test_constraints_hold_on_two_replicas():
    assert float(run_on_devices(2, REPLICAS).split()[-1]) <= 0.5 + 1e-5
