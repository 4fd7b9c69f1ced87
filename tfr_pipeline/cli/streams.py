"""Standard output and error that may go away while a command is at work.

A run of hours is not lost because nobody reads its lines any more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any


class Lasting:
    """A text stream that swallows what nobody reads any more.

    Args:
      stream: The stream; None if it was closed before the process began.

    Attributes:
      error: What made the stream fail, if it did, other than that its reader has gone.
    """

    def __init__(self, stream: Any):
        self._stream = stream
        self._lost = stream is None
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Writes a text; characters that the stream cannot encode as escapes."""
        if not self._lost:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                # Of a path, whose bytes need not be text.
                encoding = self._stream.encoding
                escaped = text.encode(encoding, "backslashreplace").decode(encoding)
                return self.write(escaped)
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Writes out what was held back."""
        if not self._lost:
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)

    def isatty(self) -> bool:
        """Whether somebody may be looking."""
        return not self._lost and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: OSError) -> None:
        self._lost = True
        # EIO: the terminal was closed.
        if error.errno not in (errno.EPIPE, errno.EIO):
            self.error = error
        # What is held back, and what native code writes, has to go somewhere.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def lasting_streams() -> Iterator[Lasting]:
    """Makes standard output and error last; yields the former."""
    # Else the next file that is opened would be standard output.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    kept = sys.stdout, sys.stderr
    out, error = Lasting(sys.stdout), Lasting(sys.stderr)
    sys.stdout, sys.stderr = out, error  # type: ignore[assignment]
    try:
        yield out
    finally:
        out.flush()
        error.flush()
        sys.stdout, sys.stderr = kept
