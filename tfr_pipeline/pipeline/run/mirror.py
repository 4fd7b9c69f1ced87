"""A run directory in an object store: the run works in a local folder, mirrored there.

TensorFlow and everything else write into the local folder, with renames and links. What
stands there at a checkpoint is uploaded in the background, what names the rest last, so
that the store has a run to go on from at any time. The local folder is tied to the URL
and stays: what could not be uploaded is uploaded by the same command later.

    CACHE/runs/KEY/work/         the run directory
    CACHE/runs/KEY/mirror.json   what the store has of it, and who has written there
    URL/.writer                  who has written there last: a number of a local folder
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Collection, Iterator

from tfr_pipeline import copies, files, remote, urls
from tfr_pipeline.errors import PipelineError, RunError
from tfr_pipeline.metrics import query_table
from tfr_pipeline.pipeline.run.lock import NAME as LOCK
from tfr_pipeline.pipeline.run.remote_lock import RemoteLock
from tfr_pipeline.serving.versions import MODEL, NEWEST

_WRITER = ".writer"
_LOG_SECONDS = 60.0
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
# Of these, parts of two must never be read: they go first when they are replaced.
_WHOLE = re.compile(rf"checkpoints/[^/]*\.index|.*/{MODEL}")
State = list[int]  # bytes and time of a local file


def is_of_run(name: str) -> bool:
    """Whether a file in a remote run directory is part of the run, and not of us."""
    return name not in (LOCK, _WRITER)


def is_of_state(name: str) -> bool:
    """Whether a file of a run is one that another process goes on from."""
    return name.startswith("checkpoints/") or (is_of_run(name) and "/" not in name)


@dataclasses.dataclass
class _Snapshot:
    """What stood in the run directory at one time.

    Attributes:
      folder: Where it is kept; removed when it has been uploaded.
      places: A path that holds the content, by path in the run directory.
      states: What was uploaded if this was.
    """

    folder: str
    places: dict[str, str]
    states: dict[str, State]

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class Mirror:
    """The local folder of a remote run directory.

    Args:
      url: The run directory.

    Attributes:
      url: The same.
      folder: The local one.
    """

    def __init__(self, url: str):
        self.url = url
        self._home = copies.root("runs", copies.key(url.rstrip("/")))
        self.folder = os.path.join(self._home, "work")
        urls.copy_of(self.folder, url.rstrip("/"))
        self._record = os.path.join(self._home, "mirror.json")
        self._writer, self._known = "", dict[str, State]()
        self._lock: RemoteLock | None = None
        self._changed = threading.Condition()
        self._waiting: _Snapshot | None = None
        self._is_busy = False
        self._logged = -math.inf

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Locks the remote directory and brings its state; uploads all at the end.

        Raises:
          RunError: Another job is in it, the store cannot be reached, or at the end
            not all could be uploaded.
        """
        self._lock = RemoteLock(self.url)
        try:
            self._bring()
            try:
                yield
            except BaseException:
                try:
                    self._finish()
                except PipelineError as error:
                    _say(f"warning: {error} {self._kept}")
                raise
            try:
                self._finish()
            except PipelineError as error:
                raise RunError(f"{error} {self._kept}") from error
        finally:
            self._lock.release()
            self._lock = None

    @property
    def _kept(self) -> str:
        return (
            f"Not all of the run is in {urls.redact(self.url)}; all of it is in the "
            f"folder 'work' of {self._home}. The same command on this machine goes on "
            "from there, and uploads it."
        )

    def check(self) -> None:
        """Checks that the remote directory is still this run's.

        Raises:
          RunError: It was removed, or another job has taken it.
        """
        if self._lock is not None and self._lock.lost:
            raise RunError(f"{self._lock.lost} Nothing more is written there.")

    # From the store

    def _bring(self) -> None:
        """Makes the local folder what the store has, or what goes beyond that."""
        for name in os.listdir(self._home):
            if name.startswith("snapshot-"):
                shutil.rmtree(os.path.join(self._home, name), ignore_errors=True)
        self._load()
        there = {n: e for n, e in remote.find(self.url).items() if n != LOCK}
        writer = b""
        if there.pop(_WRITER, None) is not None:
            writer = remote.read(urls.join(self.url, _WRITER))
        is_ours = bool(self._writer) and writer.decode() == self._writer
        if not (is_ours and (there or not self._known)):
            self._replace(bool(there))
        for name in [name for name in self._known if name not in there]:
            del self._known[name]  # to be uploaded again
        for name in there:
            # Of an upload that was cut off: to be written anew, or removed.
            if name.startswith("checkpoints/"):
                self._known.setdefault(name, [0, 0])
        self._save()
        remote.write(urls.join(self.url, _WRITER), self._writer.encode())
        if self._known or self._states():
            self._upload(self._snapshot())

    def _replace(self, anything: bool) -> None:
        """Takes what the store has for what is here; keeps what only is here."""
        states = self._states()
        known = {n: s for n, s in self._known.items() if not n.startswith("logs/")}
        aside = ""
        if states and states != known:
            aside = f"{self.folder}.{time.strftime('%Y%m%dT%H%M%S')}"
            os.mkdir(aside)
            _say(
                f"warning: {urls.redact(self.url)}: another machine has gone on with "
                "this run, or it was removed there. What was not uploaded from here is "
                f"kept in {aside}."
            )
        self._clear(aside)
        self._writer, self._known = uuid.uuid4().hex, {}
        if anything:
            new = f"{self.folder}.new"
            shutil.rmtree(new, ignore_errors=True)
            copies.fetch_folder(
                self.url,
                lambda name: is_of_run(name) and not name.startswith("logs/"),
                new,
            )
            for name in os.listdir(new):
                os.rename(os.path.join(new, name), os.path.join(self.folder, name))
            os.rmdir(new)
        self._known = self._states()

    def _clear(self, aside: str) -> None:
        """Empties the local folder, into another one if there is one."""
        for name in os.listdir(self.folder):
            path = os.path.join(self.folder, name)
            if name == LOCK:  # held by this very process
                continue
            if aside:
                os.rename(path, os.path.join(aside, name))
            elif os.path.isdir(path):
                shutil.rmtree(path)
            else:
                os.remove(path)

    def _load(self) -> None:
        with contextlib.suppress(PipelineError, LookupError, TypeError):
            found = files.read_json(self._record)
            self._writer, self._known = str(found["writer"]), dict(found["files"])

    def _save(self) -> None:
        content = {"url": urls.redact(self.url), "writer": self._writer}
        files.write_text(
            self._record, json.dumps({**content, "files": self._known}) + "\n"
        )

    # To the store

    def save(self) -> None:
        """Uploads, in the background, what stands in the folder now."""
        snapshot = self._snapshot()
        with self._changed:
            if self._waiting is not None:
                self._waiting.remove()
            self._waiting = snapshot
            if not self._is_busy:
                self._is_busy = True
                threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._changed:
                snapshot, self._waiting = self._waiting, None
                if snapshot is None:
                    self._is_busy = False
                    self._changed.notify_all()
                    return
            try:
                self._upload(snapshot)
            except Exception as error:  # whatever a driver raises
                _say(
                    f"warning: {urls.shown(str(error))} The run goes on; what it has "
                    f"written is in the folder 'work' of {self._home}, and is uploaded "
                    "with the next checkpoint."
                )

    def _finish(self) -> None:
        """Waits for what is under way, and uploads the rest."""
        if self._lock is None or self._lock.lost:
            return
        with self._changed:
            while self._is_busy:
                self._changed.wait()
        self._upload(self._snapshot(last=True))

    def _states(self) -> dict[str, State]:
        """Returns bytes and time of the files that make the run, which logs do not."""
        return {name: _state(path) for name, path in self._files(logs=False)}

    def _files(self, logs: bool) -> Iterator[tuple[str, str]]:
        for place, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(place, name)
                relative = os.path.relpath(path, self.folder)
                if not logs and relative.startswith("logs/"):
                    continue
                if is_of_run(relative) and not _TEMPORARY.search(relative):
                    yield relative, path
        for place in ("latest_model", "best_model_by_metric"):
            pointer = os.path.join("export", place, NEWEST)
            path = os.path.join(self.folder, pointer)
            if os.path.islink(path) and os.path.isdir(path):  # `walk` takes a folder
                yield pointer, path

    def _snapshot(self, last: bool = False) -> _Snapshot:
        # Logs only grow, and go up as a whole each time.
        logs = last or time.monotonic() - self._logged >= _LOG_SECONDS
        if logs:
            self._logged = time.monotonic()
        folder = os.path.join(self._home, f"snapshot-{uuid.uuid4().hex[:8]}")
        result = _Snapshot(folder, {}, {})
        os.makedirs(folder)
        for name, path in self._files(logs):
            copy = os.path.join(folder, str(len(result.places)))
            if os.path.basename(name) == NEWEST:
                _write_pointer(path, copy)
            elif name.startswith("logs/"):  # grows while it is uploaded
                shutil.copy2(path, copy)
            else:
                _link(os.path.realpath(path), copy)
            result.places[name], result.states[name] = copy, _state(path)
        return result

    def _upload(self, snapshot: _Snapshot) -> None:
        try:
            new = [n for n, s in snapshot.states.items() if s != self._known.get(n)]
            for name in new:
                if _WHOLE.fullmatch(name) and name in self._known:
                    remote.remove(urls.join(self.url, name))
            for rank in range(len(_LATER) + 1):
                self._put(snapshot, [name for name in new if _rank(name) == rank])
            gone = [name for name in self._known if name not in snapshot.states]
            for name in sorted(gone, key=_rank, reverse=True):
                if _is_replaced(name, snapshot.states):
                    remote.remove(urls.join(self.url, name))
                del self._known[name]
        finally:
            snapshot.remove()
            self._save()

    def _put(self, snapshot: _Snapshot, names: list[str]) -> None:
        def put(name: str) -> None:
            self.check()
            remote.put(snapshot.places[name], urls.join(self.url, name))
            self._known[name] = snapshot.states[name]

        copies.at_once(put, names)


def _is_replaced(name: str, names: Collection[str]) -> bool:
    """Whether a file that is here no more is one that a run itself removes.

    Whatever else happened to the local folder must not happen to the remote one.
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


def _rank(name: str) -> int:
    found = (i for i, later in enumerate(_LATER, 1) if later.fullmatch(name))
    return next(found, 0)


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


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
