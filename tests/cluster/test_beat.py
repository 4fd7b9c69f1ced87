"""Beats stand within the output of a task, and leave no trace in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfr_pipeline.cluster import beat, heartbeat
from tfr_pipeline.cluster.beat import Beat, take

WORDS = [beat.REST, beat.STEP, beat.BETWEEN, beat.SAVE, beat.WAIT, beat.SERVE]
numbers = st.integers(0, 2**63)
beats = st.builds(
    Beat, st.sampled_from(WORDS), numbers | st.just(-1), numbers | st.just(-1), numbers
)
# What tasks print: no NUL is in it.
texts = st.binary(max_size=20).map(lambda text: text.replace(b"\0", b""))


@given(st.lists(texts | beats, max_size=12), st.integers(1, 30))
def test_text_comes_back_as_it_was_and_beats_in_their_order(parts, size):
    whole = b"".join(p.encode() if isinstance(p, Beat) else p for p in parts)
    text, rest, found = b"", b"", []
    for start in range(0, len(whole), size):  # as a pipe cuts it
        rest, new = take(rest + whole[start : start + size])
        found += new
        *lines, rest = rest.split(b"\n")
        text += b"".join(line + b"\n" for line in lines)
    assert text + rest == b"".join(p for p in parts if isinstance(p, bytes))
    assert found == [p for p in parts if isinstance(p, Beat)]


@pytest.mark.parametrize(
    "text", [b"\0", b"\0step 3 -1\n", b"\0step x 1 2\n", b"\0\x01\n", b"a\0b\n"]
)
def test_what_is_no_beat_stays(text):
    assert take(text) == (text, [])


@pytest.fixture(autouse=True)
def no_run_before(monkeypatch):
    monkeypatch.setattr(heartbeat, "_before", 0)


def test_a_block_says_what_is_done_in_it_and_is_no_progress():
    heartbeat.moves(beat.BETWEEN, 7)
    before = heartbeat.now()
    with pytest.raises(KeyError), heartbeat.doing(beat.SAVE):
        assert heartbeat.now() == Beat(beat.SAVE, 7, before.kept, before.moves)
        raise KeyError
    assert heartbeat.now() == before
    heartbeat.moves(beat.REST)
    assert heartbeat.now() == Beat(beat.REST, 7, before.kept, before.moves + 1)


def test_steps_of_a_second_run_come_after_those_of_the_first():
    for step, done in ((40, 40), (0, 40), (7, 47)):
        if step == 0:
            heartbeat.next_run()
        heartbeat.moves(beat.STEP, step)
        assert heartbeat.now().step == done
    heartbeat.keeps(5)
    assert heartbeat.now().kept == 45
