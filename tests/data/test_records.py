"""Parsed records hold what protobuf and TF-Ranking find in them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ranking_data import (
    CONTEXT_SPEC,
    EXAMPLE_SPEC,
    LABEL_SPEC,
    WEIGHT_SPEC,
    RankedList,
    elwc,
    example,
    packed,
    random_lists,
)
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.data.reading.elwc import split_elwc
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.layout import BlockLayout

EXTRA_SPEC = dict([LABEL_SPEC, WEIGHT_SPEC])
LENGTHS = [3, 1, 0, 5, 2]


def named(parsed, specs=EXAMPLE_SPEC):
    """Takes matrices apart into features by name."""
    return {
        slot.name: parsed["values"][dtype][:, slot.start : slot.stop]
        .numpy()
        .reshape(-1, *slot.shape)
        for dtype, slots in BlockLayout.from_spec(specs).slots.items()
        for slot in slots
    }


def parse(records, data_format="elwc", context_spec=CONTEXT_SPEC, **kwargs):
    parser = RecordParser(
        context_spec, EXAMPLE_SPEC, EXTRA_SPEC, data_format=data_format, **kwargs
    )
    return tf.function(parser)(tf.constant(records, tf.string))


def theirs(lists):
    parsed = tfr.data.parse_from_example_list(
        [elwc(ranked) for ranked in lists],
        context_feature_spec=CONTEXT_SPEC,
        example_feature_spec={**EXAMPLE_SPEC, **EXTRA_SPEC},
        mask_feature_name="mask",
    )
    return {name: value.numpy() for name, value in parsed.items()}


@pytest.mark.parametrize("missing", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_elwc_parses_to_the_documents_of_tf_ranking(seed, missing):
    lists = random_lists(seed, LENGTHS, missing=missing)
    parsed, wanted = parse([elwc(ranked) for ranked in lists]), theirs(lists)
    np.testing.assert_array_equal(parsed["lengths"], LENGTHS)
    real = wanted["mask"]
    found = {**named(parsed), **{n: v.numpy() for n, v in parsed["extra"].items()}}
    for name in [*EXAMPLE_SPEC, *EXTRA_SPEC]:
        np.testing.assert_array_equal(found[name], wanted[name][real], err_msg=name)
        assert found[name].dtype == wanted[name].dtype
    for name in CONTEXT_SPEC:
        np.testing.assert_array_equal(parsed["context"][name], wanted[name])


def test_lists_without_context_get_its_defaults():
    lists = random_lists(3, [2, 1], with_context=False)
    parsed = parse([elwc(ranked) for ranked in lists], query_id="qid")
    for name, spec in CONTEXT_SPEC.items():
        wanted = np.broadcast_to(np.ravel(spec.default_value), (2, *spec.shape))
        np.testing.assert_array_equal(parsed["context"][name], wanted)
    assert parsed["query_ids"].numpy().tolist() == [b"", b""]


def test_some_lists_may_lack_a_context():
    lists = random_lists(4, [1, 1, 1])
    lists[1] = RankedList({}, lists[1].documents)
    parsed, wanted = parse([elwc(ranked) for ranked in lists]), theirs(lists)
    for name in CONTEXT_SPEC:
        np.testing.assert_array_equal(parsed["context"][name], wanted[name])


def test_a_batch_of_empty_lists_has_no_documents():
    parsed = parse([elwc(ranked) for ranked in random_lists(0, [0, 0])])
    assert parsed["lengths"].numpy().tolist() == [0, 0]
    assert parsed["values"]["float32"].shape == (0, 8)


@pytest.mark.parametrize("data_format", ["elwc", "packed"])
def test_ids_come_with_their_lists_and_documents(data_format):
    lists = random_lists(5, LENGTHS)
    write = elwc if data_format == "elwc" else lambda r: packed(r, EXAMPLE_SPEC)
    parsed = parse(
        [write(ranked) for ranked in lists],
        data_format,
        query_id="qid",
        document_id="docid",
    )
    assert parsed["query_ids"].numpy().tolist() == [b"q0", b"q1", b"q2", b"q3", b"q4"]
    wanted = [d["docid"][0].encode() for ranked in lists for d in ranked.documents]
    assert parsed["document_ids"].numpy().tolist() == wanted
    assert set(parsed["context"]) == set(CONTEXT_SPEC)


def test_the_query_id_may_be_a_feature_too():
    spec = {"qid": tf.io.FixedLenFeature((1,), tf.string, "none")}
    lists = random_lists(6, [1, 2])
    parsed = parse([elwc(r) for r in lists], context_spec=spec, query_id="qid")
    assert parsed["context"]["qid"].numpy().tolist() == [[b"q0"], [b"q1"]]
    assert parsed["query_ids"].numpy().tolist() == [b"q0", b"q1"]


@pytest.mark.parametrize("seed", [0, 1])
def test_packed_records_parse_to_what_elwc_does(seed):
    lists = random_lists(seed, LENGTHS)
    from_elwc = parse([elwc(ranked) for ranked in lists])
    from_packed = parse([packed(ranked, EXAMPLE_SPEC) for ranked in lists], "packed")
    tf.nest.map_structure(np.testing.assert_array_equal, from_packed, from_elwc)
    assert tf.nest.map_structure(lambda t: t.dtype, from_packed) == (
        tf.nest.map_structure(lambda t: t.dtype, from_elwc)
    )


def test_single_examples_parse_as_tf_ranking_parses_them():
    ranked = random_lists(7, [4], missing=0.3)[0]
    serialized = [
        example({**ranked.context, **d}).SerializeToString() for d in ranked.documents
    ]
    parser = RecordParser(CONTEXT_SPEC, EXAMPLE_SPEC, query_id="qid")
    wanted = tfr.data.parse_from_tf_example(
        serialized, CONTEXT_SPEC, EXAMPLE_SPEC, mask_feature_name="mask"
    )
    found = named(parser.examples(tf.constant(serialized)))
    for name in EXAMPLE_SPEC:
        np.testing.assert_array_equal(found[name], wanted[name][:, 0])
    contexts = parser.contexts(tf.constant(serialized))
    assert set(contexts) == set(CONTEXT_SPEC)
    for name in CONTEXT_SPEC:
        np.testing.assert_array_equal(contexts[name], wanted[name])


def test_split_elwc_gives_each_example_back_unchanged():
    lists = random_lists(8, [2, 0, 1])
    examples, lengths, contexts = split_elwc([elwc(ranked) for ranked in lists])
    wanted = [example(d) for ranked in lists for d in ranked.documents]
    found = [tf.train.Example.FromString(e) for e in examples.numpy()]
    assert found == wanted
    assert lengths.numpy().tolist() == [2, 0, 1]
    assert [tf.train.Example.FromString(c) for c in contexts.numpy()] == [
        example(ranked.context) for ranked in lists
    ]
