"""`FeatureBlock` is a dict of features, and maps functions as if it were one."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from tfr_pipeline.compat import tf
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.model.feature_block import FeatureBlock

DOCUMENTS = 6
SPEC = {
    "b": tf.io.FixedLenFeature((1,), tf.float32),
    "a": tf.io.FixedLenFeature((3,), tf.float32),
    "c": tf.io.FixedLenFeature((2, 2), tf.float32),
    "d": tf.io.FixedLenFeature((), tf.float32),
    "i": tf.io.FixedLenFeature((1,), tf.int64),
    "j": tf.io.FixedLenFeature((2,), tf.int64),
}
ONES = {f"x{i:03}": tf.io.FixedLenFeature((1,), tf.float32) for i in range(12)}


def make(spec=SPEC, seed=0):
    """Returns a block and the features it holds, `[documents, ...]`."""
    random = np.random.default_rng(seed)
    features = {}
    for name, one in spec.items():
        shape = (DOCUMENTS, *one.shape)
        if one.dtype == tf.int64:
            features[name] = random.integers(0, 9, size=shape)
        else:
            features[name] = random.normal(size=shape).astype(np.float32)
    layout = BlockLayout.from_spec(spec)
    matrices = {
        dtype: tf.constant(
            np.concatenate(
                [features[s.name].reshape(DOCUMENTS, -1) for s in slots], axis=1
            )
        )
        for dtype, slots in layout.slots.items()
    }
    return FeatureBlock.from_matrices(layout, matrices), features


def assert_same(block, wanted):
    assert list(block) == sorted(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(block[name], value, rtol=1e-6, err_msg=name)


def one_by_one(features, functions):
    """Applies functions as TF-Ranking does, to `[1, documents, ...]` of each."""
    return {
        name: functions[name](tf.constant(value)[tf.newaxis])[0]
        if name in functions
        else value
        for name, value in features.items()
    }


def test_it_is_a_mapping_by_name():
    block, features = make()
    assert_same(block, features)
    assert len(block) == len(features)
    assert "a" in block
    assert "z" not in block
    assert {name: value.shape for name, value in block.items()} == {
        name: value.shape for name, value in features.items()
    }
    assert [slot.name for slot in block.slots()] == sorted(features)
    with pytest.raises(KeyError):
        block["z"]


def test_features_are_concatenated_in_the_order_of_their_names():
    for spec in (ONES, {n: s for n, s in SPEC.items() if s.dtype == tf.float32}):
        block, features = make(spec)
        wanted = [features[n].reshape(DOCUMENTS, -1) for n in sorted(features)]
        np.testing.assert_array_equal(block.concat(), np.concatenate(wanted, 1))


def test_one_matrix_is_concatenated_for_free():
    layout = BlockLayout.from_spec(ONES)
    matrix = tf.zeros([3, len(ONES)])
    assert FeatureBlock.from_matrices(layout, {"float32": matrix}).concat() is matrix


def test_the_order_of_names_is_kept_after_some_were_mapped():
    block, features = make(ONES)
    functions = dict.fromkeys(list(ONES)[::3], tf.math.square)
    wanted = one_by_one(features, functions)
    mapped = block.map(functions)
    assert_same(mapped, wanted)
    np.testing.assert_allclose(
        mapped.concat(), np.concatenate([wanted[n] for n in sorted(wanted)], 1), 1e-6
    )


def test_a_block_can_be_mapped_again():
    block, features = make(ONES)
    first = dict.fromkeys(list(ONES)[2:7], tf.math.abs)
    second = dict.fromkeys(list(ONES)[1:5], tf.math.log1p)
    wanted = one_by_one(one_by_one(features, {**first}), {})
    mapped = block.map(first).map({n: f for n, f in second.items() if n in first})
    wanted = one_by_one(wanted, {n: f for n, f in second.items() if n in first})
    assert_same(mapped, wanted)


def counted(function):
    """Returns a function and the list of shapes it is applied to inside a graph."""
    shapes = []

    def inner(tensor):
        if not tf.executing_eagerly():
            shapes.append(tensor.shape.as_list())
        return function(tensor)

    return inner, shapes


def in_graph(block, functions):
    return tf.function(lambda: dict(block.map(functions)))()


def test_a_function_by_element_is_applied_once_for_all_its_features():
    block, features = make(ONES)
    function, shapes = counted(lambda t: tf.sign(t) * tf.math.log1p(tf.abs(t)))
    names = [name for name in ONES if name != "x004"]
    result = in_graph(block, dict.fromkeys(names, function))
    assert shapes == [[1, DOCUMENTS, 11]]
    assert_same(result, one_by_one(features, dict.fromkeys(names, function)))


def test_lambdas_of_one_comprehension_are_applied_once():
    block, features = make(ONES)
    shapes = []

    def note(tensor):
        if not tf.executing_eagerly():
            shapes.append(tensor.shape[-1])
        return tensor

    functions = {name: lambda t: note(t) * 2.0 for name in ONES}
    result = in_graph(block, functions)
    assert shapes == [12]
    assert_same(result, {name: 2 * value for name, value in features.items()})


@pytest.mark.parametrize(
    "function",
    [
        lambda t: tf.nn.softmax(t, axis=-1),
        lambda t: t - tf.reduce_mean(t, axis=-1, keepdims=True),
        lambda t: tf.cumsum(t, axis=-1),
        lambda t: tf.reverse(t, [-1]),
        lambda t: t / (1e-3 + tf.norm(t, axis=2, keepdims=True)),
        lambda t: tf.concat([t, tf.square(t)], axis=-1),
        lambda t: tf.reduce_sum(t, axis=-1, keepdims=True),
    ],
)
@pytest.mark.parametrize("width", [1, 3])
def test_a_function_that_mixes_columns_sees_one_feature_at_a_time(function, width):
    spec = {f"x{i}": tf.io.FixedLenFeature((width,), tf.float32) for i in range(4)}
    block, features = make(spec)
    functions = dict.fromkeys(spec, function)
    assert_same(block.map(functions), one_by_one(features, functions))


def means():
    return {name: float(i) for i, name in enumerate(ONES)}


def closures():
    def make_one(mean):
        return lambda t: t - mean

    return {name: make_one(mean) for name, mean in means().items()}


def defaults():
    return {name: (lambda t, m=mean: t - m) for name, mean in means().items()}


def keyword_defaults():
    return {name: (lambda t, *, m=mean: t - m) for name, mean in means().items()}


def partials():
    return {
        name: functools.partial(lambda mean, t: t - mean, mean)
        for name, mean in means().items()
    }


def large_array_defaults():
    # Arrays whose text is the same: NumPy leaves out the middle.
    arrays = {}
    for name, mean in means().items():
        array = np.zeros(5000, np.float32)
        array[2500] = mean
        arrays[name] = array
    return {name: (lambda t, a=a: t - a[2500]) for name, a in arrays.items()}


def large_array_closures():
    return {
        name: (lambda a: lambda t: t - a.max())(np.full(5000, mean, np.float32))
        for name, mean in means().items()
    }


class Shift:
    def __init__(self, mean):
        self.mean = mean

    def __call__(self, tensor):
        return tensor - self.mean

    def method(self, tensor):
        return tensor - self.mean


def callables():
    return {name: Shift(mean) for name, mean in means().items()}


def methods():
    return {name: Shift(mean).method for name, mean in means().items()}


def modules():
    result = {}
    for name, mean in means().items():
        space = {"MEAN": mean}
        exec("def shift(t):\n  return t - MEAN", space)
        result[name] = space["shift"]
    return result


@pytest.mark.parametrize(
    "functions",
    [
        closures,
        defaults,
        keyword_defaults,
        partials,
        large_array_defaults,
        large_array_closures,
        callables,
        methods,
        modules,
    ],
    ids=lambda make: make.__name__,
)
def test_functions_with_arguments_of_their_own_are_not_merged(functions):
    block, features = make(ONES)
    wanted = {name: features[name] - mean for name, mean in means().items()}
    assert_same(block.map(functions()), wanted)


def test_different_tensorflow_functions_are_not_merged():
    block, features = make(ONES)
    names = list(ONES)
    functions = {names[0]: tf.math.exp, names[1]: tf.math.sin, names[2]: tf.math.exp}
    assert_same(block.map(functions), one_by_one(features, functions))


def dense_of_a_global(tensor):
    return GLOBAL_DENSE(tensor)


GLOBAL_DENSE = tf.keras.layers.Dense(2, use_bias=False)


class Holder:
    def __init__(self):
        self.dense = tf.keras.layers.Dense(2, use_bias=False)

    def __call__(self, tensor):
        return self.dense(tensor)


@pytest.mark.parametrize("kind", ["layer", "lambda", "global", "holder", "partial"])
def test_layers_with_weights_are_built_for_the_feature_they_serve(kind):
    spec = {"x": SPEC["a"], "y": SPEC["a"]}
    block, features = make(spec)
    layer = tf.keras.layers.Dense(2, use_bias=False)
    holder = Holder()
    function, used = {
        "layer": (layer, layer),
        "lambda": (lambda t: layer(t), layer),
        "global": (dense_of_a_global, GLOBAL_DENSE),
        "holder": (holder, holder.dense),
        "partial": (functools.partial(lambda la, t: la(t), layer), layer),
    }[kind]
    mapped = block.map({"x": function, "y": function})
    assert used.kernel.shape == (3, 2)
    wanted = {name: value @ used.kernel.numpy() for name, value in features.items()}
    for name in spec:
        np.testing.assert_allclose(mapped[name], wanted[name], rtol=1e-5, atol=1e-6)


def test_integers_become_embeddings():
    block, features = make()
    embedding = tf.keras.layers.Embedding(10, 4)
    mapped = block.map({"i": lambda t: embedding(t[..., 0]), "j": embedding})
    table = embedding.embeddings.numpy()
    np.testing.assert_array_equal(mapped["i"], table[features["i"][:, 0]])
    np.testing.assert_array_equal(mapped["j"], table[features["j"]])


def test_integers_are_cast_beside_floats():
    spec = {name: SPEC[name] for name in ("a", "b", "i", "j")}
    block, features = make(spec)
    cast = functools.partial(tf.cast, dtype=tf.float32)
    mapped = block.map({"i": cast, "j": cast, "b": tf.abs})
    wanted = {n: features[n].astype(np.float32) for n in spec}
    wanted["b"] = abs(wanted["b"])
    assert_same(mapped, wanted)
    np.testing.assert_allclose(
        mapped.concat(), np.concatenate([wanted[n] for n in sorted(wanted)], 1)
    )


def test_matrices_keep_their_shape_through_a_function_by_element():
    block, features = make({"c": SPEC["c"], "d": SPEC["d"], "a": SPEC["a"]})
    mapped = block.map(dict.fromkeys("acd", tf.math.square))
    assert_same(mapped, {name: value**2 for name, value in features.items()})


def test_random_functions_draw_for_each_element():
    block, _ = make(ONES)
    mapped = block.map(dict.fromkeys(ONES, lambda t: tf.random.uniform(tf.shape(t))))
    assert len(np.unique(mapped.concat())) > DOCUMENTS * 11


def test_a_block_can_be_given_to_a_keras_layer():
    class Sum(tf.keras.layers.Layer):
        def call(self, inputs):
            return tf.add_n([inputs[name] for name in sorted(inputs)])

    block, features = make(ONES)
    np.testing.assert_allclose(
        Sum()(dict(block)), sum(features.values()), rtol=1e-5, atol=1e-5
    )
