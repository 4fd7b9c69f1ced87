"""Every format gives the batches that TF-Ranking's parser makes of its records."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.format_helpers import (
    LOOSE_CONTEXT,
    LOOSE_SPEC,
    THEIRS,
    eie,
    records,
    with_loose_features,
    write_format,
)
from tests.ranking_data import (
    CONTEXT_SPEC,
    EXAMPLE_SPEC,
    LABEL_SPEC,
    MASK,
    WEIGHT_SPEC,
    RankedList,
    elwc,
    random_lists,
)
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.data.reading.batch_parser import batch_parser
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.records.formats import elwc_of_eie, recognize
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.multi_label import MultiLabelDatasetBuilder
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder

FORMATS = ("elwc", "eie", "seq", "example", "packed")
LENGTHS = [3, 1, 5, 2, 4]
ALL_SPEC = {**EXAMPLE_SPEC, **LOOSE_SPEC}
ALL_CONTEXT = {**CONTEXT_SPEC, **LOOSE_CONTEXT}


@pytest.fixture(scope="module")
def lists():
    return with_loose_features(random_lists(0, LENGTHS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, lists):
    path = tmp_path_factory.mktemp("formats")
    for name in FORMATS:
        write_format(path / name, lists, name, example_spec=EXAMPLE_SPEC)
    return path


def builder(path, context=CONTEXT_SPEC, example=EXAMPLE_SPEC, query_id="qid", **kwargs):
    document_id = kwargs.pop("document_id", None)
    settings = {"train_batch_size": 5, "valid_batch_size": 5, "shuffle": False}
    return SimpleDatasetBuilder(
        context,
        example,
        MASK,
        LABEL_SPEC,
        DatasetHparams(str(path), str(path), **{**settings, **kwargs}),
        WEIGHT_SPEC,
        query_id=query_id,
        document_id=document_id,
    )


def theirs(serialized, data_format, list_size=None, context=None, example=None):
    return tfr.data.make_parsing_fn(
        THEIRS[data_format],
        list_size,
        CONTEXT_SPEC if context is None else context,
        {**(example or EXAMPLE_SPEC), **dict([LABEL_SPEC, WEIGHT_SPEC])},
        mask_feature_name=MASK,
    )(tf.constant(serialized))


def assert_same_tensors(found, wanted):
    """Compares dense, ragged and sparse tensors."""
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        mine = found[name]
        assert type(mine) is type(value), name
        assert mine.dtype == value.dtype
        if isinstance(value, tf.RaggedTensor):
            assert mine.to_list() == value.to_list(), name
            assert mine.row_splits.dtype == value.row_splits.dtype
            assert mine.shape[2:] == value.shape[2:]
        elif isinstance(value, tf.SparseTensor):
            np.testing.assert_array_equal(mine.dense_shape, value.dense_shape, name)
            np.testing.assert_array_equal(mine.indices, value.indices, name)
            np.testing.assert_array_equal(mine.values, value.values, name)
        else:
            np.testing.assert_array_equal(mine, value, err_msg=name)


def batch_of(dataset):
    """Returns the only batch with label and weight among the features."""
    features, label, weight = next(iter(dataset))
    return {
        **features,
        "relevance": label[..., tf.newaxis],
        "weight": weight[..., tf.newaxis],
    }


def possible(data_format, list_size=None):
    """Returns the features that TF-Ranking's parser can take."""
    spec = dict(ALL_SPEC)
    if list_size is None:  # it mixes up the dtypes of sizes
        spec["scores"] = tf.io.RaggedFeature(tf.float32)
    if data_format == "seq":  # no defaults for each element
        for name in ("embedding", "grid", "age", "pair"):
            del spec[name]
    if data_format == "seq" and list_size:  # where it cuts, it does not pad
        for name in ("title", "scores"):
            del spec[name]
    return spec


@pytest.mark.parametrize("list_size", [None, 3])
@pytest.mark.parametrize("data_format", list(THEIRS))
def test_features_of_every_kind_are_tf_rankings(folder, data_format, list_size, lists):
    spec = possible(data_format, list_size)
    made = builder(folder / data_format, ALL_CONTEXT, spec, None, list_size=list_size)
    assert made.layouts == ("packed", "padded")
    found = batch_of(made.build_train_dataset())
    serialized = records(lists, data_format)
    wanted = theirs(serialized, data_format, list_size, ALL_CONTEXT, spec)
    assert_same_tensors(found, wanted)


@pytest.mark.parametrize("data_format", ["elwc", "eie"])
def test_documents_without_some_features_are_tf_rankings(tmp_path, data_format):
    lists = with_loose_features(random_lists(1, LENGTHS, missing=0.4))
    for ranked in lists:
        for name in ("title", "pair"):
            del ranked.documents[0][name]
    path = write_format(tmp_path / "f", lists, data_format)
    spec = possible(data_format)
    made = builder(path, ALL_CONTEXT, spec, None)
    wanted = theirs(records(lists, data_format), data_format, None, ALL_CONTEXT, spec)
    assert_same_tensors(batch_of(made.build_valid_dataset()), wanted)


def test_sequences_that_end_early_get_defaults_as_in_tf_ranking(tmp_path, lists):
    # TF-Ranking fails on a default for features with several values.
    spec = {name: ALL_SPEC[name] for name in ("bm25", "clicks", "title", "terms")}
    lists = copy.deepcopy(lists)
    for ranked in lists[::2]:
        for name in ("bm25", "title", "terms"):
            del ranked.documents[-1][name]
    for document in lists[1].documents:
        del document["clicks"]
    path = write_format(tmp_path / "f", lists, "seq")
    found = batch_of(builder(path, {}, spec, None).build_valid_dataset())
    wanted = theirs(records(lists, "seq"), "seq", None, {}, spec)
    assert_same_tensors(found, wanted)


def test_sequences_take_defaults_for_each_element(tmp_path):
    lists = random_lists(3, [2, 3])
    del lists[0].documents[1]["embedding"]
    path = write_format(tmp_path / "f", lists, "seq")
    found = batch_of(builder(path).build_valid_dataset())["embedding"].numpy()
    np.testing.assert_array_equal(found[0, 0], lists[0].documents[0]["embedding"])
    np.testing.assert_array_equal(found[0, 1], [1, 2, 3])


def test_a_missing_end_of_a_sequence_without_default_is_named(tmp_path):
    lists = random_lists(3, [0, 2])
    del lists[1].documents[1]["bm25"]
    path = write_format(tmp_path / "f", lists, "seq")
    spec = {**EXAMPLE_SPEC, "bm25": tf.io.FixedLenFeature((1,), tf.float32)}
    with pytest.raises(DataError, match="f: record 1: feature 'bm25' is missing"):
        builder(path, example=spec).build_valid_dataset()


@pytest.mark.parametrize("data_format", FORMATS)
def test_all_formats_hold_the_same_lists(folder, data_format):
    wanted = builder(folder / "elwc").lists("valid", "packed")
    made = builder(folder / data_format)
    assert made.layouts == ("packed", "padded")
    found = made.lists("valid", "packed")
    assert found.query_ids.tolist() == [f"q{i}" for i in range(len(LENGTHS))]
    np.testing.assert_array_equal(found.row_splits, wanted.row_splits)
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_array_equal(found.weights, wanted.weights)
    for dtype, block in wanted.values.items():
        np.testing.assert_array_equal(found.values[dtype], block)
    for name, value in wanted.context.items():
        np.testing.assert_array_equal(found.context[name], value)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("data_format", FORMATS)
def test_document_ids_are_kept_when_asked_for(tmp_path, folder, data_format, layout):
    def made(keep, cache):
        arguments = {"document_id": "docid", "keep_document_ids": keep}
        files = folder / data_format
        return builder(files, **arguments, cache=cache).lists("train", layout)

    cache = str(tmp_path)
    bare = made(False, cache)
    wanted = [f"d{i}_{j}" for i, n in enumerate(LENGTHS) for j in range(n)]
    for place in ("", cache, cache):
        found = made(True, place)
        assert found.document_ids.tolist() == wanted
        for dtype, block in bare.values.items():
            np.testing.assert_array_equal(found.values[dtype], block)
    assert set(made(False, cache).document_ids) == {""}
    # One cache with ids and one without.
    assert len(list(tmp_path.iterdir())) == 2


def test_document_ids_may_be_features_too_and_of_several_tasks(folder):
    wanted = [f"d{i}_{j}" for i, n in enumerate(LENGTHS) for j in range(n)]
    asked = {"document_id": "docid", "keep_document_ids": True}
    for data_format in ("elwc", "seq"):
        made = builder(folder / data_format, ALL_CONTEXT, ALL_SPEC, **asked)
        assert made.lists("valid", "padded").document_ids.tolist() == wanted
    path = str(folder / "elwc")
    several = MultiLabelDatasetBuilder(
        CONTEXT_SPEC,
        EXAMPLE_SPEC,
        MASK,
        {"one": LABEL_SPEC, "two": WEIGHT_SPEC},
        DatasetHparams(path, path, 5, 5, keep_document_ids=True),
        document_id="docid",
    )
    assert several.lists("train").document_ids.tolist() == wanted


def test_document_ids_without_a_name_are_an_error_and_missing_ones_a_warning(folder):
    path = folder / "elwc"
    with pytest.raises(ConfigError, match="keep_document_ids: expected the name"):
        builder(path, keep_document_ids=True).lists("train")
    made = builder(path, document_id="key", keep_document_ids=True)
    with pytest.warns(UserWarning, match="no document has the feature 'key'"):
        found = made.lists("train")
    assert set(found.document_ids) == {""}


@pytest.mark.parametrize("data_format", ["elwc", "seq"])
def test_a_cache_gives_the_features_that_memory_gives(tmp_path, folder, data_format):
    arguments = folder / data_format, ALL_CONTEXT, ALL_SPEC
    wanted = batch_of(builder(*arguments).build_valid_dataset())
    for _ in range(2):
        made = builder(*arguments, cache=str(tmp_path))
        assert_same_tensors(batch_of(made.build_valid_dataset()), wanted)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("data_format", ["eie", "seq", "example"])
def test_all_formats_give_the_same_padded_batches(folder, data_format):
    found, wanted = (
        builder(folder / name, ALL_CONTEXT, ALL_SPEC, list_size=3)
        for name in (data_format, "elwc")
    )
    assert_same_tensors(
        batch_of(found.build_train_dataset()), batch_of(wanted.build_train_dataset())
    )


def test_examples_without_a_query_id_are_lists_of_one_document(folder):
    single = builder(folder / "example", query_id=None).lists("valid", "packed")
    whole = builder(folder / "elwc").lists("valid", "packed")
    assert single.lengths.tolist() == [1] * sum(LENGTHS)
    np.testing.assert_array_equal(single.labels, whole.labels)
    np.testing.assert_array_equal(
        single.context["query_vector"],
        np.repeat(whole.context["query_vector"], LENGTHS, axis=0),
    )


def test_many_examples_are_grouped_across_the_parts_that_are_read(tmp_path):
    lists = random_lists(4, [1, 2, 3] * 700, {}, {"bm25": EXAMPLE_SPEC["bm25"]})
    path = write_format(tmp_path / "f", lists, "example")
    made = builder(path, {}, {"bm25": EXAMPLE_SPEC["bm25"]})
    found = made.lists("valid", "packed")
    assert found.lengths.tolist() == [1, 2, 3] * 700
    wanted = [d["bm25"][0] for ranked in lists for d in ranked.documents]
    np.testing.assert_array_equal(found.values["float32"].ravel(), wanted)


def test_a_query_that_comes_again_is_named(tmp_path, lists):
    path = write_format(tmp_path / "f", [*lists, lists[1]], "example")
    with pytest.raises(DataError, match="f: the documents of query 'q1' do not stand"):
        builder(path).lists("valid", "packed")


def test_an_example_without_the_query_id_is_named(tmp_path):
    lists = random_lists(0, [2, 1])
    del lists[1].context["qid"]
    path = write_format(tmp_path / "f", lists, "example")
    with pytest.raises(DataError, match=r"f: document 2 .* has no 'qid'"):
        builder(path).lists("valid", "packed")


@pytest.mark.parametrize("wanted", [f for f in FORMATS if f != "packed"])
@pytest.mark.parametrize("found", ["elwc", "eie", "seq", "example"])
def test_files_of_another_format_are_refused(folder, wanted, found):
    made = builder(folder / found, input_format=wanted)
    if wanted == found:
        assert made.lists("valid", "packed").num_lists == len(LENGTHS)
        return
    words = f"{found}: expected an? .*input_format is '{wanted}'.*to '{found}'"
    with pytest.raises(DataError, match=words):
        made.lists("valid", "packed")


@pytest.mark.parametrize("wanted", FORMATS)
@pytest.mark.parametrize("found", FORMATS)
def test_a_file_of_another_format_among_others_is_named(tmp_path, wanted, found):
    if wanted == found:
        return
    paths = []
    for i, name in enumerate((wanted, found)):
        lists = random_lists(i, [2, 3])
        for ranked in lists:  # two files share no query
            ranked.context["qid"] = np.array([f"{i}{ranked.context['qid'][0]}"], object)
        path = tmp_path / str(i)
        paths.append(write_format(path, lists, name, example_spec=EXAMPLE_SPEC))
    words = r"1: record 0: expected an? .*, found an? "
    with pytest.raises(DataError, match=words):
        builder(",".join(paths)).lists("valid", "packed")


def test_sequences_without_documents_are_lists_without_documents(tmp_path):
    lists = random_lists(0, [2, 0, 3])
    path = write_format(tmp_path / "f", lists, "seq")
    assert builder(path).lists("valid", "packed").lengths.tolist() == [2, 0, 3]


def test_texts_that_look_like_another_format_are_no_matter(tmp_path):
    lists = random_lists(0, [2, 1])
    lists[0].documents[0]["docid"] = np.array([b"serialized_examples"], object)
    lists[1].documents[0]["docid"] = np.array([b"packed/labels"], object)
    path = write_format(tmp_path / "f", lists, "example")
    assert builder(path).lists("valid", "packed").lengths.tolist() == [2, 1]


def test_tf_rankings_names_of_formats_are_taken(folder):
    made = builder(folder / "seq", input_format=tfr.data.SEQ)
    assert made.lists("valid", "packed").num_lists == len(LENGTHS)


def test_an_unknown_format_is_refused():
    with pytest.raises(ConfigError, match="input_format 'ewlc'; did you mean 'elwc'"):
        builder("f", input_format="ewlc")


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("context", [True, False])
def test_formats_are_recognized_by_their_bytes(data_format, context):
    for size in (1, 2):
        spec = {f"x{i}": EXAMPLE_SPEC["bm25"] for i in range(size)}
        lists = random_lists(0, [size], {}, spec, with_context=context)
        (*_, record) = records(lists, data_format, spec)
        assert recognize(record) == data_format


@pytest.mark.parametrize("record", [b"", b"\xff\xff", b"\n\x00", b"1 qid:1 2:0.5"])
def test_other_bytes_are_not_recognized(record):
    assert recognize(record) is None


def test_lists_within_examples_may_be_empty_or_lack_a_context():
    from tensorflow_serving.apis import input_pb2

    lists = random_lists(0, [0, 2])
    bare = tf.train.Example.FromString(eie(lists[1]))
    del bare.features.feature["serialized_context"]
    cases = [(eie(ranked), ranked) for ranked in lists]
    cases.append((bare.SerializeToString(), RankedList({}, lists[1].documents)))
    for record, ranked in cases:
        found = input_pb2.ExampleListWithContext.FromString(elwc_of_eie(record))
        wanted = input_pb2.ExampleListWithContext.FromString(elwc(ranked))
        assert found.examples == wanted.examples
        assert found.context == wanted.context


@pytest.mark.parametrize("name", ["bm25", "query_length", "relevance"])
def test_a_mask_named_like_a_feature_is_refused(name):
    with pytest.raises(ConfigError, match=f"mask_feature_name.*found '{name}'"):
        SimpleDatasetBuilder(
            CONTEXT_SPEC, EXAMPLE_SPEC, name, LABEL_SPEC, DatasetHparams("", "", 1, 1)
        )


def parser_of(data_format):
    extra = dict([LABEL_SPEC, WEIGHT_SPEC])
    specs = ALL_CONTEXT, {**EXAMPLE_SPEC, "terms": LOOSE_SPEC["terms"]}, extra
    return batch_parser(RecordParser(*specs, "qid", "docid", data_format))


PARSERS = {name: parser_of(name) for name in ("elwc", "eie", "seq")}


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
    data_format=st.sampled_from(["eie", "seq"]),
)
def test_any_lists_parse_alike_in_all_formats(lengths, seed, data_format):
    lists = with_loose_features(random_lists(seed, lengths), seed)
    found, wanted = (
        PARSERS[name](tf.constant(records(lists, name)))
        for name in (data_format, "elwc")
    )
    assert set(found) == set(wanted)
    tf.nest.map_structure(np.testing.assert_array_equal, found, wanted)
