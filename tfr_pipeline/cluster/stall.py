"""Whether a job stands still although its tasks live, and who holds it up.

Tasks that train together wait for each other, so that one that waits for ever stops
all. A job stands still when every one of them says that it is about something that ends
soon, and none has moved on for long. While one is at rest (it reads data, evaluates,
exports) the others may have to wait for it, and nobody is judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from tfr_pipeline.cluster import beat as beats

# What a task waits for others in.
_WAITS = (beats.STEP, beats.WAIT)
# Beats come every second; who is silent for longer is not alive, whatever it said.
_SILENT = 10.0
_WORDS = {
    beats.STEP: "in a step",
    beats.BETWEEN: "between two steps, where callbacks are",
    beats.SAVE: "saving a checkpoint",
    beats.WAIT: "waiting for the others",
}


class Member(Protocol):
    """A task as its supervisor sees it."""

    @property
    def beat(self) -> beats.Beat | None:
        """What it said last; None before it has said anything."""

    @property
    def still(self) -> float:
        """Seconds for which it has said the same."""

    @property
    def silence(self) -> float:
        """Seconds since it was last heard."""


_Member = TypeVar("_Member", bound=Member)


def blamed(members: Iterable[_Member], limit: float) -> Sequence[_Member]:
    """Returns who holds up a job that stands still; nobody where it does not.

    Those are, of the ones that have done fewest steps, who does not wait for others. If
    all do, one of them has something else that it waits for, such as its input: which
    one cannot be told.

    Args:
      members: The tasks that run, without evaluators.
      limit: Seconds without any move after which a job stands still; 0 for never.
    """
    working = []
    for member in members:
        if member.beat is None or member.beat.doing == beats.REST:
            return ()
        if member.beat.doing != beats.SERVE:
            working.append((member, member.beat))
    if not working or not min(member.still for member, _ in working) > limit > 0:
        return ()
    silent = [member for member, _ in working if member.silence > _SILENT]
    if silent:
        return silent
    last = min(beat.step for _, beat in working)
    late = [(member, beat) for member, beat in working if beat.step == last]
    guilty = [member for member, beat in late if beat.doing not in _WAITS]
    return guilty or [member for member, _ in late]


def where(beat: beats.Beat) -> str:
    """Says where a task is that does not move."""
    return f"at step {beat.step}, {_WORDS.get(beat.doing, beat.doing)}"


def why(blamed: Sequence[Member], members: Sequence[Member]) -> str:
    """Says how those who are blamed hold up the others; empty for one alone.

    Args:
      blamed: As `blamed` returned them.
      members: All.
    """
    if len(blamed) > 1:
        return "each waits for another one, or one of them for its input; "
    (beat,) = (member.beat for member in blamed)
    assert beat is not None
    serves = any(one.beat and one.beat.doing == beats.SERVE for one in members)
    if serves and beat.doing in _WAITS:
        return "it waits for a worker or a server, or for its input; "
    return "the others wait for it; " if len(members) > 1 else ""
