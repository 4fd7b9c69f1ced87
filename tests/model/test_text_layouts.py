"""Texts, ragged and sparse features: packed models score as padded ones."""

from __future__ import annotations

import numpy as np
import pytest

from tests import text_data
from tests.ranking_data import MASK
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.data.batching import windowed
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.losses import factory
from tfr_pipeline.model import preprocess
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.layers.distinct import Steps, is_elementwise, is_row_wise
from tfr_pipeline.model.layers.lists import concat_columns
from tfr_pipeline.model.layers.ragged import RaggedMean
from tfr_pipeline.model.prepared import is_prepared
from tfr_pipeline.model.scorers import DNNScorer, GAMScorer, UnivariateScorer

layers = tf.keras.layers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts")
    text_data.write(path)
    return path


@pytest.fixture(scope="module", params=["memory", "disk", "windows"])
def batches(request, folder, tmp_path_factory):
    """The validation data as packed and as padded batches."""
    cache = "memory"
    if request.param != "memory":
        cache = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "windows":
            patch.setattr(windowed, "WINDOW", 100)
        builder = text_data.dataset_builder(folder, cache=cache)
        assert builder.layouts == ("packed", "padded")
        by_windows = isinstance(builder.plan("valid"), windowed.WindowedPlan)
        assert by_windows == (request.param == "windows")
        return [list(builder.make_dataset("valid", x)) for x in builder.layouts]


@pytest.fixture(scope="module")
def models():
    return text_data.both_models()


def test_packed_scores_and_losses_are_padded_ones(batches, models):
    packed_model, padded_model = models
    loss = factory.get("softmax_loss")
    spread = 0.0
    for (packed, labels), (padded, padded_labels) in zip(*batches, strict=True):
        found, wanted = packed_model(packed), padded_model(padded)
        mask = padded[MASK]
        np.testing.assert_allclose(found.values, wanted[mask], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(labels.values, padded_labels[mask])
        np.testing.assert_allclose(
            loss(labels, found), loss(padded_labels, wanted), rtol=1e-5
        )
        spread = max(spread, float(np.ptp(found.values)))
    assert spread > 0.1


def test_packed_gradients_are_padded_ones(batches, models):
    loss = factory.get("softmax_loss")
    found = []
    for model, some in zip(models, batches, strict=True):
        features, labels = some[0]
        with tf.GradientTape() as tape:
            value = loss(labels, model(features, training=False))
        weights = model.trainable_variables
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(value, weights)]
        by_shape = sorted((tuple(g.shape), float(tf.norm(g))) for g in gradients)
        found.append(by_shape)
    assert [shape for shape, _ in found[0]] == [shape for shape, _ in found[1]]
    np.testing.assert_allclose(
        [norm for _, norm in found[0]], [norm for _, norm in found[1]], rtol=1e-4
    )


class Sum(UnivariateScorer):
    """Adds all numbers of a document and its query, each with a weight of its own."""

    def _score_flattened(self, context_features, example_features):
        columns = concat_columns(context_features, example_features, tf.float32)
        weights = tf.cos(tf.range(columns.shape[1], dtype=tf.float32))
        return tf.reduce_sum(columns * weights, axis=1, keepdims=True)


def test_scores_and_losses_are_tf_rankings(batches):
    functions = text_data.functions()
    # TF-Ranking leaves sparse features as they are, and splits texts of queries only.
    del functions["clicked"]
    lookup = layers.StringLookup(vocabulary=text_data.TITLES)
    functions["title"] = tf.keras.Sequential([lookup, layers.Embedding(10, 3)])
    specs = text_data.FEATURES.context_spec, text_data.FEATURES.example_spec
    context, example = (
        {n: s for n, s in some.items() if not isinstance(s, tf.io.VarLenFeature)}
        for some in specs
    )
    ours = ModelBuilder(
        FeatureSpecInputCreator(context, example), functions, Sum(), MASK
    )
    theirs = tfr.keras.model.ModelBuilder(
        tfr.keras.model.FeatureSpecInputCreator(context, example),
        tfr.keras.model.PreprocessorWithSpec(functions),
        Sum(),
        MASK,
    )
    models = ours.build_packed(), ours.build(), theirs.build()
    loss, their_loss = factory.get("softmax_loss"), tfr.keras.losses.SoftmaxLoss()
    for (packed, labels), (padded, padded_labels) in zip(*batches, strict=True):
        found, same, wanted = (
            model(features)
            for model, features in zip(models, (packed, padded, padded), strict=True)
        )
        mask = padded[MASK]
        np.testing.assert_allclose(same[mask], wanted[mask], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.values, wanted[mask], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            loss(labels, found), their_loss(padded_labels, wanted), rtol=1e-5
        )


def test_prepared_batches_are_scored_as_raw_ones(folder, models):
    model = models[0]
    builder = text_data.dataset_builder(folder)
    prepared = builder.make_dataset("valid", "packed", prepare=model.preparation)
    raw = builder.make_dataset("valid", "packed")
    for (features, _), (wanted, _) in zip(prepared, raw, strict=True):
        assert is_prepared(features)
        found = model.scores(features, training=False)
        scores = model.scores(wanted, training=False)
        np.testing.assert_allclose(found.values, scores.values, rtol=1e-5, atol=1e-6)


def test_a_saved_packed_model_scores_as_before(batches, models, tmp_path):
    features = batches[0][0][0]
    models[0].save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(features).values, models[0](features).values)


def test_each_distinct_text_of_a_batch_is_encoded_once(folder):
    seen = []

    class Encoder(layers.Layer):
        row_wise = True

        def call(self, texts):
            seen.append(texts)
            return tf.cast(tf.strings.length(texts), tf.float32)

    example = {"title": text_data.FEATURES.example_spec["title"]}
    creator = FeatureSpecInputCreator({}, example)
    builder = ModelBuilder(creator, {"title": Encoder()}, Sum(), MASK)
    data = text_data.dataset_builder(folder)
    for layout, model in (
        ("packed", builder.build_packed()),
        ("padded", builder.build()),
    ):
        features, _ = next(iter(data.make_dataset("valid", layout)))
        if layout == "packed":
            numbers = features["title"].values.numpy().ravel()
            wanted = features["distinct_of_title"].numpy()
            assert len({*wanted}) == len(wanted) == len({*numbers})
        else:
            wanted = np.unique(features["title"].numpy())
        seen.clear()
        scores = model({n: features[n] for n in model.input_names})
        (texts,) = seen
        assert texts.shape == [len(wanted), 1]
        assert {*texts.numpy().ravel()} == {*wanted}
        assert np.size(scores.flat_values if layout == "packed" else scores) > len(
            wanted
        )


KINDS = {
    "layer": (lambda: layers.StringLookup(vocabulary=["a"]), True),
    "sequence": (
        lambda: tf.keras.Sequential([layers.Hashing(3), layers.Embedding(3, 2)]),
        True,
    ),
    "steps": (lambda: Steps([layers.Hashing(3), layers.Embedding(3, 2)]), True),
    "dropout": (
        lambda: tf.keras.Sequential([layers.Embedding(3, 2), layers.Dropout(0.5)]),
        False,
    ),
    "normalisation": (lambda: Steps([layers.BatchNormalization()]), False),
    "function": (lambda: tf.strings.length, False),
    "nothing": (lambda: Steps([]), False),
}


LOOKUP = {"vocabulary": ["a", "b"], "output_mode": "multi_hot"}
ELEMENTWISE = {
    "steps": (lambda: Steps([layers.Hashing(3), layers.Embedding(3, 2)]), True),
    "many hot": (lambda: layers.StringLookup(**LOOKUP), False),
    "words": (lambda: layers.TextVectorization(), False),
    "regularised": (
        lambda: layers.Embedding(3, 2, activity_regularizer="l2"),
        False,
    ),
}


@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_what_is_elementwise_is_known(kind):
    make, wanted = ELEMENTWISE[kind]
    assert is_elementwise(make()) == wanted


@pytest.mark.parametrize("side", ["query", "document"])
def test_a_lookup_of_all_texts_of_a_row_is_one_of_rows(side):
    """A vector a row is no vector a text."""
    spec = {"x": tf.io.RaggedFeature(tf.string)}
    number = {"n": tf.io.FixedLenFeature((1,), tf.float32, 0.0)}
    specs = ({}, spec) if side == "document" else (spec, number)
    encode = layers.StringLookup(num_oov_indices=1, **LOOKUP)

    def rows(texts):  # what Keras takes has two axes
        if texts.shape.rank == 2:
            return encode(texts.to_tensor("b"))
        return tf.expand_dims(encode(texts.values.to_tensor("b")), 0)

    rows.layer = encode
    function = encode if side == "query" else rows
    creator = FeatureSpecInputCreator(*specs)
    model = ModelBuilder(creator, {"x": function}, Sum(), MASK).build_packed()
    texts = tf.ragged.constant([["a", "a"], ["b", "?"]])
    if side == "query":
        numbers = tf.RaggedTensor.from_row_lengths(tf.zeros([2, 1]), [1, 1])
        features = {"x": texts, "documents_float32": numbers}
    else:
        numbers = tf.ragged.constant([[[0, 0]], [[1, 2]]], ragged_rank=2)
        features = {"x": tf.cast(numbers, tf.int32)}
        features["distinct_of_x"] = tf.constant(["a", "b", "?"])
    found = model(features).values
    hot = np.float32([[0, 1, 0], [1, 0, 1]])
    wanted = hot @ np.cos(np.arange(3))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_row_wise_is_known_or_says_so(kind):
    make, wanted = KINDS[kind]
    assert is_row_wise(make()) == wanted


def test_steps_behind_a_row_wise_one_see_documents():
    shapes = []

    def watch(values):
        shapes.append(values.shape.as_list())
        return values

    lookup = layers.StringLookup(vocabulary=["a", "b"])
    steps = Steps([lookup, watch])
    example = {"x": tf.io.FixedLenFeature((1,), tf.string, "")}
    creator = FeatureSpecInputCreator({}, example)
    model = ModelBuilder(creator, {"x": steps}, Sum(), MASK).build_packed()
    numbers = tf.RaggedTensor.from_row_lengths(tf.constant([[0], [1], [0]]), [1, 2])
    features = {"x": numbers, "distinct_of_x": tf.constant(["b", "?"])}
    assert model(features).values.numpy().tolist() == [2.0, 0.0, 2.0]
    assert shapes[0] == [1, None, 1]


def test_a_sequence_serves_one_text_and_any_number_of_them():
    embed = tf.keras.Sequential([layers.Hashing(9), layers.Embedding(9, 2)])
    example = {
        "title": tf.io.FixedLenFeature((1,), tf.string, ""),
        "tokens": tf.io.RaggedFeature(tf.string),
    }
    creator = FeatureSpecInputCreator({}, example)
    steps = {"title": embed, "tokens": Steps([embed, RaggedMean()])}
    model = ModelBuilder(creator, steps, Sum(), MASK).build_packed()
    one = tf.RaggedTensor.from_row_lengths(tf.constant([[0], [1]]), [2])
    features = {"title": one, "distinct_of_title": tf.constant(["a", "b"])}
    features["tokens"] = tf.RaggedTensor.from_row_lengths(
        tf.RaggedTensor.from_row_lengths(tf.constant([0, 1]), [1, 1]), [2]
    )
    features["distinct_of_tokens"] = tf.constant(["a", "b"])
    vectors = embed(tf.constant([["a"], ["b"]]))[:, 0].numpy()
    wanted = np.concatenate([vectors, vectors], 1) @ np.cos(np.arange(4))
    np.testing.assert_allclose(model(features).values, wanted, rtol=1e-5, atol=1e-6)


def test_features_of_any_number_of_values_are_named():
    creator = FeatureSpecInputCreator({}, {"tokens": tf.io.RaggedFeature(tf.int64)})
    for scorer in (
        DNNScorer(hidden_layer_dims=[2]),
        GAMScorer(example_hidden_layer_dims=[2]),
    ):
        builder = ModelBuilder(creator, {}, scorer, MASK)
        for build in (builder.build_packed, builder.build):
            with pytest.raises(ConfigError, match="'tokens' has any number of values"):
                build()


def test_a_scorer_of_ones_own_may_take_any_number_of_values():
    class Longest(UnivariateScorer):
        def _score_flattened(self, context_features, example_features):
            return tf.reduce_max(example_features["x"], axis=1, keepdims=True)

    creator = FeatureSpecInputCreator({}, {"x": tf.io.RaggedFeature(tf.float32)})
    preprocessor = preprocess.PreprocessorWithSpec({}, {"x": -9.0})
    builder = ModelBuilder(creator, preprocessor, Longest(), MASK)
    values = tf.ragged.constant([[[1.0, 2.0], []], [[-3.0]]], ragged_rank=2)
    found = builder.build_packed()({"x": values})
    assert found.to_list() == [[2.0, -9.0], [-3.0]]
    mask = tf.constant([[True, True], [True, False]])
    padded = builder.build()({"x": values, MASK: mask})
    np.testing.assert_array_equal(padded[mask], found.values)


def test_sparse_features_have_one_value_a_document_or_a_function():
    creator = FeatureSpecInputCreator({}, {"x": tf.io.VarLenFeature(tf.float32)})
    values = tf.ragged.constant([[[1.0, 2.0], []], [[-3.0]]], ragged_rank=2)
    plain = ModelBuilder(creator, {}, Sum(), MASK).build_packed()
    with pytest.raises(tf.errors.InvalidArgumentError, match="'x': expected at most"):
        plain({"x": values})

    class Add(layers.Layer):
        def call(self, sparse):
            total = tf.sparse.reduce_sum(sparse, 2, keepdims=True)
            return tf.ensure_shape(total, [1, None, 1])

    model = ModelBuilder(creator, {"x": Add()}, Sum(), MASK).build_packed()
    assert model({"x": values}).to_list() == [[3.0, 0.0], [-3.0]]


MIXING = {
    "text": (
        tf.io.FixedLenFeature((1,), tf.string, ""),
        lambda texts: tf.cast(texts == texts[:, :1], tf.float32),
    ),
    "ragged": (
        tf.io.RaggedFeature(tf.float32),
        lambda values: values.to_tensor() - tf.reduce_max(values.to_tensor(), 1, True),
    ),
}


@pytest.mark.parametrize("kind", MIXING)
def test_functions_that_compare_documents_make_the_model_padded(kind):
    spec, function = MIXING[kind]
    creator = FeatureSpecInputCreator({}, {"x": spec})
    builder = ModelBuilder(creator, {"x": function}, Sum(), MASK)
    assert builder.layouts == ("padded",)
