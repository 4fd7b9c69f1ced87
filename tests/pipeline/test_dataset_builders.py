"""Dataset builders give what TF-Ranking's give, less its known defects."""

from __future__ import annotations

import functools
import glob

import numpy as np
import pytest

from tests.ranking_data import (
    CONTEXT_SPEC,
    EXAMPLE_SPEC,
    LABEL_SPEC,
    MASK,
    WEIGHT_SPEC,
    elwc,
    packed,
    random_lists,
    write,
    write_elwc,
)
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Feature, Features
from tfr_pipeline.pipeline.datasets.base import (
    AbstractDatasetBuilder,
    BaseDatasetBuilder,
    NullDatasetBuilder,
)
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder
from tfr_pipeline.pipeline.run.diagnosis import explain_data_loss

LENGTHS = [3, 1, 5, 2, 4, 1, 6]
theirs = tfr.keras.pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    lists = random_lists(0, LENGTHS, missing=0.2)
    write_elwc(path / "elwc", lists)
    write(path / "elwc.gz", [elwc(ranked) for ranked in lists], "GZIP")
    whole = random_lists(1, LENGTHS)
    write_elwc(path / "whole", whole)
    write(path / "packed", [packed(ranked, EXAMPLE_SPEC) for ranked in whole])
    return path


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def hparams(folder, name="elwc", **kwargs):
    arguments = {"train_batch_size": 7, "valid_batch_size": 7, **kwargs}
    return DatasetHparams(f"{folder}/{name}", f"{folder}/{name}", **arguments)


def arguments(hparams, **kwargs):
    return {
        "context_feature_spec": CONTEXT_SPEC,
        "example_feature_spec": EXAMPLE_SPEC,
        "mask_feature_name": MASK,
        "label_spec": LABEL_SPEC,
        "hparams": hparams,
        "sample_weight_spec": WEIGHT_SPEC,
        **kwargs,
    }


def in_order(builder):
    """Makes a builder of TF-Ranking read its training files once, in order."""
    return builder._build_dataset(
        builder._hparams.train_input_pattern,
        builder._hparams.train_batch_size,
        builder._hparams.list_size,
        randomize_input=False,
        num_epochs=1,
    )


def assert_same_batch(found, wanted):
    assert type(found) is type(wanted)
    assert len(found) == len(wanted)
    assert set(found[0]) == set(wanted[0])
    for name, value in wanted[0].items():
        np.testing.assert_array_equal(found[0][name], value, err_msg=name)
        assert found[0][name].dtype == value.dtype
    for mine, other in zip(found[1:], wanted[1:], strict=True):
        np.testing.assert_array_equal(mine, other)
        assert mine.dtype == other.dtype


def assert_same_spec(found, wanted):
    """Compares shapes and dtypes but for the size of the batch."""
    assert set(found[0]) == set(wanted[0])
    pairs = [(found[0][name], spec) for name, spec in wanted[0].items()]
    for mine, other in [*pairs, *zip(found[1:], wanted[1:], strict=True)]:
        assert mine.dtype == other.dtype
        assert mine.shape[1:].as_list() == other.shape[1:].as_list()


@pytest.mark.parametrize("list_size", [None, 3])
@pytest.mark.parametrize("weights", [WEIGHT_SPEC, None])
@pytest.mark.parametrize("binary", [False, True])
def test_an_unshuffled_epoch_is_tf_rankings(folder, list_size, weights, binary):
    options = hparams(
        folder, shuffle=False, list_size=list_size, convert_labels_to_binary=binary
    )
    keywords = arguments(options, sample_weight_spec=weights)
    found = SimpleDatasetBuilder(**keywords).build_train_dataset()
    wanted = in_order(theirs.SimpleDatasetBuilder(**keywords))
    assert_same_spec(found.element_spec, wanted.element_spec)
    assert_same_batch(next(iter(found)), next(iter(wanted)))


def test_shuffled_training_has_all_lists_and_no_end(folder):
    builder = SimpleDatasetBuilder(**arguments(hparams(folder, train_batch_size=3)))
    batches = list(builder.build_train_dataset().take(6))
    for epoch in (batches[:3], batches[3:]):
        masks = np.concatenate([batch[0][MASK].numpy().sum(1) for batch in epoch])
        assert sorted(masks) == sorted(LENGTHS)


def test_validation_has_every_list_once_whole_and_in_order(folder):
    options = hparams(folder, valid_batch_size=2, list_size=2)
    found = list(SimpleDatasetBuilder(**arguments(options)).build_valid_dataset())
    lengths = np.concatenate([batch[0][MASK].numpy().sum(1) for batch in found])
    assert lengths.tolist() == LENGTHS


def test_validation_is_cut_where_asked_and_then_as_tf_ranking_cuts(folder):
    keywords = arguments(hparams(folder, valid_list_size=2))
    found = SimpleDatasetBuilder(**keywords).build_valid_dataset()
    wanted = theirs.SimpleDatasetBuilder(**keywords).build_valid_dataset()
    assert_same_batch(next(iter(found)), next(iter(wanted)))


def test_tf_rankings_own_hparams_are_taken(folder):
    path = f"{folder}/elwc"
    options = theirs.DatasetHparams(path, path, 7, 7)
    builder = SimpleDatasetBuilder(**arguments(options))
    assert len(list(builder.build_valid_dataset())) == 1
    assert next(iter(builder.make_dataset("train", "packed")))[1].shape[0] == 7


def test_compressed_files_are_read_through_the_reader(folder):
    reader = functools.partial(tf.data.TFRecordDataset, compression_type="GZIP")
    plain = SimpleDatasetBuilder(**arguments(hparams(folder)))
    compressed = SimpleDatasetBuilder(
        **arguments(hparams(folder, "elwc.gz", dataset_reader=reader))
    )
    for layout in ("padded", "packed"):
        found = next(iter(compressed.make_dataset("valid", layout)))
        wanted = next(iter(plain.make_dataset("valid", layout)))
        tf.nest.map_structure(
            np.testing.assert_array_equal,
            tf.nest.flatten(found, expand_composites=True),
            tf.nest.flatten(wanted, expand_composites=True),
        )


@pytest.mark.parametrize("name", ["elwc", "packed"])
@pytest.mark.parametrize("weights", [WEIGHT_SPEC, None])
@pytest.mark.parametrize("binary", [False, True])
def test_packed_batches_hold_what_padded_ones_do(folder, name, weights, binary):
    options = hparams(folder, name, train_batch_size=3, convert_labels_to_binary=binary)
    builder = SimpleDatasetBuilder(**arguments(options, sample_weight_spec=weights))
    assert builder.layouts == ("packed", "padded")
    pairs = zip(
        builder.make_dataset("train", "packed").take(6),
        builder.make_dataset("train", "padded").take(6),
        strict=True,
    )
    for packed_batch, padded_batch in pairs:
        mask = padded_batch[0][MASK]
        for mine, other in zip(packed_batch[1:], padded_batch[1:], strict=True):
            np.testing.assert_array_equal(mine.values, other[mask])
        features = packed_batch[0]
        floats = [padded_batch[0][n][mask] for n in ("bm25", "embedding")]
        columns = features["documents_float32"].values[:, :4]
        np.testing.assert_array_equal(columns, tf.concat(floats, 1))
        for name in CONTEXT_SPEC:
            np.testing.assert_array_equal(features[name], padded_batch[0][name])


def test_packed_files_give_the_padded_batches_of_their_elwc_files(folder):
    from_packed = SimpleDatasetBuilder(**arguments(hparams(folder, "packed")))
    from_elwc = SimpleDatasetBuilder(**arguments(hparams(folder, "whole")))
    found = next(iter(from_packed.build_valid_dataset()))
    assert_same_batch(found, next(iter(from_elwc.build_valid_dataset())))


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_training_resumes_at_any_step(folder, layout):
    options = hparams(folder, train_batch_size=2)
    builder = SimpleDatasetBuilder(**arguments(options))
    full = list(builder.make_dataset("train", layout, replicas=2).take(20))
    resumed = builder.make_dataset("train", layout, replicas=2, start_step=7).take(6)
    for found, wanted in zip(resumed, full[14:], strict=True):
        np.testing.assert_array_equal(
            tf.nest.flatten(found[1], expand_composites=True)[0],
            tf.nest.flatten(wanted[1], expand_composites=True)[0],
        )


def test_batches_can_be_cut_by_documents(folder):
    options = hparams(folder, documents_per_batch=8)
    builder = SimpleDatasetBuilder(**arguments(options))
    steps = builder.plan("train", "packed").steps
    assert steps == 3
    batches = list(builder.make_dataset("train", "packed").take(steps))
    sizes = [int(tf.size(batch[1].values)) for batch in batches]
    assert sum(sizes) == sum(LENGTHS)
    assert max(sizes) <= 8 + max(LENGTHS)


class ListFeature(SimpleDatasetBuilder):
    """Adds the number of documents, as a user of TF-Ranking would."""

    def _features_and_labels(self, features):
        features, label, weight = super()._features_and_labels(features)
        features["length"] = tf.reduce_sum(tf.cast(features[MASK], tf.int32), 1)
        return features, label, weight


def test_overridden_features_and_labels_get_padded_tensors(folder):
    builder = ListFeature(**arguments(hparams(folder)))
    assert builder.layouts == ("padded",)
    features, *_ = next(iter(builder.build_valid_dataset()))
    assert features["length"].numpy().tolist() == LENGTHS


class Halves(BaseDatasetBuilder):
    """Takes the label and a weight of the list out of features, without our help."""

    def _features_and_labels(self, features):
        label = tf.squeeze(features.pop("relevance"), 2) / 2
        return features, label, features.pop("query_vector")[:, 0]


def test_base_builders_take_labels_and_list_weights_from_padded_features(folder):
    spec = {"query_vector": CONTEXT_SPEC["query_vector"]}
    builder = Halves(
        {"query_length": CONTEXT_SPEC["query_length"]},
        EXAMPLE_SPEC,
        dict([LABEL_SPEC]),
        MASK,
        hparams(folder),
        spec,
    )
    assert builder.layouts == ("padded",)
    assert builder.features is None
    features, label, weight = next(iter(builder.build_valid_dataset()))
    simple = SimpleDatasetBuilder(**arguments(hparams(folder)))
    expected, wanted, _ = next(iter(simple.build_valid_dataset()))
    np.testing.assert_array_equal(label, wanted / 2)
    np.testing.assert_array_equal(weight, expected["query_vector"][:, 0])
    assert set(features) == {*EXAMPLE_SPEC, "query_length", MASK}


def test_overridden_datasets_are_left_to_the_subclass(folder):
    class Own(SimpleDatasetBuilder):
        def build_train_dataset(self):
            return self._build_dataset(
                self._hparams.train_input_pattern, 2, randomize_input=False
            )

    builder = Own(**arguments(hparams(folder)))
    assert builder.layouts == ()
    features, *_ = next(iter(builder.build_train_dataset()))
    # TF-Ranking parses batches in parallel and takes the first that is ready.
    pairs = [[a, b] for a, b in zip(LENGTHS * 2, LENGTHS[1:] + LENGTHS, strict=False)]
    assert features[MASK].numpy().sum(1).tolist() in pairs


def test_an_overridden_build_dataset_is_called_as_tf_ranking_calls_it(folder):
    calls = []

    class Own(SimpleDatasetBuilder):
        def _build_dataset(self, file_pattern, batch_size, *args, **kwargs):
            calls.append((file_pattern, batch_size))
            return super()._build_dataset(file_pattern, batch_size, *args, **kwargs)

    options = hparams(
        folder, train_batch_size=2, shuffle_examples=True, keep_document_ids=True
    )
    builder = Own(**arguments(options))
    assert builder.layouts == ()
    with (
        pytest.warns(UserWarning, match="shuffle_examples=True has no effect: the"),
        pytest.warns(UserWarning, match="keep_document_ids=True has no effect: the"),
    ):
        assert next(iter(builder.build_train_dataset()))[1].shape[0] == 2
        assert next(iter(builder.build_valid_dataset()))[1].shape[0] == 7
    assert [size for _, size in calls] == [2, 7]


def text_arguments(folder, **kwargs):
    example = {
        "bm25": EXAMPLE_SPEC["bm25"],
        "docid": tf.io.FixedLenFeature((1,), tf.string, ""),
        "clicks": tf.io.RaggedFeature(tf.int64),
    }
    options = hparams(folder, train_batch_size=2, valid_batch_size=3, **kwargs)
    return arguments(options, example_feature_spec=example, sample_weight_spec=None)


def nested_arguments(folder, **kwargs):
    """Features of several ragged dimensions, which only TF-Ranking's parser takes."""
    nested = tf.io.RaggedFeature(
        tf.int64, "clicks", [tf.io.RaggedFeature.UniformRowLength(1)]
    )
    keywords = text_arguments(folder, **kwargs)
    keywords["example_feature_spec"]["clicks"] = nested
    return keywords


def test_nested_features_come_as_tf_ranking_has_them(folder):
    keywords = nested_arguments(folder, shuffle=False)
    # TF-Ranking reads several files in whatever order they come.
    paths = sorted(glob.glob(keywords["hparams"].train_input_pattern))
    keywords["hparams"].train_input_pattern = paths[0]
    builder = SimpleDatasetBuilder(**keywords)
    assert builder.layouts == ()
    wanted = list(in_order(theirs.SimpleDatasetBuilder(**keywords)))
    found = list(builder.build_train_dataset().take(len(wanted)))
    assert by_document(found) == by_document(wanted)


def by_document(batches):
    """Maps the id of each document to its clicks and label, in any order of lists."""
    result = {}
    for features, labels in batches:
        clicks = features["clicks"].to_list()
        for i, row in enumerate(features["docid"].numpy()):
            for j, (name,) in enumerate(row):
                if name:
                    clicked = clicks[i][j] if j < len(clicks[i]) else []
                    result[name] = clicked, float(labels[i, j])
    return result


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("name", ["whole", "packed"])
def test_lists_of_one_layout_are_made_of_those_of_the_other(
    folder, monkeypatch, name, binary
):
    settings = hparams(folder, name, convert_labels_to_binary=binary)
    weight = ("query_length", tf.io.FixedLenFeature((1,), tf.int64, 3))
    kwargs = arguments(settings, list_weight_spec=weight)
    wanted = SimpleDatasetBuilder(**kwargs).lists("valid", "packed")
    builder = SimpleDatasetBuilder(**kwargs)
    builder.lists("valid", "padded")
    monkeypatch.setattr(
        "tfr_pipeline.data.reading.loading.load", None
    )  # nothing is read
    found = builder.lists("valid", "packed")
    assert_same(found.values, wanted.values)
    assert_same(found.context, wanted.context)
    for key in ("labels", "weights", "row_splits", "query_ids"):
        np.testing.assert_array_equal(getattr(found, key), getattr(wanted, key))


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_streamed_validation_ends_and_keeps_order(folder, compression):
    name = "elwc.gz" if compression else "elwc"
    keywords = nested_arguments(folder, name=name, list_size=2)
    builder = SimpleDatasetBuilder(**keywords)
    batches = list(builder.build_valid_dataset())
    lengths = np.concatenate([batch[0][MASK].numpy().sum(1) for batch in batches])
    assert lengths.tolist() == LENGTHS


def test_streamed_files_that_end_inside_a_header_are_named(folder, tmp_path):
    content = (folder / "elwc").read_bytes()
    (tmp_path / "cut").write_bytes(content + content[:7])
    builder = SimpleDatasetBuilder(**nested_arguments(tmp_path, name="cut"))
    words = rf"cut: record {len(LENGTHS)} is corrupt: at byte {len(content)} "
    with pytest.raises(DataError, match=words):
        builder.build_valid_dataset()


def test_damage_found_while_training_is_explained_with_the_file(folder, tmp_path):
    content = bytearray((folder / "elwc").read_bytes())
    content[-9] ^= 1  # TensorFlow sees it when the record comes, and not the name
    (tmp_path / "spoilt").write_bytes(content)
    builder = SimpleDatasetBuilder(**nested_arguments(tmp_path, name="spoilt"))
    with pytest.raises(tf.errors.DataLossError) as caught:
        list(builder.build_valid_dataset())
    error = explain_data_loss(builder, caught.value)
    assert f"{tmp_path}/spoilt: record {len(LENGTHS) - 1} is corrupt" in str(error)
    other = explain_data_loss(None, caught.value)
    assert "node" not in str(other) and "Op:" not in str(other)


def test_streamed_lists_cannot_be_cut_by_a_score(folder):
    keywords = nested_arguments(folder, list_size=2, truncation="bm25")
    with pytest.raises(ConfigError, match=r"truncation='bm25' .*not possible"):
        SimpleDatasetBuilder(**keywords).build_train_dataset()


def test_text_query_features_are_packed(folder):
    spec = {"qid": tf.io.FixedLenFeature((1,), tf.string, "")}
    builder = SimpleDatasetBuilder(
        **arguments(hparams(folder), context_feature_spec=spec)
    )
    features, *_ = next(iter(builder.make_dataset("valid", "packed")))
    assert features["qid"].numpy().ravel().tolist() == [
        f"q{i}".encode() for i in range(len(LENGTHS))
    ]


def test_a_description_makes_a_builder_and_comes_back(folder):
    features = Features(
        context={n: Feature.from_spec(s) for n, s in CONTEXT_SPEC.items()},
        example={n: Feature.from_spec(s) for n, s in EXAMPLE_SPEC.items()},
        label=("relevance", Feature("float32", (1,), -1.0)),
        weight=("weight", Feature("float32", (1,), 1.0)),
    )
    builder = SimpleDatasetBuilder.from_features(features, hparams(folder))
    assert builder.features == features
    assert builder.lists("valid", "packed").query_ids.tolist() == [
        f"q{i}" for i in range(len(LENGTHS))
    ]
    by_hand = SimpleDatasetBuilder(
        **arguments(hparams(folder)), query_id="qid", document_id="docid"
    )
    assert by_hand.features == features


def test_datasets_made_elsewhere_are_passed_on():
    train, valid = tf.data.Dataset.range(1), tf.data.Dataset.range(2)
    signatures = {"serving_default": None}
    builder = NullDatasetBuilder(train, valid, signatures)
    assert builder.build_train_dataset("anything", x=1) is train
    assert builder.build_valid_dataset() is valid
    assert builder.build_signatures(None) is signatures
    assert NullDatasetBuilder(train, valid).build_signatures(None) is None


def test_builders_of_one_library_are_builders_of_the_other(folder):
    simple = SimpleDatasetBuilder(**arguments(hparams(folder)))
    for name in (
        "AbstractDatasetBuilder",
        "BaseDatasetBuilder",
        "SimpleDatasetBuilder",
    ):
        assert isinstance(simple, getattr(theirs, name))
    assert isinstance(
        NullDatasetBuilder(None, None),
        (theirs.AbstractDatasetBuilder, AbstractDatasetBuilder),
    )
    assert isinstance(hparams(folder), theirs.DatasetHparams)


@pytest.mark.parametrize(
    "name, value",
    [
        ("train_batch_size", 0),
        ("train_batch_size", None),
        ("valid_batch_size", -1),
        ("valid_batch_size", 2.5),
        ("list_size", 0),
        ("valid_list_size", True),
        ("documents_per_batch", "many"),
        ("documents_per_batch", 2**70),
    ],
)
def test_sizes_that_are_no_positive_integers_are_refused(folder, name, value):
    words = f"DatasetHparams.{name}: expected a positive integer.*found {value!r}"
    with pytest.raises(ConfigError, match=words):
        hparams(folder, **{name: value})


def test_numpy_integers_are_sizes(folder):
    assert hparams(folder, list_size=np.int64(3)).list_size == 3


@pytest.mark.parametrize("label", ["relevance", ("relevance",), None])
def test_a_label_without_spec_is_refused(folder, label):
    with pytest.raises(ConfigError, match="label_spec: expected a pair"):
        SimpleDatasetBuilder(**arguments(hparams(folder), label_spec=label))


def test_an_unknown_split_is_named(folder):
    builder = SimpleDatasetBuilder(**arguments(hparams(folder)))
    with pytest.raises(ConfigError, match=r"unknown split 'vaild'.*'valid'"):
        builder.lists("vaild")


def test_missing_files_are_named(folder):
    builder = SimpleDatasetBuilder(**arguments(hparams(folder, "nothing-*")))
    with pytest.raises(DataError, match=r"no file matches .*nothing-"):
        builder.build_train_dataset()
