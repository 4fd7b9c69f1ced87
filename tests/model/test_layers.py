"""Layers give TF-Ranking's numbers where those are right, and leave padding out."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import tfr_pipeline
from tfr_pipeline import keras as ours
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.layers.lists import PADDING_SCORE
from tfr_pipeline.model.layers.seeded import GaussianNoise

theirs = tfr.keras.layers
NAMES = ours.layers.__all__
# One full list, one with holes, one of a single document and an empty one.
MASK = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]], bool)


def lists(seed=0):
    """Returns context features, example features and the mask."""
    random = np.random.default_rng(seed)

    def draw(*shape):
        return tf.constant(random.normal(size=shape), tf.float32)

    context = {"q2": draw(4, 2), "q1": draw(4, 1)}
    return context, {"x": draw(4, 4, 1), "grid": draw(4, 4, 2, 3)}, tf.constant(MASK)


def randomize(layer, seed=1):
    random = np.random.default_rng(seed)
    for weight in layer.weights:
        value = random.uniform(-0.5, 0.5, size=weight.shape)
        if "variance" in weight.name:
            value = abs(value) + 0.5
        weight.assign(value.astype(weight.dtype.as_numpy_dtype))


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_tf_rankings_and_what_is_new_is_keyword_only(name):
    found = getattr(ours.layers, name)
    if name[0].isupper():
        assert found is getattr(tfr_pipeline, name)
    wanted = inspect.signature(getattr(theirs, name)).parameters
    found = inspect.signature(found).parameters
    for key, parameter in wanted.items():
        assert found[key].default == parameter.default
        assert found[key].kind == parameter.kind
    shared = [key for key in found if key in wanted]
    assert shared == list(wanted)
    for key in set(found) - set(wanted):
        assert found[key].kind is inspect.Parameter.KEYWORD_ONLY


def test_no_layer_of_tf_ranking_is_missing():
    public = {
        name
        for name, value in vars(theirs).items()
        if getattr(value, "__module__", "") == theirs.__name__ and name[0] != "_"
    }
    assert public == set(NAMES)


@pytest.mark.parametrize("circular", [True, False])
def test_flatten_list_gives_tf_rankings_rows(circular):
    found = ours.layers.FlattenList(circular)(lists())
    wanted = theirs.FlattenList(circular)(lists())
    tf.nest.map_structure(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize("circular", [True, False])
def test_concat_features_gives_tf_rankings_columns(circular):
    found = ours.layers.ConcatFeatures(circular)(lists())
    wanted = theirs.ConcatFeatures(circular)(lists())
    np.testing.assert_array_equal(found, wanted)


def test_concat_features_takes_integers():
    found = ours.layers.ConcatFeatures()(
        ({}, {"count": tf.constant([[[2], [3]]])}, tf.constant([[True, True]]))
    )
    np.testing.assert_array_equal(found, [[[2.0], [3.0]]])


@pytest.mark.parametrize("by_scatter", [True, False])
@pytest.mark.parametrize("shape", [(16,), (16, 1)])
def test_restore_list_gives_tf_rankings_scores(by_scatter, shape):
    scores = tf.reshape(tf.range(16.0), shape)
    found = ours.layers.RestoreList(by_scatter=by_scatter)((scores, MASK)).numpy()
    wanted = theirs.RestoreList(by_scatter=by_scatter)((scores, MASK)).numpy()
    # By scatter, TF-Ranking gives the padding of an empty list scores.
    np.testing.assert_allclose(found[:3], wanted[:3], rtol=1e-6)
    np.testing.assert_allclose(found[3], PADDING_SCORE, rtol=1e-6)


def test_real_documents_come_back_to_their_places():
    context, example, mask = lists()
    flat_context, flat = ours.layers.FlattenList(real_only=True)(
        (context, example, mask)
    )
    np.testing.assert_array_equal(flat["grid"], example["grid"].numpy()[MASK])
    np.testing.assert_array_equal(
        flat_context["q2"], np.repeat(context["q2"], MASK.sum(1), axis=0)
    )
    back = ours.layers.RestoreList(real_only=True)((flat["x"], mask))
    wanted = np.where(MASK, example["x"].numpy()[..., 0], np.float32(PADDING_SCORE))
    np.testing.assert_array_equal(back, wanted)


def test_a_batch_without_real_documents_has_the_score_of_padding():
    context, example, _ = lists()
    mask = tf.zeros([4, 4], tf.bool)
    _, flat = ours.layers.FlattenList(real_only=True)((context, example, mask))
    scores = ours.layers.create_tower([3], 1)(flat["x"], training=True)
    found = ours.layers.RestoreList(real_only=True)((scores, mask))
    np.testing.assert_allclose(found, np.full([4, 4], PADDING_SCORE), rtol=1e-6)


def test_the_gradient_of_a_mean_over_copies_is_finite():
    scores = tf.Variable(tf.range(16.0))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(ours.layers.RestoreList(by_scatter=True)((scores, MASK)))
    assert np.isfinite(tf.convert_to_tensor(tape.gradient(loss, scores))).all()


def attention(kind, **kwargs):
    arguments = {"num_heads": 2, "head_size": 3, "num_layers": 2, **kwargs}
    return kind.DocumentInteractionAttention(**arguments)


def test_document_interaction_gives_tf_rankings_vectors():
    documents = tf.random.stateless_normal([4, 4, 5], [1, 2])
    mine, other = attention(ours.layers), attention(theirs)
    wanted = other((documents, tf.constant(MASK)), training=False).numpy()
    mine((documents, tf.constant(MASK)), training=False)
    randomize(other)
    parts = [mine._input_projection]
    for attention_and_norm in zip(mine._attentions, mine._norms, strict=True):
        parts += attention_and_norm
    weights = [weight for part in parts for weight in part.trainable_weights]
    assert len(weights) == len(mine.trainable_weights)
    for weight, value in zip(weights, other.trainable_weights, strict=True):
        weight.assign(tf.reshape(value, weight.shape))
    wanted = other((documents, tf.constant(MASK)), training=False).numpy()
    found = mine((documents, tf.constant(MASK)), training=False).numpy()
    np.testing.assert_allclose(found[MASK], wanted[MASK], rtol=1e-4, atol=1e-5)
    assert (found[~MASK] == 0).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("padding", [1e30, np.nan])
def test_what_stands_in_padding_changes_no_vector(training, padding):
    documents = np.random.default_rng(3).normal(size=[4, 4, 5]).astype(np.float32)
    other = np.where(MASK[..., None], documents, np.float32(padding))
    layer = attention(ours.layers, dropout=0.0)
    wanted = layer((tf.constant(documents), tf.constant(MASK)), training=training)
    found = layer((tf.constant(other), tf.constant(MASK)), training=training)
    np.testing.assert_array_equal(found, wanted)
    assert np.isfinite(found).all()


def test_without_mask_all_documents_are_real():
    documents = tf.random.stateless_normal([2, 3, 5], [1, 2])
    layer = attention(ours.layers)
    wanted = layer((documents, tf.ones([2, 3], tf.bool)), training=False)
    np.testing.assert_array_equal(layer((documents, None), training=False), wanted)


def test_noise_has_its_deviation_and_only_in_training():
    layer = GaussianNoise(1.5, seed=3)
    zeros = tf.zeros([200, 50])
    noise = layer(zeros, training=True).numpy()
    assert abs(noise.std() - 1.5) < 0.05
    assert abs(noise.mean()) < 0.05
    assert (layer(zeros, training=True).numpy() != noise).all()
    assert (layer(zeros, training=False).numpy() == 0).all()


def test_self_attention_mask_is_tf_rankings():
    rows = tf.ones([4, 3, 2])
    wanted = theirs.SelfAttentionMask()([rows, tf.constant(MASK)])
    for inputs in ([rows, MASK], (rows, MASK)):
        np.testing.assert_array_equal(ours.layers.SelfAttentionMask()(inputs), wanted)
    found = ours.layers.SelfAttentionMask()(rows, to_mask=tf.constant(MASK))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("context", [True, False])
def test_gam_layer_gives_tf_rankings_scores_and_parts(context):
    arguments = {
        "example_feature_num": 3,
        "example_hidden_layer_dims": [4, 3],
        "context_feature_num": 2,
        "context_hidden_layer_dims": [3],
        "activation": "tanh",
        "use_batch_norm": False,
    }
    random = np.random.default_rng(4)

    def draw(width):
        return tf.constant(random.normal(size=[6, width]), tf.float32)

    features = ([draw(1), draw(2), draw(1)], [draw(1), draw(3)])
    mine, other = ours.layers.GAMLayer(**arguments), theirs.GAMLayer(**arguments)
    other(features, training=False)
    mine(features, training=False)
    randomize(other)
    if not context:
        features = (features[0], None)
    towers = [tower.get_weights() for tower in other._example_towers]
    for group, stacked in zip(mine._groups, mine._example_towers, strict=True):
        for weight in stacked.trainable_weights:
            layer = int(weight.name.split("_")[-1].split(":")[0])
            index = 2 * layer + ("bias" in weight.name)
            weight.assign(
                np.stack([towers[i][index] for i in group]).reshape(weight.shape)
            )
    for tower, their_tower in zip(
        mine._context_towers, other._context_towers, strict=True
    ):
        for weight, value in zip(
            tower.trainable_weights, their_tower.trainable_weights, strict=True
        ):
            weight.assign(value)
    wanted, found = other(features, training=False), mine(features, training=False)
    assert [len(part) for part in found[1:]] == [3, 2 if context else 0]
    tf.nest.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        found,
        wanted,
    )


def test_bilinear_gives_tf_rankings_products():
    pair = [tf.random.stateless_normal([7, 3], [seed, 2]) for seed in (1, 5)]
    mine, other = ours.layers.Bilinear(3, 4), theirs.Bilinear(3, 4)
    other(pair)
    mine(pair)
    randomize(other)
    mine.set_weights(other.get_weights())
    np.testing.assert_allclose(mine(pair), other(pair), rtol=1e-4, atol=1e-5)
    assert mine.compute_output_shape([(7, 3), (7, 3)]) == [7, 4]


def test_create_tower_gives_tf_rankings_scores():
    rows = tf.random.stateless_normal([7, 3], [1, 2])
    for training in (False, True):
        arguments = ([4, 3], 2, "relu", True, True, 0.9, 0.0)
        mine, other = (
            ours.layers.create_tower(*arguments),
            theirs.create_tower(*arguments),
        )
        other(rows)
        mine(rows)
        randomize(other)
        mine.set_weights(other.get_weights())
        np.testing.assert_allclose(
            mine(rows, training=training),
            other(rows, training=training),
            rtol=1e-4,
            atol=1e-5,
        )


LAYERS = {
    "FlattenList": (lambda k: k.FlattenList(False), lists),
    "RestoreList": (lambda k: k.RestoreList(), lambda: (tf.range(16.0), MASK)),
    "ConcatFeatures": (lambda k: k.ConcatFeatures(False), lists),
    "DocumentInteractionAttention": (
        attention,
        lambda: (tf.ones([4, 4, 2]), tf.constant(MASK)),
    ),
    "GAMLayer": (
        lambda k: k.GAMLayer(1, [2], 1, [2], activation="relu", dropout=0.0),
        lambda: ([tf.ones([3, 1])], [tf.ones([3, 2])]),
    ),
    "SelfAttentionMask": (
        lambda k: k.SelfAttentionMask(),
        lambda: [tf.ones([4, 3, 2]), tf.constant(MASK)],
    ),
    "Bilinear": (lambda k: k.Bilinear(2, 3), lambda: [tf.ones([5, 2])] * 2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_from_its_config_is_the_same_layer(name):
    make, inputs = LAYERS[name]
    layer = make(ours.layers)
    wanted = layer(inputs(), **training_off(layer))
    config = tf.keras.layers.serialize(layer)
    copy = tf.keras.layers.deserialize(config)
    assert type(copy) is getattr(ours.layers, name)
    copy(inputs(), **training_off(copy))
    copy.set_weights(layer.get_weights())
    found = copy(inputs(), **training_off(copy))
    tf.nest.map_structure(np.testing.assert_array_equal, found, wanted)


def training_off(layer):
    takes = "training" in inspect.signature(layer.call).parameters
    return {"training": False} if takes else {}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_one_of_tf_rankings(name):
    assert isinstance(LAYERS[name][0](ours.layers), getattr(theirs, name))


CONTEXT, EXAMPLE, _ = lists()
WRONG = {
    "no feature": (
        lambda: ours.layers.FlattenList()((CONTEXT, {}, MASK)),
        "a document feature, found none",
    ),
    "no mask": (
        lambda: ours.layers.FlattenList()((CONTEXT, EXAMPLE, None)),
        r"expected a mask \[batch, list_size\], found None",
    ),
    "a mask of one list": (
        lambda: ours.layers.FlattenList()((CONTEXT, EXAMPLE, MASK[0])),
        r"expected a mask \[batch, list_size\]",
    ),
    "another list size": (
        lambda: ours.layers.FlattenList()((CONTEXT, EXAMPLE, MASK[:, :3])),
        r"feature '(x|grid)'.*\(4, 3\), found \(4, 4",
    ),
    "another batch": (
        lambda: ours.layers.FlattenList()((CONTEXT, EXAMPLE, MASK[:3])),
        r"as in the mask, \(3, 4\), found \(4, ",
    ),
    "another batch of queries": (
        lambda: ours.layers.FlattenList()(({"q": tf.ones([3, 1])}, EXAMPLE, MASK)),
        r"'q'.*as in the mask, \(4, 4\), found \(3, 1\)",
    ),
    "text": (
        lambda: ours.layers.ConcatFeatures()(
            ({}, {"title": tf.fill([4, 4, 1], "a")}, MASK)
        ),
        "feature 'title' is text",
    ),
    "two scores a document": (
        lambda: ours.layers.RestoreList()((tf.ones([16, 2]), MASK)),
        r"one a document, found \(16, 2\) beside a mask \(4, 4\)",
    ),
    "scores of other lists": (
        lambda: ours.layers.RestoreList()((tf.ones([15]), MASK)),
        r"found \(15,\) beside a mask \(4, 4\) of 16 documents",
    ),
    "copies of scores of other lists": (
        lambda: ours.layers.RestoreList(by_scatter=True)((tf.ones([20, 1]), MASK)),
        r"found \(20, 1\) beside a mask \(4, 4\) of 16 documents",
    ),
    "scores of padding": (
        lambda: ours.layers.RestoreList(real_only=True)((tf.ones([16]), MASK)),
        rf"found \(16,\) beside a mask \(4, 4\) of {np.sum(MASK)} documents",
    ),
    "means over no copies": (
        lambda: ours.layers.RestoreList(by_scatter=True, real_only=True),
        "set one of the two",
    ),
    "no heads": (lambda: attention(ours.layers, num_heads=0), "num_heads >= 1"),
    "a mask of other lists": (
        lambda: attention(ours.layers)((tf.ones([4, 3, 2]), tf.constant(MASK))),
        r"expected a mask \(4, 3\), found \(4, 4\)",
    ),
    "no network for queries": (
        lambda: ours.layers.GAMLayer(1, [2], 1),
        "context_hidden_layer_dims is required",
    ),
    "another number of features": (
        lambda: ours.layers.GAMLayer(2, [2])(([tf.ones([3, 1])], [])),
        "expected 2 inputs, as example_feature_num says, found 1",
    ),
    "one vector": (
        lambda: ours.layers.Bilinear(2, 3)([tf.ones([5, 2])]),
        "expected two inputs",
    ),
    "longer vectors": (
        lambda: ours.layers.Bilinear(2, 3)([tf.ones([5, 3])] * 2),
        r"expected two inputs \[batch, 2\]",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_named(case):
    call, message = WRONG[case]
    with pytest.raises(ConfigError, match=message):
        call()
