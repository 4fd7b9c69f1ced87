"""What stands in a run directory at one time, and in which order it may be uploaded.

A snapshot costs next to nothing: its files are links. Whatever a run writes is a new
file that is renamed, so a link keeps what was there; only logs grow, and are copied.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterator

from tfr_pipeline.metrics import query_table
from tfr_pipeline.pipeline.run.lock import NAME as LOCK
from tfr_pipeline.serving.versions import MODEL, NEWEST

# Of a remote run directory: who has written there last.
WRITER = ".writer"
LOGS = "logs/"
_PREFIX = "snapshot-"
# What a process that was killed leaves.
_TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.tmp|_temp(/|$)|checkpoint\.tmp")
# What readers look for, in the order in which it may appear. The rest comes before.
_LATER = (
    re.compile(
        rf"checkpoints/[^/]*\.index|.*/\d+/{MODEL}|checkpoints/template/{MODEL}"
    ),
    re.compile(rf"checkpoints/checkpoint|export/[^/]+/{re.escape(NEWEST)}"),
    re.compile(rf"export/[^/]+/{MODEL}|history\.csv"),
    re.compile(r"metrics\.json"),
)
RANKS = range(len(_LATER) + 1)
# Parts of two must never be read with these: they go first when they are replaced.
WHOLE = re.compile(rf"checkpoints/[^/]*\.index|.*/{MODEL}")
State = list[int]  # bytes and time of a local file


def is_of_run(name: str) -> bool:
    """Whether a file in a remote run directory is part of the run, and not of us."""
    return name not in (LOCK, WRITER)


def is_of_state(name: str) -> bool:
    """Whether a file of a run is one that another process goes on from."""
    return name.startswith("checkpoints/") or (is_of_run(name) and "/" not in name)


def rank(name: str) -> int:
    """Returns when a file may be uploaded: after all with a lower rank.

    Example:
      >>> rank("checkpoints/ckpt-1.index"), rank("checkpoints/checkpoint")
      (1, 2)
    """
    found = (i for i, later in enumerate(_LATER, 1) if later.fullmatch(name))
    return next(found, 0)


def is_replaced(name: str, names: Collection[str]) -> bool:
    """Whether a file that is here no more is one that a run itself removes.

    Whatever else happened to the local folder must not happen to the remote one.

    Args:
      name: Its path in the run directory.
      names: Those of the files that are here.
    """
    if re.match(r"checkpoints/(ckpt|best)-", name):
        return any(re.fullmatch(r"checkpoints/ckpt-.*\.index", n) for n in names)
    if name == query_table.FILE_NAME:
        return "metrics.json" in names
    above = name
    while above := os.path.dirname(above):
        if f"{above}/{MODEL}" in names:
            return True
    return False


def states(folder: str) -> dict[str, State]:
    """Returns bytes and time of the files that make a run, which logs do not."""
    return {name: _state(path) for name, path in _files(folder, logs=False)}


@dataclasses.dataclass
class Snapshot:
    """What stood in a run directory at one time.

    Attributes:
      folder: Where it is kept.
      places: A path that holds the content, by path in the run directory.
      states: What will have been uploaded when this has been.
    """

    folder: str
    places: dict[str, str]
    states: dict[str, State]

    @classmethod
    def take(cls, run: str, home: str, logs: bool) -> Snapshot:
        """Takes one.

        Args:
          run: The run directory.
          home: A folder on the same file system to keep it in.
          logs: Whether to take the logs, too.
        """
        folder = os.path.join(home, f"{_PREFIX}{uuid.uuid4().hex[:8]}")
        result = cls(folder, {}, {})
        os.makedirs(folder)
        for name, path in _files(run, logs):
            copy = os.path.join(folder, str(len(result.places)))
            if os.path.basename(name) == NEWEST:
                _write_pointer(path, copy)
            elif name.startswith(LOGS):  # grows while it is uploaded
                shutil.copy2(path, copy)
            else:
                _link(os.path.realpath(path), copy)
            result.places[name], result.states[name] = copy, _state(path)
        return result

    def remove(self) -> None:
        """Removes what keeps it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def remove_stale(home: str) -> None:
    """Removes the snapshots of processes that were killed."""
    for name in os.listdir(home):
        if name.startswith(_PREFIX):
            shutil.rmtree(os.path.join(home, name), ignore_errors=True)


def _files(run: str, logs: bool) -> Iterator[tuple[str, str]]:
    """Yields the files of a run, by their paths in it, with where they are."""
    for place, _, names in os.walk(run):
        for name in names:
            path = os.path.join(place, name)
            relative = os.path.relpath(path, run)
            if not logs and relative.startswith(LOGS):
                continue
            if is_of_run(relative) and not _TEMPORARY.search(relative):
                yield relative, path
    for place in ("latest_model", "best_model_by_metric"):
        pointer = os.path.join("export", place, NEWEST)
        path = os.path.join(run, pointer)
        if os.path.islink(path) and os.path.isdir(path):  # `walk` takes a folder
            yield pointer, path


def _state(path: str) -> State:
    # Of a link to a folder, itself: it is made anew when it leads elsewhere.
    found = os.lstat(path) if os.path.isdir(path) else os.stat(path)
    return [found.st_size, found.st_mtime_ns]


def _write_pointer(path: str, copy: str) -> None:
    with open(copy, "w", encoding="utf-8") as text:
        if os.path.islink(path):
            text.write(f"{os.readlink(path)}\n")
        else:
            with open(path, encoding="utf-8") as other:
                text.write(other.read())


def _link(path: str, copy: str) -> None:
    try:
        os.link(path, copy)
    except OSError:
        shutil.copy2(path, copy)
