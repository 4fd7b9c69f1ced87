"""What tasks say: shown with the name of the task before each line, kept in files."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator

from tfr_pipeline.cluster.tf_config import Task


class Output:
    """Shows lines of tasks and of the job.

    Args:
      folder: Folder of a log file a task, or None.

    Raises:
      OSError: The folder cannot be written to.
    """

    def __init__(self, folder: str | None):
        self._folder, self._lock = folder, threading.Lock()
        if folder is not None:
            os.makedirs(folder, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(f"no permission to write to {folder!r}")

    def say(self, text: str) -> None:
        """Says something about the job."""
        self._show(f"[job] {text}\n".encode())

    @contextlib.contextmanager
    def task(self, task: Task) -> Iterator[Callable[[bytes], None]]:
        """Yields a function that takes a line of a task."""
        prefix = f"[{task.name}] ".encode()
        with contextlib.ExitStack() as stack:
            log = None
            if self._folder is not None:
                name = task.name.replace(" ", "-") + ".log"
                try:
                    path = os.path.join(self._folder, name)
                    log = stack.enter_context(open(path, "ab", buffering=0))
                except OSError as error:
                    self.say(f"no log of {task.name}: {error}")

            def write(line: bytes) -> None:
                nonlocal log
                if log is not None:
                    try:
                        log.write(line)
                    except OSError as error:
                        # A full disk: the task goes on, and its pipe has to be read.
                        self.say(f"no more log of {task.name}: {error}")
                        log = None
                self._show(prefix + line)

            yield write

    def _show(self, line: bytes) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
