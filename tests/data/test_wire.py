"""Messages that are read side by side are those that are read one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfr_pipeline.data.records import wire
from tfr_pipeline.data.records.wire import FIRST, SECOND, Messages, WireError

CONTENTS = st.lists(st.integers(0, 20_000), min_size=1, max_size=6)


def messages(texts):
    """Returns messages that stand one behind the other, with something between."""
    ends = np.cumsum([len(text) + 3 for text in texts])
    data = np.frombuffer(b"".join(text + b"abc" for text in texts), np.uint8)
    return Messages(data, ends - 3 - [len(text) for text in texts], ends - 3)


@given(CONTENTS)
def test_fields_stand_where_they_are_found_one_by_one(sizes):
    texts = [
        wire.field(b"\x0a", wire.field(b"\x0a", b"x" * size))
        + wire.field(b"\x12", b"name")
        for size in sizes
    ]
    outer, name = messages(texts).split(FIRST, SECOND)
    inner = outer.only(FIRST)
    assert name.text() == b"name"
    for number, text in enumerate(texts):
        begin = int(messages(texts).begin[number])
        (start, stop), _ = wire.read_only(text, 0, len(text), FIRST, SECOND)
        ((start, stop),) = wire.read_only(text, start, stop, FIRST)
        assert (start, stop) == (inner.begin[number] - begin, inner.end[number] - begin)


def test_fields_come_one_after_the_other():
    texts = [b"\x0a\x01a\x0a\x02bc", b"\x0a\x02aa\x0a\x00"]
    found = [field.end - field.begin for field in messages(texts).each(FIRST)]
    np.testing.assert_array_equal(found, [[1, 2], [2, 0]])


@pytest.mark.parametrize(
    "texts",
    [
        [b"\x0a\x01a", b"\x12\x01a"],  # another tag
        [b"\x0a\x01a", b"\x0a\x01a\x0a\x00"],  # more fields
        [b"\x0a\x01a", b"\x0a\x02a"],  # longer than its message
        [b"\x0a\x01a", b"\x0a\x81\x00a"],  # a length not in its shortest form
        [b"\x0a\x01a", b"\x0a" + b"\xff" * 6],  # a length without end
    ],
    ids=range(5),
)
def test_messages_of_another_form_are_refused(texts):
    with pytest.raises(WireError):
        list(messages(texts).each(FIRST))


def test_contents_that_differ_are_no_text():
    for other in (b"\x0a\x01b", b"\x0a\x02aa"):
        with pytest.raises(WireError):
            messages([b"\x0a\x01a", other]).only(FIRST).text()
