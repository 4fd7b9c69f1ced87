"""Data with several labels: TF-Ranking's batches, packed ones, weights, bad input."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from tests.pipeline.multi_task_data import FEATURES, LABEL, make_lists
from tests.ranking_data import write_elwc
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.multi_label import MultiLabelDatasetBuilder
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder

MASK = "mask"
LABELS = FEATURES.labels_spec
ONE = tf.io.FixedLenFeature((1,), tf.float32, 1.0)
WEIGHT, LIST_WEIGHT = ("weight", ONE), ("list_weight", ONE)
theirs = tfr.keras.pipeline


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return write_elwc(folder / "lists", make_lists(0, 7))


def builder(path, cls=MultiLabelDatasetBuilder, labels=LABELS, **keywords):
    names = ("list_size", "convert_labels_to_binary", "cache")
    hparams = {name: keywords.pop(name) for name in names if name in keywords}
    return cls(
        {},
        FEATURES.example_spec,
        MASK,
        labels,
        DatasetHparams(path, path, 7, 7, shuffle=False, **hparams),
        **keywords,
    )


def batch(made, layout):
    return next(iter(made.make_dataset("train", layout)))


def assert_same(found, wanted):
    tf.nest.assert_same_structure(found, wanted)
    pairs = [
        tf.nest.flatten(value, expand_composites=True) for value in (found, wanted)
    ]
    for mine, other in zip(*pairs, strict=True):
        np.testing.assert_array_equal(mine, other)
        assert mine.dtype == other.dtype


@pytest.mark.parametrize("list_size", [None, 3])
@pytest.mark.parametrize("weights", [WEIGHT, None])
@pytest.mark.parametrize("binary", [False, True])
def test_padded_batches_are_tf_rankings(path, list_size, weights, binary):
    mine = builder(
        path,
        sample_weight_spec=weights,
        list_size=list_size,
        convert_labels_to_binary=binary,
    )
    other = theirs.MultiLabelDatasetBuilder(
        {}, FEATURES.example_spec, MASK, LABELS, mine._hparams, weights
    )
    wanted = other._build_dataset(path, 7, list_size, False, 1)
    assert_same(batch(mine, "padded"), next(iter(wanted)))


@pytest.mark.parametrize("binary", [False, True])
def test_packed_batches_hold_what_padded_ones_do(path, binary):
    made = builder(path, sample_weight_spec=WEIGHT, convert_labels_to_binary=binary)
    assert made.layouts == ("packed", "padded")
    _, labels, weights = batch(made, "packed")
    features, padded, padded_weights = batch(made, "padded")
    mask = features[MASK].numpy()
    for task in ("relevance", "click"):
        np.testing.assert_array_equal(labels[task].values, padded[task].numpy()[mask])
        assert labels[task].shape.rank == 2
    np.testing.assert_array_equal(weights.values, padded_weights.numpy()[mask])


def test_a_document_without_a_label_takes_no_part_in_that_task(path):
    _, labels = batch(builder(path), "packed")
    documents = [d for ranked in make_lists(0, 7) for d in ranked.documents]
    wanted = [d.get("clicked", np.float32([-1]))[0] for d in documents]
    assert -1 in wanted
    np.testing.assert_array_equal(labels["click"].values, wanted)
    assert (labels["relevance"].values.numpy() >= 0).all()


def test_padding_has_no_label_whatever_the_default_of_the_label(path):
    zero = tf.io.FixedLenFeature((1,), tf.float32, 0.0)
    made = builder(path, labels={"relevance": ("grade", zero)})
    features, labels = batch(made, "padded")
    assert (labels["relevance"].numpy()[~features[MASK].numpy()] == -1).all()


def test_two_tasks_may_have_the_same_label(path):
    pair = LABELS["relevance"]
    for layout in ("packed", "padded"):
        features, labels = batch(builder(path, labels={"a": pair, "b": pair}), layout)
        np.testing.assert_array_equal(
            *[getattr(label, "values", label) for label in labels.values()]
        )
        assert "grade" not in features


class OwnStep(MultiLabelDatasetBuilder):
    """A user's class, written for TF-Ranking's tensors."""

    def _features_and_labels(self, features):
        assert {"grade", "clicked", MASK} <= set(features)
        return super()._features_and_labels(features)


class OwnSimpleStep(SimpleDatasetBuilder):
    """See `OwnStep`."""

    def _features_and_labels(self, features):
        return super()._features_and_labels(features)


def test_a_step_of_ones_own_gets_padded_tensors_and_gives_the_same(path):
    own = builder(path, OwnStep, sample_weight_spec=WEIGHT)
    assert own.layouts == ("padded",)
    made = builder(path, sample_weight_spec=WEIGHT)
    assert_same(batch(own, "padded"), batch(made, "padded"))


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("several", [True, False])
def test_a_list_weight_multiplies_the_weights_of_its_documents(path, weight, several):
    mine, own = (
        (MultiLabelDatasetBuilder, OwnStep)
        if several
        else (SimpleDatasetBuilder, OwnSimpleStep)
    )
    keywords = {
        "labels": LABELS if several else LABELS["relevance"],
        "sample_weight_spec": weight,
        "list_weight_spec": LIST_WEIGHT,
    }
    wanted = [
        ranked.context["list_weight"][0] * (document["weight"][0] if weight else 1)
        for ranked in make_lists(0, 7)
        for document in ranked.documents
    ]
    features, _, found = batch(builder(path, mine, **keywords), "packed")
    assert "list_weight" not in features
    np.testing.assert_allclose(found.values, wanted, rtol=1e-6)
    features, _, found = batch(builder(path, own, **keywords), "padded")
    assert "list_weight" not in features
    found = np.broadcast_to(found, features[MASK].shape)
    np.testing.assert_allclose(found[features[MASK].numpy()], wanted, rtol=1e-6)


def test_a_list_weight_may_be_a_feature_too(path):
    made = MultiLabelDatasetBuilder(
        dict([LIST_WEIGHT]),
        FEATURES.example_spec,
        MASK,
        LABELS,
        DatasetHparams(path, path, 7, 7),
        list_weight_spec=LIST_WEIGHT,
    )
    wanted = [ranked.context["list_weight"][0] for ranked in make_lists(0, 7)]
    for layout in made.layouts:
        features, _, weights = next(iter(made.make_dataset("valid", layout)))
        np.testing.assert_array_equal(features["list_weight"][:, 0], wanted)
        weights = weights.to_tensor() if layout == "packed" else weights
        np.testing.assert_array_equal(weights[:, 0], wanted)


def test_a_cache_keeps_the_labels_of_all_tasks(path, tmp_path):
    keywords = {"list_weight_spec": LIST_WEIGHT}
    wanted = batch(builder(path, **keywords), "packed")
    for _ in range(2):  # parsed, then mapped
        made = builder(path, cache=str(tmp_path / "cache"), **keywords)
        assert_same(batch(made, "packed"), wanted)


def test_the_description_of_the_data_makes_the_same_builder(path, tmp_path):
    made = builder(
        path,
        sample_weight_spec=WEIGHT,
        list_weight_spec=LIST_WEIGHT,
        query_id="qid",
        document_id="docid",
    )
    made.features.save(str(tmp_path))
    loaded = Features.load(str(tmp_path))
    assert loaded == made.features
    assert loaded.label == ("grade", LABEL)
    again = MultiLabelDatasetBuilder.from_features(loaded, made._hparams, MASK)
    assert again.tasks == ("relevance", "click")
    assert_same(batch(again, "padded"), batch(made, "padded"))


@pytest.mark.parametrize("spec", [LABELS["click"], {}, {"click": ("clicked",)}, None])
def test_label_specs_of_another_form_are_named(path, spec):
    with pytest.raises(ConfigError, match="label_spec: expected a dict"):
        builder(path, labels=spec)


def test_a_task_without_any_label_is_an_error_in_training_data(path):
    labels = {**LABELS, "purchase": ("bought", LABEL.to_spec())}
    made = builder(path, labels=labels)
    with pytest.raises(DataError, match=r"0 or more for the task 'purchase'.*'bought'"):
        made.make_dataset("train", "packed")
    with pytest.warns(UserWarning, match="purchase"):
        made.make_dataset("valid", "packed")
    with warnings.catch_warnings():  # once is enough
        warnings.simplefilter("error")
        made.make_dataset("valid", "padded")


def test_a_label_that_is_not_finite_is_named(tmp_path):
    lists = make_lists(0, 3)
    lists[1].documents[0]["clicked"] = np.float32([np.nan])
    made = builder(write_elwc(tmp_path / "lists", lists), query_id="qid")
    with pytest.raises(DataError, match="label nan in query 'q1'"):
        made.make_dataset("train", "packed")
