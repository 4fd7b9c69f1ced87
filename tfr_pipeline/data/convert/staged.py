"""What workers elsewhere leave in the staging folder for the process that waits.

The folder is all that they share. Names that are no shard's are never committed.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import pickle
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from tfr_pipeline.errors import ConfigError, DataError, PipelineError, RunError

_KINDS: dict[str, type[PipelineError]] = {
    kind.__name__: kind for kind in (DataError, ConfigError, RunError)
}
_INTERVAL = 0.5
_SECONDS_BETWEEN_LINES = 15.0


def save(staging: str, name: str, result: Any) -> None:
    """Leaves a picklable result.

    Raises:
      RunError: It cannot be written.
    """
    path = os.path.join(staging, f"{name}.result")
    temporary = f"{path}.{uuid.uuid4().hex[:8]}.part"
    try:
        with open(temporary, "wb") as file:
            pickle.dump(result, file)
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written: {error.strerror or error}."
        ) from error


def load(staging: str, name: str) -> Any:
    """Returns a result that a worker left.

    Raises:
      RunError: There is none.
    """
    path = os.path.join(staging, f"{name}.result")
    try:
        with open(path, "rb") as file:
            return pickle.load(file)
    except OSError as error:
        raise RunError(
            f"{path}: expected what a worker wrote, found nothing "
            f"({error.strerror or error}). The output must be in a folder that all "
            "workers share with this machine."
        ) from error


def mark_read(staging: str, number: int) -> None:
    """Leaves a sign that a file was read; nothing depends on it."""
    with contextlib.suppress(OSError):
        open(os.path.join(staging, f"read-{number}"), "wb").close()


def check_wanted(staging: str) -> None:
    """Ends the work of a job whose folder is gone, for whoever began it has ended.

    Raises:
      RunError: It is gone.
    """
    if not os.path.isdir(staging):
        raise RunError(
            f"{staging}: no such folder: the conversion was stopped, or this worker "
            "does not see the folder that the others write to."
        )


@contextlib.contextmanager
def failing(staging: str, rank: str) -> Iterator[None]:
    """Leaves the message of an error of ours, and raises it.

    Runners wrap errors, each in its own way.

    Args:
      staging: The folder.
      rank: Of several failures, the first in the order of this text counts.
    """
    try:
        yield
    except PipelineError as error:
        kind = next(name for name, kind in _KINDS.items() if isinstance(error, kind))
        text = json.dumps({"kind": kind, "message": str(error)})
        path = os.path.join(staging, f"failed-{rank}")
        with contextlib.suppress(OSError):
            with open(f"{path}.part", "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(f"{path}.part", path)
        raise


def failure(staging: str) -> PipelineError | None:
    """Returns the first failure that workers left."""
    pattern = os.path.join(glob.escape(staging), "failed-*")
    names = sorted(name for name in glob.glob(pattern) if not name.endswith(".part"))
    if not names:
        return None
    with open(names[0], encoding="utf-8") as file:
        found = json.load(file)
    return _KINDS[found["kind"]](found["message"])


@contextlib.contextmanager
def watching(
    staging: str,
    title: str,
    files: int,
    num_shards: int,
    is_shard: Callable[[str], bool],
    stream: TextIO | None = None,
) -> Iterator[None]:
    """Shows how far the workers are: a changing line on a terminal, else plain ones."""
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    ended = threading.Event()

    def watch() -> None:
        shown, due = "", time.monotonic() + _SECONDS_BETWEEN_LINES
        while not ended.wait(_INTERVAL):
            if not terminal and time.monotonic() < due:
                continue
            due = time.monotonic() + _SECONDS_BETWEEN_LINES
            with contextlib.suppress(OSError):
                names = os.listdir(staging)
                read = sum(name.startswith("read-") for name in names)
                written = sum(map(is_shard, names))
                line = (
                    f"{title}: {read} of {files} files read, {written} of "
                    f"{num_shards} shards written"
                )
                if line != shown:
                    stream.write(f"\r{line}\x1b[K" if terminal else f"{line}\n")
                    stream.flush()
                    shown = line
        if terminal and shown:
            stream.write("\r\x1b[K")
            stream.flush()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
