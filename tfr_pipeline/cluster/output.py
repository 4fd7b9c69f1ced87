"""What tasks say: shown with the name of the task before each line, kept in files."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator

from tfr_pipeline.cluster.tf_config import Task

# Lines of tasks that wait to be shown; with more, tasks have to wait themselves.
_LINES = 64
# Seconds without room, or without a word, after which nobody is waited for.
_NO_ROOM, _QUIET = 0.5, 5.0


class Output:
    """Shows lines of tasks and of the job.

    Whoever reads them may stop to, as a pager does. Tasks then wait, but never the job.

    Args:
      folder: Folder of a log file a task, or None.

    Attributes:
      ending: Whether tasks are to end. Then they do not wait either: lines that nobody
        takes are in their log files only.

    Raises:
      OSError: The folder cannot be written to.
    """

    def __init__(self, folder: str | None):
        self._folder, self.ending = folder, False
        if folder is not None:
            os.makedirs(folder, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(f"no permission to write to {folder!r}")
        self._lines: queue.Queue[tuple[bytes, bool]] = queue.Queue()
        self._room, self._stuck = threading.Semaphore(_LINES), False
        self._tasks: list[Task] = []
        threading.Thread(target=self._show, daemon=True).start()

    def say(self, text: str) -> None:
        """Says something about the job; does not wait until it is shown."""
        self._lines.put((f"[job] {text}\n".encode(), False))

    @contextlib.contextmanager
    def task(self, task: Task) -> Iterator[Callable[[bytes], None]]:
        """Yields a function that takes a line of a task."""
        prefix = f"[{task.name}] ".encode()
        with contextlib.ExitStack() as stack:
            self._tasks.append(task)
            stack.callback(self._tasks.remove, task)
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
                if self._wait_for_room():
                    self._lines.put((prefix + line, True))

            yield write

    def close(self, hurry: Callable[[], bool]) -> None:
        """Waits until all is shown, or nothing more is said.

        Args:
          hurry: Whether not to wait for a reader that has stopped to read.
        """
        limit = time.monotonic() + _QUIET
        while self._lines.unfinished_tasks or self._tasks:
            if self._lines.unfinished_tasks and not hurry():
                limit = time.monotonic() + _QUIET
            elif time.monotonic() > limit:
                break
            time.sleep(0.02)

    def _wait_for_room(self) -> bool:
        while True:
            patience = 0.0 if self._stuck and self.ending else _NO_ROOM
            if self._room.acquire(timeout=patience):
                return True
            if self.ending:
                self._stuck = True
                return False

    def _show(self) -> None:
        while True:
            line, of_task = self._lines.get()
            # Not sys.stdout: a thread that hangs in it would break the exit.
            with contextlib.suppress(OSError):
                while line:
                    try:
                        line = line[os.write(1, line) :]
                    except BlockingIOError:
                        time.sleep(0.05)
            self._stuck = False
            if of_task:
                self._room.release()
            self._lines.task_done()
