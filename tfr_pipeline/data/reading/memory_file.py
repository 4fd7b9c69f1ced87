"""Bytes that TensorFlow reads as a file."""

from __future__ import annotations

import os
import tempfile
from typing import IO, Any


class MemoryFile:
    """A file in memory, which is there as long as this object.

    Args:
      content: What stands in it.

    Attributes:
      path: Its path, for this process.
    """

    def __init__(self, content: Any):
        if hasattr(os, "memfd_create"):  # Linux
            self._file: IO[bytes] = os.fdopen(os.memfd_create("tfr_pipeline"), "w+b")
            self.path = f"/proc/self/fd/{self._file.fileno()}"
        else:
            self._file = tempfile.NamedTemporaryFile()  # noqa: SIM115
            self.path = self._file.name
        self.replace(content)

    def replace(self, content: Any) -> None:
        """Puts something else in its place, into the same memory."""
        self._file.seek(0)
        self._file.write(content)
        self._file.flush()
        self._file.truncate()
