"""The table of a study that stays at the end of a terminal while workers work."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import IO

from tfr_pipeline import urls
from tfr_pipeline.pipeline.run.console import Console
from tfr_pipeline.sweep import status_text, storage
from tfr_pipeline.sweep.standing import Standing

_SECONDS = 1.0
# Rows of trials that are shown at most.
_ROWS = 12


class LiveConsole(Console):
    """A console with the table of a study below what is said.

    It needs a terminal; otherwise it is a console like any other.

    Args:
      find: Returns how the study stands; raises what it likes while there is none.
    """

    def __init__(self, find: Callable[[], Standing]):
        super().__init__(True)
        self._find = find
        self._standing: Standing | None = None
        self._lock = threading.RLock()
        self._table: list[str] = []
        self._doing, self._drawn = "", 0

    def say(self, text: str) -> None:
        """Writes a line above the table, in place of the one below it."""
        self._doing = ""
        self._write(urls.shown(text) + "\n", sys.stdout)

    def show(self, text: str) -> None:
        """Changes the line below the table; an empty text removes it."""
        if self.terminal:
            with self._lock:
                self._doing = text
                self._draw()

    def pass_on(self, process: subprocess.Popen[bytes]) -> None:
        """Says what a process says, line by line, without waiting for it."""
        for stream, to in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            if stream is not None:
                args = stream, to
                threading.Thread(target=self._copy, args=args, daemon=True).start()

    def _copy(self, stream: IO[bytes], to: IO[str]) -> None:
        for line in stream:
            self._write(line.decode(errors="replace").rstrip("\r\n") + "\n", to)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Keeps the table up to date within a block, and removes it after."""
        if not self.terminal:
            yield
            return
        ended = threading.Event()

        def keep() -> None:
            while not ended.is_set():
                with contextlib.suppress(Exception):  # the next look may succeed
                    self._look()
                ended.wait(_SECONDS)

        thread = threading.Thread(target=keep, daemon=True, name="sweep-table")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(timeout=5.0)
            with self._lock:
                self._table, self._doing = [], ""
                self._draw()

    def _look(self) -> None:
        if self._standing is None:
            self._standing = self._find()
        # Nobody waits here for a storage that is gone.
        standing = self._standing
        with storage.at_once(standing.study._storage):
            standing.refresh()
        table = table_of(standing)
        with self._lock:
            self._table = table
            self._draw()

    def _write(self, text: str, to: IO[str]) -> None:
        with self._lock:
            self._erase()
            print(text, end="", file=to, flush=True)
            self._draw()

    def _erase(self) -> None:
        if self._drawn:
            code = f"\r\x1b[{self._drawn}A\x1b[J"
            print(code, end="", file=sys.stdout, flush=True)
            self._drawn = 0

    def _draw(self) -> None:
        if not self.terminal:
            return
        self._erase()
        size = shutil.get_terminal_size()
        lines = [*self._table, *([self._doing] if self._doing else [])]
        # What goes on in the next row, or off the screen, could not be taken back.
        lines = [line[: size.columns - 1] for line in lines[: size.lines - 1]]
        text = "".join(f"{line}\n" for line in lines)
        print(text, end="", file=sys.stdout, flush=True)
        self._drawn = len(lines)


def table_of(standing: Standing) -> list[str]:
    """Returns the lines that stay: how far the study is, and what runs where."""
    lines = ["", *status_text.heading(standing)]
    rows = standing.having("running")
    if rows:
        lines += status_text.table(rows[:_ROWS], standing.names)
    if len(rows) > _ROWS:
        lines.append(f"and {len(rows) - _ROWS} more")
    return lines
