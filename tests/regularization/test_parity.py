"""Loss and gradient of a training step are those of NSL's Keras wrappers."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from tfr_pipeline import losses
from tfr_pipeline.compat import nsl, tf
from tfr_pipeline.data.batching import neighbours
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.scorers import DNNScorer
from tfr_pipeline.regularization.settings import AdversarialSettings, GraphSettings
from tfr_pipeline.regularization.step import Regularization

SPECS = {
    "a": tf.io.FixedLenFeature((1,), tf.float32, 0.0),
    "b": tf.io.FixedLenFeature((3,), tf.float32, 0.0),
}
LISTS, LENGTH, NEIGHBOURS, CLASSES = 5, 4, 3, 3
Features = dict[str, Any]


def make_model(outputs: int = 1, batch_norm: bool = False) -> Any:
    tf.keras.utils.set_random_seed(1)
    return ModelBuilder(
        FeatureSpecInputCreator({}, SPECS),
        {"a": tf.math.tanh},
        DNNScorer(
            hidden_layer_dims=[8],
            output_units=outputs,
            activation=tf.nn.tanh,
            use_batch_norm=batch_norm,
            dropout=0.0,
        ),
        "mask",
    ).build()


def random_features(seed: int, lists: int, length: int) -> Features:
    random = np.random.default_rng(seed)
    found = {
        name: random.normal(size=(lists, length, *spec.shape)).astype(np.float32)
        for name, spec in SPECS.items()
    }
    return {**found, "mask": np.ones((lists, length), bool)}


def ours(
    model: Any, loss: Any, x: Features, y: Any, **settings: Any
) -> tuple[float, list[np.ndarray]]:
    model.compile("sgd", loss=loss)
    regularization = Regularization(
        model, settings.get("graph"), settings.get("adversarial")
    )

    @tf.function
    def step(x: Features, y: Any) -> Any:
        with tf.GradientTape() as tape:
            _, own, added = regularization.losses(model, x, y, None, None)
            total = own + added
        return total, tape.gradient(total, model.trainable_variables)

    total, gradients = step(tf.nest.map_structure(tf.constant, x), tf.constant(y))
    return float(total), [gradient.numpy() for gradient in gradients]


def theirs(
    wrapper: Any, model: Any, loss: Any, inputs: Features, y: Any = None
) -> tuple[float, list[np.ndarray]]:
    wrapper.compile("sgd", loss=loss)

    @tf.function
    def step(inputs: Features) -> Any:
        with tf.GradientTape() as tape:
            y_pred = wrapper(inputs, training=True)
            total = tf.add_n(wrapper.losses)
            if y is not None:
                total += loss(y, y_pred)
        return total, tape.gradient(total, model.trainable_variables)

    total, gradients = step(tf.nest.map_structure(tf.constant, inputs))
    return float(total), [gradient.numpy() for gradient in gradients]


def assert_same(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-6)
    assert any(np.abs(gradient).max() > 1e-3 for gradient in expected[1])
    for one, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def with_neighbours(x: Features, others: list[Features], weights: Any) -> Features:
    """Returns a batch as NSL has it."""
    result = dict(x)
    for i, other in enumerate(others):
        result |= {f"NL_nbr_{i}_{name}": value for name, value in other.items()}
        result[f"NL_nbr_{i}_weight"] = weights[:, i : i + 1]
    return result


def extended(x: Features, others: list[Features], weights: Any) -> Features:
    """Returns a batch as ours are: lists of neighbours behind the others."""
    nodes = len(weights)
    result = {
        name: np.concatenate([value, *(other[name] for other in others)])
        for name, value in x.items()
    }
    sources, places = np.nonzero(weights)
    return {
        **result,
        neighbours.SOURCES: sources.astype(np.int32),
        neighbours.TARGETS: (nodes * (1 + places) + sources).astype(np.int32),
        neighbours.WEIGHTS: weights[sources, places],
        neighbours.LENGTHS: result["mask"].sum(1).astype(np.int64),
    }


DISTANCES = [
    {},
    {"distance_type": "l1", "reduction": "weighted_mean"},
    {"distance_type": "l2", "sum_over_axis": -1},
    {"distance_type": "l1", "sum_over_axis": -1, "reduction": "weighted_sum"},
    {"distance_type": "cosine", "sum_over_axis": -1},
    {
        "distance_type": "jensen_shannon_divergence",
        "sum_over_axis": -1,
        "transform_fn": "softmax",
    },
    {
        "distance_type": "kl_divergence",
        "sum_over_axis": -1,
        "transform_fn": "softmax",
        "reduction": "weighted_sum_over_batch_size",
    },
    {"transform_fn": "softmax", "reduction": "weighted_sum_over_batch_size"},
]


@pytest.mark.parametrize(
    ("nodes", "distance"),
    [
        *(("queries", distance) for distance in DISTANCES),
        *(("classes", distance) for distance in DISTANCES[2:6:3]),
    ],
    ids=str,
)
def test_graph_regularisation_is_that_of_nsl(distance, nodes) -> None:
    of_lists = nodes == "queries"
    length, outputs = (LENGTH, 1) if of_lists else (1, CLASSES)
    x, *others = (
        random_features(seed, LISTS, length) for seed in range(1 + NEIGHBOURS)
    )
    random = np.random.default_rng(9)
    weights = random.uniform(0.1, 1, size=(LISTS, NEIGHBOURS)).astype(np.float32)
    weights[1, 2] = weights[3] = 0.0  # which have fewer neighbours
    model = make_model(outputs)
    loss: Any = losses.get("softmax_loss")
    y: Any = random.integers(0, 3, size=(LISTS, length)).astype(np.float32)
    base = model
    if not of_lists:
        loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        flat = tf.reshape(model.output, [-1, outputs])
        base = tf.keras.Model(model.input, flat)
        y = y.astype(np.int32)
    settings = {"max_neighbors": NEIGHBOURS, "multiplier": 0.7, **distance}
    wrapper = nsl.keras.GraphRegularization(
        base, nsl.configs.make_graph_reg_config(**settings)
    )
    flat_y = y if of_lists else y[:, 0]
    expected = theirs(wrapper, model, loss, with_neighbours(x, others, weights), flat_y)
    settings["nodes"] = "queries" if of_lists else "documents"
    graph = GraphSettings(**settings)
    batch = extended(x, others, weights)
    assert_same(ours(model, loss, batch, y, graph=graph), expected)


def test_documents_are_nodes_as_lists_of_one_are_for_nsl() -> None:
    x, *others = (random_features(seed, LISTS, LENGTH) for seed in range(3))
    x["mask"][2, 2:] = False
    random = np.random.default_rng(9)
    weights = random.uniform(0.1, 1, size=(LISTS * LENGTH, 2)).astype(np.float32)
    weights[~x["mask"].ravel()] = 0.0
    y = random.integers(0, 3, size=(LISTS, LENGTH)).astype(np.float32)
    y[~x["mask"]] = -1.0
    settings = {"max_neighbors": 2, "multiplier": 0.3, "distance_type": "l2"}
    model, loss = make_model(), losses.get("softmax_loss")

    def alone(features: Features) -> Features:
        shape = (LISTS * LENGTH, 1)
        return {
            name: np.reshape(value, (*shape, *value.shape[2:]))
            for name, value in features.items()
        }

    wrapper = nsl.keras.GraphRegularization(
        model, nsl.configs.make_graph_reg_config(**settings)
    )
    ones = {"mask": np.ones((LISTS * LENGTH, 1), bool)}
    inputs = with_neighbours(
        {**alone(x), **ones}, [{**alone(other), **ones} for other in others], weights
    )

    def of_lists(y_true: Any, y_pred: Any) -> Any:
        return loss(y_true, tf.reshape(y_pred, [LISTS, LENGTH]))

    expected = theirs(wrapper, model, of_lists, inputs, y)
    # Real documents of one list after the other, then those of their neighbours.
    real = np.flatnonzero(x["mask"])
    sources, places = np.nonzero(weights[real])
    for other in others:
        other["mask"] = x["mask"]
    batch = {
        name: np.concatenate([value, *(other[name] for other in others)])
        for name, value in x.items()
    }
    count = len(real)
    batch |= {
        neighbours.SOURCES: sources.astype(np.int32),
        neighbours.TARGETS: (count * (1 + places) + sources).astype(np.int32),
        neighbours.WEIGHTS: weights[real][sources, places],
        neighbours.LENGTHS: batch["mask"].sum(1).astype(np.int64),
    }
    assert_same(ours(model, loss, batch, y, graph=GraphSettings(**settings)), expected)


def test_batches_of_neighbours_have_their_own_statistics_as_with_nsl() -> None:
    x, *others = (random_features(seed, LISTS, LENGTH) for seed in range(3))
    weights = np.ones((LISTS, 2), np.float32)
    y = np.random.default_rng(9).integers(0, 3, size=(LISTS, LENGTH))
    y = y.astype(np.float32)
    model, loss = make_model(batch_norm=True), losses.get("softmax_loss")
    settings = {"max_neighbors": 2, "multiplier": 0.5}
    wrapper = nsl.keras.GraphRegularization(
        model, nsl.configs.make_graph_reg_config(**settings)
    )
    inputs = with_neighbours(x, others, weights)
    expected = theirs(wrapper, model, loss, inputs, y)
    graph = GraphSettings(nodes="queries", **settings)
    batch = extended(x, others, weights)
    assert_same(ours(model, loss, batch, y, graph=graph), expected)


ATTACKS = [
    {"adv_grad_norm": "infinity"},
    {"adv_grad_norm": "l1"},
    {"adv_grad_norm": "l2"},
    {"adv_grad_norm": "l2", "pgd_iterations": 3, "pgd_epsilon": 0.15},
    {"adv_grad_norm": "infinity", "pgd_iterations": 3, "pgd_epsilon": 0.15},
    {"adv_grad_norm": "l1", "pgd_iterations": 2},
    {
        "adv_grad_norm": "l2",
        "feature_mask": {"a": 0.0, "b": [0.0, 0.5, 1.0]},
        "clip_value_min": {"b": -0.9},
        "clip_value_max": {"b": [0.5, 0.6, 0.7]},
        "pgd_iterations": 2,
    },
]


@pytest.mark.parametrize(
    ("kind", "attack"),
    [*(("rankers", attack) for attack in ATTACKS), ("classes", ATTACKS[3])],
    ids=str,
)
def test_adversarial_regularisation_is_that_of_nsl(attack, kind) -> None:
    ranks = kind == "rankers"
    length, outputs = (LENGTH, 1) if ranks else (1, CLASSES)
    x = random_features(3, LISTS, length)
    x["mask"][2, 2:] = not ranks
    y = np.random.default_rng(9).integers(0, 3, size=(LISTS, length))
    y = y.astype(np.float32)
    y[~x["mask"]] = -1.0
    model = make_model(outputs)
    loss: Any = losses.SoftmaxLoss(name="softmax")  # NSL wants a name
    if not ranks:
        loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    settings = {"multiplier": 0.4, "adv_step_size": 0.1, **attack}
    wrapper = nsl.keras.AdversarialRegularization(
        model,
        label_keys=["label"],
        adv_config=nsl.configs.make_adv_reg_config(**as_theirs(settings)),
    )
    expected = theirs(wrapper, model, loss, {**x, "label": y})
    found = ours(model, loss, x, y, adversarial=AdversarialSettings(**settings))
    assert_same(found, expected)


def as_theirs(settings: dict[str, Any]) -> dict[str, Any]:
    """NSL takes tensors that can be broadcast, and no bound for absent features."""
    array = functools.partial(np.array, dtype=np.float32)
    return {
        key: {name: array(bound) for name, bound in value.items()}
        if isinstance(value, dict)
        else value
        for key, value in settings.items()
    }
