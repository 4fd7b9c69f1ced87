"""Calls from threads of TensorFlow, which have to end before the interpreter does.

Such a thread that waits for the interpreter while it ends is killed, or waited for
without end: a process that leaves while a window of lists is read from a store would
abort or hang.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import TypeVar

from tfr_pipeline.errors import RunError

_LOOK_SECONDS = 0.2  # after which who waits looks whether the process is leaving
_LONGEST_SECONDS = 30.0
Result = TypeVar("Result")


class _Calls:
    """The calls that are under way."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.count, self.leaving = 0, False

    def leave(self) -> None:
        """Lets calls end, and refuses new ones."""
        with self.changed:
            self.leaving = True
            self.changed.wait_for(lambda: not self.count, _LONGEST_SECONDS)
        # Datasets ask again some times, and are refused.
        time.sleep(_LOOK_SECONDS)


@functools.cache
def _calls() -> _Calls:
    calls = _Calls()
    atexit.register(calls.leave)
    return calls


@contextlib.contextmanager
def call() -> Iterator[None]:
    """Holds the end of the process off for a function that TensorFlow calls.

    Raises:
      RunError: The process is about to end.
    """
    calls = _calls()
    with calls.changed:
        _refuse(calls)
        calls.count += 1
    try:
        yield
    finally:
        with calls.changed:
            calls.count -= 1
            calls.changed.notify_all()


def result_of(job: futures.Future[Result]) -> Result:
    """Returns the result of a job; waits no longer than the process lives.

    Raises:
      RunError: The process is about to end.
    """
    while True:
        done, _ = futures.wait([job], _LOOK_SECONDS)
        if done:
            return job.result()
        _refuse(_calls())


def _refuse(calls: _Calls) -> None:
    if calls.leaving:
        raise RunError("expected time to read lists, found that the process ends.")
