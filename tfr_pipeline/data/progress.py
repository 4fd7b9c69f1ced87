"""Progress of long work: one changing line on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Shows how far the input is read.

    Args:
      total: Bytes of the whole input.
      title: What is done, first on the line.
      stream: Where to write; standard error by default.
    """

    def __init__(self, total: int, title: str, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._total = max(1, total)
        self._title = title
        self._start = time.monotonic()
        self._terminal = self._stream.isatty()
        self._interval = 0.2 if self._terminal else 15.0
        self._next = self._start + self._interval
        self._shown = False

    def update(self, done: int, documents: int) -> None:
        """Reports bytes read and documents written so far, if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._interval
        share = min(1.0, done / self._total)
        rate = documents / (now - self._start)
        text = f"{self._title}: {share:4.0%}, {documents:,} documents, {rate:,.0f}/s"
        if self._terminal:
            bar = "#" * round(20 * share)
            text = f"\r[{bar:20}] {text}\x1b[K"
        self._stream.write(text + ("" if self._terminal else "\n"))
        self._stream.flush()
        self._shown = True

    def clear(self) -> None:
        """Removes the line from a terminal, so that a message can follow."""
        if self._terminal and self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
