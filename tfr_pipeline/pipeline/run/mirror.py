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
import json
import math
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterator

from tfr_pipeline import copies, files, remote, urls
from tfr_pipeline.errors import PipelineError, RunError
from tfr_pipeline.pipeline.run import snapshot as snapshots
from tfr_pipeline.pipeline.run.lock import NAME as LOCK
from tfr_pipeline.pipeline.run.remote_lock import RemoteLock
from tfr_pipeline.pipeline.run.snapshot import LOGS, WRITER, Snapshot, State

_LOG_SECONDS = 60.0


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
        self._waiting: Snapshot | None = None
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
                except Exception as error:  # must not hide what happened before
                    _say(f"warning: {urls.shown(str(error))} {self._kept}")
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
        snapshots.remove_stale(self._home)
        self._load()
        there = {n: e for n, e in remote.find(self.url).items() if n != LOCK}
        writer = b""
        if there.pop(WRITER, None) is not None:
            writer = remote.read(urls.join(self.url, WRITER))
        is_ours = bool(self._writer) and writer.decode() == self._writer
        if not is_ours or self._is_emptied() or (self._known and not there):
            self._replace(bool(there))
        for name in [name for name in self._known if name not in there]:
            del self._known[name]  # to be uploaded again
        here = snapshots.states(self.folder)
        for name in there:
            # Of an upload that was cut off: to be written anew, or removed.
            if name.startswith("checkpoints/") or name in here:
                self._known.setdefault(name, [0, 0])
        self._save()
        remote.write(urls.join(self.url, WRITER), self._writer.encode())
        if self._known or snapshots.states(self.folder):
            self._upload(self._snapshot())

    def _is_emptied(self) -> bool:
        """Whether files are gone from here that no run removes."""
        here = snapshots.states(self.folder)
        gone = (n for n in self._known if n not in here and not n.startswith(LOGS))
        return any(not snapshots.is_replaced(name, here) for name in gone)

    def _replace(self, anything: bool) -> None:
        """Takes what the store has for what is here; keeps what only is here."""
        states = snapshots.states(self.folder)
        known = {n: s for n, s in self._known.items() if not n.startswith(LOGS)}
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
                lambda n: snapshots.is_of_run(n) and not n.startswith(LOGS),
                new,
            )
            for name in os.listdir(new):
                os.rename(os.path.join(new, name), os.path.join(self.folder, name))
            os.rmdir(new)
        self._known = snapshots.states(self.folder)

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
        try:
            snapshot = self._snapshot()
        except OSError as error:
            _say(f"warning: {self._home}: {error.strerror}: this checkpoint waits.")
            return
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

    def _snapshot(self, last: bool = False) -> Snapshot:
        # Logs go up as a whole each time.
        logs = last or time.monotonic() - self._logged >= _LOG_SECONDS
        if logs:
            self._logged = time.monotonic()
        return Snapshot.take(self.folder, self._home, logs)

    def _upload(self, snapshot: Snapshot) -> None:
        try:
            new = [n for n, s in snapshot.states.items() if s != self._known.get(n)]
            for name in new:
                if snapshots.WHOLE.fullmatch(name) and name in self._known:
                    remote.remove(urls.join(self.url, name))
            for rank in snapshots.RANKS:
                self._put(
                    snapshot, [name for name in new if snapshots.rank(name) == rank]
                )
            gone = [name for name in self._known if name not in snapshot.states]
            for name in sorted(gone, key=snapshots.rank, reverse=True):
                if snapshots.is_replaced(name, snapshot.states):
                    remote.remove(urls.join(self.url, name))
                del self._known[name]
        finally:
            snapshot.remove()
            self._save()

    def _put(self, snapshot: Snapshot, names: list[str]) -> None:
        def put(name: str) -> None:
            self.check()
            remote.put(snapshot.places[name], urls.join(self.url, name))
            self._known[name] = snapshot.states[name]

        remote.at_once(put, names)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
