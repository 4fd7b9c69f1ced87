"""Modules of TensorFlow Hub as a layer: what they compute, what training changes."""

from __future__ import annotations

import shutil
import tarfile

import numpy as np
import pytest

from tests import hub_module
from tfr_pipeline import hub as hub_modules
from tfr_pipeline.compat import hub, tf
from tfr_pipeline.errors import ConfigError, RunError
from tfr_pipeline.model.layers.hub import HubEncoder

TEXTS = [[["red shoes"], ["a hat"], ["red shoes"]], [["the dog"], [""], [""]]]


@pytest.fixture(scope="module")
def with_training(tmp_path_factory):
    """A module that drops numbers out when it is called with `training`."""
    return hub_module.make(str(tmp_path_factory.mktemp("hub") / "t"), 50, training=True)


def save(folder, function, *specs, **signatures):
    """Writes a module of a function."""
    module = tf.train.Checkpoint()
    module.__call__ = tf.function(function, input_signature=specs)
    tf.saved_model.save(module, str(folder), signatures=signatures or None)
    return str(folder)


@pytest.fixture
def counted(monkeypatch):
    """Texts that modules are called with, one after the other."""
    texts = []
    encoded = HubEncoder._encoded

    def counting(self, items, training):
        texts.extend(np.asarray(items).tolist())
        return encoded(self, items, training)

    monkeypatch.setattr(HubEncoder, "_encoded", counting)
    return texts


def test_texts_are_encoded_as_by_the_module_itself(text_module):
    texts = tf.constant(TEXTS)
    found = HubEncoder(text_module)(texts)
    expected = hub.load(text_module)(tf.reshape(texts, [-1]))
    assert found.shape == (2, 3, 512)
    np.testing.assert_allclose(tf.reshape(found, [6, 512]), expected, rtol=1e-6)


def test_queries_and_ragged_texts_are_encoded_too(text_module):
    encoder = HubEncoder(text_module)
    documents = encoder(tf.constant(TEXTS))
    np.testing.assert_array_equal(encoder(tf.constant([["a hat"]]))[0], documents[0, 1])
    ragged = encoder(tf.ragged.constant([["red shoes", "the dog"], []]))
    np.testing.assert_array_equal(ragged[0, 1], documents[1, 0])
    assert ragged.row_lengths().numpy().tolist() == [2, 0]


def test_each_distinct_text_of_a_batch_is_encoded_once(text_module, counted):
    HubEncoder(text_module)(tf.constant(TEXTS))
    assert sorted(counted) == [b"", b"a hat", b"red shoes", b"the dog"]


def test_a_module_sums_the_words_that_it_knows(text_module):
    words, vectors = hub_module.word_vectors(2000)
    of = dict(zip(words, vectors, strict=True))
    found = HubEncoder(text_module)(tf.constant(["The, TIME."]))
    expected = (of["the"] + of["time"]) / np.sqrt(2)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-6)


def test_frozen_modules_are_not_trained(with_training):
    encoder = HubEncoder(with_training)
    texts = tf.constant(TEXTS)
    with tf.GradientTape() as tape:
        vectors = encoder(texts, training=True)
    assert not encoder.trainable_weights and len(encoder.weights) == 1
    assert tape.gradient(vectors, encoder.weights) == [None]
    # Nothing is dropped out, and nothing penalised.
    np.testing.assert_array_equal(vectors, encoder(texts, training=False))
    assert float(tf.add_n(encoder.losses)) == 0.0
    encoder.trainable = True  # as a model does with all its layers
    assert not encoder.trainable


def test_trainable_modules_are_trained(with_training):
    encoder = HubEncoder(with_training, trainable=True)
    texts = tf.constant(TEXTS)
    with tf.GradientTape() as tape:
        vectors = encoder(texts, training=True)
    assert tape.gradient(vectors, encoder.trainable_weights)[0] is not None
    assert np.any(vectors != encoder(texts, training=False))
    assert float(tf.add_n(encoder.losses)) > 0.0
    encoder.trainable = False
    assert not encoder.trainable_weights


@pytest.mark.parametrize("trainable", [False, True])
def test_models_are_cloned_and_saved(text_module, tmp_path, trainable):
    inputs = tf.keras.Input((None, 1), dtype=tf.string)
    encoder = HubEncoder(text_module, trainable=trainable)
    model = tf.keras.Model(inputs, tf.keras.layers.Dense(1)(encoder(inputs)))
    expected = model(tf.constant(TEXTS))
    clone = tf.keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    model.save(str(tmp_path / "saved"))
    saved = tf.keras.models.load_model(str(tmp_path / "saved"))
    for other in (clone, saved):
        np.testing.assert_allclose(other(tf.constant(TEXTS)), expected, rtol=1e-6)
        assert len(other.trainable_weights) == 2 + trainable


def test_signatures_and_outputs_are_chosen_by_name(tmp_path):
    def both(x):
        return {"twice": 2.0 * x, "square": x * x}

    spec = tf.TensorSpec([None, 2], tf.float32, name="x")
    signature = tf.function(both, input_signature=[spec])
    path = save(tmp_path / "m", both, spec, numbers=signature)
    x = tf.constant([[[1.0, 3.0]]])
    for told in ({"signature": "numbers"}, {}):
        found = HubEncoder(path, output_key="square", **told)(x)
        assert found.numpy().tolist() == [[[1.0, 9.0]]]
    with pytest.raises(ConfigError, match=r"'numbers' \(x\) -> \(square, twice\)"):
        HubEncoder(path, signature="number")
    with pytest.raises(ConfigError, match="unknown output_key 'half'"):
        HubEncoder(path, signature="numbers", output_key="half")
    with pytest.raises(ConfigError, match=r"found \['square', 'twice'\]"):
        HubEncoder(path)(x)
    with pytest.raises(ConfigError, match="cannot be trained"):
        HubEncoder(path, trainable=True, signature="numbers")


def test_encoded_images_are_decoded_and_resized(tmp_path):
    spec = tf.TensorSpec([None, 4, 4, 3], tf.float32)
    path = save(tmp_path / "m", lambda x: tf.reduce_mean(x, axis=[1, 2]), spec)
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    files = tf.constant([[[tf.io.encode_png(red).numpy()], [b""]]])
    found = HubEncoder(path)(files)
    np.testing.assert_allclose(found, [[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]], atol=1e-6)


def test_features_that_a_module_does_not_take_are_refused(text_module, tmp_path):
    with pytest.raises(
        ConfigError, match=r"expected features of string.*found float32"
    ):
        HubEncoder(text_module)(tf.zeros([2, 3]))
    spec = tf.TensorSpec([None, 4], tf.float32)
    path = save(tmp_path / "m", lambda x: x, spec)
    for wrong in (tf.zeros([2, 3]), tf.constant([["a"]]), tf.zeros([4])):
        with pytest.raises(ConfigError, match="expected features of float32"):
            HubEncoder(path)(wrong)


def test_archives_are_unpacked_once(text_module, tmp_path):
    path = str(tmp_path / "words.tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(text_module, arcname=".")
    found = hub_modules.find(path)
    assert found == hub_modules.find(path) != path
    texts = tf.constant(["red shoes"])
    np.testing.assert_array_equal(
        HubEncoder(path)(texts), HubEncoder(text_module)(texts)
    )


def test_what_is_no_module_is_refused(text_module, tmp_path):
    def refused(handle, message):
        with pytest.raises(ConfigError, match=message):
            HubEncoder(str(handle))

    refused("", "expected the path or the URL")
    refused(tmp_path / "nothing", "found nothing there")
    refused(tmp_path, "expected a SavedModel.*found nothing in it")
    (tmp_path / "words.txt").write_text("red\n")
    refused(tmp_path, "found words.txt")
    refused(tmp_path / "words.txt", "cannot be unpacked")
    (tmp_path / "saved_model.pb").write_text("no proto")
    refused(tmp_path, "expected a SavedModel, which this is not")
    old = tmp_path / "old"
    shutil.copytree(text_module, old)
    (old / "tfhub_module.pb").write_bytes(b"")
    refused(old, "found one of TensorFlow 1.*signature 'serving_default'")
    plain = tmp_path / "plain"
    module = tf.train.Checkpoint()
    tf.saved_model.save(module, str(plain))
    refused(plain, "expected a module that can be called, found nothing")


def test_damaged_modules_are_errors(text_module, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(text_module, damaged)
    shutil.rmtree(damaged / "variables")
    with pytest.raises(RunError, match=r"damaged|cannot be loaded"):
        HubEncoder(str(damaged))(tf.constant(["a"]))


def test_urls_name_a_version(monkeypatch, tmp_path, text_module):
    for url in ("https://tfhub.dev/google/nnlm", "s3://models/encoder.tar.gz"):
        with pytest.raises(ConfigError, match="ends in a version"):
            HubEncoder(url)
    url = "http://127.0.0.1:9/google/nnlm/2"
    with pytest.raises(RunError, match=r"cannot be fetched.*TFHUB_CACHE_DIR"):
        HubEncoder(url)
    # What the cache of TensorFlow Hub has is not fetched.
    import hashlib

    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    name = hashlib.sha1(url.encode()).hexdigest()
    shutil.copytree(text_module, tmp_path / name)
    assert hub_modules.find(url) == str(tmp_path / name)
