"""Documents of records are counted as parsers count them, or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.format_helpers import records, with_loose_features
from tests.ranking_data import (
    CONTEXT_SPEC,
    EXAMPLE_SPEC,
    LABEL_SPEC,
    WEIGHT_SPEC,
    random_lists,
)
from tfr_pipeline.compat import tf
from tfr_pipeline.data.reading.batch_parser import batch_parser
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.records.counting import SPARE, UNKNOWN, count_documents
from tfr_pipeline.data.records.formats import NotAListError
from tfr_pipeline.data.records.wire import field

FORMATS = ["elwc", "eie", "seq", "packed"]
NAMES = [*EXAMPLE_SPEC, "relevance", "weight"]


def count(some, data_format, names=NAMES):
    """Counts the documents of records that stand in a buffer with others around."""
    sizes = np.array([len(record) for record in some])
    stops = np.cumsum(sizes + 5)
    raw = b"".join(b"\xffaaaa" + record for record in some) + bytes(SPARE)
    data = np.frombuffer(raw, np.uint8)
    return count_documents(data, stops - sizes, stops, data_format, names)


@pytest.fixture(scope="module", params=FORMATS)
def format_and_parse(request):
    """A format, and what parses it."""
    specs = CONTEXT_SPEC, EXAMPLE_SPEC, dict([LABEL_SPEC, WEIGHT_SPEC])
    parser = RecordParser(*specs, "qid", data_format=request.param)
    return request.param, batch_parser(parser)


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("most", [3, 40, 300])
def test_all_documents_are_counted(data_format, most):
    # Few and many records, so that both ways to walk them are taken.
    random = np.random.default_rng(most)
    for number in (1, 7, 150):
        lengths = random.integers(data_format == "seq", most, number).tolist()
        some = records(random_lists(0, lengths), data_format, EXAMPLE_SPEC)
        assert count(some, data_format).tolist() == lengths


@pytest.mark.parametrize("data_format", ["elwc", "eie", "seq"])
def test_features_of_any_kind_are_walked_over(data_format):
    lengths = [3, 1, 9, 4] * 20
    lists = with_loose_features(random_lists(1, lengths, missing=0.3))
    some = records(lists, data_format)
    found = count(some, data_format, [*NAMES, "docid"])
    assert found.tolist() == lengths


def test_the_longest_of_the_named_features_tells_how_long_a_sequence_is():
    def sequence(**sizes):
        message = tf.train.SequenceExample()
        message.context.feature["qid"].bytes_list.value.append(b"q")
        for name, size in sizes.items():
            entries = message.feature_lists.feature_list[name].feature
            for number in range(size):  # varints of unequal lengths
                entries.add().int64_list.value.append(number * 100)
        return message.SerializeToString()

    some = [sequence(a=3, b=5, c=9), sequence(a=4, c=1), sequence(c=7), sequence()]
    assert count(some, "seq", ["a", "b"]).tolist() == [5, 4, 0, UNKNOWN]
    # Lists of which only what stands in them tells how long they are.
    assert (count(some, "seq", []) == UNKNOWN).all()


def test_what_serializers_do_not_write_is_left_to_a_parser():
    (record,) = records(random_lists(0, [4]), "elwc")
    longer = b"\x0a\x80\x00"  # an empty document, its length in two bytes
    unknown = b"\x18\x05"  # field 3, a number
    cut = record[:-3]
    for other in (record + longer, record + unknown, cut, b"\x0a\xff\xff\xff\xff\x0f"):
        found = count([record, other] * 30, "elwc")[1::2]
        assert (found == UNKNOWN).all() or other == record + longer
        assert count([other], "elwc").tolist() == [UNKNOWN]
    (record,) = records(random_lists(0, [4]), "eie")
    assert count([record + record], "eie").tolist() == [UNKNOWN]  # they are merged
    assert count([b"", field(b"\x0a", b"")], "eie").tolist() == [UNKNOWN] * 2
    assert count([b"", field(b"\x0a", b"")], "packed").tolist() == [UNKNOWN] * 2
    assert count([b""], "elwc").tolist() == [0]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), number=st.sampled_from([1, 60]))
def test_damaged_records_are_counted_as_they_parse_or_not_at_all(
    format_and_parse, seed, number
):
    data_format, parse = format_and_parse
    random = np.random.default_rng(seed)
    (record,) = records(random_lists(seed, [3]), data_format, EXAMPLE_SPEC)
    damaged = bytearray(record)
    # Where the structure is, mostly.
    for place in random.integers(0, len(record), random.integers(1, 4)):
        place = place // random.integers(1, 20)
        damaged[place] = random.choice(
            [0, 1, 2, 10, 18, 26, 127, 128, 255, damaged[place] ^ 1]
        )
    found = count([bytes(damaged)] * number, data_format)
    assert len({*found.tolist()}) == 1
    if found[0] == UNKNOWN:
        return
    try:
        lengths = parse(tf.constant([bytes(damaged)]))["lengths"]
    except (tf.errors.OpError, NotAListError, UnicodeDecodeError):
        return  # whoever reads it says so
    assert found[0] == lengths[0]
