"""Documents of one layout are read as the protobuf parser reads them, bit for bit."""

from __future__ import annotations

import copy
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ranking_data import (
    CONTEXT_SPEC,
    EXAMPLE_SPEC,
    LABEL_SPEC,
    WEIGHT_SPEC,
    elwc,
    random_lists,
)
from tfr_pipeline.compat import tf
from tfr_pipeline.data.reading.batch_parser import BatchParser
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.records.wire import example, field, varint

SPEC = {
    "a": tf.io.FixedLenFeature((1,), tf.float32, 0.5),
    "b": tf.io.FixedLenFeature((2,), tf.float32, [1.0, 2.0]),
    "c": tf.io.FixedLenFeature((), tf.int64, 7),
}
EXTRA = {
    "label": tf.io.FixedLenFeature((1,), tf.int64, -1),
    "weight": tf.io.FixedLenFeature((), tf.float32, 1.0),
}
TAGS = {"bytes": b"\x0a", "float": b"\x12", "int64": b"\x1a"}


def parser(document_id="id"):
    return RecordParser(
        {"q": tf.io.FixedLenFeature((), tf.float32, 0.0)},
        SPEC,
        EXTRA,
        "qid",
        document_id,
    )


def entry(name, kind, content, extra=b""):
    key = field(b"\x0a", name.encode())
    return key + field(b"\x12", field(TAGS[kind], content) + extra)


# Any four bytes are a float: NaNs with a payload and negative zero among them.
four_bytes = st.binary(min_size=4, max_size=4)
small = st.integers(0, 127)


def floats(name, size, packed=True):
    values = st.lists(four_bytes, min_size=size, max_size=size)
    if packed:
        return values.map(
            lambda v: entry(name, "float", field(b"\x0a", b"".join(v)) if v else b"")
        )
    return values.map(lambda v: entry(name, "float", b"".join(b"\x0d" + x for x in v)))


def integers(name, values=small):
    return values.map(
        lambda v: entry(name, "int64", field(b"\x0a", varint(v & (1 << 64) - 1)))
    )


def texts(name, size=3):
    return st.binary(min_size=size, max_size=size).map(
        lambda v: entry(name, "bytes", field(b"\x0a", v))
    )


# What programs write, and what they might.
REGULAR = {
    "a": floats("a", 1),
    "b": floats("b", 2),
    "c": integers("c"),
    "label": integers("label"),
    "weight": floats("weight", 1),
    "id": texts("id"),
    "unused": floats("unused", 3),
}
ODD = [
    floats("a", 1, packed=False),
    floats("b", 1),
    floats("b", 3),
    floats("a", 0),
    integers("a"),
    integers("c", st.integers(-(2**63), 2**63 - 1)),
    integers("label", st.integers(-2, 300)),
    integers("unused", st.integers(0, 300)),
    texts("id", 4),
    texts("unused"),
    floats("b", 2).map(lambda e: e + field(b"\x12", b"")),  # the value comes twice
    floats("a", 1).map(lambda e: e[:-4]),  # cut off
    st.just(field(b"\x0a", b"a")),
    st.just(b"\x12\x00"),
    st.just(field(b"\x0a", b"a") + b"\x12\x00"),
    st.binary(max_size=6),
]
ORDERS = [list(REGULAR), list(REGULAR)[::-1]]


@st.composite
def documents(draw):
    entries = {name: draw(REGULAR[name]) for name in draw(st.sampled_from(ORDERS))}
    names = list(entries)
    parts = [entries[name] for name in names]
    change = draw(st.integers(0, 7))
    if change == 0:
        del parts[draw(st.integers(0, len(parts) - 1))]
    elif change == 1:
        parts[draw(st.integers(0, len(parts) - 1))] = draw(st.one_of(ODD))
    elif change == 2:
        parts.append(draw(st.one_of(*REGULAR.values(), *ODD)))
    elif change == 3:
        return draw(st.sampled_from([b"", example(), b"\x0a", field(b"\x12", b"x")]))
    return example(*[field(b"\x0a", part) for part in parts])


@st.composite
def records(draw):
    content = [field(b"\x0a", d) for d in draw(st.lists(documents(), max_size=6))]
    context = field(
        b"\x12",
        example(
            field(b"\x0a", draw(texts("qid"))), field(b"\x0a", draw(floats("q", 1)))
        ),
    )
    where = draw(st.sampled_from(["end", "end", "end", "none", "anywhere"]))
    if where != "none":
        last = len(content)
        place = last if where == "end" else draw(st.integers(0, last))
        content.insert(place, context)
    return b"".join(content)


def bits(result):
    """Returns a result in a form that tells NaNs apart, or None for an error."""
    flat = {}
    for key, value in result.items():
        inner = value if isinstance(value, dict) else {"": value}
        for name, array in inner.items():
            array = np.asarray(array)
            content = array.tolist() if array.dtype == object else array.tobytes()
            flat[key, name] = (array.shape, array.dtype.name, content)
    return flat


def parsed(function, serialized):
    try:
        return bits(function(tf.constant(serialized, tf.string)))
    except (tf.errors.InvalidArgumentError, UnicodeDecodeError):
        return None  # the latter comes of messages that quote the record


def fresh(traced):
    """Returns a parser that has learned nothing, without tracing it again."""
    result = copy.copy(traced)
    result._templates = {}
    result._attempts = result._taken = result._missed = 0
    return result


@pytest.fixture(scope="module")
def traced():
    return BatchParser(parser())


@pytest.fixture(scope="module")
def traced_floats():
    return BatchParser(RecordParser({}, {name: SPEC[name] for name in ("a", "b")}))


@given(st.lists(st.lists(records(), min_size=1, max_size=4), min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_all_documents_are_parsed_as_protobuf_parses_them(traced, batches):
    batch_parser = fresh(traced)
    for batch in batches:  # what the first taught is used for the second
        assert parsed(batch_parser, batch) == parsed(traced._parser, batch)


@given(
    st.lists(st.lists(four_bytes, min_size=3, max_size=3), min_size=2, max_size=300),
    st.data(),
)
@settings(max_examples=30, deadline=None)
def test_a_damaged_document_among_good_ones_is_parsed_as_protobuf_does(
    traced_floats, rows, data
):
    good = [
        example(
            field(b"\x0a", entry("a", "float", field(b"\x0a", row[0]))),
            field(b"\x0a", entry("b", "float", field(b"\x0a", b"".join(row[1:])))),
        )
        for row in rows
    ]
    number = data.draw(st.integers(0, len(good) - 1))
    place = data.draw(st.integers(0, len(good[number]) - 1))
    damaged = bytearray(good[number])
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    good[number] = bytes(damaged)
    record = b"".join(field(b"\x0a", document) for document in good)
    wanted = parsed(traced_floats._parser, [record])
    assert parsed(fresh(traced_floats), [record]) == wanted


def specs():
    extra = dict([LABEL_SPEC, WEIGHT_SPEC])
    return RecordParser(CONTEXT_SPEC, EXAMPLE_SPEC, extra, "qid", "docid")


@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_what_protobuf_wrote_is_parsed_and_remembered(missing):
    lists = random_lists(3, [9, 0, 40, 1, 300], missing=missing)
    batch = [elwc(ranked) for ranked in lists]
    batch_parser = BatchParser(specs())
    wanted = parsed(specs(), batch)
    assert parsed(batch_parser, batch) == wanted
    assert parsed(batch_parser, batch) == wanted
    assert batch_parser._taken > 0


def test_documents_of_one_program_need_no_parser():
    spec = {f"f{i}": tf.io.FixedLenFeature((1,), tf.float32) for i in range(40)}
    lists = random_lists(4, [30, 20], {}, spec)
    for ranked in lists:
        for number, document in enumerate(ranked.documents):
            document["docid"] = np.array([f"d{number:06}"], object)
    label = dict([LABEL_SPEC])
    batch_parser = BatchParser(RecordParser({}, spec, label, "qid", "docid"))
    result = batch_parser(tf.constant([elwc(ranked) for ranked in lists]))
    assert (batch_parser._taken, batch_parser._missed) == (50, 0)
    wanted = [d["f7"][0] for ranked in lists for d in ranked.documents]
    column = batch_parser._parser.layout.slots["float32"]
    index = [slot.name for slot in column].index("f7")
    assert result["values"]["float32"][:, index].tolist() == wanted
    assert result["document_ids"][31] == b"d000001"


def test_templates_are_given_up_where_documents_have_no_common_layout():
    # Values of every size: an integer of its own width in each document.
    spec = {f"c{i}": tf.io.FixedLenFeature((1,), tf.int64) for i in range(4)}
    random = np.random.default_rng(0)
    values = 1 << random.integers(7, 62, size=(2000, 4))
    rows = [
        example(
            *(
                field(b"\x0a", entry(f"c{i}", "int64", field(b"\x0a", varint(int(v)))))
                for i, v in enumerate(row)
            )
        )
        for row in values
    ]
    record = b"".join(field(b"\x0a", row) for row in rows)
    batch_parser = BatchParser(RecordParser({}, spec))
    for _ in range(3):
        result = batch_parser(tf.constant([record]))
        np.testing.assert_array_equal(result["values"]["int64"], values)
    assert batch_parser._missed == len(rows)


def test_floats_are_little_endian():
    plain = RecordParser({}, {"a": SPEC["a"]})
    document = example(
        field(b"\x0a", entry("a", "float", field(b"\x0a", struct.pack("<f", 1.5))))
    )
    result = BatchParser(plain)(tf.constant([field(b"\x0a", document)] * 2))
    assert result["values"]["float32"].tolist() == [[1.5], [1.5]]
    assert result["lengths"].tolist() == [1, 1]
