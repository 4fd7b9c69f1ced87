"""What pretraining does to features, and its losses, beside NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.model.builders import ModelBuilder
from tfr_pipeline.model.inputs import FeatureSpecInputCreator
from tfr_pipeline.model.interactions import InteractionScorer
from tfr_pipeline.model.layers.pretraining import (
    Contrast,
    Corruption,
    Denoising,
    info_nce,
)
from tfr_pipeline.model.pretraining import (
    PADDING,
    Pretrain,
    PretrainingScorer,
    for_pretraining,
)
from tfr_pipeline.model.scorers import DNNScorer, GAMScorer
from tfr_pipeline.pipeline.pretraining import PretrainingLoss

UNITS = (1, 3, 1)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(5)


def columns_of(random, documents=40) -> np.ndarray:
    return random.normal(size=(documents, sum(UNITS))).astype(np.float32)


def test_only_what_is_replaced_differs_and_units_stay_together(random) -> None:
    columns = columns_of(random)
    layer = Corruption(0.4, UNITS, seed=3)
    corrupted, replaced = (x.numpy() for x in layer(columns, training=True))
    by_column = np.repeat(replaced, UNITS, axis=1)
    np.testing.assert_array_equal(corrupted[~by_column], columns[~by_column])
    assert (corrupted != columns)[by_column].all()
    # What replaces a unit is that unit, whole, of one document.
    starts = np.cumsum((0, *UNITS[:-1]))
    for start, width in zip(starts, UNITS, strict=True):
        theirs = {row.tobytes() for row in columns[:, start : start + width]}
        assert {row.tobytes() for row in corrupted[:, start : start + width]} <= theirs


def test_the_share_of_replaced_units_is_the_rate(random) -> None:
    _, replaced = Corruption(0.3, (1,) * 50, seed=1)(
        random.normal(size=(400, 50)).astype(np.float32), training=True
    )
    assert abs(np.mean(replaced) - 0.3) < 0.01


def test_all_other_documents_are_drawn_from_evenly() -> None:
    documents, draws = 8, 400
    columns = np.repeat(np.arange(documents, dtype=np.float32)[:, None], draws, 1)
    layer = Corruption(1 - 1e-4, (1,) * draws, seed=2)
    corrupted, replaced = (x.numpy() for x in layer(columns, training=True))
    for row in range(documents):
        found = np.bincount(
            corrupted[row][replaced[row]].astype(int), minlength=documents
        )
        assert found[row] == 0
        assert abs(np.delete(found, row) - draws / (documents - 1)).max() < 35


def test_steps_differ_and_evaluations_do_not(random) -> None:
    columns, layer = columns_of(random), Corruption(0.5, UNITS, seed=3)
    steps = [layer(columns, training=True)[0].numpy() for _ in range(2)]
    assert (steps[0] != steps[1]).any()
    before = layer(columns, training=False)[0].numpy()
    layer(columns, training=True)
    np.testing.assert_array_equal(before, layer(columns, training=False)[0].numpy())


@pytest.mark.parametrize("documents", [0, 1])
def test_a_document_without_others_keeps_what_it_has(random, documents) -> None:
    columns = columns_of(random, documents)
    corrupted, _ = Corruption(0.5, UNITS, seed=3)(columns, training=True)
    np.testing.assert_array_equal(corrupted, columns)


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first, second = (x / np.linalg.norm(x, axis=1)[:, None] for x in (first, second))
    return first @ second.T


@pytest.mark.parametrize("documents", [1, 5, 6, 13])
def test_info_nce_is_that_of_numpy(random, documents) -> None:
    first, second = random.normal(size=(2, documents, 4)).astype(np.float32)
    found = info_nce(first, second, 0.5, 5).numpy()
    # As few groups as there can be, of sizes as equal as can be.
    size = -(-documents // -(-documents // 5))
    expected = []
    for start in range(0, documents, size):
        some = slice(start, start + size)
        scores = np.exp(cosines(first[some], second[some]) / 0.5)
        both = np.diag(scores) / scores.sum(1), np.diag(scores) / scores.sum(0)
        expected += list(-(np.log(both[0]) + np.log(both[1])) / 2)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_no_documents_have_no_loss() -> None:
    assert info_nce(tf.zeros([0, 3]), tf.zeros([0, 3]), 0.5, 5).shape == (0,)
    assert Contrast(0.5, 4, 5)(tf.zeros([0, 3])).shape == (0, 1)


def test_the_error_of_denoising_is_that_of_numpy(random) -> None:
    columns, hidden = columns_of(random), columns_of(random)
    columns[:, 0] = 7.0  # constant: nothing is to be known of it
    corrupted, replaced = Corruption(0.4, UNITS, seed=3)(columns, training=True)
    layer = Denoising(UNITS, 0.4, mask_weight=0.5)
    found = layer((hidden, corrupted, columns, replaced)).numpy()
    kernel, bias = (weight.numpy() for weight in layer.weights)
    guesses = hidden @ kernel + bias
    deviation = columns.std(0)
    deviation[0] = np.inf
    errors = (guesses[:, :5] - (columns - columns.mean(0)) / deviation) ** 2
    errors[:, 0] = 0.0
    units = np.stack([errors[:, 0], errors[:, 1:4].mean(1), errors[:, 4]], axis=1)
    loss = (units * replaced.numpy()).sum(1) / (0.4 * 3)
    other = corrupted.numpy() != columns
    changed = np.stack([other[:, 0], other[:, 1:4].any(1), other[:, 4]], axis=1)
    chance = 1 / (1 + np.exp(-guesses[:, 5:]))
    entropy = -np.log(np.where(changed, chance, 1 - chance)).mean(1)
    np.testing.assert_allclose(found[:, 0], loss + 0.5 * entropy, rtol=1e-4)


def test_to_guess_means_gives_an_error_of_one(random) -> None:
    columns = columns_of(random, 4000)
    corrupted, replaced = Corruption(0.3, UNITS, seed=3)(columns, training=True)
    layer = Denoising(UNITS, 0.3)
    hidden = tf.zeros([4000, 2])
    found = layer((hidden, corrupted, columns, replaced))
    assert abs(float(tf.reduce_mean(found)) - 1.0) < 0.05


def lists_of(random) -> tuple[tf.RaggedTensor, np.ndarray]:
    values = random.random(5).astype(np.float32)
    ragged = tf.RaggedTensor.from_row_lengths(values, [2, 0, 3])
    return ragged, ragged.to_tensor(PADDING).numpy()


def test_both_layouts_have_the_same_loss_whatever_labels_and_weights(random) -> None:
    ragged, padded = lists_of(random)
    loss, found = PretrainingLoss(), []
    for value in (ragged, tf.constant(padded)):
        for label in (1.0, -1.0):
            labels = tf.zeros_like(value) + label
            found.append(float(loss(labels, value, tf.zeros_like(value))))
    expected = (np.mean(ragged[0]) + np.mean(ragged[2])) / 3
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_no_lists_have_a_loss_of_zero() -> None:
    ragged = tf.RaggedTensor.from_row_lengths(tf.zeros([0]), tf.zeros([0], tf.int64))
    for value in (ragged, tf.zeros([0, 3])):
        assert float(PretrainingLoss()(value, value)) == 0.0


SPECS = {
    "vector": tf.io.FixedLenFeature((3,), tf.float32, [0.0] * 3),
    "title": tf.io.FixedLenFeature((1,), tf.string, ""),
}
QUERY = {"length": tf.io.FixedLenFeature((1,), tf.float32, 0.0)}


def builder_of(scorer, kind=ModelBuilder):
    return kind(FeatureSpecInputCreator(QUERY, SPECS), {}, scorer, "mask")


def test_numbers_are_units_one_by_one_and_texts_as_a_whole() -> None:
    told = Pretrain.of({"task": "denoise"})
    scorer = for_pretraining(builder_of(DNNScorer(hidden_layer_dims=[4])), told)._scorer
    assert isinstance(scorer, PretrainingScorer)
    documents = {
        "vector": tf.zeros([2, 6]),  # as "missing" makes it: two columns a number
        "title": tf.zeros([2, 8]),
        "match": tf.zeros([2, 1]),
    }
    assert scorer._units(documents) == [1, 8, 2, 2, 2]
    assert scorer._units({"length": tf.zeros([2, 1])}) == [1]


@pytest.mark.parametrize("task", ["denoise", "contrastive"])
def test_padded_lists_have_the_losses_of_packed_ones(random, task) -> None:
    scorer = DNNScorer(hidden_layer_dims=[4], dropout=0.0)
    builder = for_pretraining(
        ModelBuilder(
            FeatureSpecInputCreator(QUERY, {"vector": SPECS["vector"]}),
            {"vector": tf.math.tanh},
            scorer,
            "mask",
        ),
        Pretrain.of({"task": task}),
    )
    assert builder.layouts == ("packed", "padded")
    # Corruption and weights have the seeds of the one before.
    tf.keras.utils.set_random_seed(1)
    packed = builder.build_packed()
    tf.keras.utils.set_random_seed(1)
    padded = builder.build()
    padded.set_weights(packed.get_weights())
    ragged = tf.RaggedTensor.from_row_lengths(
        random.normal(size=(9, 3)).astype(np.float32), [4, 2, 3]
    )
    length = random.random((3, 1)).astype(np.float32)
    mask = tf.sequence_mask([4, 2, 3])
    features = {"vector": ragged.to_tensor(), "length": length, "mask": mask}
    lists = padded(features, training=False).numpy()
    values = packed({"documents_float32": ragged, "length": length}, training=False)
    np.testing.assert_allclose(lists[mask.numpy()], values.values, rtol=1e-4, atol=1e-6)
    assert (lists[~mask.numpy()] == PADDING).all()


def test_interactions_are_made_before_anything_is_replaced(random) -> None:
    specs = {"title": tf.io.FixedLenFeature((3,), tf.float32, [0.0] * 3), **SPECS}
    del specs["vector"]
    specs["title"] = tf.io.FixedLenFeature((3,), tf.float32, [0.0] * 3)
    specs["bm25"] = tf.io.FixedLenFeature((1,), tf.float32, 0.0)
    query = {"query": tf.io.FixedLenFeature((3,), tf.float32, [0.0] * 3)}
    told = {"match": {"query": "query", "document": "title", "of": ["cosine"]}}
    builder = for_pretraining(
        ModelBuilder(
            FeatureSpecInputCreator(query, specs),
            {},
            InteractionScorer(DNNScorer(hidden_layer_dims=[4]), told),
            "mask",
        ),
        Pretrain.of({"task": "denoise"}),
    )
    (layer,) = [x for x in builder.build_packed().layers if isinstance(x, Corruption)]
    assert layer.units == (1, 1)  # bm25 and match


class OwnScorer(DNNScorer):
    """Does not score with the network that pretraining would train."""

    def _score_flattened(self, context_features, example_features):
        return example_features["vector"][:, :1]


class OwnBuilder(ModelBuilder):
    """Scores in a way of its own."""

    def score(self, context_features, example_features, mask):
        return example_features["vector"][:, :, 0]


@pytest.mark.parametrize(
    ("builder", "name"),
    [
        (builder_of(GAMScorer(example_hidden_layer_dims=[4])), "GAMScorer"),
        (builder_of(OwnScorer(hidden_layer_dims=[4])), "OwnScorer"),
        (builder_of(DNNScorer(hidden_layer_dims=[4]), OwnBuilder), "OwnBuilder"),
        (object(), "object"),
    ],
)
def test_models_that_cannot_be_pretrained_are_errors(builder, name) -> None:
    with pytest.raises(ConfigError, match=f"scorer 'dnn'.*found {name}"):
        for_pretraining(builder, Pretrain.of({"task": "denoise"}))


@pytest.mark.parametrize(
    ("scorer", "specs", "text"),
    [
        (DNNScorer(hidden_layer_dims=[]), SPECS["vector"], "hidden layers"),
        (
            DNNScorer(hidden_layer_dims=[4]),
            tf.io.FixedLenFeature((1,), tf.float32, 0.0),
            "two features or more.*found 1",
        ),
    ],
)
def test_what_there_is_nothing_to_learn_of_is_an_error(scorer, specs, text) -> None:
    creator = FeatureSpecInputCreator({}, {"vector": specs})
    builder = ModelBuilder(creator, {}, scorer, "mask")
    with pytest.raises(ConfigError, match=text):
        for_pretraining(builder, Pretrain.of({"task": "denoise"})).build_packed()


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ({"task": "denoising"}, "unknown task 'denoising'.*denoise"),
        ({"rate": 0.3}, "unknown task 'None'"),
        ({"task": "denoise", "rates": 0.3}, "unknown key 'rates'.*rate"),
        ({"task": "denoise", "rate": 1.0}, "pretrain.rate: expected a number between"),
        ({"task": "denoise", "rate": "x"}, "pretrain.rate: expected a number between"),
        ({"task": "denoise", "temperature": 1.0}, "no effect without.*contrastive"),
        ({"task": "contrastive", "mask_weight": 1.0}, "no effect without.*denoise"),
        ({"task": "contrastive", "temperature": 0.0}, "expected a positive number"),
        ({"task": "contrastive", "group_size": 1}, "expected at least 2 documents"),
        ({"task": "contrastive", "projection": 2.5}, "expected a number of units"),
        ("denoise", "expected a dict"),
    ],
)
def test_settings_that_cannot_be_are_errors(told, text) -> None:
    with pytest.raises(ConfigError, match=text):
        Pretrain.of(told)
