"""Signs of life for the supervisor of a job, which tell a slow task from a dead one.

They come from a thread, so that a process that is stopped or cut off is silent; and
they say what the main thread does and how often it has moved on, so that one that waits
for ever is noticed, too. See `beat` for what they look like.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import faulthandler
import os
import signal
import stat
import threading
import time
from collections.abc import Iterator

from tfr_pipeline.cluster.beat import Beat

_SECONDS = 1.0
_started = threading.Event()
# Of the process, which is one task: whatever trains in it says where it stands.
_now = Beat()
# Steps of the runs that have ended in this process.
_before = 0
# Else a beat could be overtaken by a later one while it is on its way to the pipe.
_writing = threading.Lock()


def start() -> None:
    """Begins to write a beat about once a second.

    Only where a supervisor says with TFR_PIPELINE_HEARTBEAT=1 that it takes them out of
    the standard output again, and that output goes through a pipe.
    """
    if os.environ.get("TFR_PIPELINE_HEARTBEAT") != "1" or _started.is_set():
        return
    with contextlib.suppress(OSError):
        mode = os.fstat(1).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            _started.set()
            threading.Thread(target=_beat, daemon=True, name="heartbeat").start()
            # Who is to be killed because it waits for ever says where.
            if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
                faulthandler.register(signal.SIGUSR1, file=2)
            # Where it ended, if it ends with an error.
            atexit.register(_write_now)


def now() -> Beat:
    """Returns what a beat would say now."""
    return _now


def moves(doing: str, step: int | None = None) -> None:
    """Notes that something has ended and something else begins.

    Args:
      doing: What, in one of the words of `beat`.
      step: Training steps done, if that has changed.
    """
    global _now
    step = _now.step if step is None else _before + step
    _now = dataclasses.replace(_now, doing=doing, step=step, moves=_now.moves + 1)


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Says so within a block, whose beginning and end are no progress by themselves.

    A callback that works for long between two steps is not taken for a deadlock within
    `with heartbeat.doing(beat.REST):`.

    Args:
      what: One of the words of `beat`.
    """
    global _now
    before = _now.doing
    _now = dataclasses.replace(_now, doing=what)
    try:
        yield
    finally:
        _now = dataclasses.replace(_now, doing=before)


def keeps(step: int) -> None:
    """Says at once that a restart need not repeat the work up to a training step."""
    global _now
    _now = dataclasses.replace(_now, kept=_before + step, moves=_now.moves + 1)
    if _started.is_set():
        _write_now()


def next_run() -> None:
    """Says that a run has ended, and that the steps of another one come after its own.

    To the supervisor, who asks how far a task is, runs of one process are one.
    """
    global _before
    _before = max(_now.step, 0)


def _write() -> None:
    with _writing:
        os.write(1, _now.encode())


def _write_now() -> None:
    with contextlib.suppress(OSError):  # what that means, the thread finds out
        _write()


def _beat() -> None:
    while True:
        try:
            _write()
        except BlockingIOError:
            pass  # the pipe is full
        except OSError:
            # Nobody is there to restart this task or to end it.
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(_SECONDS)
