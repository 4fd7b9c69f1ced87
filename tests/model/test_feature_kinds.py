"""Ragged, sparse and text features, with Keras's preprocessing layers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.model.test_models import EVEN, LENGTHS, MASK, batch
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.model import builders, inputs, preprocess, scorers
from tfr_pipeline.model.layers.ragged import RaggedMean

layers = tf.keras.layers
# Two lists of two and one documents.
TOKENS = [[["a", "b"], ["c"]], [[]]]
QUERY = [["a"], []]
LIST_MASK = np.array([[True, True], [True, False]])
VOCABULARY = ["a", "b", "c"]


def token_mean():
    """Returns a function from tokens to the mean of their one-hot vectors."""
    lookup = layers.StringLookup(vocabulary=VOCABULARY, num_oov_indices=0)
    one_hot = layers.Embedding(3, 3, embeddings_initializer="identity")
    return lambda tokens: RaggedMean()(one_hot(lookup(tokens)))


def build(creator, functions, scorer=None):
    scorer = scorer or scorers.DNNScorer(hidden_layer_dims=[3])
    return builders.ModelBuilder(creator, functions, scorer, MASK).build()


def own_columns(context, example, mask):
    """A scorer that shows the first column of each feature."""
    return tf.add_n([example[name][..., 0] for name in sorted(example)])


def ragged_features():
    return {
        "query": tf.ragged.constant(QUERY, dtype=tf.string),
        "tokens": tf.ragged.constant(TOKENS, ragged_rank=2, dtype=tf.string),
        MASK: tf.constant(LIST_MASK),
    }


RAGGED = {
    "feature specs": lambda: inputs.FeatureSpecInputCreator(
        {"query": tf.io.RaggedFeature(tf.string)},
        {"tokens": tf.io.RaggedFeature(tf.string)},
    ),
    "type specs": lambda: inputs.TypeSpecInputCreator(
        {
            "query": tf.RaggedTensorSpec([None, None], tf.string, 1),
            "tokens": tf.RaggedTensorSpec([None, None, None], tf.string, 2),
            "label": tf.TensorSpec([None, None]),
        },
        ["query"],
        ["tokens"],
    ),
}


@pytest.mark.parametrize("kind", RAGGED)
def test_ragged_tokens_become_means_of_vectors(kind):
    embed = token_mean()
    model = build(RAGGED[kind](), {"query": embed, "tokens": embed}, own_columns)
    # The share of "a" among the tokens of each document.
    found = model(ragged_features())
    np.testing.assert_allclose(found, [[0.5, 0.0], [0.0, 0.0]])


@pytest.mark.parametrize("kind", RAGGED)
def test_a_network_on_ragged_tokens_scores_documents_without_tokens(kind):
    embed = token_mean()
    model = build(RAGGED[kind](), {"query": embed, "tokens": embed})
    for training in (False, True):
        scores = model(ragged_features(), training=training).numpy()
        assert scores.shape == (2, 2)
        assert np.isfinite(scores).all()


def test_a_network_on_ragged_tokens_is_saved_with_its_vocabulary(tmp_path):
    embed = token_mean()
    model = build(RAGGED["feature specs"](), {"query": embed, "tokens": embed})
    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    features = ragged_features()
    np.testing.assert_array_equal(loaded(features), model(features))


def test_the_mean_of_tokens_is_that_of_numpy():
    random = np.random.default_rng(0)
    flat = random.normal(size=[5, 3]).astype(np.float32)
    documents = tf.RaggedTensor.from_row_lengths(flat, [2, 0, 3])
    wanted = [flat[:2].mean(0), np.zeros(3), flat[2:].mean(0)]
    np.testing.assert_allclose(RaggedMean()(documents), wanted, rtol=1e-5)
    lists = tf.RaggedTensor.from_row_lengths(documents, [2, 1])
    np.testing.assert_allclose(RaggedMean()(lists).values, wanted, rtol=1e-5)


def test_dense_vectors_are_not_averaged_over_documents():
    with pytest.raises(ConfigError, match="expected a RaggedTensor"):
        RaggedMean()(tf.ones([2, 3, 4]))


def test_sparse_features_of_the_query_are_made_dense():
    creator = inputs.FeatureSpecInputCreator({"q": tf.io.VarLenFeature(tf.int64)}, EVEN)
    model = build(creator, {"q": layers.CategoryEncoding(4, output_mode="multi_hot")})
    _, padded = batch({}, EVEN)
    ids = tf.sparse.from_dense([[1], [2], [0], [3]])
    found = model({**padded, "q": tf.cast(ids, tf.int64)})
    assert np.isfinite(found).all()


def test_type_specs_take_sparse_tensors():
    spec = {"x": tf.SparseTensorSpec([None, None, 4], tf.float32)}
    creator = inputs.TypeSpecInputCreator(spec, example_feature_names=["x"])
    model = build(creator, {}, own_columns)
    dense = np.zeros([2, 2, 4], np.float32)
    dense[0, 1, 0] = 3.0
    found = model({"x": tf.sparse.from_dense(dense), MASK: tf.constant(LIST_MASK)})
    np.testing.assert_array_equal(found, dense[..., 0])


@pytest.mark.parametrize("kind", ["ragged", "sparse"])
def test_lists_are_padded_and_cut_to_the_mask(kind):
    ragged = tf.ragged.constant([[[1.0], [2.0]], [[3.0]]], ragged_rank=1)
    feature = ragged if kind == "ragged" else ragged.to_sparse()
    preprocessor = preprocess.PreprocessorWithSpec({}, {"x": -1.0})
    for size, wanted in ((3, [[1, 2, -1], [3, -1, -1]]), (1, [[1], [3]])):
        _, found = preprocessor({}, {"x": feature}, tf.ones([2, size], tf.bool))
        np.testing.assert_array_equal(found["x"][..., 0], wanted)


PREPROCESSING = {
    "Normalization": (
        tf.io.FixedLenFeature((2,), tf.float32, [0.0] * 2),
        lambda: layers.Normalization(mean=[1.0, 2.0], variance=[4.0, 9.0]),
    ),
    "Discretization": (
        tf.io.FixedLenFeature((1,), tf.float32, 0.0),
        lambda: layers.Discretization([0.0, 1.0]),
    ),
    "Hashing": (
        tf.io.FixedLenFeature((1,), tf.int64, 0),
        lambda: tf.keras.Sequential([layers.Hashing(7), layers.Embedding(7, 2)]),
    ),
    "IntegerLookup": (
        tf.io.FixedLenFeature((1,), tf.int64, 0),
        lambda: tf.keras.Sequential(
            [layers.IntegerLookup(vocabulary=[1, 2, 3]), layers.Embedding(4, 2)]
        ),
    ),
    "Embedding": (
        tf.io.FixedLenFeature((3,), tf.int64, [0] * 3),
        lambda: layers.Embedding(5, 2),
    ),
}


@pytest.mark.parametrize("name", PREPROCESSING)
@pytest.mark.parametrize("side", ["query", "document"])
def test_keras_preprocessing_works_packed_and_padded(name, side):
    spec, make = PREPROCESSING[name]
    context = {"f": spec} if side == "query" else {}
    example = {**EVEN, **({"f": spec} if side == "document" else {})}
    builder = builders.ModelBuilder(
        inputs.FeatureSpecInputCreator(context, example),
        {"f": make()},
        scorers.DNNScorer(hidden_layer_dims=[3]),
        MASK,
    )
    assert builder.layouts == ("packed", "padded")
    packed_model, padded_model = builder.build_packed(), builder.build()
    packed_model.set_weights(padded_model.get_weights())
    packed, padded = batch(context, example)
    found, wanted = packed_model(packed), padded_model(padded)
    np.testing.assert_allclose(found.values, wanted[padded[MASK]], rtol=1e-4, atol=1e-5)
    assert found.row_lengths().numpy().tolist() == LENGTHS.tolist()


TEXT = {
    "StringLookup": lambda: tf.keras.Sequential(
        [layers.StringLookup(vocabulary=VOCABULARY), layers.Embedding(4, 2)]
    ),
    "Hashing": lambda: tf.keras.Sequential([layers.Hashing(7), layers.Embedding(7, 2)]),
}


@pytest.mark.parametrize("name", TEXT)
def test_text_of_documents_is_looked_up(name):
    creator = inputs.FeatureSpecInputCreator(
        {}, {"title": tf.io.FixedLenFeature((1,), tf.string, "")}
    )
    model = build(creator, {"title": TEXT[name]()})
    title = tf.constant([[["a"], ["x"]], [["b"], [""]]])
    found = model({"title": title, MASK: tf.constant(LIST_MASK)})
    assert np.isfinite(found).all()
    assert len(set(found.numpy()[LIST_MASK])) == 3


def test_text_of_the_query_is_split_and_looked_up():
    split = layers.TextVectorization(vocabulary=VOCABULARY, output_sequence_length=2)
    creator = inputs.FeatureSpecInputCreator(
        {"q": tf.io.FixedLenFeature((1,), tf.string, "")}, EVEN
    )

    def scorer(context, example, mask):
        return tf.cast(context["q"][:, :1], tf.float32) + example["x0"][..., 0] * 0

    model = build(creator, {"q": split}, scorer)
    _, padded = batch({}, EVEN)
    queries = tf.constant([["a b"], ["c"], ["b"], ["x"]])
    found = model({**padded, "q": queries})
    # 0 is padding and 1 an unknown word.
    assert found[:, 0].numpy().tolist() == [2.0, 4.0, 3.0, 1.0]


def test_integers_stand_beside_floats_in_a_network():
    example = {**EVEN, "count": tf.io.FixedLenFeature((1,), tf.int64, 0)}
    builder = builders.ModelBuilder(
        inputs.FeatureSpecInputCreator({}, example),
        {},
        scorers.DNNScorer(hidden_layer_dims=[3]),
        MASK,
    )
    packed_model, padded_model = builder.build_packed(), builder.build()
    packed_model.set_weights(padded_model.get_weights())
    packed, padded = batch({}, example)
    np.testing.assert_allclose(
        packed_model(packed).values, padded_model(padded)[padded[MASK]], rtol=1e-4
    )


def test_text_that_nobody_preprocesses_is_named():
    context = {"q": tf.io.FixedLenFeature((1,), tf.string, "")}
    builder = builders.ModelBuilder(
        inputs.FeatureSpecInputCreator(context, EVEN),
        {},
        scorers.DNNScorer(hidden_layer_dims=[3]),
        MASK,
    )
    for make in (builder.build, builder.build_packed):
        with pytest.raises(ConfigError, match="feature 'q' is text"):
            make()


def test_a_missing_mask_is_named():
    creator = inputs.FeatureSpecInputCreator({}, EVEN)
    model = build(creator, preprocess.PreprocessorWithSpec({}))
    _, padded = batch({}, EVEN)
    del padded[MASK]
    with pytest.raises(DataError, match=r"'mask' among x0.*mask_feature_name"):
        model(padded)
    model.compile("sgd", "mse")
    dataset = tf.data.Dataset.from_tensors((padded, tf.zeros([4, 4])))
    with pytest.raises(DataError, match=r"'mask' among x0.*mask_feature_name"):
        model.fit(dataset, verbose=0)


PACKED = "documents_float32"
WRONG = {
    "width": ("x1", lambda x: tf.zeros([4, 4, 2]), r"\(None, None, 1\), found dense"),
    "rank": (
        "x1",
        lambda x: tf.zeros([4, 4, 1, 2]),
        r"found dense float32 \(4, 4, 1, 2",
    ),
    "text": ("x1", lambda x: tf.fill([4, 4, 1], "a"), "found dense string"),
    "ragged": ("x1", tf.RaggedTensor.from_tensor, "dense float32 .*found ragged"),
    "columns": (PACKED, lambda x: x[:, :, :3], r"4\), found ragged .*3\)"),
    "dense": (PACKED, lambda x: x.to_tensor(), "ragged float32 .*found dense"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_feature_of_another_form_is_named(case):
    name, change, words = WRONG[case]
    creator = inputs.FeatureSpecInputCreator({}, EVEN)
    builder = builders.ModelBuilder(
        creator, {}, scorers.DNNScorer(hidden_layer_dims=[3]), MASK
    )
    packed, padded = batch({}, EVEN)
    model = builder.build_packed() if name == PACKED else builder.build()
    features = packed if name == PACKED else padded
    model(features)
    with pytest.raises(DataError, match=f"feature '{name}': expected .*{words}"):
        model({**features, name: change(features[name])})


def test_a_last_axis_of_one_may_be_left_out():
    creator = inputs.FeatureSpecInputCreator({}, EVEN)
    model = build(creator, {})
    _, padded = batch({}, EVEN)
    squeezed = {**padded, "x1": padded["x1"][..., 0]}
    np.testing.assert_array_equal(model(squeezed), model(padded))


@pytest.mark.parametrize(
    "context, example, words",
    [
        (["x9"], [], "unknown feature 'x9' in type_spec"),
        (["x"], ["x"], "feature 'x': expected it to be of the query or of the doc"),
    ],
)
def test_names_without_type_spec_are_refused(context, example, words):
    with pytest.raises(ConfigError, match=words):
        inputs.TypeSpecInputCreator({"x": tf.TensorSpec([None, 1])}, context, example)


@pytest.mark.parametrize("dtype", [tf.int64, tf.int32])
def test_dense_tensors_stand_for_ragged_ones_as_in_tf_ranking(dtype):
    spec = {
        "x": tf.TensorSpec([None, None, 1], tf.float32),
        "n": tf.TensorSpec([None, None, 1], tf.int64),
        "tokens": tf.RaggedTensorSpec([None, None, None], tf.int64),
    }
    embed = tf.keras.layers.Embedding(12, 2)
    creator = inputs.TypeSpecInputCreator(spec, example_feature_names=list(spec))
    functions = {"tokens": lambda tokens: tf.reduce_mean(embed(tokens), axis=2)}
    model = build(creator, functions)
    dense = tf.reshape(tf.range(12), [2, 3, 2])
    features = {
        "x": tf.ones([2, 3, 1]),
        "n": tf.ones([2, 3, 1], tf.int64),
        "tokens": tf.RaggedTensor.from_tensor(tf.cast(dense, tf.int64), ragged_rank=2),
        MASK: tf.ones([2, 3], tf.bool),
    }
    wanted = model(features)
    given = {
        **features,
        "tokens": tf.cast(dense, dtype),
        "n": tf.ones([2, 3, 1], dtype),
    }
    np.testing.assert_array_equal(model(given), wanted)
    np.testing.assert_array_equal(model.predict(given, verbose=0), wanted)
    given["tokens"] = given["tokens"].numpy()
    np.testing.assert_array_equal(model(given), wanted)
