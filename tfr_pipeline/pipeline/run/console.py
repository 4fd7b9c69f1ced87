"""What a run says: whole lines, and on a terminal one that changes below them."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator

from tfr_pipeline import urls

_ERASE = "\r\x1b[K"


class Console:
    """Writes to standard output; nothing at all unless it speaks.

    Args:
      speaks: Whether anything is written.

    Attributes:
      speaks: As given.
      terminal: Whether there is a line that changes.
    """

    def __init__(self, speaks: bool):
        self.speaks = speaks
        self.terminal = speaks and sys.stdout.isatty()

    def say(self, text: str) -> None:
        """Writes a line, in place of the one that changes."""
        if self.speaks:
            print((_ERASE if self.terminal else "") + urls.shown(text), flush=True)

    def show(self, text: str) -> None:
        """Changes the last line of a terminal; an empty text removes it."""
        if self.terminal:
            # What goes on in the next row could not be taken back.
            text = text[: shutil.get_terminal_size().columns - 1]
            print(_ERASE + text, end="", flush=True)

    @contextlib.contextmanager
    def stage(self, doing: str, done: str) -> Iterator[None]:
        """Says what the block does while it does, and then how long it took.

        Args:
          doing: Such as "reading data".
          done: Such as "data read".
        """
        start = time.perf_counter()
        self.show(f"{doing} ...")
        try:
            yield
        except BaseException:
            self.show("")
            raise
        self.say(f"{done} in {time.perf_counter() - start:.1f} s")
