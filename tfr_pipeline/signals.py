"""Signals that end a process by way of its `finally` blocks, so that temporaries go."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP raise `SystemExit(143)` in the main thread.

    Whoever takes SIGTERM inside the block, as training does to save, gets SIGHUP as
    well. A signal that somebody handles, or that is ignored as under nohup, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        # Cleaning up is not interrupted.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(143)

    def hang_up(*_: Any) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.raise_signal(signal.SIGTERM)

    handlers: dict[signal.Signals, Callable[..., None]] = {
        signal.SIGTERM: stop,
        signal.SIGHUP: hang_up,
    }
    ours = [n for n in handlers if signal.getsignal(n) is signal.SIG_DFL]
    try:
        for number in ours:
            signal.signal(number, handlers[number])
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
