"""Private names of Keras and TensorFlow: that they are there, and what for."""

from __future__ import annotations

import importlib
import sys

import pytest

from tfr_pipeline import compat, losses, registration
from tfr_pipeline.compat import tf


def small_model() -> tf.keras.Model:
    layers = tf.keras.layers
    inputs = tf.keras.Input((2,))
    hidden = layers.Dense(3, kernel_regularizer="l2")(inputs)
    outputs = layers.Dense(1, activity_regularizer="l2")(hidden)
    return tf.keras.Model(inputs, outputs)


def test_losses_of_weights_are_told_from_losses_of_a_batch() -> None:
    # A replica counts the former once, the latter by its share of the batch.
    model = small_model()
    model(tf.ones([4, 2]))
    (found,) = compat.weight_losses(model)
    expected = 0.01 * tf.reduce_sum(tf.square(model.layers[1].kernel))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    assert len(model.losses) == 2


def test_the_losses_of_a_compiled_model_are_known() -> None:
    # Whether they are sums or means decides how replicas add up.
    model = small_model()
    loss = losses.SoftmaxLoss()
    model.compile("sgd", loss)
    assert compat.losses_of(model) == [loss]


def test_the_registry_of_keras_is_ours() -> None:
    # It imports our modules when a file names a class of ours.
    found = [
        getattr(sys.modules[name], registration._REGISTRY, None)
        for name in registration._HOMES
        if name in sys.modules
    ]
    assert any(isinstance(registry, registration.Registry) for registry in found)
    name = "tfr_pipeline>SoftmaxLoss"
    assert tf.keras.utils.get_registered_object(name) is losses.SoftmaxLoss


def test_a_lazy_loader_says_whether_it_has_loaded_keras() -> None:
    # TensorFlow may be imported before us as long as it has not.
    if tuple(int(part) for part in tf.__version__.split(".")[:2]) < (2, 16):
        pytest.skip("this TensorFlow has Keras 2 either way")
    util = importlib.import_module("tensorflow.python.util.lazy_loader")
    assert util.KerasLazyLoader({})._tfll_initialized is False
    _ = tf.keras.layers
    assert compat._uses_keras(tf)
    assert importlib.util.find_spec("tf_keras.src.optimizers")


def test_keras_weights_losses_as_its_own_classes_do() -> None:
    # Our losses reduce their parts with it.
    weigh = tf.keras.__internal__.losses.compute_weighted_loss
    total = weigh(tf.constant([[2.0], [4.0]]), tf.constant([[1.0], [0.5]]), "sum")
    assert float(total) == 4.0


def test_adam_has_two_moments_a_variable() -> None:
    # One fused kernel updates all three.
    variable = tf.Variable([1.0, 2.0])
    optimizer = tf.keras.optimizers.Adam(0.1, beta_1=0.5, beta_2=0.75)
    optimizer.build([variable])
    optimizer.apply_gradients([(tf.constant([2.0, 4.0]), variable)])
    momentum, velocity = compat.adam_slots(optimizer, variable)
    assert momentum.numpy().tolist() == [1.0, 2.0]
    assert velocity.numpy().tolist() == [1.0, 4.0]


def test_a_remote_value_says_whether_it_is_there() -> None:
    # The coordinator looks at steps that are under way without waiting for them.
    values = importlib.import_module(
        "tensorflow.python.distribute.coordinator.remote_value"
    )
    assert hasattr(values.RemoteValueStatus, "NOT_READY")
    coordinator = importlib.import_module(
        "tensorflow.python.distribute.coordinator.cluster_coordinator"
    )
    value = coordinator.RemoteValueImpl(None, tf.TensorSpec([]))
    assert not compat.is_ready(value)
    value._set_aborted(RuntimeError("stopped"))
    assert compat.is_ready(value)


@pytest.mark.parametrize(
    "name",
    [
        "_cluster_coordinator",  # who drives the steps
        "_steps_per_execution",  # how many steps a call of the train function takes
        "_test_counter",
        "_train_counter",
        "_validate_target_and_loss",  # what Keras checks in a step of its own
    ],
)
def test_the_loop_of_a_ranking_model_finds_what_keras_keeps(name: str) -> None:
    model = small_model()
    model.compile("sgd", "mse")
    assert hasattr(model, name)


@pytest.mark.parametrize("name", ["_get_reduction", "_allow_sum_over_batch_size"])
def test_losses_reduce_as_keras_tells_them(name: str) -> None:
    assert hasattr(tf.keras.losses.MeanSquaredError(), name)


@pytest.mark.parametrize(
    ("module", "cls", "names"),
    [
        # What layouts and block forms read off TF-Ranking's objects.
        ("keras.losses", "ListMLELoss", "_loss _ragged _lambda_weight _temperature"),
        ("keras.losses", "YetiLogisticLoss", "_gumbel_sampler"),
        ("keras.losses", "NDCGLambdaWeight", "_gain_fn _rank_discount_fn _topn"),
        ("keras.losses", "NDCGLambdaWeight", "_normalized _smooth_fraction"),
        ("keras.losses", "NDCGLambdaWeightV2", "_pair_rank_discount"),
        ("keras.metrics", "NDCGMetric", "_topn _gain_fn _rank_discount_fn"),
    ],
)
def test_tf_rankings_objects_keep_their_arguments(
    module: str, cls: str, names: str
) -> None:
    home, part = module.split(".")
    value = getattr(getattr(getattr(compat.tfr, home), part), cls)()
    assert all(hasattr(value, name) for name in names.split())


def test_a_layer_tells_the_layers_it_keeps() -> None:
    inner = tf.keras.Sequential([tf.keras.layers.Dense(1), tf.keras.layers.Dense(1)])
    model = tf.keras.Sequential([tf.keras.Input((2,)), inner])
    assert compat.sublayers(model)[-1:] == [inner]
    assert compat.sublayers(inner)[-2:] == inner.layers
    assert compat.sublayers(inner.layers[0]) == []


def test_an_optimizer_knows_a_variable_by_the_same_key_everywhere() -> None:
    optimizer = tf.keras.optimizers.SGD()
    variables = [tf.Variable(1.0), tf.Variable(1.0)]
    optimizer.build(variables)
    keys = [compat.variable_key(optimizer, variable) for variable in variables]
    assert len({*keys}) == 2
    assert [optimizer._index_dict[key] for key in keys] == [0, 1]
