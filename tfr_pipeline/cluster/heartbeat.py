"""Signs of life for the supervisor of a job, which tell a slow task from a dead one.

They come from a thread: a process that is stopped or cut off is silent, one whose main
thread waits for ever is not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import threading
import time

# Also in cluster/process.py; no line that somebody prints holds a NUL.
_BEAT = b"\0\n"
_SECONDS = 1.0
_started = threading.Event()


def start() -> None:
    """Begins to write two bytes, NUL and newline, about once a second.

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


def _beat() -> None:
    while True:
        try:
            os.write(1, _BEAT)
        except BlockingIOError:
            pass  # the pipe is full
        except OSError:
            # Nobody is there to restart this task or to end it.
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(_SECONDS)
