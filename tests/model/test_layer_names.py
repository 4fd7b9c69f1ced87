"""Names of layers do not depend on what a process has made before."""

from __future__ import annotations

import pytest

from tfr_pipeline.compat import tf
from tfr_pipeline.model import layer_names
from tfr_pipeline.model.layers.seeded import Dropout
from tfr_pipeline.model.layers.towers import create_tower

Dense = tf.keras.layers.Dense


def tower_model() -> tf.keras.Model:
    inputs = tf.keras.Input((3,))
    encoder = create_tower([4, 4], 2, name="encoder")(inputs)
    other = tf.keras.Sequential([Dense(2), Dropout(0.5), Dense(2)])(inputs)
    head = Dense(1, name="head_2")(tf.concat([encoder, other], 1))
    return tf.keras.Model(inputs, head)


def test_paths_are_the_same_whatever_was_made_before() -> None:
    first, second = (list(layer_names.layers(tower_model())) for _ in range(2))
    assert first == second
    assert first == [
        "encoder",
        "encoder/centered_dense",
        "encoder/batch_normalization",
        "encoder/centered_dense_1",
        "encoder/batch_normalization_1",
        "encoder/dense",
        "sequential",
        "sequential/dense",
        "sequential/dense_1",
        "head_2",
    ]


def test_each_weight_is_of_the_innermost_layer_and_counters_are_of_none() -> None:
    model = tower_model()
    weights = layer_names.weights(model)
    named = {id(variable) for own in weights.values() for variable in own}
    counters = [v for v in model.variables if "step" in v.name]
    assert len(counters) == 3
    assert named == {id(v) for v in model.variables} - {id(v) for v in counters}
    assert sum(map(len, weights.values())) == len(named)
    assert [v.shape[1] for v in weights["sequential/dense_1"][:1]] == [2]
    assert "encoder" not in weights


def test_weights_of_no_layer_have_an_empty_path() -> None:
    class Own(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.scale = tf.Variable(2.0)
            self.dense = Dense(1)

        def call(self, inputs):
            return self.scale * self.dense(inputs)

    model = Own()
    model(tf.ones([1, 2]))
    assert {k: len(v) for k, v in layer_names.weights(model).items()} == {
        "": 1,
        "dense": 2,
    }


@pytest.mark.parametrize(
    ("globs", "matched"),
    [
        (["*"], ["encoder/dense/kernel", "head/bias"]),
        (["encoder"], ["encoder/dense/kernel"]),
        (["enc*"], ["encoder/dense/kernel"]),
        (["*/dense"], ["encoder/dense/kernel"]),
        (["*bias"], ["head/bias"]),
        (["dense"], []),
        (["*", "!head"], ["encoder/dense/kernel"]),
        (["!encoder*"], ["head/bias"]),
    ],
)
def test_globs_name_layers_with_all_that_is_in_them(globs, matched) -> None:
    paths = ["encoder/dense/kernel", "head/bias"]
    assert [path for path in paths if layer_names.matches(path, globs)] == matched


def test_numbers_count_within_the_layer_around() -> None:
    names = ["a/dense_7/kernel", "a/dense_9/kernel", "b/dense_8/bias", "dense_2/bias"]
    names += ["dense_out/bias", "dense_2", "a/dense_9/bias"]
    found, groups = layer_names.renumbered(names, {"dense"})
    assert found == [
        "a/dense/kernel",
        "a/dense_1/kernel",
        "b/dense/bias",
        "dense/bias",
        "dense_out/bias",
        "dense_2",
        "a/dense_1/bias",
    ]
    assert groups == {(("a",), "dense"): 2, (("b",), "dense"): 1, ((), "dense"): 1}


def test_layers_within_unnamed_ones_are_numbered_for_each_of_those() -> None:
    names = [f"sequential_{i}/dense_{i + j}/kernel" for i in (3, 6) for j in (0, 1)]
    found, groups = layer_names.renumbered(names, {"dense", "sequential"})
    assert found == [
        f"sequential{i}/dense{j}/kernel" for i in ("", "_1") for j in ("", "_1")
    ]
    assert groups[("sequential_1",), "dense"] == 2
