"""A job that stands still is noticed, and who holds it up is named; nobody else is.

Plain scripts take the place of training, so that a test takes some seconds.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cluster.launching import finished, gone, launch, pids
from tests.cluster.test_beat import WORDS
from tfr_pipeline.cluster import beat, stall
from tfr_pipeline.cluster.beat import BETWEEN, REST, SAVE, SERVE, STEP, WAIT, Beat


@dataclasses.dataclass(eq=False)
class Member:
    beat: Beat | None
    still: float = 100.0
    silence: float = 0.0


def member(doing, step=7, **times):
    return Member(Beat(doing, step, -1, 3), **times)


@pytest.mark.parametrize(
    ("members", "guilty"),
    [
        # A callback that waits for ever, while the others wait in their step.
        ([member(STEP), member(BETWEEN), member(STEP)], [1]),
        ([member(WAIT), member(BETWEEN)], [1]),
        ([member(SAVE), member(STEP), member(WAIT)], [0]),
        # Who is a step behind, though it waits; and who is there, but not behind.
        ([member(STEP), member(STEP, step=6)], [1]),
        ([member(BETWEEN, step=8), member(STEP)], [1]),
        # Nobody can tell.
        ([member(STEP), member(STEP)], [0, 1]),
        ([member(STEP), member(WAIT)], [0, 1]),
        # Who is stopped has said something before.
        ([member(STEP, silence=99.0), member(WAIT)], [0]),
        ([member(STEP, silence=99.0), member(BETWEEN)], [0]),
        # The coordinator alone counts steps.
        ([member(STEP), member(SERVE, -1), member(SERVE, -1)], [0]),
        ([member(BETWEEN)], [0]),
        # Somebody may take as long as it likes, or has not spoken yet.
        ([member(STEP), member(REST)], []),
        ([member(WAIT), Member(None)], []),
        ([member(SERVE, -1)], []),
        ([], []),
        # Somebody moves.
        ([member(STEP), member(BETWEEN), member(STEP, still=9.0)], []),
    ],
)
def test_who_holds_up_a_job_is_who_does_not_wait_for_others(members, guilty):
    found = stall.blamed(members, 10.0)
    assert [members.index(one) for one in found] == guilty
    assert not stall.blamed(members, 0.0)
    if found:
        assert stall.where(found[0].beat)
        stall.why(found, members)


seconds = st.floats(0, 1e4)
crowds = st.lists(
    st.builds(
        Member,
        st.none() | st.builds(Beat, st.sampled_from(WORDS), st.integers(-1, 9)),
        seconds,
        seconds,
    )
)


@given(crowds, seconds)
def test_nobody_is_blamed_while_anybody_moves_or_may_take_long(members, limit):
    found = stall.blamed(members, limit)
    steps = [m for m in members if m.beat is None or m.beat.doing != SERVE]
    stands = bool(steps) and limit > 0
    for one in steps:
        stands &= one.beat is not None and one.beat.doing != REST and one.still > limit
    stands &= all(m.beat is not None and m.beat.doing != REST for m in members)
    assert bool(found) == stands
    assert all(one in steps for one in found)


# Worker 0 waits for worker 1, which stops to move the first time at step 3.
STALL = """
import json, os, pathlib, signal, sys, threading, time
from tfr_pipeline.cluster import beat, heartbeat
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
marks, how = pathlib.Path(sys.argv[1]), sys.argv[2]
first = not (marks / f"start {index}").exists()
(marks / f"start {index}").touch()
heartbeat.start()
print("pid", os.getpid(), flush=True)

def done(step):
    (marks / f"{first} {index} {step}").touch()
    while not (marks / f"{first} {1 - index} {step}").exists():
        time.sleep(0.02)

for step in range(1, 6):
    heartbeat.moves(beat.STEP)
    if how == "slow" and step == 3:
        with heartbeat.doing(beat.REST):
            time.sleep(5 if index else 0)
    if first and index and step == 4:
        lock = threading.Lock()
        with lock:
            if how == "lock":
                with heartbeat.doing(beat.BETWEEN), lock:
                    pass
            if how == "input":
                lock.acquire()
        if how == "stop":
            time.sleep(1.5)  # for a beat
            os.kill(os.getpid(), signal.SIGSTOP)
    done(step)
    time.sleep(0.3)
    heartbeat.moves(beat.BETWEEN, step)
print("done", flush=True)
"""


def test_a_deadlock_with_running_threads_is_noticed_and_all_start_again(tmp_path):
    process = launch(tmp_path, "lock", script=STALL, stall_timeout=3)
    began = time.strftime("%X")
    stuck = pids(process)
    code, out = finished(process)
    assert code == 0, out
    (line,) = [line for line in out.splitlines() if "has not moved for" in line]
    assert line.startswith("[job] worker 1 (localhost:")
    assert "at step 3, between two steps" in line
    since = re.search(r"for (\d+) s, since ([\d:]+):", line)
    assert int(since[1]) >= 3 and since[2] >= began
    # Where it waits.
    assert re.search(r'\[worker 1\]   File "<string>", line \d+ in <module>', out)
    assert "[worker 0]   File" not in out
    assert "the others wait for it" in out and "--stall_timeout=3" in out
    assert "restart 1 of 3" in out and out.count("done") == 2
    assert all(gone(pid) for pid in stuck.values())


def test_who_waits_for_its_input_cannot_be_told_from_who_waits_for_it(tmp_path):
    code, out = finished(launch(tmp_path, "input", script=STALL, stall_timeout=3))
    assert code == 0, out
    assert out.count("at step 3, in a step; killing it") == 2
    assert "each waits for another one" in out


@pytest.mark.slow
def test_a_process_that_is_stopped_is_to_blame_whatever_it_said_before(tmp_path):
    flags = {"stall_timeout": 11, "hang_timeout": 0}
    code, out = finished(launch(tmp_path, "stop", script=STALL, **flags))
    assert code == 0, out
    (line,) = [line for line in out.splitlines() if "has not moved for" in line]
    assert line.startswith("[job] worker 1 (localhost:")


def test_what_may_take_long_is_waited_for(tmp_path):
    code, out = finished(launch(tmp_path, "slow", script=STALL, stall_timeout=2))
    assert code == 0, out
    assert "[job]" not in out


def test_without_a_limit_a_job_may_stand_still(tmp_path):
    process = launch(tmp_path, "lock", script=STALL, stall_timeout=0)
    stuck = pids(process)
    time.sleep(5)
    assert process.poll() is None
    os.kill(stuck["worker 1"], signal.SIGKILL)
    code, out = finished(process)
    assert code == 0, out
    assert "has not moved" not in out


# Says that it is in a step, and waits in its words: nobody takes them.
TALK = """
import time
from tfr_pipeline.cluster import beat, heartbeat
heartbeat.start()
heartbeat.moves(beat.STEP, 1)
time.sleep(1.5)
print("x\\n" * 200_000, flush=True)
time.sleep(1.5)
"""


@pytest.mark.slow
def test_who_is_not_listened_to_does_not_stand_still():
    process = launch(script=TALK, workers=1, stall_timeout=3)
    time.sleep(8)  # nobody reads, as after Ctrl-S, and the pipe is full
    code, out = finished(process)
    assert code == 0 and "moved" not in out


def test_beats_of_a_pod_and_of_others_do_not_collide():
    """`cluster.pod` ends a connection with NUL and `exit`."""
    assert all(not Beat(word).encode().startswith(b"\0exit ") for word in WORDS)
    assert beat.take(b"\0exit 3\n") == (b"\0exit 3\n", [])
